"""Units that are drawn: the inputs of a layer as a policy, and its decisions as what the layer gives.

A unit with input z is drawn as if logistic noise, times the temperature, were added to z and the hard unit followed. A
step is 1 with probability sigmoid(z / temperature); a staircase passes each threshold t with probability
sigmoid((z - t) / temperature), all of them with the one noise. A QPWC neuron takes one of the two plateaus around its
value, so that its mean at temperature 1 is that value.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeGuard

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlgrad.policies import Bernoulli, Categorical, Policy
from rlgrad.steps import QPWC, Sign, Staircase, Step

Unit = Step | Sign | Staircase | QPWC
Noise = Callable[[int], Tensor]


@dataclass(frozen=True)
class policy_gradient:
    """The backward rule of a step that ``ExpectedLoss`` draws, and gives a policy gradient.

    Everywhere else the step is hard, and its derivative the true one, zero: a warning says so on the way back, but for
    compiled code.

    Example:
        >>> Step(backward=policy_gradient())(torch.tensor([-1.0, 2.0]))
        tensor([0., 1.])
    """

    def __call__(self, distance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Zero."""
        if not torch.compiler.is_compiling():
            warnings.warn(
                "back-propagation alone has passed a step with policy_gradient(), and nothing before it learns from "
                "that; train the network with rlgrad.ExpectedLoss",
                stacklevel=2,
            )
        return torch.zeros_like(distance)


def is_drawn(layer: nn.Module) -> TypeGuard[Unit]:
    """Whether a layer is one of steps that are drawn."""
    return isinstance(layer, Unit) and isinstance(layer.backward, policy_gradient)


@dataclass(frozen=True)
class TwoValued:
    """Units that give ``low`` or ``low + jump``, on one batch.

    Args:
        inputs: ``*lead rows units``; above 0 the hard unit gives the higher value.
        low: the lower value, of all units or of each.
        jump: the higher value less the lower.
    """

    inputs: Float[Tensor, "*lead rows units"]
    low: float | Float[Tensor, "*lead rows units"] = 0.0
    jump: float = 1.0

    def policy(self, temperature: float, noise: Noise) -> Policy:
        """Of the decisions, yes for the higher value, whose randomness is this noise."""
        return _Yes(self.inputs / temperature, noise)

    def values(self, decision: Float[Tensor, "*more rows units"]) -> Float[Tensor, "*more rows units"]:
        """What the units give for decisions 0 and 1, and linearly between."""
        is_step = isinstance(self.low, float) and (self.low, self.jump) == (0.0, 1.0)
        return decision if is_step else self.low + self.jump * decision

    def encoded(self, decision: Bool[Tensor, "*more rows units"]) -> Float[Tensor, "*more rows units"]:
        """Decisions as numbers."""
        return decision.to(self.inputs.dtype)

    def drawn(self, logistic: Float[Tensor, "*noise rows units"]) -> Float[Tensor, "*lead rows units"]:
        """What the units give when this noise is taken from their inputs."""
        inputs = self.inputs.detach()
        # Written as numbers at once: turning truth values into numbers would take longer than the comparison.
        return self.values(torch.gt(inputs, logistic, out=torch.empty_like(inputs)))

    def moves(self, decision: Bool[Tensor, "*more rows units"]) -> list[Float[Tensor, "*more rows units"]]:
        """How the value of each unit would change, had it gone the other way."""
        return [self.jump * (1 - 2 * self.encoded(decision))]

    def gains(self, added: list[Tensor], decision: Bool[Tensor, "*more rows units"]) -> Tensor:
        """The reward with a 1 there less that with a 0, of what each move adds to the reward."""
        return torch.where(decision, -added[0], added[0])


