"""What every estimator shares: a tensor with one value and another's gradient, and the derivative of a score."""

from typing import Protocol, TypeGuard, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.checks import check_target
from rlgrad.credit import check_classes, checked
from rlgrad.metrics import ConfusionMetric, CountMetric, Differentiable, Downstream, Score, Scorer
from rlgrad.policies import Bernoulli, Categorical, Independent, Policy


@runtime_checkable
class Estimator(Protocol):
    """Anything called like one: ``estimator(policy, score, generator=...)`` gives the expected reward ``*batch``."""

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """E[reward] for each row, differentiable in the policy's logits."""
        ...


def check_draws(draws: int, *, least: int, pairs: bool = False) -> None:
    """Draws are a whole number, enough, and even where they come in pairs."""
    check_whole(draws, what="draws")
    if draws < least or (pairs and draws % 2):
        needed = f"an even number of draws, at least {least}" if pairs else f"at least {least} draw{'s'[: least - 1]}"
        raise ValueError(f"needed {needed}, got {draws}; raise draws")


def check_whole(number: int, *, what: str) -> None:
    """A number of something is an integer, and not a truth value."""
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise TypeError(f"needed a whole number of {what}, got {number!r}")


def with_gradient(value: Float[Tensor, "*batch"], surrogate: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """A tensor that has the value of the one, and the gradient of the other added to its own.

    A value's own gradient is that of what a score's graph holds, such as the weights downstream of hidden decisions.
    """
    return value.to(surrogate.dtype) + (surrogate - surrogate.detach())


def with_logit_gradient(
    value: Float[Tensor, "*batch"], policy: Policy, gradient: Float[Tensor, "*logits"]
) -> Float[Tensor, "*batch"]:
    """A tensor that has this value and, in the policy's logits, this gradient."""
    # A masked class has logit -inf and no gradient, but 0 times -inf would be NaN.
    logits = policy.logits.masked_fill(policy.logits.isinf(), 0.0)
    return with_gradient(value, (gradient.detach().to(logits.dtype) * logits).sum(policy.axes))


def per_logit(reward: Float[Tensor, "draws *batch"], policy: Policy) -> Float[Tensor, "draws *expanded"]:
    """One number for each draw and row, shaped to multiply what each logit of the row has."""
    return reward.reshape(*reward.shape, *[1] * len(policy.axes))


def is_differentiable(score: Score) -> TypeGuard[Differentiable]:
    """Whether the score is defined between the decisions too: Downstream, and a Scorer of a formula of counts."""
    formula = not isinstance(score, Scorer) or isinstance(score.metric, CountMetric | ConfusionMetric)
    return isinstance(score, Differentiable) and formula


def relaxed_rewards(
    score: Score, policy: Independent, decision: Float[Tensor, "draws *logits"], *, who: str
) -> Float[Tensor, "draws *batch"]:
    """The rewards of decisions that are no longer 0 or 1.

    Raises:
        TypeError: the score is defined for decisions alone, or the metric for yes and no.
        ValueError: as ``rewards_of``; a Downstream is of other classes than the policy.
    """
    if not is_differentiable(score):
        got = score.metric if isinstance(score, Scorer) else score
        raise TypeError(
            f"{who} needed a score that is differentiable in the decision, got {got!r}; wrap what follows the "
            "decisions in Downstream, or use an estimator that only asks for rewards, such as score_function"
        )
    classes = None if isinstance(policy, Bernoulli) else policy.logits.shape[-1]
    if isinstance(score, Scorer):
        _check_scorer(score, policy, who)
    elif isinstance(score, Downstream) and score.classes != classes:
        raise ValueError(
            f"{who} needed Downstream(..., classes={classes}) for a {type(policy).__name__} policy, got "
            f"classes={score.classes}; name the policy's"
        )
    return checked(score.relaxed(decision), decision.shape[: policy.axes[0]], what="rewards")


def _check_scorer(score: Scorer, policy: Independent, who: str) -> None:
    of_classes = isinstance(score.metric, ConfusionMetric)
    if of_classes != isinstance(policy, Categorical):
        needed = "Categorical" if of_classes else "Bernoulli"
        raise TypeError(f"{who} needed a {needed} policy for {score.metric!r}, got {type(policy).__name__}")
    if isinstance(policy, Categorical):
        check_classes(policy, score)
    check_target(policy.logits, score.flat_target, axes=len(policy.axes))
