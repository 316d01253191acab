"""What seeds can tell: intervals of a mean, of a paired difference, and of many differences at once.

Every interval is Student's, over seeds. Seeds that re-split the same rows are not independent, and an
interval that takes them to be is too short: `overlap` widens it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite, nan, sqrt
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student_t


class Interval(NamedTuple):
    """A mean and the bounds of its confidence interval; NaN bounds where a single value tells no spread."""

    mean: float
    low: float
    high: float


def interval(values: Iterable[float], *, overlap: float = 0.0, level: float = 0.95) -> Interval:
    """Student-t confidence interval of a mean over seeds, corrected for seeds that share rows.

        mean -+ t[(1 + level) / 2; n - 1] * sqrt(s^2 (1/n + overlap)),   s^2 with n - 1 below

    Splits of the same rows give values correlated by about r = n_test / (n_train + n_test). The variance of
    their mean is then s^2 (1/n + r / (1 - r)), and r / (1 - r) = n_test / n_train: no number of seeds shrinks
    that part.

    Args:
        values: one per seed. A single value gives NaN bounds; values that are all equal give zero width.
        overlap: n_test / n_train of the repeated random splits; 0 where every seed has rows of its own.
        level: probability that the interval covers the mean, in (0, 1).

    Raises:
        ValueError: no value, a value that is not finite, a negative overlap, a level outside (0, 1).

    Source: Nadeau & Bengio (2003), Inference for the Generalization Error, Machine Learning 52.

    Example:
        >>> bounds = interval([0.80, 0.82, 0.84])
        >>> f"{bounds.mean:.3f} [{bounds.low:.3f}, {bounds.high:.3f}]"
        '0.820 [0.770, 0.870]'
        >>> bounds = interval([0.80, 0.82, 0.84], overlap=0.25)
        >>> f"{bounds.mean:.3f} [{bounds.low:.3f}, {bounds.high:.3f}]"
        '0.820 [0.754, 0.886]'
    """
    sample = np.fromiter(values, dtype=np.float64)
    _check(sample, overlap=overlap, level=level)
    if sample.size == 1:
        return Interval(float(sample[0]), nan, nan)
    if np.ptp(sample) == 0:  # asked before the mean, whose rounding would give equal values a spread
        return Interval(*(float(sample[0]),) * 3)
    mean, variance = float(sample.mean()), float(sample.var(ddof=1))
    quantile = float(student_t.ppf((1 + level) / 2, df=sample.size - 1))
    half = quantile * sqrt(variance * (1 / sample.size + overlap))
    return Interval(mean, mean - half, mean + half)


def _check(sample: np.ndarray[tuple[int], np.dtype[np.float64]], *, overlap: float, level: float) -> None:
    if sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(f"needed finite values, at least one, got {sample.tolist()}; leave failed runs out")
    if not 0 <= overlap < np.inf:
        raise ValueError(f"needed overlap = n_test / n_train >= 0, got {overlap}; 0 is for seeds apart")
    if not 0 < level < 1:
        raise ValueError(f"needed a level in (0, 1), got {level}; pass 0.95 for 95%")


def paired_difference(
    a: Mapping[int, float], b: Mapping[int, float], *, overlap: float = 0.0, level: float = 0.95
) -> Interval:
    """Interval of the mean of a - b over the seeds that both have: an easy split is easy for both.

    Args:
        a: seed to value.
        b: seed to value.
        overlap: as for `interval`.
        level: as for `interval`.

    Raises:
        ValueError: no seed in common.

    Example:
        >>> paired_difference({0: 0.75, 1: 0.5, 2: 1.0}, {1: 0.25, 2: 0.75, 3: 0.0})
        Interval(mean=0.25, low=0.25, high=0.25)
    """
    common = sorted(a.keys() & b.keys())
    if not common:
        raise ValueError(f"needed seeds in common, got {sorted(a)} and {sorted(b)}; run both on the same")
    return interval((a[seed] - b[seed] for seed in common), overlap=overlap, level=level)


def differences(
    results: Mapping[str, Mapping[int, float]], *, reference: str, overlap: float = 0.0, level: float = 0.95
) -> dict[str, Interval]:
    """Paired difference of every method to the reference, in intervals that hold together at `level`.

    Each of m comparisons is made at level 1 - (1 - level) / m (Bonferroni): however the methods depend on
    each other, the chance that any interval misses is at most 1 - level. So it is fair to look at all of them
    and to speak of the best.

    Args:
        results: method to seed to value, larger is better.
        reference: the method to compare with. Methods that share no seed with it are not compared.
        overlap: as for `interval`.
        level: of all the intervals together.

    Raises:
        ValueError: no such reference.
    """
    if reference not in results:
        raise ValueError(f"needed the reference {reference!r}, got {list(results)}; pass one of them")
    base = results[reference]
    rivals = [name for name in results if name != reference and results[name].keys() & base.keys()]
    each = 1 - (1 - level) / max(len(rivals), 1)
    return {name: paired_difference(results[name], base, overlap=overlap, level=each) for name in rivals}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Which methods differ from the reference beyond luck; made by `verdict`.

    Args:
        reference: what the others were compared with.
        best: the method to speak of: the largest mean difference among those better beyond luck; without any,
            among those that several seeds do not show to be worse.
        differences: method to its simultaneous interval of the difference to the reference.
        better, worse: methods whose interval lies wholly above, wholly below zero; best mean first.
        seeds: how many seeds the best and the reference share.
        level: probability that all the intervals cover.
    """

    reference: str
    best: str
    differences: dict[str, Interval]
    better: tuple[str, ...]
    worse: tuple[str, ...]
    seeds: int
    level: float

    @property
    def won(self) -> bool:
        """Whether the best method beat the reference beyond luck."""
        return self.best in self.better

    @property
    def difference(self) -> Interval:
        """Of the best method to the reference."""
        return self.differences[self.best]


def verdict(
    results: Mapping[str, Mapping[int, float]], *, reference: str, overlap: float = 0.0, level: float = 0.95
) -> Verdict:
    """Judge every method against the reference, with simultaneous intervals (see `differences`).

    If in truth no method differs from the reference, one is said to have won with probability (1 - level) / 2
    at most.

    Args:
        results: method to seed to value, larger is better.
        reference: the method to compare with.
        overlap: as for `interval`.
        level: of all the intervals together.

    Raises:
        ValueError: no such reference, or no method that shares a seed with it.

    Example:
        >>> results = {"ce": {0: 0.70, 1: 0.72, 2: 0.74}, "soft": {0: 0.80, 1: 0.83, 2: 0.84}}
        >>> answer = verdict(results, reference="ce")
        >>> answer.best, answer.won, f"{answer.difference.low:.3f}"
        ('soft', True, '0.089')
    """
    found = differences(results, reference=reference, overlap=overlap, level=level)
    if not found:
        raise ValueError(f"needed methods on the seeds of {reference!r}, got none in {list(results)}; run one")
    ranked = sorted(found, key=lambda name: found[name].mean, reverse=True)
    better = tuple(name for name in ranked if found[name].low > 0)
    worse = tuple(name for name in ranked if found[name].high < 0)
    best = max(ranked, key=lambda name: (name in better, isfinite(found[name].low), name not in worse))
    return Verdict(
        reference=reference,
        best=best,
        differences=found,
        better=better,
        worse=worse,
        seeds=len(results[best].keys() & results[reference].keys()),
        level=level,
    )