@dataclass(frozen=True)
class Stairs:
    """Units that give one of several levels, on one batch.

    Args:
        inputs: ``*lead rows units``.
        levels: one more than there are thresholds.
        thresholds: in increasing order.
    """

    inputs: Float[Tensor, "*lead rows units"]
    levels: tuple[float, ...]
    thresholds: tuple[float, ...]

    def policy(self, temperature: float, noise: Noise) -> Policy:
        """Of the decisions, which are numbers of levels, whose randomness is this noise."""
        return _Level(self._log_probs(temperature), noise)

    def values(self, decision: Float[Tensor, "*more rows units levels"]) -> Float[Tensor, "*more rows units"]:
        """What the units give for one-hot decisions, and linearly between."""
        return (decision * decision.new_tensor(self.levels)).sum(-1)  # a product of matrices would lose digits

    def encoded(self, decision: Int[Tensor, "*more rows units"]) -> Float[Tensor, "*more rows units levels"]:
        """Decisions as numbers, one-hot."""
        return F.one_hot(decision, len(self.levels)).to(self.inputs.dtype)

    def drawn(self, logistic: Float[Tensor, "*noise rows units"]) -> Float[Tensor, "*lead rows units"]:
        """What the units give when this noise is taken from their inputs."""
        noisy = self.inputs.detach() - logistic
        passed = torch.bucketize(noisy, noisy.new_tensor(self.thresholds))
        return self.inputs.new_tensor(self.levels)[passed]

    def moves(self, decision: Int[Tensor, "*more rows units"]) -> list[Float[Tensor, "*more rows units"]]:
        """How the value of each unit would change, were it at each of the levels in turn."""
        now = self.inputs.new_tensor(self.levels)[decision]
        return [level - now for level in self.levels]

    def gains(self, added: list[Tensor], decision: Int[Tensor, "*more rows units"]) -> Tensor:
        """The reward with each level there less that of the decision, of what each move adds to the reward."""
        return torch.stack(added, -1)

    def _log_probs(self, temperature: float) -> Float[Tensor, "*lead rows units levels"]:
        """Of each level: sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), in logarithms."""
        z = self.inputs.to(torch.promote_types(self.inputs.dtype, torch.float32))
        above = [F.logsigmoid((z - at) / temperature) for at in self.thresholds]
        below = [F.logsigmoid((at - z) / temperature) for at in self.thresholds]
        steps = [math.log(-math.expm1((low - high) / temperature)) for low, high in pairwise(self.thresholds)]
        between = [a + b + step for a, b, step in zip(above[:-1], below[1:], steps, strict=True)]
        return torch.stack([below[0], *between, above[-1]], -1)


Layer = TwoValued | Stairs


def layer_of(unit: Unit, inputs: Float[Tensor, "*lead rows units"]) -> Layer:
    """A layer of units on one batch of inputs."""
    if isinstance(unit, Staircase):
        return Stairs(inputs, unit.levels, unit.thresholds)
    if isinstance(unit, QPWC):
        low, logits = unit.plateaus(inputs)
        return TwoValued(logits, low, jump=0.25)
    return TwoValued(inputs, low=-1.0, jump=2.0) if isinstance(unit, Sign) else TwoValued(inputs)


class _Yes(Bernoulli):
    """Yes or no, by a noise that is given."""

    def __init__(self, logits: Float[Tensor, "*lead rows units"], noise: Noise) -> None:
        super().__init__(logits)
        self.noise = noise

    def uniform(self, draws: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "draws *batch items"]:
        """The noise that is given, the same for all of ``lead``."""
        return _for_all(self.noise(draws), self.logits.shape)


class _Level(Categorical):
    """One of the levels, by a noise that is given."""

    def __init__(self, logits: Float[Tensor, "*lead rows units levels"], noise: Noise) -> None:
        super().__init__(logits)
        self.noise = noise

    def uniform(self, draws: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "draws *batch items"]:
        """The noise that is given, the same for all of ``lead``."""
        # A level is low where this is low, and a step is taken where it is low: so much noise comes off both.
        return 1 - _for_all(self.noise(draws), self.logits.shape[:-1])


def _for_all(noise: Float[Tensor, "draws rows units"], shape: torch.Size) -> Float[Tensor, "draws *lead rows units"]:
    draws, *units = noise.shape
    return noise.reshape(draws, *[1] * (len(shape) - 2), *units).expand(draws, *shape)
