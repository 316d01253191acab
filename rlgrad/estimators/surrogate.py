"""What every estimator shares: scoring with checks, and a tensor with one value and another's gradient."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from rlgrad.checks import describe, first_index, values_visible
from rlgrad.metrics import Score, Scorer
from rlgrad.policies import Policy


@runtime_checkable
class Estimator(Protocol):
    """Anything called like one: ``estimator(policy, score, generator=...)`` gives the expected reward ``*batch``."""

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """E[reward] for each row, differentiable in the policy's logits."""
        ...


def with_gradient(value: Float[Tensor, "*batch"], surrogate: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """A tensor that has the value of the one and the gradient of the other."""
    return value.detach().to(surrogate.dtype) + (surrogate - surrogate.detach())


def rewards_of(score: Score, decision: Shaped[Tensor, "draws *batch items"]) -> Float[Tensor, "draws *batch"]:
    """The decisions' rewards, detached, checked to be one finite number for each draw and row.

    Raises:
        TypeError: the scorer did not return a tensor.
        ValueError: the rewards have another shape, or one is not finite; draw and row are named.
    """
    if isinstance(score, Scorer) and score.target.shape != decision.shape[1:]:
        raise ValueError(
            f"needed a target of shape {tuple(decision.shape[1:])}, as the decisions have, got "
            f"{describe(score.target)}; nothing is broadcast"
        )
    reward = score(decision)
    if not isinstance(reward, Tensor):
        raise TypeError(f"needed a tensor of rewards, got {reward!r}; wrap a plain function in OpaqueMetric")
    if reward.shape != decision.shape[:-1]:
        raise ValueError(
            f"needed rewards of shape {tuple(decision.shape[:-1])} (draws *batch), got {describe(reward)}; "
            "reduce the items axis alone"
        )
    if values_visible() and (bad := ~torch.isfinite(reward)).any():
        draw, *row = first_index(bad)
        raise ValueError(
            f"needed finite rewards, got {reward[bad][0].item()} for draw {draw}, row {tuple(row)}; "
            "return the worst value of the metric instead"
        )
    return reward.detach()
