"""What an audit found: numbers for programs, a table for the terminal, a JSON file for figures."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any

from rlgrad.auditing.bias import LEVEL
from rlgrad.auditing.candidates import Kind
from rlgrad.auditing.measures import WANTED, Space
from rlgrad.files import replacing
from rlgrad.text import aligned

WIDTH = 110
_EXACT = 1e-8  # a relative error that is rounding
_LAYERS = 3  # that the table shows


@dataclass(frozen=True, kw_only=True)
class Row:
    """One candidate.

    Args:
        name: as the user called it.
        kind: "estimator" or "surrogate".
        error: why it was not measured; None if it was, and all below is None if it was not.
        estimates: how many were made.
        rewards: of each row of decisions that one of them asked for, on average; None where unknown.
        p_value: of "the expected estimate is the truth", corrected for all that was tested; None where the run was too
            short to tell. Where a surrogate points is tested, not how far.
        logits: in logit space; None where the weights of a network alone were looked at.
        weights: through the weights; None without weights.
        layers: in the weights of each layer, where a network was looked at: by the name of the module that holds them.
            A surrogate is scaled to fit each best.
        seconds: median of one estimate, forward and backward to the logits.
        memory: bytes that one estimate holds at its worst moment; None where it takes too long to look at.
    """

    name: str
    kind: Kind
    error: str | None = None
    estimates: int | None = None
    rewards: float | None = None
    p_value: float | None = None
    logits: Space | None = None
    weights: Space | None = None
    layers: dict[str, Space] = field(default_factory=dict)
    seconds: float | None = None
    memory: int | None = None

    @property
    def biased(self) -> bool | None:
        """Whether a bias was found, at 1% false alarms; None where nothing could be told."""
        return None if self.p_value is None else self.p_value < LEVEL


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The result of ``audit`` or ``audit_network``: ``str()`` gives the table, ``save()`` writes it all as JSON.

    Args:
        problem: what was audited, in words.
        metric: its name; of a network, that of the loss.
        policy: Bernoulli or Categorical; of a network, that of its units.
        shape: of the target, ``*batch items``.
        weights: how many numbers the weights hold; 0 without weights.
        truth: how the true gradient was found.
        noise: standard error of the true gradient, relative to its norm, in the logits; of a network, in the weights.
        noise_weights: the same in the weights that logits are pulled back to; None without.
        norm: of the true gradient, where ``noise`` is.
        rows: one for each candidate.
        seed: of all draws.
        device: that everything ran on.
        versions: of the software.
        units: how many are drawn of a row in each layer of a network, one after the other; none for logits.
        temperature: of their noise; None for logits.
    """

    problem: str
    metric: str
    policy: str
    shape: tuple[int, ...]
    weights: int
    truth: str
    noise: float
    noise_weights: float | None
    norm: float
    rows: tuple[Row, ...]
    seed: int
    device: str
    versions: dict[str, str] = field(default_factory=dict)
    units: tuple[int, ...] = ()
    temperature: float | None = None

    def __getitem__(self, name: str) -> Row:
        """The row of a candidate.

        Raises:
            KeyError: there is none of that name.
        """
        rows = {row.name: row for row in self.rows}
        if name not in rows:
            raise KeyError(f"needed a candidate of {', '.join(rows)}, got {name!r}")
        return rows[name]

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values; null for what is unknown or infinite.

        ``rewards`` of a space is infinite where ``limit`` is a number, and unknown where that is null too, or where the
        row's own ``rewards`` are.
        """
        rows = [{**asdict(row), "biased": row.biased} for row in self.rows]
        found: dict[str, Any] = _strict({"format": 1, **asdict(self), "rows": rows, "level": LEVEL, "wanted": WANTED})
        return found

    def to_json(self) -> str:
        """The same as text: strict JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the JSON to a file: whole, or not at all. Its folder is made if it is not there.

        Raises:
            OSError: the file cannot be written; an older one is left as it was.
        """
        with replacing(path) as file:
            file.write(self.to_json().encode())

    def __str__(self) -> str:
        spaces = [name for name in ("logits", "weights") if any(getattr(row, name) for row in self.rows)]
        layers = next((list(row.layers)[:_LAYERS] for row in self.rows if row.layers), [])
        header = ["candidate", *_header(spaces), *(f"in {name}" for name in layers), "ms", "KiB"]
        table = aligned([header, *(_cells(row, spaces, layers) for row in self.rows)])
        return "\n".join([*_wrapped(self.heading()), "", table, "", *_wrapped(self.notes())])

    def heading(self) -> list[str]:
        """What was audited, in sentences."""
        noise = "exact" if self.noise <= _EXACT else f"standard error {_percent(self.noise)} of its norm"
        if self.noise > _EXACT and self.noise_weights is not None:
            noise += f", {_percent(self.noise_weights)} in the weights"
        return [
            f"{self.problem}: {self.metric} {self._setting()}.",
            f"True gradient of the expected {self.metric} by {self.truth} ({noise}).",
        ]

    def _setting(self) -> str:
        if self.units:
            units = " + ".join(map(str, self.units))
            return (
                f"of {self.shape[0]} rows under a network of {self.weights} weights, {units} units of a row drawn at "
                f"temperature {self.temperature:g}"
            )
        *batch, items = self.shape
        rows = f"{math.prod(batch)} rows of {items} decisions" if batch else f"{items} decisions, scored together"
        return f"under a {self.policy} policy, {rows}" + (f", {self.weights} weights" if self.weights else "")

    def notes(self) -> list[str]:
        """How to read the table, and what was not measured."""
        counts = sorted({row.estimates for row in self.rows if row.estimates})
        made = f"{counts[0]} to {counts[-1]}" if counts[1:] else f"{counts[0] if counts else 0}"
        reward = "loss" if self.units else "reward"
        return [
            f"bias: |expected estimate - truth| / |truth|. A plain number was found by a test that calls "
            f"{LEVEL:.0%} of unbiased estimators biased, all {'projections' if self.units else 'coordinates'} "
            "together; !<b: one was found, in some direction or part, that drowns in the noise of the whole; <b: none "
            "was found. Either is below b with 99% confidence. ?: too few rare decisions came up to tell, nor what "
            "follows from it.",
            "~: of a surrogate, scaled to fit best before bias and variance are taken: any learning rate rescales it.",
            "variance: of one estimate, over |truth|^2. cosine: of one estimate to the truth, on average. "
            f"rewards: how often a row's {reward} is asked for until the mean of estimates has cosine {WANTED:g}; 0: "
            f"never asked for{'' if self.units else ', by formula alone'}.",
            *self._of_the_weights(),
            f"ms and KiB: one estimate with its gradient, median time and peak memory (-: not looked at). Estimates: "
            f"{made} each.",
            *(f"not measured: {row.name}: {row.error}" for row in self.rows if row.error is not None),
        ]

    def _of_the_weights(self) -> list[str]:
        if self.units:
            return [
                "All in the weights of the network, and against the expected loss of drawn units: the loss of hard "
                "ones is flat before their last layer, and has no gradient there to compare with. in: the cosine in "
                "the weights of a layer alone, the first ones of the network."
            ]
        return ["w: the same estimates, pulled back to the weights."] if self.weights else []


def _wrapped(lines: list[str]) -> list[str]:
    return [fill(line, width=WIDTH, subsequent_indent="  ") for line in lines]


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _header(spaces: list[str]) -> list[str]:
    columns = ["bias", "variance", "cosine", "rewards"]
    return [*columns, *(f"w {name}" for name in columns)] if len(spaces) > 1 else columns


def _cells(row: Row, spaces: list[str], layers: list[str]) -> list[str]:
    numbers = [cell for name in spaces or ["logits"] for cell in _space(row, getattr(row, name))]
    cosines = [f"{row.layers[name].cosine:.4f}" if name in row.layers else "-" for name in layers]
    ms = "-" if row.seconds is None else _number(1000 * row.seconds)
    kib = "-" if row.memory is None else _number(row.memory / 1024)
    return [row.name, *numbers, *cosines, ms, kib]


def _space(row: Row, space: Space | None) -> list[str]:
    if space is None:
        return ["-"] * 4
    variance = "?" if space.variance is None else _number(space.variance)
    return [_bias(row, space), variance, f"{space.cosine:.4f}", _rewards(space.rewards)]


def _rewards(needed: float | None) -> str:
    if needed is None:
        return "?"
    return "never" if math.isinf(needed) else f"{needed:.0f}" if needed < 1e6 else f"{needed:.0e}"


def _bias(row: Row, space: Space) -> str:
    if row.biased is None or space.bias is None or space.bias_limit is None:
        return "?"
    sign = "~" if row.kind == "surrogate" else ""
    if row.biased:
        return f"{sign}{_percent(space.bias)}" if space.bias else f"{sign}!<{_percent(space.bias_limit)}"
    return f"{sign}<{_percent(space.bias_limit)}" if space.bias_limit else f"{sign}0%"


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%" if share < 0.995 else f"{100 * share:.0f}%" if share < 100 else f"{share:.0e}x"


def _number(value: float) -> str:
    """Three digits, without an exponent up to a million."""
    if value == 0:
        return "0"
    if 0.001 <= value < 1e6:
        digits = max(0, 2 - math.floor(math.log10(value)))
        return f"{value:.{digits}f}" if digits else f"{round(value)}"
    return f"{value:.0e}"
