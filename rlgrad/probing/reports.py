"""The result of a probe: findings, a table of them, and what to do."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from textwrap import fill

from rlgrad.text import aligned

# In the order in which a reader wants to see them.
VERDICTS = ("cut", "flat", "non-finite", "pretended", "unused", "frozen", "useful")
TRAINED = ("useful", "pretended", "non-finite")
_MOST_ROWS = 30
_MOST_NAMES = 20


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What back-propagation can do for one leaf through one output.

    Args:
        output: the output, as in ``output['logits']``.
        leaf: the input or parameter.
        kind: ``input`` or ``parameter``.
        layer: for a parameter, the module that owns it; None for an input.
        verdict: ``cut`` (no gradient at all), ``flat`` (zero almost everywhere), ``non-finite`` (somewhere),
            ``pretended`` (autograd's slope is not the function's), ``unused``, ``frozen`` or ``useful``.
        detail: where and why.
        advice: what to do; empty where nothing is to be done.
        operation: the operation that is to blame, where it was found.
        line: where that was called, as in ``net.py:12``.
    """

    output: str
    leaf: str
    kind: str
    layer: str | None
    verdict: str
    detail: str
    advice: str
    operation: str | None = None
    line: str | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found; printed, it is a table and advice.

    Args:
        name: of the function.
        findings: one for each output and leaf.
        notes: on the probing itself.
    """

    name: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def dead_layers(self) -> tuple[str, ...]:
        """Modules with parameters of their own, none of which gets a gradient from any output; frozen ones aside."""
        own = [f for f in self.findings if f.layer is not None and f.verdict != "frozen"]
        alive = {f.layer for f in own if f.verdict in TRAINED}
        return tuple(dict.fromkeys(f.layer for f in own if f.layer is not None and f.layer not in alive))

    def to_dict(self) -> dict[str, object]:
        """Everything as plain dictionaries and lists."""
        return {
            "name": self.name,
            "findings": [asdict(finding) for finding in self.findings],
            "dead_layers": list(self.dead_layers),
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """Everything as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        rows = [["output", "leaf", "verdict", "why"], *_rows(self.findings)]
        advice = list(dict.fromkeys(f"{_subject(f)}: {f.advice}" for f in _sorted(self.findings) if f.advice))
        notes = [fill(f"- {line}", width=100, subsequent_indent="  ") for line in (*advice, *self.notes)]
        return "\n".join([fill(self.summary, width=100), "", aligned(rows, left=4), *([""] if notes else []), *notes])

    @property
    def summary(self) -> str:
        """One or two sentences: how many of which verdict, and the layers that get no gradient."""
        counts = {verdict: sum(f.verdict == verdict for f in self.findings) for verdict in VERDICTS[::-1]}
        parts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        leaves, outputs = (len({getattr(f, key) for f in self.findings}) for key in ("leaf", "output"))
        sentence = f"{self.name}: {_count(leaves, 'leaf', 'leaves')}, {_count(outputs, 'output')}: {parts}."
        dead = [layer or "(the module itself)" for layer in self.dead_layers]
        more = f", and {len(dead) - _MOST_NAMES} more" if len(dead) > _MOST_NAMES else ""
        layers = ", ".join(dead[:_MOST_NAMES]) + more
        return f"{sentence} No gradient reaches the weights of: {layers}." if dead else sentence


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def _sorted(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda f: VERDICTS.index(f.verdict))


def _subject(finding: Finding) -> str:
    verdict = finding.verdict
    return f"{verdict}, {finding.operation}" if finding.operation else verdict


def _rows(findings: Sequence[Finding]) -> list[list[str]]:
    """One row for each finding, or, where they are many, one for all that share their verdict and reason."""
    if len(findings) <= _MOST_ROWS:
        return [[f.output, f.leaf, f.verdict, f.detail] for f in findings]
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for f in _sorted(findings):
        detail = "" if f.verdict == "useful" else f.detail
        groups.setdefault((f.output, f.verdict, detail), []).append(f)
    return [[output, _together(group), verdict, detail] for (output, verdict, detail), group in groups.items()]


def _together(group: Sequence[Finding]) -> str:
    if len(group) == 1:
        return group[0].leaf
    return f"{group[0].leaf} ... {group[-1].leaf} ({len(group)})"
