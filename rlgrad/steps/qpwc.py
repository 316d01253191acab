"""The QPWC neuron: four pieces of sigmoids, end to end."""

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from rlgrad.steps.replaced import replaced
from rlgrad.steps.rules import Rule, as_rule, check_positive, of_stairs, sigmoid_slope


class QPWC(nn.Module):
    """The QPWC neuron: a staircase from 0 to 1 whose steps are sigmoids, elementwise.

    With σ the logistic function, each piece of the line has a centre c, a width w, a base b and a steepness k:

        z in       (0, .25]    (.25, .5]    (.5, .75]    (.75, 1)
        c           .125         .375         .625         1
        w, b      .25, 0      .25, .25     .25, .5      .5, .75
        k        4 sharp      4 sharp      4 sharp      2 sharp

        s = b + w σ(k (z - c)),   ds/dz = sharp σ(k (z - c)) σ(-k (z - c))

    and s = 0, ds = 0 for z <= 0, s = 1, ds = 0 for z >= 1. The backward pass is ds, the true derivative inside of each
    piece. As ``sharp`` grows this becomes ``Staircase([0, .25, .5, .75, 1], [.125, .375, .625, 1])``, and ds vanishes
    outside of its steps: a rule on the way back is applied as by that staircase.

    What its source's comments get wrong: the steps are at .125, .375, .625 and 1, and the quarter points .25, .5 and
    .75 are the centres of plateaus. And s is not continuous: at 0, .25, .5 and .75 it jumps up by j, 2j, 2j and 3j,
    with j = .25 / (1 + exp(sharp / 2)), which the derivative cannot see: 1.7e-3 at sharp 10, 5e-23 at sharp 100.

    Args:
        sharp: how steep the steps are, above 0: the slope is sharp / 4 in the middle of each of them.
        backward: as of ``Step``; None for ds.

    Shape:
        any; dtype and device are kept. NaN stays NaN.

    Raises:
        TypeError: the rule is nothing of the kind; on use, input that is not floating point.
        ValueError: ``sharp`` is not a finite number above 0; an unknown name.

    Source: the QPWC neuron's MATLAB code. It computes ds by a difference that loses its digits far from a step, and an
        exponential that overflows in float32 above sharp 177; the form above does neither.

    Example:
        >>> z = torch.tensor([0.0, 0.125, 0.25, 1.0], requires_grad=True)
        >>> s = QPWC(sharp=10.0)(z)
        >>> s.sum().backward()
        >>> s.detach(), z.grad
        (tensor([0.0000, 0.1250, 0.2483, 1.0000]), tensor([0.0000, 2.5000, 0.0665, 0.0000]))
    """

    def __init__(self, *, sharp: float = 10.0, backward: Rule | str | None = None) -> None:
        super().__init__()
        check_positive(sharp, "sharp")
        self.sharp = float(sharp)
        self.backward = as_rule(backward)

    def extra_repr(self) -> str:
        """The steepness and the rule, for ``repr``."""
        return f"sharp={self.sharp:g}, backward={self.backward!r}"

    def forward(self, z: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """From 0 to 1."""
        return replaced(z, self._value, self._slope if self.backward is None else self._rule, short=False)

    def plateaus(self, z: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """The plateau below z, 0, .25, .5 or .75, and how likely the one above is, as a logit, for s to be the mean.

        For z <= 0 and z >= 1 there is no doubt: the logit is infinite, and has no gradient.
        """
        piece = (4 * z.detach()).clamp(0, 4).ceil().clamp_(min=1)
        last = piece == 4
        u = self.sharp * torch.where(last, 2 * (z - 1), 4 * z - piece + 0.5)
        beyond = torch.where(last & (u < 0), u, -1.0)  # a stand-in where it is not taken, so that no gradient is NaN
        twice = math.log(2) + F.logsigmoid(beyond) - torch.log(torch.tanh(-beyond / 2))  # the logit of 2 sigmoid(u)
        logit = torch.where(last, twice, u).masked_fill(z <= 0, -math.inf).masked_fill(z >= 1, math.inf)
        return (piece - 1) / 4, logit

    def _value(self, z: Tensor) -> Tensor:
        t = z.clamp(0, 1).mul_(4)
        piece = t.ceil()  # 1, 2, 3, 4, and 0 for z <= 0; of a t that is not rounded
        # Half of leaky_relu(t - 3, 2), as t - 3 up to 3 and half of it beyond, where the last piece is half as steep,
        # makes k (z - c) sharp (that + 3 - piece + 1/2) in every piece, without a case for each.
        up = F.leaky_relu(t.sub_(3), 2.0).sub_(piece, alpha=2).add_(7).mul_(self.sharp / 2).sigmoid_()
        height = piece.clamp(min=3).sub_(2)  # the last piece is twice as high
        return torch.addcmul(piece.sub_(1), height, up).mul_(0.25).relu_()

    def _rule(self, z: Tensor) -> Tensor:
        assert self.backward is not None
        return of_stairs(self.backward, z, (0.25,) * 4, (0.125, 0.375, 0.625, 1.0))

    def _slope(self, z: Tensor) -> Tensor:
        # From a piece to the next u jumps from 1/2 to -1/2, and ds is even in u: either will do there.
        u = F.leaky_relu((2 * z).sub_(1.5), 2.0).add_(3).frac_().sub_(0.5)
        tail = u.abs_().mul_(-self.sharp).sigmoid_()  # at most 1/2: one less it loses no digits
        ds = sigmoid_slope(tail.new_full((), self.sharp), tail)
        inside: Tensor = torch.ops.aten.hardtanh_backward(ds, z, 0, 1)  # 0 for z <= 0 and z >= 1, be ds what it will
        return inside
