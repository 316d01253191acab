"""Activations that jump: a step, a sign, a staircase."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from rlgrad.steps.replaced import replaced
from rlgrad.steps.rules import Rule, as_rule, of_stairs


class Step(nn.Module):
    """The unit step of a perceptron: 1 above 0, 0 below, elementwise.

    Its true derivative is zero, so a rule stands in for it on the way back: x.grad = y.grad * rule(x).

    Args:
        backward: a rule of ``rlgrad.steps.rules``, its name, any function from x to a pseudo-derivative, or None for
            the true derivative: nothing before the step then learns.
        at_zero: the value at 0 itself.

    Shape:
        any; dtype and device are kept. NaN stays NaN.

    Raises:
        TypeError: the rule is nothing of the kind; on use, input that is not floating point.
        ValueError: an unknown name, or a value at 0 outside [0, 1].

    Source: Rosenblatt, The perceptron (1958).

    Example:
        >>> import torch
        >>> x = torch.tensor([-1.0, 0.0, 0.5], requires_grad=True)
        >>> y = Step(backward="triangular")(x)
        >>> y.sum().backward()
        >>> y.detach(), x.grad
        (tensor([0., 0., 1.]), tensor([0.0000, 1.0000, 0.5000]))
    """

    def __init__(self, *, backward: Rule | str | None = None, at_zero: float = 0.0) -> None:
        super().__init__()
        self.backward = as_rule(backward)
        self.at_zero = _in_range(at_zero, 0.0, 1.0, name="at_zero")

    def extra_repr(self) -> str:
        """The rule and the value at 0, for ``repr``."""
        return f"backward={self.backward!r}, at_zero={self.at_zero:g}"

    def forward(self, x: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """0 or 1."""
        return replaced(x, self._value, self.backward)

    def _value(self, x: Tensor) -> Tensor:
        return _unit_step(x, self.at_zero)


class Sign(nn.Module):
    """The sign: 1 above 0, -1 below, elementwise; a step of height two, so x.grad = 2 y.grad * rule(x).

    Args:
        backward: as of ``Step``. Binarized networks have ``straight_through(clip=1)`` without the factor of two.
        at_zero: the value at 0 itself: 0 as mathematicians have it, 1 or -1 for binarized networks.

    Shape:
        any; dtype and device are kept. NaN stays NaN.

    Raises:
        TypeError: the rule is nothing of the kind; on use, input that is not floating point.
        ValueError: an unknown name, or a value at 0 outside [-1, 1].

    Source: Hubara, Courbariaux, Soudry, El-Yaniv, Bengio, Binarized neural networks (2016).

    Example:
        >>> import torch
        >>> x = torch.tensor([-1.0, 0.0, 0.5], requires_grad=True)
        >>> y = Sign(backward="triangular")(x)
        >>> y.sum().backward()
        >>> y.detach(), x.grad
        (tensor([-1., 0., 1.]), tensor([0., 2., 1.]))
    """

    def __init__(self, *, backward: Rule | str | None = None, at_zero: float = 0.0) -> None:
        super().__init__()
        self.backward = as_rule(backward)
        self.at_zero = _in_range(at_zero, -1.0, 1.0, name="at_zero")

    def extra_repr(self) -> str:
        """The rule and the value at 0, for ``repr``."""
        return f"backward={self.backward!r}, at_zero={self.at_zero:g}"

    def forward(self, x: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """-1, 1, or ``at_zero``."""
        return replaced(x, self._value, None if self.backward is None else self._slope)

    def _value(self, x: Tensor) -> Tensor:
        sign = x.sign()
        sign = torch.clamp(x, sign, sign)  # which keeps NaN, unlike sign
        return sign if self.at_zero == 0 else sign + self.at_zero * (1 - sign.abs())

    def _slope(self, x: Tensor) -> Tensor:
        assert self.backward is not None
        return 2 * self.backward(x)


class Staircase(nn.Module):
    """A step function of several levels: ``levels[i]`` where i of the ``thresholds`` lie below x, elementwise.

    Each threshold is a step of the height of its jump, so the rule is applied to the distance from each of them:

        x.grad = y.grad * sum over i of (levels[i + 1] - levels[i]) rule(x - thresholds[i])

    Neither the levels nor the thresholds need be evenly spaced; levels may fall. Time is proportional to their number.
    For a quantizer that is trained as if it were a straight line take ``boxcar(width=spacing of the thresholds)``.

    Args:
        levels: the values taken, one more than there are thresholds.
        thresholds: where the value changes, in increasing order. They are rounded to the dtype of x, at least float32.
        backward: as of ``Step``.
        at_threshold: how much of its jump is taken at a threshold itself: 0 for the level to the left of it, 1 for the
            one to the right, as floor and round have it.

    Shape:
        any; dtype and device are kept. NaN stays NaN.

    Raises:
        TypeError: the rule is nothing of the kind; on use, input that is not floating point.
        ValueError: an unknown name; levels and thresholds whose numbers do not fit, that are not finite, or thresholds
            that do not increase; ``at_threshold`` outside [0, 1].

    Example:
        >>> import torch
        >>> x = torch.tensor([-3.0, 0.0, 0.4, 7.0], requires_grad=True)
        >>> y = Staircase([-1.0, 0.0, 2.0], [-0.5, 0.5], backward="boxcar")(x)
        >>> y.sum().backward()
        >>> y.detach(), x.grad
        (tensor([-1.,  0.,  0.,  2.]), tensor([0.0000, 1.5000, 2.0000, 0.0000]))
    """

    def __init__(
        self,
        levels: Sequence[float],
        thresholds: Sequence[float],
        *,
        backward: Rule | str | None = None,
        at_threshold: float = 0.0,
    ) -> None:
        super().__init__()
        self.levels = tuple(float(level) for level in levels)
        self.thresholds = tuple(float(threshold) for threshold in thresholds)
        _check_stairs(self.levels, self.thresholds)
        self.backward = as_rule(backward)
        self.at_threshold = _in_range(at_threshold, 0.0, 1.0, name="at_threshold")

    def extra_repr(self) -> str:
        """Levels, thresholds and rule, for ``repr``."""
        levels, thresholds = (", ".join(f"{number:g}" for number in of) for of in (self.levels, self.thresholds))
        return f"[{levels}], [{thresholds}], backward={self.backward!r}, at_threshold={self.at_threshold:g}"

    def forward(self, x: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """One of the levels."""
        return replaced(x, self._value, None if self.backward is None else self._slope, short=False)

    def _value(self, x: Tensor) -> Tensor:
        # Just one of the differences is 1 and the others are 0: no level is rounded, as it would be in a sum of jumps.
        total, passed = torch.zeros_like(x), torch.ones_like(x)
        for level, threshold in zip(self.levels[:-1], self.thresholds, strict=True):
            passed_next = _unit_step(x - threshold, self.at_threshold)
            total, passed = total.add_(passed.sub_(passed_next), alpha=level), passed_next
        return total.add_(passed, alpha=self.levels[-1])

    def _slope(self, x: Tensor) -> Tensor:
        assert self.backward is not None
        jumps = (high - low for low, high in pairwise(self.levels))
        return of_stairs(self.backward, x, jumps, self.thresholds)


def _above(x: Tensor) -> Tensor:
    """1 above 0, else 0; unlike a comparison it keeps NaN, and is fast."""
    return x.clamp(0, 1).ceil_()


def _below(x: Tensor) -> Tensor:
    """-1 below 0, else 0."""
    return x.clamp(-1, 0).floor_()


def _unit_step(x: Tensor, at_zero: float) -> Tensor:
    if at_zero == 0:
        return _above(x)
    if at_zero == 1:
        return _below(x).add_(1)
    above = _above(x)
    return above + at_zero * (1 - above + _below(x))


def _in_range(value: float, low: float, high: float, *, name: str) -> float:
    if not low <= value <= high:
        raise ValueError(f"needed {name} from {low:g} to {high:g}, got {value}")
    return float(value)


def _check_stairs(levels: tuple[float, ...], thresholds: tuple[float, ...]) -> None:
    if not thresholds or len(levels) != len(thresholds) + 1:
        raise ValueError(
            f"needed one level more than thresholds, got {len(levels)} levels and {len(thresholds)} thresholds; "
            "give at least one threshold, and a level on either side of each"
        )
    if not all(map(math.isfinite, levels + thresholds)):
        raise ValueError(f"needed finite levels and thresholds, got {list(levels)} and {list(thresholds)}")
    if any(low >= high for low, high in pairwise(thresholds)):
        raise ValueError(f"needed thresholds that increase, got {list(thresholds)}; sort them, with their levels")
