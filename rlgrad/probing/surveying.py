"""All that is seen of a subject: its gradient's graph, its slopes at many points, and finite differences."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from rlgrad.probing.blaming import Blame, Passages, Wrong, watch
from rlgrad.probing.looking import Look, Slope, look
from rlgrad.probing.points import Point, around, special
from rlgrad.probing.slopes import Comparison, compare, depends
from rlgrad.probing.subject import Run, Subject
from rlgrad.probing.tracing import Operation, Trace

# What costs an evaluation for each leaf is done for this many of them.
_MOST_LEAVES = 48
# What costs many evaluations is not done, or less of it, where there are more numbers than this in all leaves.
MOST_NUMBERS = 100_000


@dataclass(eq=False)
class Survey:
    """All that was seen of a subject.

    Args:
        subject: what is probed.
        example: the point of the example inputs and the parameters as they are.
        outputs: their names.
        links: the leaves that autograd connects to each output.
        cuts: the operations that cut leaves, by output and leaf, where the trace saw them; a leaf may be connected all
            the same, by another path.
        leaks: the leaves whose value left torch, and where.
        dtype: of all evaluations but the native ones; None where the function refuses float64.
        looks: at all points.
        compared: slopes against finite differences, by output and leaf, one for each point where that was possible.
        randomness: ``""``, ``seeded`` or ``wild``, which no seed holds still.
        fixed: inputs that the function refuses to have moved.
        native: how many of the looks, the first ones, were taken in the function's own type.
        watched: backward passes, by look and output.
        changed: the outputs that change with a leaf, where that was tried.
    """

    subject: Subject
    example: Point
    outputs: list[str] = field(default_factory=list)
    links: dict[str, frozenset[int]] = field(default_factory=dict)
    cuts: dict[tuple[str, int], list[Operation]] = field(default_factory=dict)
    leaks: dict[int, Operation] = field(default_factory=dict)
    dtype: torch.dtype | None = None
    looks: list[Look] = field(default_factory=list)
    compared: dict[tuple[str, int], list[Comparison]] = field(default_factory=dict)
    randomness: str = ""
    fixed: list[int] = field(default_factory=list)
    native: int = 0
    watched: dict[tuple[int, str], Passages | None] = field(default_factory=dict)
    changed: dict[int, set[str]] = field(default_factory=dict)

    @property
    def numbers(self) -> int:
        """How many numbers all leaves hold."""
        return sum(value.numel() for value in self.example.values)

    def seen(self, name: str, leaf: int, *, exactly: bool = False) -> list[tuple[Look, Slope]]:
        """The looks at a pair that gave a slope; those in float64 only, if `exactly` and where there are such."""
        looks = self.looks[self.native :] if exactly else self.looks
        return [(one, one.slopes[name, leaf]) for one in looks if (name, leaf) in one.slopes]

    def blame(self, one: Look, name: str, leaf: int, wrong: Wrong) -> Blame | None:
        """The operation that made the gradient of a pair wrong at a look, where it is found."""
        key = (id(one), name)
        if key not in self.watched:
            dtype = None if one in self.looks[: self.native] else self.dtype
            try:
                self.watched[key] = watch(self.subject, one.point, dtype, name, sorted(self.links[name]))
            except Exception:  # blame is an extra: without it the verdict stands
                self.watched[key] = None
        passages = self.watched[key]
        return None if passages is None else passages.blame(leaf, wrong)

    def depends(self, name: str, leaf: int) -> bool | None:
        """Whether an output changes when a leaf moves far; None where that cannot be told, or was tried too often."""
        if leaf not in self.changed:
            if self.randomness == "wild" or len(self.changed) >= _MOST_LEAVES:
                return None
            self.changed[leaf] = depends(self.subject, self.example, self.dtype, self.outputs, leaf)
        return name in self.changed[leaf]


def given_points(subject: Subject, at: Sequence[Sequence[object]]) -> list[Point]:
    """The points that a user asked to have looked at.

    Raises:
        TypeError: one is not a tuple.
        ValueError: one differs from the example in structure or shape.
    """
    everyone = frozenset(range(len(subject.leaves)))
    points = []
    for number, inputs in enumerate(at):
        if not isinstance(inputs, tuple | list):
            raise TypeError(f"needed points `at` as tuples of inputs, got {type(inputs).__name__}; write at=[(x,)]")
        flat = subject.flatten(inputs)
        points.append(Point(f"at[{number}]", partial(subject.leaf_values, flat), "given", everyone, flat))
    return points


def survey_of(subject: Subject, given: Sequence[Point]) -> Survey:
    """Look at a subject from everywhere.

    Raises:
        RuntimeError: it fails at the example.
        TypeError: it returns nothing numeric.
    """
    everyone = frozenset(range(len(subject.leaves)))
    example = Point("the example", lambda: [leaf.value for leaf in subject.leaves], "example", everyone)
    survey = Survey(subject, example)
    _trace(survey)
    survey.dtype = _dtype(survey)
    survey.randomness = _randomness(survey)
    movable = _movable(survey)
    survey.fixed = [at for at, free in enumerate(movable) if not free]
    natively = [example, *given, *(point for point in special(subject, movable) if point.role == "large")]
    exactly = [
        example,
        *(point for point in special(subject, movable) if point.role != "large"),
        *around(subject, movable),
    ]
    survey.native = len(natively)
    survey.looks = [look(subject, point, survey.links, None) for point in natively]
    survey.looks += [look(subject, point, survey.links, survey.dtype) for point in exactly]
    if survey.randomness != "wild":
        _compare(survey, [one.point for one in survey.looks[survey.native :] if _is_generic(one)])
    return survey


def _trace(survey: Survey) -> None:
    """Run the function once as it is, and note what autograd connects and what cuts."""
    subject, traces = survey.subject, list[Trace]()

    def watch(seen: Run) -> Trace:
        traces.append(Trace(seen.leaves, len(subject.leaves), subject.layer_names()))
        return traces[0]

    try:
        with subject.at(survey.example.values, mode=watch) as run:
            outputs, returned = run.outputs, run.returned
    except Exception as error:
        message = f"needed a function that runs at the example inputs, got {type(error).__name__}: {error}"
        raise RuntimeError(f"{message}; check the inputs, their shapes and dtypes") from error
    if not outputs:
        raise TypeError(
            f"needed a function that returns tensors or numbers, got one that returns {returned}; return what is to be "
            "trained, and of a function that makes a model pass what it makes"
        )
    (trace,) = traces
    survey.outputs = list(outputs)
    for name, output in outputs.items():
        connected = trace.connected(output)
        survey.links[name] = frozenset(at for at in range(len(subject.leaves)) if connected >> at & 1)
        for cut, leaves in trace.flow(output).cuts.items():
            for at in range(len(subject.leaves)):
                if leaves >> at & 1:
                    survey.cuts.setdefault((name, at), []).append(cut)
    for cut, leaves in trace.leaks.cuts.items():
        for at in range(len(subject.leaves)):
            if leaves >> at & 1:
                survey.leaks.setdefault(at, cut)


def _dtype(survey: Survey) -> torch.dtype | None:
    """float64, unless the function or its backward pass fails in it: constants of another type may stand in its way."""
    native = look(survey.subject, survey.example, survey.links, None)
    if any("use_reentrant" in failure for failure in native.failed.values()):
        raise RuntimeError(
            "needed checkpoints whose gradient can be followed, got torch.utils.checkpoint with use_reentrant=True; "
            "set use_reentrant=False, or switch checkpoints off for the probe"
        )
    wide = look(survey.subject, survey.example, survey.links, torch.float64)
    same = wide.error is None and wide.failed.keys() == native.failed.keys()
    return torch.float64 if same and wide.slopes.keys() == native.slopes.keys() else None


def _runs(survey: Survey, point: Point, dtype: torch.dtype | None) -> bool:
    """Whether the function takes a point, and gives there what it gives at the example."""
    try:
        with survey.subject.at(point.values, dtype=dtype) as run:
            return list(run.outputs) == survey.outputs
    except Exception:  # the user's function: anything can come
        return False


def _randomness(survey: Survey) -> str:
    seed = survey.subject.seed

    def values(seed: int) -> list[torch.Tensor]:
        with survey.subject.at(survey.example.values, dtype=survey.dtype, seed=seed) as run:
            return [output.detach().clone() for output in run.outputs.values()]

    first, again, other = values(seed), values(seed), values(seed + 1)
    if not _equal(first, again):
        return "wild"
    return "" if _equal(first, other) else "seeded"


def _equal(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    if len(one) != len(other):
        return False
    pairs = zip(one, other, strict=True)
    return all(a.shape == b.shape and torch.allclose(a.double(), b.double(), equal_nan=True) for a, b in pairs)


def _movable(survey: Survey) -> list[bool]:
    """Which leaves may be moved: an input may be one of 0 and 1, and the function refuse all else."""
    subject = survey.subject
    values = [value.double() for value in survey.example.values]
    movable = []
    for at, value in enumerate(values[: subject.inputs]):
        moved = [*values[:at], value * 1.037 + 0.011, *values[at + 1 :]]
        point = Point("", partial(list, moved), "random", frozenset())
        movable.append(_runs(survey, point, survey.dtype))
    return movable + [True] * (len(values) - subject.inputs)


def _is_generic(one: Look) -> bool:
    """Whether finite differences make sense: no kink is to be expected, and nothing refused, failed or broke."""
    finite = not one.nan and not any(slope.bad for slope in one.slopes.values())
    return one.point.role in ("example", "random") and one.error is None and finite and not one.failed


def _compare(survey: Survey, points: Sequence[Point]) -> None:
    """Hold autograd against finite differences, all leaves of an output at once; halve them where the two differ."""
    groups: dict[frozenset[int], list[str]] = {}
    for name, leaves in survey.links.items():
        free = leaves - frozenset(survey.fixed)
        if free:
            groups.setdefault(free, []).append(name)
    for leaves, names in groups.items():
        differing: dict[str, list[Point]] = {}
        for point in points[:4]:
            for name, found in compare(survey.subject, point, survey.dtype, names, sorted(leaves)).items():
                if found.agree or len(leaves) == 1:
                    _record(survey, name, leaves, found)
                else:
                    differing.setdefault(name, []).append(point)
        for name, where in differing.items():
            for point in where[:3]:
                _halve(survey, name, point, sorted(leaves))


def _halve(survey: Survey, name: str, point: Point, leaves: Sequence[int]) -> None:
    """Find the leaves that make the difference; those left together when the budget is spent share one comparison."""
    waiting, budget = [leaves], _MOST_LEAVES if survey.numbers <= MOST_NUMBERS else _MOST_LEAVES // 4
    while waiting:
        group = waiting.pop(0)
        halves = [half for half in (group[: len(group) // 2], group[len(group) // 2 :]) if half]
        for half in halves:
            budget -= 1
            found = compare(survey.subject, point, survey.dtype, [name], half)[name]
            if found.agree or len(half) == 1 or budget < len(waiting):
                _record(survey, name, half, found)
            else:
                waiting.append(half)


def _record(survey: Survey, name: str, leaves: Iterable[int], found: Comparison) -> None:
    for leaf in leaves:
        survey.compared.setdefault((name, leaf), []).append(found)
