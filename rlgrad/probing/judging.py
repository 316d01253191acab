"""The probe: looks at a function from many points, and judges what back-propagation can do with it."""

import re
from collections.abc import Callable, Sequence

import torch

from rlgrad.probing import advice
from rlgrad.probing.looking import Look, Slope
from rlgrad.probing.points import special
from rlgrad.probing.reports import Finding, Report
from rlgrad.probing.slopes import Break, find_break
from rlgrad.probing.subject import Leaf, Subject
from rlgrad.probing.surveying import MOST_NUMBERS, Survey, given_points, survey_of
from rlgrad.probing.tracing import Operation


def probe(
    function: Callable[..., object], *inputs: object, at: Sequence[Sequence[object]] = (), seed: int = 0
) -> Report:
    """Which of a function's inputs and parameters can back-propagation train, and which not?

    For each output and each leaf (floating-point input or parameter) it tells whether the gradient is cut, zero almost
    everywhere, not finite somewhere, made up, or useful; which operation is to blame; and what to do. Autograd is
    asked at the example, at random points around it, and where functions like to break (zeros, ones, ties); finite
    differences, in float64 where the function allows it, tell whether it says the truth.

    Nothing is changed: neither tensors nor modules nor any global random state.

    Args:
        function: any callable, or a module; a module's parameters are leaves, and so are those of modules that a
            function closes over, or that run in it at the example.
        inputs: example inputs: tensors, trees of tensors, and anything else.
        at: further points to look at, each a tuple built like ``inputs``.
        seed: of the random points, and of the function's own randomness, which is the same at each of them.

    Returns:
        The report; print it.

    Raises:
        TypeError: the function is not callable, or returns nothing numeric; a point of ``at`` is not a tuple.
        ValueError: there is nothing to differentiate; a point of ``at`` differs in shape.
        RuntimeError: the function fails at the example, or hides its graph in reentrant checkpoints.

    Example:
        >>> report = probe(lambda logits: (logits > 0).float().mean(), torch.tensor([2.0, -1.0]))
        >>> report.findings[0].verdict, report.findings[0].operation
        ('cut', 'gt')
        >>> probe(torch.sign, torch.tensor([2.0, -1.0])).findings[0].verdict
        'flat'
        >>> probe(torch.nn.Linear(2, 1), torch.ones(3, 2)).dead_layers
        ()
    """
    if not callable(function):
        raise TypeError(f"needed a function or a module, got {function!r}; pass it without calling it")
    subject = Subject(function, inputs, seed=seed)
    if not subject.leaves and not subject.frozen:
        raise ValueError(
            "needed a floating-point tensor among the inputs, or parameters, to differentiate in, got neither; "
            "integers have no gradient"
        )
    survey = survey_of(subject, given_points(subject, at))
    findings = [_judge(survey, name, leaf) for name in survey.outputs for leaf in range(len(subject.leaves))]
    findings += [_frozen(name, leaf) for name in survey.outputs for leaf in subject.frozen]
    return Report(name=subject.name, findings=tuple(findings), notes=tuple(_notes(survey)))


def _judge(survey: Survey, name: str, leaf: int) -> Finding:
    """The verdict on one output and one leaf; the first that applies."""
    failure = next((one.failed[name] for one in survey.looks if name in one.failed), None)
    if not survey.subject.leaves[leaf].value.numel():
        return _finding(survey, name, leaf, "unused", "has no entries", advice.UNUSED)
    if leaf not in survey.links[name]:
        return _unconnected(survey, name, leaf)
    if failure is not None:
        missing = re.search(r"derivative for '?(?:aten::)?(\w+)'? is not implemented", failure)
        guilty = None if missing is None else Operation(missing[1], "other", None)
        detail = f"the backward pass fails: {failure}"
        return _finding(survey, name, leaf, "cut", detail, advice.for_cut("", "other"), guilty)
    for judge in (_non_finite, _pretended, _flat):
        found = judge(survey, name, leaf)
        if found is not None:
            return found
    return _useful(survey, name, leaf)


def _finding(
    survey: Survey,
    name: str,
    leaf: int,
    verdict: str,
    detail: str,
    todo: str,
    operation: Operation | None = None,
) -> Finding:
    about = survey.subject.leaves[leaf]
    return Finding(
        output=name,
        leaf=about.name,
        kind=_kind(about),
        layer=about.layer,
        verdict=verdict,
        detail=detail,
        advice=todo,
        operation=None if operation is None else operation.name,
        line=None if operation is None or operation.site is None else operation.site.line,
    )


def _kind(leaf: Leaf) -> str:
    return "input" if leaf.layer is None else "parameter"


def _frozen(name: str, leaf: Leaf) -> Finding:
    return Finding(
        output=name,
        leaf=leaf.name,
        kind=_kind(leaf),
        layer=leaf.layer,
        verdict="frozen",
        detail="requires_grad is False",
        advice=advice.FROZEN,
    )


