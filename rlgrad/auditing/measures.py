"""From independent estimates and the truth to the numbers of a table, in one space: logits or weights."""

from dataclasses import dataclass
from math import ceil, inf, sqrt

import torch
from jaxtyping import Float64
from torch import Tensor

from rlgrad.auditing.bias import Truth, fluctuation

WANTED = 0.9  # the cosine to be reached by averaging
_QUANTILE = 2.3263  # of the normal law: 99% lie below


@dataclass(frozen=True, kw_only=True)
class Space:
    """A candidate's estimates against the true gradient t, in the logits or in the weights.

    Every mean is taken off its own noise: |mean of R estimates|^2 exceeds |expectation|^2 by tr(S) / R, for S the
    covariance of one estimate, and |t|^2 likewise where t is the mean of a long run.

    What is zero but for rounding is zero. Where it could not be told whether there is a bias, what follows from it is
    unknown, None.

    Args:
        bias: |E[g] - t| / |t|, zero where the noise exceeds it; None where every estimate was zero and more might not.
        bias_limit: the bias lies below this with 99% confidence; None where unknown.
        variance: tr(S) / |t|^2; None where every estimate was zero and more might not.
        cosine: mean over estimates of cos(g, t); an estimate of zero counts as 0.
        cosine_error: standard error of that mean.
        limit: cosine of the mean of infinitely many estimates; None where unknown.
        rewards: needed for a mean of estimates with cosine 0.9: how many rewards of each row all of them ask for; 0
            where one is enough and asks for none, infinity where no number is enough, None where unknown.
        scale: what the estimates were multiplied by before bias and variance were taken; 1 for an estimator.
    """

    bias: float | None
    bias_limit: float | None
    variance: float | None
    cosine: float
    cosine_error: float
    limit: float | None
    rewards: float | None
    scale: float


def measure(
    sample: Float64[Tensor, "estimates numbers"],
    truth: Truth,
    *,
    rewards: float | None,
    rescale: bool,
    biased: bool | None,
    rounding: float = 0.0,
) -> Space:
    """The numbers of one candidate in one space.

    Args:
        sample: independent estimates, at least 2.
        truth: the true gradient, not zero.
        rewards: that each estimate asks for; None if unknown.
        rescale: whether the length of the mean says nothing, as that of a surrogate's gradient, which any learning
            rate changes; it is then made to fit best.
        biased: whether a bias was found; None if it could not be told. If none was, the rewards needed take the
            expectation to be the truth, which is less noisy than its estimate.
        rounding: relative to the truth.
    """
    cosines = _cosines(sample, truth)
    scale = best_scale(sample, truth) if rescale else 1.0
    sample = sample * scale
    moments = _Moments.of(sample, truth)
    bias, variance = max(0.0, moments.bias) / truth.squared, moments.trace / truth.squared
    bias_limit = bias + _QUANTILE * moments.bias_error(sample, truth) / truth.squared
    untold = biased is None
    silent = untold and not sample.any()

    def root(square: float) -> float:
        return sqrt(square) if square > rounding**2 else 0.0

    return Space(
        bias=None if silent else root(bias),
        bias_limit=None if untold else root(bias_limit),
        variance=None if silent else variance if variance > rounding**2 else 0.0,
        cosine=float(cosines.mean()),
        cosine_error=float(cosines.std()) / sqrt(len(cosines)),
        limit=None if biased is None else moments.limit(truth) if biased else 1.0,
        rewards=None if biased is None else _rewards_needed(moments, truth, rewards, biased=biased),
        scale=scale,
    )


def _cosines(sample: Tensor, truth: Truth) -> Float64[Tensor, " estimates"]:
    norms = sample.norm(dim=-1) * sqrt(truth.squared)
    products = sample @ truth.gradient
    return torch.where(norms > 0, products / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)


def best_scale(sample: Float64[Tensor, "estimates numbers"], truth: Truth) -> float:
    """What estimates are to be multiplied by for their mean to be as near the truth as can be; not negative."""
    moments = _Moments.of(sample, truth)
    return max(0.0, moments.along / moments.squared) if moments.squared > 0 else 0.0


@dataclass(frozen=True)
class _Moments:
    trace: float  # tr(S)
    bias: float  # |E[g] - t|^2
    squared: float  # |E[g]|^2
    along: float  # <E[g], t>

    @classmethod
    def of(cls, sample: Tensor, truth: Truth) -> "_Moments":
        mean, trace = sample.mean(0), float(sample.var(0).sum())
        noise = trace / len(sample)
        return cls(
            trace=trace,
            bias=float((mean - truth.gradient).square().sum()) - noise - truth.noise,
            squared=float(mean.square().sum()) - noise,
            along=float(mean @ truth.gradient),
        )

    def limit(self, truth: Truth) -> float:
        if self.squared <= 0:
            return 0.0
        return max(-1.0, min(1.0, self.along / sqrt(self.squared * truth.squared)))

    def bias_error(self, sample: Tensor, truth: Truth) -> float:
        """Standard error of the squared bias: 2 tr(V^2) + 4 b'V b, V the covariance of the difference of means."""
        gap = sample.mean(0) - truth.gradient
        spread = fluctuation(sample) / len(sample)
        along = float(((sample - sample.mean(0)) @ gap).var()) / len(sample)
        if truth.blocks is not None:
            spread += fluctuation(truth.blocks) / len(truth.blocks)
            along += float(((truth.blocks - truth.gradient) @ gap).var()) / len(truth.blocks)
        # The gap is the bias and noise; the noise alone would give spread^2.
        return sqrt(2 * spread**2 + 4 * max(0.0, along - spread**2))


def _rewards_needed(moments: _Moments, truth: Truth, each: float | None, *, biased: bool) -> float | None:
    # cos of a mean of n is along / (|t| sqrt(|m|^2 + tr(S) / n)); solved for n.
    squared, along = (moments.squared, moments.along) if biased else (truth.squared, truth.squared)
    room = along**2 / (WANTED**2 * truth.squared) - squared
    if room <= 0 or along <= 0:
        return inf
    return None if each is None else float(each * max(1, ceil(moments.trace / room)))
