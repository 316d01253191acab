"""The bench: candidates at one point, each measured against the truth in every space that is looked at."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from statistics import median
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from rlgrad.auditing.bias import LEVEL, Guard, Truth, bias_test
from rlgrad.auditing.candidates import Candidate, Point, TooSlow
from rlgrad.auditing.cost import SHORT, peak_memory, timed
from rlgrad.auditing.measures import Space, best_scale, measure
from rlgrad.auditing.result import Row
from rlgrad.auditing.truth import Found, double

_NUMBERS = 1 << 24  # of all estimates of a candidate together, in all spaces: they are kept in memory
_LEAST = 16  # estimates, unless they take several times as long as they may
_PATIENCE = 4  # so many times; after it 2 are enough
_FORECAST = 30  # times as long as all estimates may take: a single one that asks for more rewards is not made
_SAME, _TIMED = 5, 25  # estimates that agree before nothing is taken to be random; and that are timed, if quickly


def check_effort(estimates: int, seconds: float, truth_seconds: float) -> None:
    """What every audit asks of its arguments."""
    if estimates < 2:
        raise ValueError(f"needed at least 2 estimates to tell their variance, got {estimates}; 1000 are usual")
    if not (seconds > 0 and truth_seconds > 0):
        raise ValueError(f"needed seconds above 0, got {seconds=} and {truth_seconds=}")


def versions() -> dict[str, str]:
    """Of the software."""
    return {package: version(package) for package in ("rlgrad", "torch")}


@dataclass(frozen=True)
class View:
    """A space in which estimates are looked at.

    Args:
        truth: the true gradient there.
        see: estimates as they are there.
    """

    truth: Truth
    see: Callable[[Float64[Tensor, "estimates numbers"]], Float64[Tensor, "estimates seen"]] = lambda sample: sample

    @property
    def noise(self) -> float:
        """Standard error of the truth, relative to its norm."""
        return math.sqrt(self.truth.noise / self.truth.squared)

    def tells(self, least: float) -> bool:
        """Whether the truth is known to be longer than this."""
        return math.sqrt(max(0.0, self.truth.squared)) > least and self.truth.squared > 3 * self.truth.noise


def check_not_zero(view: View, least: float, *, where: str, advice: str) -> None:
    """There is a true gradient.

    Raises:
        ValueError: it is zero as far as can be told.
    """
    if not view.tells(least):
        raise ValueError(
            f"needed a true gradient to compare with, got {math.sqrt(max(0.0, view.truth.squared)):.1e} in the "
            f"{where}, with standard error {math.sqrt(view.truth.noise):.1e}: zero as far as can be told; {advice}, "
            "or raise truth_seconds"
        )


@dataclass(frozen=True)
class Bench:
    """Where candidates are measured.

    Args:
        point: at which they estimate.
        found: the true gradient there.
        guard: says what may be tested for a bias.
        spaces: views of everything, "logits" or "weights" or both.
        estimates: of each candidate, at most.
        seconds: for each candidate.
        seed: of the test's projections.
        layers: parts that are looked at by themselves as well, by name.
    """

    point: Point[Any]
    found: Found
    guard: Guard
    spaces: Mapping[str, View]
    estimates: int
    seconds: float
    seed: int
    layers: Mapping[str, slice] = field(default_factory=dict)

    def rows(self, listed: list[Candidate], *, progress: bool) -> tuple[Row, ...]:
        """One row of the table for each."""
        for each in listed:
            each.tally.each, each.tally.most = self.found.each, _FORECAST * self.seconds / self.found.each
        return tuple(self.measure(candidate) for candidate in _shown(listed, progress))

    def measure(self, candidate: Candidate) -> Row:
        """One row of the table; a candidate that does not apply says why."""
        try:
            run = self._run(candidate)
            memory = self._memory(candidate, run.seconds)
        except Exception as error:  # whatever is wrong with one candidate, the others are still measured
            return Row(name=candidate.name, kind=candidate.kind, error=_first_sentence(error))
        return self._row(candidate, run, memory)

    def _run(self, candidate: Candidate) -> "_Made":
        device = self.point.device
        first, taken = timed(candidate.gradient, device)
        if taken > self.seconds and not candidate.draws:
            return _Made(double(first)[None], float(candidate.tally.rewards), taken)
        if taken > self.seconds:  # or is it only the first that does, to choose kernels and the like?
            taken = timed(candidate.gradient, device)[1]
        if taken > self.seconds:
            raise TooSlow(f"too slow: {taken:.2g} s an estimate; raise seconds")
        return self._many(candidate)

    def _many(self, candidate: Candidate) -> "_Made":
        kept: list[Tensor] = []
        times: list[float] = []
        rewards = 0
        still = not candidate.draws
        start = time.perf_counter()
        most = min(self.estimates, self._room())
        while len(kept) < most and not self._enough(len(kept), time.perf_counter() - start, still=still):
            gradient, taken = timed(candidate.gradient, self.point.device)
            kept.append(double(gradient))
            times.append(taken)
            rewards += candidate.tally.rewards
            still = still and kept[0].equal(kept[-1])
        return _Made(torch.stack(kept), rewards / len(kept), median(times))

    def _enough(self, made: int, spent: float, *, still: bool) -> bool:
        if still:
            return (
                made >= _TIMED or (made >= _SAME and spent > 0.1 * self.seconds) or (made > 0 and spent > self.seconds)
            )
        return spent > self.seconds and made >= (_LEAST if spent < _PATIENCE * self.seconds else 2)

    def _memory(self, candidate: Candidate, seconds: float) -> int | None:
        device = self.point.device
        short = seconds <= (self.seconds if device.type == "cuda" else min(SHORT, self.seconds))
        return peak_memory(candidate.gradient, device) if short else None

    def _room(self) -> int:
        numbers = sum(view.truth.gradient.numel() for view in self.spaces.values())
        return max(_LEAST, _NUMBERS // numbers)

    def _row(self, candidate: Candidate, run: "_Made", memory: int | None) -> Row:
        # What needs two estimates to tell that they do not vary may take the only one twice.
        sample = run.sample.expand(max(2, len(run.sample)), -1)
        surrogate = candidate.kind == "surrogate"
        varies = bool((sample != sample[0]).any())
        p_value = self._p_value(sample, candidate.draws or int(varies), rescale=surrogate)
        # Who draws and asked for nothing has ways of its own to a reward; a surrogate asks for none.
        rewards = None if varies and not run.rewards and not surrogate else run.rewards
        biased = None if math.isnan(p_value) else p_value < LEVEL

        def measured(sample: Tensor, truth: Truth) -> Space:
            return measure(
                sample,
                truth,
                rewards=rewards,
                rescale=surrogate,
                biased=biased,
                rounding=self._rounding,
            )

        spaces = {name: measured(view.see(sample), view.truth) for name, view in self.spaces.items()}
        return Row(
            name=candidate.name,
            kind=candidate.kind,
            estimates=len(run.sample),
            rewards=rewards,
            p_value=None if math.isnan(p_value) else p_value,
            logits=spaces.get("logits"),
            weights=spaces.get("weights"),
            layers={name: measured(sample[:, part], self.found.truth.part(part)) for name, part in self.layers.items()},
            seconds=run.seconds,
            memory=memory,
        )

    @property
    def _rounding(self) -> float:
        # A hundred times the relative precision of an estimate, or of the law of counts, whose error is 1e-9.
        return max(100 * torch.finfo(self.point.dtype).eps, 1e-8)

    def _p_value(self, sample: Tensor, draws: int, *, rescale: bool) -> float:
        truth = self.found.truth
        if rescale:
            sample = sample * best_scale(sample, truth)
        slack = self._rounding * math.sqrt(truth.squared)
        parts = list(self.layers.values())
        return bias_test(sample, truth, self.guard, draws=draws, slack=slack, seed=self.seed, parts=parts)


def _shown(listed: list[Candidate], progress: bool) -> Iterable[Candidate]:
    if not progress:
        return listed
    from tqdm import tqdm

    bar: Iterable[Candidate] = tqdm(listed, unit="candidate", leave=False, disable=None)
    return bar


@dataclass(frozen=True)
class _Made:
    sample: Float64[Tensor, "estimates numbers"]
    rewards: float  # that an estimate asked for
    seconds: float  # that it took


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    sentence = text.partition("; ")[0].partition(". ")[0]
    expected = isinstance(error, TypeError | ValueError | TooSlow)
    return sentence if expected else f"{type(error).__name__}: {sentence}"