def _unconnected(survey: Survey, name: str, leaf: int) -> Finding:
    """Cut, if it takes part in the value, or unused."""
    cuts = survey.cuts.get((name, leaf))
    if cuts:
        cut = cuts[0]
        detail = "; ".join([_cut_by(cut), *_broken(survey, name, leaf)])
        todo = advice.FIXED if leaf in survey.fixed else advice.for_cut(cut.name, cut.kind)
        return _finding(survey, name, leaf, "cut", detail, todo, cut)
    changed = survey.depends(name, leaf)
    leak = survey.leaks.get(leaf)
    if changed and leak is not None:
        return _finding(survey, name, leaf, "cut", _cut_by(leak), advice.for_cut(leak.name, leak.kind), leak)
    if changed:
        return _finding(survey, name, leaf, "cut", "cut out of sight: no operation was seen to do it", advice.UNKNOWN)
    detail = "takes no part" if leak is None else f"only read by Python, in {_named(leak)}"
    return _finding(survey, name, leaf, "unused", detail, advice.UNUSED)


def _cut_by(operation: Operation) -> str:
    return f"cut by {_named(operation)}" + ": the value leaves torch" * (operation.kind == "python")


def _named(operation: Operation) -> str:
    """An operation and where it was called, for the reader."""
    how = {"no_grad": " under torch.no_grad()", "custom": ", a custom autograd function"}.get(operation.kind, "")
    if operation.site is None:
        return operation.name + how
    line, layer = operation.site
    where = [f"layer {layer}"] * bool(layer) + [line] * bool(line)
    return f"{operation.name}{how}" + (f" ({', '.join(str(part) for part in where)})" if where else "")


def _non_finite(survey: Survey, name: str, leaf: int) -> Finding | None:
    seen = [
        (one, slope)
        for one, slope in survey.seen(name, leaf)
        if leaf in one.point.concerns and one.point.role != "large" and (slope.bad or name in one.nan)
    ]
    if not seen:
        return None
    first, slope = seen[0]
    guilty = survey.blame(first, name, leaf, "bad") if slope.bad else None
    masked = guilty is not None and guilty.masked and name not in first.nan
    operation = None if guilty is None else guilty.operation
    detail = "; ".join(dict.fromkeys(_place(one, name, slope) for one, slope in _distinct(seen, name)))
    if operation is not None:
        detail += f", from {_named(operation)}"
    if masked:
        detail += " in a branch that is not taken"
    todo = advice.for_non_finite(None if operation is None else operation.name, masked=masked)
    return _finding(survey, name, leaf, "non-finite", detail, todo, operation)


def _distinct(seen: Sequence[tuple[Look, Slope]], name: str) -> list[tuple[Look, Slope]]:
    """The first place of each kind of trouble."""
    return list({(name in one.nan, slope.bad): (one, slope) for one, slope in reversed(seen)}.values())[::-1]


def _place(one: Look, name: str, slope: Slope) -> str:
    label = one.point.label
    if one.point.role != "special" and slope.where is not None:
        label = f"{slope.where}, {label}" if one.point.role != "given" else f"{slope.where} in {label}"
    if name in one.nan:
        return f"undefined (NaN) at {label}"
    return f"{slope.bad} gradient at {label}"


def _pretended(survey: Survey, name: str, leaf: int) -> Finding | None:
    compared = [found for found in survey.compared.get((name, leaf), []) if found.autograd or found.measured]
    differing = [found for found in compared if found.agree is False]
    if len(differing) * 2 <= len(compared):
        return None
    found = differing[0]
    if all(one.measured == 0 for one in differing):
        detail = "autograd gives a slope where the function is flat"
    else:
        detail = f"autograd's slope is {found.autograd:.3g}, the function's {found.measured:.3g}"
    cut = next(iter(survey.cuts.get((name, leaf), [])), None)
    if cut is not None:
        detail += f"; part of it is cut by {_named(cut)}"
    return _finding(survey, name, leaf, "pretended", detail, advice.PRETENDED, cut)


def _flat(survey: Survey, name: str, leaf: int) -> Finding | None:
    seen = survey.seen(name, leaf, exactly=True)
    generic = [(one, slope) for one, slope in seen if one.point.role in ("example", "random") and not slope.bad]
    if not generic or not all(slope.zero for _, slope in generic):
        return None
    if _vanishes(survey, name, leaf):
        return _finding(survey, name, leaf, "useful", "vanishes: not zero, but all but nothing", advice.VANISHES)
    guilty = survey.blame(generic[-1][0], name, leaf, "zero")
    operation = None if guilty is None else guilty.operation
    moves = survey.depends(name, leaf)
    why = {True: ": the value moves by jumps only", False: ": moving it changes nothing", None: ""}[moves]
    details = [f"zero gradient at all {len(generic)} points{why}"]
    if operation is not None:
        details[0] += f", from {_named(operation)}"
    details += _broken(survey, name, leaf)
    name_and_kind = ("", "") if operation is None else (operation.name, operation.kind)
    todo = advice.for_flat(*name_and_kind, constant=moves is False)
    return _finding(survey, name, leaf, "flat", "; ".join(details), todo, operation)


