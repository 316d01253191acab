"""The QPWC neuron: four pieces of sigmoids, end to end."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from rlgrad.steps.replaced import replaced
from rlgrad.steps.rules import check_positive


class QPWC(nn.Module):
    """The QPWC neuron: a staircase from 0 to 1 whose steps are sigmoids, elementwise.

    With σ the logistic function, each piece of the line has a centre c, a width w, a base b and a steepness k:

        z in       (0, .25]    (.25, .5]    (.5, .75]    (.75, 1)
        c           .125         .375         .625         1
        w, b      .25, 0      .25, .25     .25, .5      .5, .75
        k        4 sharp      4 sharp      4 sharp      2 sharp

        s = b + w σ(k (z - c)),   ds/dz = sharp σ(k (z - c)) σ(-k (z - c))

    and s = 0, ds = 0 for z <= 0, s = 1, ds = 0 for z >= 1. The backward pass is ds: the true derivative inside of each
    piece, so there is no rule to choose. As ``sharp`` grows this becomes ``Staircase([0, .25, .5, .75, 1], [.125, .375,
    .625, 1])``, whose gradient vanishes; take that with a rule for hard steps.

    What its source's comments get wrong: the steps are at .125, .375, .625 and 1, and the quarter points .25, .5 and
    .75 are the centres of plateaus. And s is not continuous: at 0, .25, .5 and .75 it jumps up by j, 2j, 2j and 3j,
    with j = .25 / (1 + exp(sharp / 2)), which the derivative cannot see: 1.7e-3 at sharp 10, 5e-23 at sharp 100.

    Args:
        sharp: how steep the steps are, above 0: the slope is sharp / 4 in the middle of each of them.

    Shape:
        any; dtype and device are kept. NaN stays NaN.

    Raises:
        TypeError: on use, input that is not floating point.
        ValueError: ``sharp`` is not a finite number above 0.

    Source: the QPWC neuron's MATLAB code. It computes ds by a difference that loses its digits far from a step, and an
        exponential that overflows in float32 above sharp 177; the form above does neither.

    Example:
        >>> z = torch.tensor([0.0, 0.125, 0.25, 1.0], requires_grad=True)
        >>> s = QPWC(sharp=10.0)(z)
        >>> s.sum().backward()
        >>> s.detach(), z.grad
        (tensor([0.0000, 0.1250, 0.2483, 1.0000]), tensor([0.0000, 2.5000, 0.0665, 0.0000]))
    """

    def __init__(self, *, sharp: float = 10.0) -> None:
        super().__init__()
        check_positive(sharp, "sharp")
        self.sharp = float(sharp)

    def extra_repr(self) -> str:
        """The steepness, for ``repr``."""
        return f"sharp={self.sharp:g}"

    def forward(self, z: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """From 0 to 1."""
        return replaced(z, self._value, self._slope)

    def _value(self, z: Tensor) -> Tensor:
        first, last = _pieces(z)
        steps, beyond = first.ceil(), last.ceil()
        up = first.sub_(steps).add_(last).sub_(beyond).add_(0.5).mul_(self.sharp).sigmoid_()
        below = steps.add_(beyond).sub_(1)  # 0, 1, 2, 3; and -1 for z <= 0, where relu leaves 0
        return torch.addcmul(up, beyond, up).add_(below).mul_(0.25).relu_()  # the last piece is twice as high

    def _slope(self, z: Tensor) -> Tensor:
        first, last = _pieces(z)
        # From a piece to the next u jumps from sharp / 2 to its negative, and ds is even in u: either will do there.
        u = first.add_(last).frac_().sub_(0.5).mul_(self.sharp)
        tail = u.abs_().neg_().sigmoid_()  # at most 1/2: one less it loses no digits
        inside = z.clamp(0, 1)
        inside = torch.addcmul(inside, inside, inside, value=-1).sign_()  # z (1 - z): 0 at both ends
        return torch.addcmul(tail, tail, tail, value=-1).mul_(self.sharp).mul_(inside)


def _pieces(z: Tensor) -> tuple[Tensor, Tensor]:
    """4 z up to z = .75, from 0 to 3, and 2 (z - .75) from there, from 0 to 1/2, both without rounding.

    On their sum t each piece of the neuron is one unit long, the last one half of one, so k (z - c) is
    sharp (t - ceil(t) + 1/2) in every piece, without a case for each.
    """
    return z.clamp(0, 0.75).mul_(4), z.clamp(0.75, 1).sub_(0.75).mul_(2)
