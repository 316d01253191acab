"""Is the mean of the estimates the true gradient? A test whose false alarms are controlled over all coordinates.

The trap is rare decisions. An estimate from draws moves a coordinate with p = 0.001 only when that decision comes out
as it rarely does; before it has, the estimates agree with one another and not with the truth, and a t-test cries wolf.
Three guards stand against it:

- A coordinate, or a projection of all of them, is tested only where enough such events are *expected* by the policy's
  own probabilities (`Rarity`), so that it is not the estimates that decide what is tested.
- Where they are enough the t-statistic is still skewed. Hall's transformation takes the skewness out: for Poisson
  events, 28 seen of 50 expected, a plain test gives p = 3e-5, the transformed one 2e-3, and the truth is 1e-3. Of the
  two statistics the smaller counts.
- What cannot be tested by itself is tested together, in projections that weigh all coordinates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan, nan, sqrt
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from scipy.stats import t as student_t
from torch import Tensor

LEVEL = 0.01  # false alarms, over all that is tested of a candidate
EVENTS = 30.0  # rare decisions that must be expected in a run
EVENTS_ALONE = 100.0  # behind a single coordinate, where the correction for many looks far into the tails
_UNLIKELY = 0.01  # fewer than this will not occur, nor be missed
_SEEN = 10.0  # estimates that must share a variance, as events do
_RANDOM = 8  # random projections
_PAIRED = 1000  # estimates that are multiplied with one another
_COLUMNS = 1 << 22  # numbers of the sample looked at together


@dataclass(frozen=True)
class Truth:
    """The true gradient, or the mean of independent blocks that estimate it.

    Args:
        gradient: of the objective.
        blocks: unbiased estimates with this mean; None where the gradient is exact.
        draws: behind each block.
    """

    gradient: Float64[Tensor, " numbers"]
    blocks: Float64[Tensor, "blocks numbers"] | None = None
    draws: int = 0

    @property
    def noise(self) -> float:
        """Expected squared distance of the gradient from the truth."""
        return 0.0 if self.blocks is None else float(self.blocks.var(0).sum()) / len(self.blocks)

    @property
    def squared(self) -> float:
        """Squared norm of the truth, estimated without bias."""
        return float(self.gradient.square().sum()) - self.noise

    def half(self, which: int) -> "Truth":
        """The truth by every other block, from the first (0) or the second (1)."""
        if self.blocks is None:
            return self
        return Truth(self.blocks[which::2].mean(0), self.blocks[which::2], self.draws)

    def part(self, columns: slice) -> "Truth":
        """Of some of the numbers alone."""
        return Truth(self.gradient[columns], None if self.blocks is None else self.blocks[:, columns], self.draws)


@runtime_checkable
class Guard(Protocol):
    """Says where enough rare decisions are to be expected for a test."""

    def coordinates(self, trials: int) -> Bool[Tensor, " numbers"]:
        """Which coordinates may be tested by themselves after this many draws."""
        ...

    def projections(self, along: Tensor, trials: int) -> Bool[Tensor, " projections"]:
        """Which projections may be."""
        ...


@dataclass(frozen=True)
class Rarity:
    """How many rare decisions are expected behind a coordinate or a projection of an estimate.

    With v = p (1 - p), a projection u takes its noise from the decisions that it weighs,

        (sum u^2 v)^2 / sum u^4 v  in each draw, which is v for a single coordinate,

    and from the rewards, which the other decisions of the row change: as often as the sum of their v, taken over rows
    by the same formula. Both are asked for, since an estimate may do without the one or the other. A single coordinate
    may moreover count only in company, as a false positive does where a true one is rare: of its events, those are
    taken that fall together with a decision other than the row's most uncertain.

    Args:
        spread: v of each number, ``rows items classes``; one class where decisions are yes or no.
    """

    spread: Float64[Tensor, "rows items classes"]

    def coordinates(self, trials: int) -> Bool[Tensor, " numbers"]:
        """Which coordinates may be tested by themselves after this many draws."""
        items = self.spread.sum(-1)
        others = items.sum(1, keepdim=True) - items
        most, at = items.max(1, keepdim=True)
        second = items.scatter(1, at, 0.0).amax(1, keepdim=True)
        company = others - torch.where(torch.arange(items.shape[1]) == at, second, most)
        share = torch.where(trials * company < _UNLIKELY, 1.0, company.clamp(max=1.0))
        own = trials * self.spread * share[..., None]
        return ((own >= EVENTS_ALONE) & _enough(trials * others)[..., None]).flatten()

    def projections(self, along: Tensor, trials: int) -> Bool[Tensor, " projections"]:
        """Which projections may be."""
        squares = along.square()
        items = self.spread.sum(-1)
        rows = squares.unflatten(1, self.spread.shape).sum((2, 3))
        own = trials * shared(squares, self.spread.flatten())
        return (own >= EVENTS) & _enough(trials * shared(rows, items.sum(1) - items.amax(1)))


def _enough(events: Tensor) -> Tensor:
    return (events >= EVENTS) | (events < _UNLIKELY)


def shared(weight: Tensor, rate: Tensor) -> Tensor:
    """Number of equal events that would give the same ratio of fourth to second moments."""
    total = weight @ rate
    return torch.where(total > 0, total.square() / (weight.square() @ rate), 0.0)


def bias_test(
    sample: Float64[Tensor, "estimates numbers"],
    truth: Truth,
    guard: Guard,
    *,
    draws: int,
    slack: float,
    seed: int = 0,
    parts: Sequence[slice] = (),
) -> float:
    """The p-value of "the expected estimate is the truth", corrected for the number of questions asked.

    Half of the level goes to the coordinates, half to projections: along the truth, which sees a gradient that is too
    long or too short; along the difference found in one half of the estimates, tested on the other, which sees a small
    bias spread over many coordinates; and along random signs. The former two are asked of each part alone as well: a
    small part has no say in the whole. Each half is corrected by Bonferroni. The standard error of the truth enters by
    Welch's formula. Estimates that do not vary are compared within ``slack``.

    What is controlled: an unbiased estimator is called biased (p < 0.01) in at most about 1% of audits. What is not:
    rewards that themselves are rare events, which nothing in the policy's probabilities announces.

    Args:
        sample: independent estimates.
        truth: the true gradient.
        guard: says what may be tested, by the probabilities of decisions.
        draws: behind each estimate; 0 where nothing is drawn.
        slack: differences within it are rounding.
        seed: of the random projections.
        parts: coordinates that belong together.

    Returns:
        A number from 0 to 1, or NaN where the run is too short to test anything.

    Source: Hall, On the removal of skewness by transformation (1992).
    """
    if not (sample != sample[0]).any():
        return _without_noise(sample[0], truth, guard, estimates=len(sample), draws=draws, slack=slack, parts=parts)
    run = _Run(guard, draws, slack)
    coordinates = run.coordinates(sample, truth)
    projections = torch.cat([run.projected(*question) for question in _questions(sample, truth, seed, parts)])
    both = [p for p in (_bonferroni(coordinates), _bonferroni(projections)) if not isnan(p)]
    return min(1.0, len(both) * min(both)) if both else nan


def _without_noise(
    estimate: Tensor,
    truth: Truth,
    guard: Guard,
    *,
    estimates: int,
    draws: int,
    slack: float,
    parts: Sequence[slice],
) -> float:
    if truth.blocks is None and float((estimate - truth.gradient).norm()) <= slack:
        return 1.0
    # A sampling estimator that gave nothing but zero, or had no occasion to vary, has not shown what it can do.
    if draws and not (estimate.any() and guard.projections(truth.gradient[None], draws * estimates).any()):
        return nan
    if truth.blocks is None:
        return 0.0
    # The truth is noisy, and alone so: its blocks are tested against the constant.
    return bias_test(truth.blocks, Truth(estimate), guard, draws=truth.draws, slack=slack, parts=parts)


def _questions(
    sample: Tensor, truth: Truth, seed: int, parts: Sequence[slice]
) -> Iterator[tuple[Float64[Tensor, "projections numbers"], Tensor, Truth]]:
    # Never is a direction tested on the numbers that it was found in.
    first, second = truth.half(0), truth.half(1)
    yield _whole_and(parts, first.gradient), sample, second
    yield _whole_and(parts, sample[0::2].mean(0) - first.gradient), sample[1::2], second
    yield _whole_and(parts, sample[1::2].mean(0) - second.gradient), sample[0::2], first
    signs = torch.randint(0, 2, (_RANDOM, sample.shape[1]), generator=torch.Generator().manual_seed(seed))
    yield (2 * signs - 1).to(sample), sample, truth


def _whole_and(parts: Sequence[slice], along: Tensor) -> Float64[Tensor, "projections numbers"]:
    every = torch.zeros(1 + len(parts), len(along), dtype=along.dtype)
    every[0] = along
    for at, part in enumerate(parts, start=1):
        every[at, part] = along[part]
    return every


def _bonferroni(p_values: Tensor) -> float:
    tested = p_values[~p_values.isnan()]
    return min(1.0, len(tested) * float(tested.min())) if len(tested) else nan


@dataclass(frozen=True)
class _Run:
    guard: Guard
    draws: int
    slack: float

    def coordinates(self, sample: Tensor, truth: Truth) -> Float64[Tensor, " numbers"]:
        """A p-value for each coordinate; NaN where it cannot be tested."""
        columns = torch.arange(sample.shape[1]).split(max(1, _COLUMNS // len(sample)))
        parts = [_p_values(sample[:, at], truth.gradient[at], _columns(truth, at), self.slack) for at in columns]
        return torch.where(self.guard.coordinates(self._trials(sample, truth)), torch.cat(parts), nan)

    def projected(self, along: Tensor, sample: Tensor, truth: Truth) -> Float64[Tensor, " projections"]:
        """A p-value for each projection; NaN where it cannot be tested."""
        along = along / along.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(along.dtype).tiny)
        blocks = None if truth.blocks is None else truth.blocks @ along.T
        p_values = _p_values(sample @ along.T, along @ truth.gradient, blocks, self.slack)
        return torch.where(self.guard.projections(along, self._trials(sample, truth)), p_values, nan)

    def _trials(self, sample: Tensor, truth: Truth) -> int:
        trials = len(sample) * max(1, self.draws)
        return trials if truth.blocks is None else min(trials, len(truth.blocks) * truth.draws)


def _columns(truth: Truth, at: Tensor) -> Tensor | None:
    return None if truth.blocks is None else truth.blocks[:, at]


def _p_values(sample: Tensor, truth: Tensor, blocks: Tensor | None, slack: float) -> Float64[Tensor, " numbers"]:
    mean = sample.mean(0)
    variance, third, seen = _moments(sample - mean)
    freedom = variance.square() / (len(sample) - 1)
    if blocks is not None:
        of_truth, third_of_truth, _ = _moments(blocks - blocks.mean(0))
        freedom = freedom + of_truth.square() / (len(blocks) - 1)
        variance, third = variance + of_truth, third - third_of_truth
    freedom = variance.square() / freedom
    gap = mean - truth
    gap = gap.sign() * (gap.abs() - slack).clamp_min(0)
    statistic = _hall(gap / variance.sqrt(), third / variance**1.5)
    p_values = torch.from_numpy(np.asarray(2 * student_t.sf(statistic.abs().numpy(), freedom.numpy())))
    return torch.where((seen >= _SEEN) & (variance > 0), p_values, nan)


def _moments(centred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the mean: its variance and third cumulant; and over how many estimates the variance is spread."""
    count = len(centred)
    squares = centred.square()
    total = squares.sum(0)
    seen = total.square() / squares.square().sum(0).clamp_min(torch.finfo(total.dtype).tiny)
    return total / ((count - 1) * count), (squares * centred).mean(0) / count**2, seen


def _hall(statistic: Tensor, skew: Tensor) -> Tensor:
    # With a = skew of the mean: T + a T^2 / 3 + a^2 T^3 / 27 + a / 6, monotone in T.
    transformed = statistic + skew * statistic**2 / 3 + skew**2 * statistic**3 / 27 + skew / 6
    return torch.where(transformed.abs() < statistic.abs(), transformed, statistic)


def fluctuation(sample: Float[Tensor, "estimates numbers"]) -> float:
    """The root of tr(S^2), S the covariance of one estimate, from products of different estimates."""
    some = sample[:_PAIRED]
    centred = some - some.mean(0)
    products = (centred @ centred.T).square()
    pairs = len(some) * (len(some) - 1)
    return sqrt(max(0.0, float(products.sum() - products.diagonal().sum())) / pairs)
