"""Surrogate derivatives of a step: functions of the distance to its threshold.

A rule is called ``rule(distance)`` and returns what stands for the derivative of a step of height one there. Those that
integrate to 1 over the line are derivatives of a soft step from 0 to 1, at every slope or width, and by default all
have their peak of 1 at the threshold. They work in place on their own intermediate results: on a CPU, memory is the
cost of such a short formula.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Rule = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class sigmoid:
    """The derivative of a logistic step, s σ(s d) σ(-s d): integral 1, peak s / 4.

    Args:
        slope: s, above 0.

    Raises:
        ValueError: ``slope`` is not a finite number above 0.

    Source: Neftci, Mostafa, Zenke, Surrogate gradient learning in spiking neural networks (2019); Zenke, Vogels (2021).

    Example:
        >>> sigmoid(slope=4.0)(torch.tensor([0.0, 1.0]))
        tensor([1.0000, 0.0707])
    """

    slope: float = 4.0

    def __post_init__(self) -> None:
        check_positive(self.slope, "slope")

    def __call__(self, distance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The pseudo-derivative."""
        tail = distance.abs().mul_(-self.slope).sigmoid_()  # at most 1/2: one less it loses no digits
        return sigmoid_slope(tail.new_full((), self.slope), tail)


@dataclass(frozen=True)
class arctan:
    """The derivative of an arctangent step, (s / 2) / (1 + (π s d / 2)^2): integral 1, peak s / 2.

    Its tails are the heaviest of those with an integral, as 1 / d^2: units far from their threshold still learn.

    Args:
        slope: s, above 0; the ``alpha`` of snnTorch and SpikingJelly.

    Raises:
        ValueError: ``slope`` is not a finite number above 0.

    Source: Fang, Yu, Chen, Masquelier, Huang, Tian, Incorporating learnable membrane time constant to enhance learning
        of spiking neural networks (2021).

    Example:
        >>> arctan(slope=2.0)(torch.tensor([0.0, 1.0]))
        tensor([1.0000, 0.0920])
    """

    slope: float = 2.0

    def __post_init__(self) -> None:
        check_positive(self.slope, "slope")

    def __call__(self, distance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The pseudo-derivative."""
        at_zero = distance.new_full((), 2 / self.slope)
        return torch.addcmul(at_zero, distance, distance, value=math.pi**2 / 2 * self.slope).reciprocal_()


@dataclass(frozen=True)
class fast_sigmoid:
    """The derivative of the step (1 + s d / (1 + s |d|)) / 2, (s / 2) / (1 + s |d|)^2: integral 1, peak s / 2.

    Args:
        slope: s, above 0.

    Raises:
        ValueError: ``slope`` is not a finite number above 0.

    Source: Zenke, Ganguli (2018), whose derivative this is up to a factor: see ``superspike``.

    Example:
        >>> fast_sigmoid(slope=2.0)(torch.tensor([0.0, 1.0]))
        tensor([1.0000, 0.1111])
    """

    slope: float = 2.0

    def __post_init__(self) -> None:
        check_positive(self.slope, "slope")

    def __call__(self, distance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The pseudo-derivative."""
        root = math.sqrt(2 / self.slope)
        return distance.abs().mul_(root * self.slope).add_(root).pow_(-2)


@dataclass(frozen=True)
class superspike:
    """SuperSpike, 1 / (1 + s |d|)^2: peak 1 whatever the slope, and so integral 2 / s, not 1.

    The literature has it without the factor s / 2 of ``fast_sigmoid``: a larger slope makes the step's gradient not
    only narrower but smaller.

    Args:
        slope: s, above 0; 1 per mV in the paper, 10 in Zenke and Vogels (2021).

    Raises:
        ValueError: ``slope`` is not a finite number above 0.

    Source: Zenke, Ganguli, SuperSpike: Supervised learning in multilayer spiking neural networks (2018).

    Example:
        >>> superspike(slope=10.0)(torch.tensor([0.0, 1.0]))
        tensor([1.0000, 0.0083])
    """

    slope: float = 10.0

    def __post_init__(self) -> None:
        check_positive(self.slope, "slope")

    def __call__(self, distance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The pseudo-derivative."""
        return distance.abs().mul_(self.slope).add_(1).pow_(-2)


@dataclass(frozen=True)
class triangular:
    """The derivative of a piecewise quadratic step, max(0, 1 - |d| / w) / w: integral 1, peak 1 / w, zero beyond w.

    Args:
        width: w, at half of the height; above 0.

    Raises:
        ValueError: ``width`` is not a finite number above 0.

    Source: Esser et al., Convolutional networks for fast, energy-efficient neuromorphic computing (2016), at w = 1;
        Bellec, Salaj, Subramoney, Legenstein, Maass, Long short-term memory and learning-to-learn in networks of
        spiking neurons (2018), who multiply it by 0.3.

    Example:
        >>> triangular(width=2.0)(torch.tensor([0.0, 1.0, 2.0]))
        tensor([0.5000, 0.2500, 0.0000])
    """

    width: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self.width, "width")

    def __call__(self, distance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The pseudo-derivative."""
        return distance.abs().div_(-self.width).add_(1).mul_(1 / self.width).relu_()


@dataclass(frozen=True)
class boxcar:
    """The derivative of a ramp, 1 / w where |d| < w / 2 and 0 beyond: integral 1.

    At |d| = w / 2 itself it is half of that, so that the boxes of neighbouring thresholds tile the line. A
    ``Staircase`` of even steps with ``width`` their spacing has the slope of the line through it: so quantizers train.

    Args:
        width: w, of the whole box; above 0.

    Raises:
        ValueError: ``width`` is not a finite number above 0.

    Source: Wu, Deng, Li, Zhu, Shi, Spatio-temporal backpropagation for training high-performance spiking neural
        networks (2018).

    Example:
        >>> boxcar(width=2.0)(torch.tensor([0.0, 0.9, 1.0, 1.1]))
        tensor([0.5000, 0.5000, 0.2500, 0.0000])
    """

    width: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self.width, "width")

    def __call__(self, distance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The pseudo-derivative."""
        outside = distance.abs().sub_(self.width / 2).sign_()  # -1, 0 at the border, 1
        return outside.mul_(-0.5 / self.width).add_(0.5 / self.width)


@dataclass(frozen=True)
class straight_through:
    """The derivative of the identity, 1, where |d| <= ``clip``, and 0 beyond: integral 2 ``clip``, infinite without.

    Under a ``Staircase`` of many thresholds the ones add up; see ``boxcar`` for the identity through a quantizer.

    Args:
        clip: above 0; infinite, the default, for the plain identity, 1 for binarized networks.

    Raises:
        ValueError: ``clip`` is not a number above 0.

    Source: Hinton, Neural networks for machine learning, lecture 15b (2012); Bengio, Leonard, Courville (2013);
        clipped: Hubara, Courbariaux, Soudry, El-Yaniv, Bengio, Binarized neural networks (2016).

    Example:
        >>> straight_through(clip=1.0)(torch.tensor([0.0, -1.0, 1.1]))
        tensor([1., 1., 0.])
    """

    clip: float = math.inf

    def __post_init__(self) -> None:
        if self.clip != math.inf:
            check_positive(self.clip, "clip")

    def __call__(self, distance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The pseudo-derivative."""
        if self.clip == math.inf:
            return torch.ones_like(distance)
        beyond = distance.abs().sub_(self.clip).clamp_(0, 1).ceil_()
        return 1 - beyond


RULES: dict[str, Callable[[], Rule]] = {
    "sigmoid": sigmoid,
    "arctan": arctan,
    "fast_sigmoid": fast_sigmoid,
    "superspike": superspike,
    "triangular": triangular,
    "boxcar": boxcar,
    "straight_through": straight_through,
}


def as_rule(choice: Rule | str | None) -> Rule | None:
    """The rule that ``backward=`` asks for, from a name, an object, or None for the true derivative, zero.

    Raises:
        ValueError: an unknown name.
        TypeError: not a function, or a class of rules that was not called.

    Example:
        >>> as_rule("arctan")
        arctan(slope=2.0)
    """
    if isinstance(choice, str):
        if choice not in RULES:
            raise ValueError(f"needed a backward rule of {', '.join(RULES)}, got {choice!r}; or None for none")
        return RULES[choice]()
    if choice is not None and (not callable(choice) or isinstance(choice, type)):
        raise TypeError(f"needed a backward rule such as arctan(slope=2), got {choice!r}; call it, or name it")
    return choice


def of_stairs(rule: Rule, x: Tensor, jumps: Iterable[float], thresholds: Iterable[float]) -> Tensor:
    """The sum over thresholds of the jump there times the rule of the distance to it."""
    total = torch.zeros_like(x)
    for jump, threshold in zip(jumps, thresholds, strict=True):
        total = total.add_(rule(x - threshold), alpha=jump)
    return total


def sigmoid_slope(factor: Tensor, tail: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Tail (1 - tail) times the factor, in one pass."""
    found: Tensor = torch.ops.aten.sigmoid_backward(factor, tail)
    return found


def check_positive(value: float, name: str) -> None:
    """A steepness or a width is finite and above 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"needed a finite {name} above 0, got {value}")
