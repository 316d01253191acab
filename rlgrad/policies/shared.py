"""What the policies share: noise, precision, shapes, and work in slices."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from rlgrad.checks import describe

# Where only sums over draws are needed, draws are taken in slices of about this many numbers.
_SLICE = 1 << 22


def slices(draws: int, items: int) -> Iterator[slice]:
    """Consecutive slices of the draws, each of at most about four million decisions and at least one draw."""
    step = max(1, _SLICE // max(1, items))
    return (slice(start, min(start + step, draws)) for start in range(0, draws, step))


def open_uniform(
    shape: tuple[int, ...], *, like: Tensor, generator: torch.Generator | None = None
) -> Float[Tensor, "..."]:
    """Uniform noise u with both u and 1 - u above 0 and below 1, in the dtype and on the device of ``like``."""
    noise = torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
    return noise.clamp_min(torch.finfo(like.dtype).eps / 2)  # the step between the numbers that rand gives


def wide(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Logits in float32 where they are of half precision."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def finite(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Logits in bounds: beyond, sigmoid is 0 or 1 to the last bit; within, sums of log-probabilities are finite."""
    return logits.clamp(-1e30, 1e30)


def check_shape(decision: Shaped[Tensor, "..."], items: torch.Size) -> None:
    """Decisions have the trailing axes that the logits have: nothing is broadcast."""
    if decision.shape[max(0, decision.ndim - len(items)) :] != items:
        raise ValueError(
            f"needed decisions of shape (*draws, {', '.join(map(str, items))}), got {describe(decision)}; "
            "the draws axis comes first, and nothing is broadcast"
        )


def per_item(weight: Float[Tensor, "..."], decision: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
    """A weight for each draw and row, or for each single decision, shaped to multiply the decisions."""
    if weight.shape == decision.shape:
        return weight
    if weight.shape != decision.shape[:-1]:
        raise ValueError(
            f"needed advantages of shape {tuple(decision.shape[:-1])} or {tuple(decision.shape)}, "
            f"got {describe(weight)}; nothing is broadcast"
        )
    return weight[..., None]
