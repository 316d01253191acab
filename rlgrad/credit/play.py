"""What a credit is told: who decided what, and how it is scored."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from rlgrad.checks import describe, first_index, values_visible
from rlgrad.metrics import Score, Scorer
from rlgrad.policies import Policy


@dataclass(frozen=True)
class Play:
    """What was decided, by whom, and how it is scored.

    Args:
        policy: the distribution that was drawn from.
        decision: ``draws *batch items``.
        score: function from decisions ``draws *batch items`` to rewards ``draws *batch``.
    """

    policy: Policy
    decision: Shaped[Tensor, "draws *batch items"]
    score: Score


Credit = Callable[[Tensor, Play | None], Tensor]


def rewards_of(score: Score, decision: Shaped[Tensor, "draws *batch items"]) -> Float[Tensor, "draws *batch"]:
    """The decisions' rewards, checked to be one finite number for each draw and row.

    Raises:
        TypeError: the scorer did not return a tensor.
        ValueError: the rewards have another shape, or one is not finite; draw and row are named.
    """
    if isinstance(score, Scorer) and score.flat_target.shape != decision.shape[1:]:
        raise ValueError(
            f"needed a target of shape {tuple(decision.shape[1:])}, as the decisions have, got "
            f"{describe(score.target)}; nothing is broadcast"
        )
    return checked(score(decision), decision.shape[:-1], what="rewards")


def checked(reward: object, shape: tuple[int, ...], *, what: str) -> Float[Tensor, "*shape"]:
    """A scorer's answer, where it is a finite tensor of this shape.

    Raises:
        TypeError: it is no tensor.
        ValueError: it has another shape, or an entry is not finite; where is named.
    """
    if not isinstance(reward, Tensor):
        raise TypeError(f"needed a tensor of {what}, got {reward!r}; wrap a plain function in OpaqueMetric")
    axes = {"values": "*batch", "gains": "draws *batch items [classes]"}.get(what, "draws *batch")
    if reward.shape != shape:
        raise ValueError(
            f"needed {what} of shape {tuple(shape)} ({axes}), got {describe(reward)}; reduce the items axis alone"
        )
    if values_visible() and (bad := ~torch.isfinite(reward)).any():
        first, *rest = first_index(bad) or (0,)
        where = f"row {(first, *rest)}" if what == "values" else f"draw {first}, row {tuple(rest)}"
        raise ValueError(
            f"needed finite {what}, got {reward[bad][0].item()} for {where}; "
            "return the worst value of the metric instead"
        )
    return reward if reward.is_floating_point() else reward.to(torch.get_default_dtype())
