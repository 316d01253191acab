"""From the logits to the weights: gradients pulled back through the one graph that the logits carry."""

import warnings
from collections.abc import Iterable

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from rlgrad.auditing.truth import double
from rlgrad.checks import describe

_TOGETHER = 1 << 22  # numbers that are pulled back at once


class PullBack:
    """Vector-Jacobian products of logits: what reaches the weights from gradients that arrive at the logits.

    Args:
        logits: with their graph.
        weights: that they were made of, such as ``model.parameters()``.

    Raises:
        TypeError: the weights are no tensors that take gradients.
        ValueError: there are none, the logits carry no graph, or one of the weights is not in it.
    """

    def __init__(self, logits: Tensor, weights: Iterable[Tensor]) -> None:
        self.logits = logits
        self.weights = _checked(logits, weights)
        self.numbers = sum(weight.numel() for weight in self.weights)
        self._batched = True

    def __call__(self, gradients: Float64[Tensor, "estimates numbers"]) -> Float64[Tensor, "estimates weights"]:
        """Each row pulled back."""
        at_logits = gradients.to(self.logits.device, self.logits.dtype).reshape(-1, *self.logits.shape)
        together = max(1, _TOGETHER // max(1, self.logits.numel() + self.numbers))
        return torch.cat([self._pull(part) for part in at_logits.split(min(together, 64))])

    def _pull(self, part: Tensor) -> Tensor:
        if self._batched:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # an operation that is not batched yet is looped over, more slowly
                    pulled = self._gradients(part, batched=True)
                return torch.cat([each.flatten(1).cpu().double() for each in pulled], 1)
            except RuntimeError:  # a backward pass of the user's own that cannot be batched
                self._batched = False
        rows = [self._gradients(gradient, batched=False) for gradient in part]
        return torch.stack([torch.cat([double(each) for each in row]) for row in rows])

    def _gradients(self, arriving: Tensor, *, batched: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            self.logits, self.weights, grad_outputs=arriving, retain_graph=True, is_grads_batched=batched
        )


def _checked(logits: Tensor, weights: Iterable[Tensor]) -> list[Tensor]:
    if isinstance(weights, Tensor | nn.Module):
        raise TypeError(f"needed a list of weights, got {type(weights).__name__}; pass model.parameters()")
    listed = list(weights)
    if not listed:
        raise ValueError("needed weights, got none: a generator can be used once only; pass model.parameters() anew")
    for at, weight in enumerate(listed):
        if not isinstance(weight, Tensor) or not weight.requires_grad:
            got = f"{describe(weight)} without requires_grad" if isinstance(weight, Tensor) else repr(weight)
            raise TypeError(f"needed weights that take gradients, got {got} at {at}; pass model.parameters()")
    if not logits.requires_grad:
        raise ValueError("needed logits with the graph of the weights, got detached ones; pass model(x) as it is")
    reached = torch.autograd.grad(logits.sum(), listed, retain_graph=True, allow_unused=True)
    for at, (weight, gradient) in enumerate(zip(listed, reached, strict=True)):
        if gradient is None:
            raise ValueError(
                f"needed logits that depend on all weights, got {describe(weight)} at {at} unused; leave it out"
            )
    return listed