def _vanishes(survey: Survey, name: str, leaf: int) -> bool:
    """Whether a gradient that looks like rounding is none: rounding in one type is not that in another."""
    at_example = [slope.sample for one, slope in survey.seen(name, leaf) if one.point.role == "example"]
    if survey.dtype is None or len(at_example) < 2 or survey.subject.leaves[leaf].value.dtype == survey.dtype:
        return False
    native, exact = at_example[0], at_example[-1]
    largest = float(exact.abs().max()) if exact.numel() else 0.0
    return largest > 0 and float((native - exact).abs().max()) <= 0.1 * largest


def _useful(survey: Survey, name: str, leaf: int) -> Finding:
    seen = survey.seen(name, leaf)
    exact = survey.seen(name, leaf, exactly=True)
    rests = any(slope.zero for one, slope in exact if one.point.role == "example")
    details = []
    if rests:
        moving = sum(not slope.zero for one, slope in exact if one.point.role == "random")
        randomly = sum(one.point.role == "random" for one, _ in exact)
        details.append(f"rests: zero at the example, not at {moving} of {randomly} random points")
    details += _never_moved([slope for _, slope in exact])
    details += _broken(survey, name, leaf)
    large = [one for one, slope in seen if one.point.role == "large" and slope.bad and leaf in one.point.concerns]
    dtype = str(survey.subject.leaves[leaf].value.dtype).removeprefix("torch.")
    details += [f"overflows at {one.point.label} in {dtype}" for one in large]
    return _finding(survey, name, leaf, "useful", "; ".join(details), advice.RESTS if rests else "")


def _never_moved(slopes: Sequence[Slope]) -> list[str]:
    """A note on entries with zero slope at every point."""
    ever = torch.stack([slope.nonzero for slope in slopes]).any(0)
    still = ever.numel() - int(ever.sum())
    return [f"{still} of {ever.numel()} entries have zero gradient everywhere looked at"] if still else []


def _broken(survey: Survey, name: str, leaf: int) -> list[str]:
    """Notes on the kinks and jumps of an output in an input.

    A network of relu or max has kinks everywhere, of no consequence: there jumps alone are told.
    """
    if leaf >= survey.subject.inputs or survey.numbers > MOST_NUMBERS or survey.randomness == "wild":
        return []
    network = bool(survey.subject.frozen) or len(survey.subject.leaves) > survey.subject.inputs
    movable = [at not in survey.fixed for at in range(len(survey.subject.leaves))]
    for point in special(survey.subject, movable):
        if leaf in point.concerns and point.role == "special":
            try:
                found = find_break(survey.subject, point, survey.dtype, name, leaf)
            except Exception:  # outside the function's domain
                continue
            if found is not None and (found.jump or not network):
                return [_told(found)]
    return []


def _told(found: Break) -> str:
    if found.jump:
        return f"jumps at {found.where}"
    sides = f"kink at {found.where}: slope {found.left:.3g} on the left, {found.right:.3g} on the right"
    if found.autograd is None:
        return sides
    low, high = sorted((found.left, found.right))
    slack = 1e-3 * max(abs(low), abs(high))  # of finite differences
    if low - slack <= found.autograd <= high + slack:
        return f"{sides}; torch takes {found.autograd:.3g} there, by convention"
    return f"{sides}; torch takes {found.autograd:.3g} there, which is neither: several kinks meet"


def _notes(survey: Survey) -> list[str]:
    fixed = ", ".join(survey.subject.leaves[at].name for at in survey.fixed)
    strangers = ", ".join(sorted(survey.subject.strangers))
    notes = {
        "Random: compared under the same seed.": survey.randomness == "seeded",
        "Two runs with the same seed differ: finite differences were left out.": survey.randomness == "wild",
        "The function does not run in float64: finite differences are coarse.": survey.dtype is None,
        "NumPy was given detached copies: torch refuses it tensors that require a gradient.": survey.subject.numpy,
        f"No leaves are the parameters of {strangers}: not exchangeable, or not the same at each run.": bool(strangers),
        f"Not moved, since the function refuses other values: {fixed}.": bool(fixed),
    }
    refused: dict[str, list[str]] = {}
    for one in survey.looks:
        if one.error is not None:
            refused.setdefault(one.error, []).append(one.point.label)
    told = [note for note, applies in notes.items() if applies]
    return told + [f"Refused {', '.join(dict.fromkeys(where))}: {error}" for error, where in refused.items()]
