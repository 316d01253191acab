"""What is put under the microscope: estimators of the policy gradient, and surrogates that people use instead."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Literal, Protocol, TypeVar, runtime_checkable
from zlib import crc32

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from rlgrad import credit, estimators, surrogates
from rlgrad.checks import describe
from rlgrad.estimators import Estimator
from rlgrad.metrics import CountMetric, Metric, Scorer
from rlgrad.metrics.counts import count_dtype
from rlgrad.objective import PolicyType
from rlgrad.policies import Bernoulli
from rlgrad.surrogates import Criterion

Kind = Literal["estimator", "surrogate"]
Surrogate = TypeVar("Surrogate", contravariant=True)


class TooSlow(Exception):
    """An estimate takes longer than there is time for."""


def default_estimators() -> dict[str, Estimator]:
    """The library's estimators, by the names that a table shows; a number is that of the draws."""
    return {
        "exact": estimators.exact(),
        "enumeration": estimators.enumeration(),
        "counterfactual": estimators.counterfactual(draws=1),
        "score_function-2": estimators.score_function(draws=2),
        "score_function-16": estimators.score_function(draws=16),
        "greedy": estimators.score_function(draws=16, credit=credit.greedy),
        "moving_average": estimators.score_function(draws=16, credit=credit.MovingAverage()),
        "arm": estimators.arm(draws=2),
        "disarm": estimators.disarm(draws=2),
        "unordered_set": estimators.unordered_set(draws=4),
        "sum_and_sample": estimators.sum_and_sample(summed=1, draws=1),
        "inclusion_weighted": estimators.inclusion_weighted(draws=4),
        "muprop": estimators.muprop(draws=1),
        "rebar": estimators.REBAR(draws=1),
        "straight_through": estimators.straight_through(draws=1),
        "gumbel_softmax": estimators.gumbel_softmax(draws=1),
        "spsa": estimators.spsa(draws=2),
        "evolution_strategies": estimators.evolution_strategies(draws=2),
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
        "bce-balanced": surrogates.weighted_bce(),
        "focal": surrogates.focal(),
    }
    if not isinstance(metric, CountMetric):
        return usual
    return usual | {"soft": surrogates.soft(metric), "lovasz": surrogates.lovasz(metric)}


def _cross_entropy(logits: Float[Tensor, "*batch items classes"], target: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), target.flatten().long())


@dataclass
class Tally:
    """What one estimate asks for.

    Args:
        rewards: of each row, so far.
        most: that there is time for.
        each: seconds that the reward of one draw takes, all rows together.
    """

    rewards: int = 0
    most: float = math.inf
    each: float = 0.0

    def add(self, rewards: int) -> None:
        """Count rewards before they are asked for.

        Raises:
            TooSlow: there are too many for the time.
        """
        self.rewards += rewards
        if self.rewards > self.most:
            raise TooSlow(f"too slow: about {self.rewards * self.each:.2g} s an estimate; raise seconds")


@dataclass(frozen=True)
class CountingScorer(Scorer):
    """A scorer that counts the rows of decisions it is asked about.

    Estimators that take the formula of a CountMetric instead of asking, such as ``exact``, are counted as not asking.

    Args:
        tally: that counts.
    """

    tally: Tally = field(kw_only=True)

    def __call__(self, decision: Shaped[Tensor, "draws *batch items"]) -> Float[Tensor, "draws *batch"]:
        """Rewards of the decisions."""
        self.tally.add(len(decision))
        return super().__call__(decision)

    def relaxed(self, decision: Float[Tensor, "draws *batch items"]) -> Float[Tensor, "draws *batch"]:
        """Rewards of fractional decisions."""
        self.tally.add(len(decision))
        return super().relaxed(decision)


@dataclass(frozen=True)
class Candidate:
    """Something that gives a direction, in the logits or in the weights of a network.

    Args:
        name: what the table calls it.
        kind: an estimator is asked for E[reward], to be raised; a surrogate for a loss, to be lowered.
        estimate: of the gradient, pointing uphill.
        declared: draws behind an estimate, where the estimator says so.
        tally: of the rewards that an estimate asks for.
        drew: whether anything has been drawn so far.
    """

    name: str
    kind: Kind
    estimate: Callable[[], Tensor] = field(repr=False)
    declared: int | None
    tally: Tally = field(default_factory=Tally)
    drew: Callable[[], bool] = field(default=lambda: False, repr=False)

    def gradient(self) -> Tensor:
        """One estimate; the tally is of this one."""
        self.tally.rewards = 0
        return self.estimate()

    @property
    def draws(self) -> int:
        """Behind an estimate, 0 where nothing is drawn: as declared, or by whether the generator was used."""
        return int(self.drew()) if self.declared is None else self.declared


@runtime_checkable
class Point(Protocol[Surrogate]):
    """Where gradients are taken: the logits of a batch, or the weights of a network; and of which objective."""

    @property
    def device(self) -> torch.device:
        """That everything is on."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the estimates."""
        ...

    def rewards(self, draws: int, *, generator: torch.Generator) -> Tensor:
        """Draw so many times, and ask for all rewards: what there is to be timed."""
        ...

    def estimate(
        self, estimator: Estimator, generator: torch.Generator, *, wide: bool = False, tally: Tally | None = None
    ) -> Tensor:
        """One estimate of the gradient of the expected reward.

        Args:
            estimator: whose parameters, if it has any, are left as they are.
            generator: source of randomness.
            wide: in double precision, where the device has it: the truth should not be the less precise.
            tally: to count rewards in.
        """
        ...

    def descent(self, surrogate: Surrogate) -> Tensor:
        """The direction that a surrogate takes for uphill."""
        ...


