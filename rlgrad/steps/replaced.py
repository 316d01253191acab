"""One function forward, and what is taken for its derivative backward."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from rlgrad.checks import describe

# Blocks of so many numbers, with the intermediate results of a formula, fit into a processor's cache. Up to _LARGE the
# few results of a short formula do without, in its last level, and blocks would only cost time.
_BLOCK, _LARGE = 1 << 17, 1 << 20


def replaced(
    x: Shaped[Tensor, "*shape"],
    value: Callable[[Tensor], Tensor],
    slope: Callable[[Tensor], Tensor] | None,
    *,
    short: bool = True,
) -> Float[Tensor, "*shape"]:
    """``value(x)``, with ``slope(x)`` for its derivative.

    Both are computed in float32 where x is of half precision, and come back in its type. A second derivative is that
    of the slope, by autograd.

    Args:
        x: of any shape, and contiguous or not.
        value: an element-wise function.
        slope: an element-wise function, or None for a derivative of zero.
        short: whether both have few intermediate results, which decides on how much is computed at a time.

    Raises:
        TypeError: x is not floating point.

    Example:
        >>> x = torch.tensor([0.4, 1.6], requires_grad=True)
        >>> y = replaced(x, torch.round, torch.ones_like)
        >>> y.sum().backward()
        >>> y.detach(), x.grad
        (tensor([0., 2.]), tensor([1., 1.]))
    """
    if not x.is_floating_point():
        raise TypeError(f"needed floating-point input of a step, got {describe(x)}; convert it with .float()")
    return _Replaced.apply(x, value, slope, _LARGE if short else _BLOCK)  # type: ignore[no-any-return, no-untyped-call]


class _Replaced(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor] | None, at_once: int
    ) -> Tensor:
        if not _worth_blocks(at_once, x):
            return value(_wide(x)).to(x.dtype)
        result = torch.empty_like(x)
        for part, x_part in _blocks(result, x):
            part.copy_(value(_wide(x_part)))
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, ctx.slope, ctx.at_once = inputs
        # x itself, which the layer before keeps anyway; a mask in its place is far slower in compiled code.
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,), (x,), slope = grads, ctx.saved_tensors, ctx.slope
        if slope is None:
            return torch.zeros_like(grad), None, None, None
        if not _worth_blocks(ctx.at_once, grad, x):
            return (grad * slope(_wide(x))).to(grad.dtype), None, None, None
        result = torch.empty_like(grad)
        for part, grad_part, x_part in _blocks(result, grad, x):
            part.copy_(grad_part).mul_(slope(_wide(x_part)))  # works on batches of grad too, as out= does not
        return result, None, None, None


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _worth_blocks(at_once: int, *tensors: Tensor) -> bool:
    """Large tensors on a CPU: up to four times as fast where a formula's intermediate results stay in its cache."""
    large = tensors[0].numel() > at_once and all(x.is_cpu and x.is_contiguous() for x in tensors)
    return large and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(x.view(-1).split(_BLOCK) for x in tensors), strict=True)
