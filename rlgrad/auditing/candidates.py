"""What is put under the microscope: estimators of the policy gradient, and surrogates that people use instead."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from zlib import crc32

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rlgrad import credit, estimators, surrogates
from rlgrad.checks import describe
from rlgrad.estimators import Estimator
from rlgrad.metrics import CountMetric, Metric, Scorer
from rlgrad.metrics.counts import count_dtype
from rlgrad.policies import Bernoulli, Policy
from rlgrad.surrogates import Criterion

Kind = Literal["estimator", "surrogate"]
PolicyType = Callable[[Tensor], Policy]


def default_estimators() -> dict[str, Estimator]:
    """The library's estimators, by the names that a table shows; a number in brackets is that of the draws."""
    return {
        "exact": estimators.exact(),
        "enumeration": estimators.enumeration(),
        "counterfactual(1)": estimators.counterfactual(draws=1),
        "score_function(2)": estimators.score_function(draws=2),
        "score_function(16)": estimators.score_function(draws=16),
        "greedy baseline(16)": estimators.score_function(draws=16, credit=credit.greedy),
        "moving average(16)": estimators.score_function(draws=16, credit=credit.MovingAverage()),
        "arm(2)": estimators.arm(draws=2),
        "disarm(2)": estimators.disarm(draws=2),
        "unordered_set(4)": estimators.unordered_set(draws=4),
        "muprop(1)": estimators.muprop(draws=1),
        "rebar(1)": estimators.REBAR(draws=1),
        "straight_through(1)": estimators.straight_through(draws=1),
        "gumbel_softmax(1)": estimators.gumbel_softmax(draws=1),
        "spsa(2)": estimators.spsa(draws=2),
        "evolution(2)": estimators.evolution_strategies(draws=2),
    }


def default_surrogates(metric: Metric, *, policy: PolicyType = Bernoulli) -> dict[str, Criterion]:
    """What people train on instead: for yes/no decisions the library's surrogates, for classes cross-entropy.

    Args:
        metric: soft and Lovasz losses are made of it, where it is a CountMetric.
        policy: Bernoulli or Categorical.
    """
    if policy is not Bernoulli:
        return {"cross-entropy": _cross_entropy}
    usual: dict[str, Criterion] = {
        "bce": surrogates.bce,
        "bce, balanced": surrogates.weighted_bce(),
        "focal": surrogates.focal(),
    }
    if not isinstance(metric, CountMetric):
        return usual
    return usual | {f"soft {metric.name}": surrogates.soft(metric), f"lovasz {metric.name}": surrogates.lovasz(metric)}


def _cross_entropy(logits: Float[Tensor, "*batch items classes"], target: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), target.flatten().long())


@dataclass(frozen=True)
class Candidate:
    """Something that gives a direction in the logits.

    Args:
        name: what the table calls it.
        kind: an estimator is asked for E[reward], to be raised; a surrogate for a loss, to be lowered.
        gradient: one estimate, of the logits' shape, pointing uphill.
        declared: draws behind an estimate, where the estimator says so.
    """

    name: str
    kind: Kind
    gradient: Callable[[], Tensor] = field(repr=False)
    declared: int | None


@dataclass(frozen=True)
class Batch:
    """The point at which gradients are taken.

    Args:
        logits: detached.
        target: as the user gave it.
        metric: larger is better.
        policy: from logits to decisions.
    """

    logits: Float[Tensor, "..."]
    target: Tensor
    metric: Metric
    policy: PolicyType

    @property
    def score(self) -> Scorer:
        """The metric with its target filled in."""
        return Scorer(self.metric, self.target)

    def estimate(self, estimator: Estimator, generator: torch.Generator, *, wide: bool = False) -> Tensor:
        """One estimate of the gradient of the mean over rows of E[metric].

        Args:
            estimator: whose parameters, if it has any, are left as they are.
            generator: source of randomness.
            wide: in double precision, where the device has it: the truth should not be the less precise.
        """
        dtype = count_dtype(self.logits.device) if wide else self.logits.dtype
        leaf = self.logits.detach().to(dtype).requires_grad_()
        value = estimator(self.policy(leaf), self.score, generator=generator)
        return _uphill(value.mean() if isinstance(value, Tensor) else value, leaf)

    def descent(self, criterion: Criterion) -> Tensor:
        """The direction in which a surrogate loss falls."""
        leaf = self.logits.detach().requires_grad_()
        loss = criterion(leaf, self.target)
        if isinstance(loss, Tensor) and loss.ndim:
            raise ValueError(f"needed a scalar loss, got {describe(loss)}; reduce it")
        return -_uphill(loss, leaf)


def _uphill(value: object, leaf: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or not value.requires_grad:
        got = f"{describe(value)} without a gradient" if isinstance(value, Tensor) else repr(value)
        raise TypeError(f"needed a tensor that depends on the logits, got {got}; do not detach it")
    (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True)
    if gradient is None:
        raise TypeError("needed a tensor that depends on the logits, got one that does not; do not detach it")
    if not torch.isfinite(gradient).all():
        raise ValueError("needed a finite gradient, got one with NaN or infinity")
    return gradient


def candidates(
    batch: Batch,
    of_estimators: Mapping[str, Estimator],
    of_surrogates: Mapping[str, Criterion],
    *,
    seed: int,
) -> list[Candidate]:
    """Everything that is to be measured, each with randomness of its own, whatever else is measured.

    Estimators are copied: what they learn or remember during an audit is forgotten after it.

    Raises:
        TypeError: one cannot be called, or is a class instead of an object of it.
        ValueError: one name is used twice, or there is no candidate.
    """
    _check(of_estimators, "estimator")
    _check(of_surrogates, "surrogate")
    if not of_estimators and not of_surrogates:
        raise ValueError("needed an estimator or a surrogate to audit, got none; pass one, or None for the usual")
    if both := of_estimators.keys() & of_surrogates.keys():
        raise ValueError(f"needed names of their own, got {min(both)!r} as an estimator and as a surrogate; rename one")
    found = [_estimator(batch, name, copy.deepcopy(each), seed) for name, each in of_estimators.items()]
    return found + [_surrogate(batch, name, each) for name, each in of_surrogates.items()]


def _check(given: Mapping[str, object], kind: Kind) -> None:
    example = "counterfactual(draws=4)" if kind == "estimator" else "soft(f1)"
    if not isinstance(given, Mapping):
        raise TypeError(f"needed {kind}s by name, got {given!r}; pass a dictionary such as {{'mine': {example}}}")
    for name, each in given.items():
        if not callable(each) or isinstance(each, type):
            raise TypeError(f"needed {kind} {name!r} such as {example}, got {each!r}; call it")


def _estimator(batch: Batch, name: str, estimator: Estimator, seed: int) -> Candidate:
    generator = seeded(batch.logits.device, seed, name)
    declared = getattr(estimator, "draws", None)
    draws = declared if isinstance(declared, int) and declared >= 0 else None
    return Candidate(name, "estimator", lambda: batch.estimate(estimator, generator), draws)


def _surrogate(batch: Batch, name: str, criterion: Criterion) -> Candidate:
    return Candidate(name, "surrogate", lambda: batch.descent(criterion), 0)


def seeded(device: torch.device, seed: int, name: str) -> torch.Generator:
    """A generator that depends on the seed and a name alone."""
    # The generator on the processor takes no notice of all but the last 32 bits.
    return torch.Generator(device).manual_seed(crc32(f"{seed} {name}".encode()))