@dataclass(frozen=True)
class Batch:
    """Logits, and the mean over rows of E[metric].

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
    def device(self) -> torch.device:
        """That of the logits."""
        return self.logits.device

    @property
    def dtype(self) -> torch.dtype:
        """That of the logits."""
        return self.logits.dtype

    @property
    def score(self) -> Scorer:
        """The metric with its target filled in."""
        return Scorer(self.metric, self.target)

    def rewards(self, draws: int, *, generator: torch.Generator) -> Tensor:
        """Of decisions drawn by the policy."""
        return self.score(self.policy(self.logits).sample(draws, generator=generator))

    def estimate(
        self, estimator: Estimator, generator: torch.Generator, *, wide: bool = False, tally: Tally | None = None
    ) -> Tensor:
        """One estimate of the gradient of the mean over rows of E[metric], of the logits' shape."""
        dtype = count_dtype(self.device) if wide else self.dtype
        leaf = self.logits.detach().to(dtype).requires_grad_()
        score = self.score if tally is None else CountingScorer(self.metric, self.target, tally=tally)
        value = estimator(self.policy(leaf), score, generator=generator)
        return uphill(value.mean() if isinstance(value, Tensor) else value, [leaf], "logits").view_as(leaf)

    def descent(self, criterion: Criterion) -> Tensor:
        """The direction in which a surrogate loss falls."""
        leaf = self.logits.detach().requires_grad_()
        loss = criterion(leaf, self.target)
        if isinstance(loss, Tensor) and loss.ndim:
            raise ValueError(f"needed a scalar loss, got {describe(loss)}; reduce it")
        return -uphill(loss, [leaf], "logits").view_as(leaf)


def uphill(value: object, leaves: Sequence[Tensor], what: str) -> Float[Tensor, " numbers"]:
    """The gradient of a value in all leaves, one after the other; zero in those that it does not depend on.

    Raises:
        TypeError: the value is no tensor, or depends on none of them.
        ValueError: the gradient is not finite.
    """
    if not isinstance(value, Tensor) or not value.requires_grad:
        got = f"{describe(value)} without a gradient" if isinstance(value, Tensor) else repr(value)
        raise TypeError(f"needed a tensor that depends on the {what}, got {got}; do not detach it")
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise TypeError(f"needed a tensor that depends on the {what}, got one that does not; do not detach it")
    pairs = zip(gradients, leaves, strict=True)
    flat = torch.cat([(torch.zeros_like(leaf) if each is None else each).flatten() for each, leaf in pairs])
    if not torch.isfinite(flat).all():
        raise ValueError("needed a finite gradient, got one with NaN or infinity")
    return flat


def candidates(
    point: Point[Surrogate],
    of_estimators: Mapping[str, Estimator],
    of_surrogates: Mapping[str, Surrogate],
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
    found = [_estimator(point, name, copy.deepcopy(each), seed) for name, each in of_estimators.items()]
    return found + [_surrogate(point, name, each) for name, each in of_surrogates.items()]


def _check(given: Mapping[str, object], kind: Kind) -> None:
    example = "counterfactual(draws=4)" if kind == "estimator" else "soft(f1)"
    if not isinstance(given, Mapping):
        raise TypeError(f"needed {kind}s by name, got {given!r}; pass a dictionary such as {{'mine': {example}}}")
    for name, each in given.items():
        if not callable(each) or isinstance(each, type):
            raise TypeError(f"needed {kind} {name!r} such as {example}, got {each!r}; call it")
        if kind == "estimator" and not _takes_a_generator(each):
            raise TypeError(
                f"needed estimator {name!r} called (policy, score, generator=...), got {each!r}; "
                "a criterion, called (logits, target), belongs among the surrogates"
            )


def _takes_a_generator(estimator: Callable[..., object]) -> bool:
    try:
        # The call of a module hides what its forward takes.
        signature(estimator.forward if isinstance(estimator, nn.Module) else estimator).bind(0, 0, generator=None)
    except TypeError:
        return False
    except ValueError:  # nothing is known of it
        return True
    return True


def _estimator(point: Point[Surrogate], name: str, estimator: Estimator, seed: int) -> Candidate:
    generator = seeded(point.device, seed, name)
    declared = getattr(estimator, "draws", None)
    draws = declared if isinstance(declared, int) and declared >= 0 else None
    tally, fresh = Tally(), generator.get_state()
    return Candidate(
        name,
        "estimator",
        lambda: point.estimate(estimator, generator, tally=tally),
        draws,
        tally,
        lambda: not torch.equal(generator.get_state(), fresh),
    )


def _surrogate(point: Point[Surrogate], name: str, surrogate: Surrogate) -> Candidate:
    return Candidate(name, "surrogate", lambda: point.descent(surrogate), 0)


def seeded(device: torch.device, seed: int, name: str) -> torch.Generator:
    """A generator that depends on the seed and a name alone."""
    # The generator on the processor takes no notice of all but the last 32 bits.
    return torch.Generator(device).manual_seed(crc32(f"{seed} {name}".encode()))
