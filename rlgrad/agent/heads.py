"""From a network's outputs to a policy over an action space, and from its decisions to actions."""

from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from rlgrad.checks import describe
from rlgrad.policies import Bernoulli, Categorical, Gaussian, Policy


class Head(nn.Module, ABC):
    """What an action space asks of a policy.

    Args:
        size: how many numbers the network gives for an observation.
        space: of single actions.
    """

    def __init__(self, size: int, space: spaces.Space) -> None:  # type: ignore[type-arg]
        super().__init__()
        self.size, self.space = size, space

    def forward(self, output: Float[Tensor, "rows size"]) -> Policy:
        """The policy of each row.

        Raises:
            ValueError: the output has another shape than ``rows size``.
        """
        if output.ndim != 2 or output.shape[-1] != self.size:
            raise ValueError(
                f"needed outputs of shape (rows, {self.size}) from the policy network for {self.space}, got "
                f"{describe(output)}; end the network so"
            )
        return self.policy(output)

    @abstractmethod
    def policy(self, output: Float[Tensor, "rows size"]) -> Policy:
        """The policy of outputs of the right shape."""

    @abstractmethod
    def action(self, decision: Shaped[Tensor, "rows items"]) -> np.ndarray:
        """The actions that decisions stand for, as the environment wants them."""


class BinaryHead(Head):
    """Yes or no for each entry of a MultiBinary space."""

    def __init__(self, space: spaces.MultiBinary) -> None:
        super().__init__(int(np.prod(space.shape)), space)

    def policy(self, output: Float[Tensor, "rows items"]) -> Bernoulli:
        """One logit an entry."""
        return Bernoulli(output)

    def action(self, decision: Shaped[Tensor, "rows items"]) -> np.ndarray:
        """Zeros and ones, in the shape of the space."""
        return _shaped(decision.cpu().numpy(), self.space)


class ChoiceHead(Head):
    """One of n for a Discrete space, one of n for each entry of a MultiDiscrete one."""

    def __init__(self, space: spaces.Discrete | spaces.MultiDiscrete) -> None:
        choices = [int(space.n)] if isinstance(space, spaces.Discrete) else space.nvec.flatten().tolist()
        super().__init__(sum(choices), space)
        self.choices = choices
        self.start = np.asarray(space.start)

    def policy(self, output: Float[Tensor, "rows size"]) -> Categorical:
        """One logit a choice; entries with fewer choices than others have the rest masked."""
        parts = output.split(self.choices, -1)
        most = max(self.choices)
        return Categorical(
            torch.stack([F.pad(part, (0, most - part.shape[-1]), value=-torch.inf) for part in parts], -2)
        )

    def action(self, decision: Shaped[Tensor, "rows items"]) -> np.ndarray:
        """Numbers of choices, in the shape of the space, counted from its start."""
        return _shaped(decision.cpu().numpy() + self.start.flatten(), self.space)


class RealHead(Head):
    """A number for each entry of a Box, from a Gaussian whose spread is learned and the same for all observations.

    Decisions are in units of the box: -1 and 1 stand for an entry's bounds, and what lies outside is cut off. Where an
    entry has one bound, 0 stands for the number 1 inside of it, the mean of Gymnasium's own draws; where it has none,
    decisions are the actions.
    """

    bounded: Tensor

    def __init__(self, space: spaces.Box) -> None:
        size = int(np.prod(space.shape))
        super().__init__(size, space)
        low, high = space.low.flatten().astype(float), space.high.flatten().astype(float)
        below, above = np.isfinite(low), np.isfinite(high)
        both = below & above
        self.unit = np.divide(high - low, 2, out=np.ones(size), where=both)
        self.centre = np.where(below, low, 0.0) + np.where(above, high, 0.0) + 1.0 * below - 1.0 * above
        self.centre[both] /= 2
        self.register_buffer("bounded", torch.from_numpy(both), persistent=False)
        self.spread = nn.Parameter(torch.full((size,), 0.5))

    def policy(self, output: Float[Tensor, "rows items"]) -> Gaussian:
        """The outputs are the means.

        Between two bounds the standard deviation is sigmoid(spread), at most half the box: beyond, draws are cut off
        and do as little harm however far out they lie, so that nothing would hold it back.
        """
        log_spread = torch.where(self.bounded, F.logsigmoid(self.spread), self.spread - 1)
        return Gaussian(torch.stack([output, log_spread.expand_as(output)], -1))

    def action(self, decision: Shaped[Tensor, "rows items"]) -> np.ndarray:
        """Numbers within the box, in its shape."""
        assert isinstance(self.space, spaces.Box)
        wanted = self.centre + self.unit * decision.double().cpu().numpy()
        return _shaped(np.clip(wanted, self.space.low.flatten(), self.space.high.flatten()), self.space)


def head_for(space: spaces.Space) -> Head:  # type: ignore[type-arg]
    """The head of an action space.

    Raises:
        TypeError: the space is another than Discrete, MultiDiscrete, MultiBinary and a Box of real numbers.

    Example:
        >>> head = head_for(spaces.MultiDiscrete([2, 3]))
        >>> head(torch.zeros(4, 5)).probs[0]
        tensor([[0.5000, 0.5000, 0.0000],
                [0.3333, 0.3333, 0.3333]])
        >>> head.action(torch.tensor([[1, 2]]))
        array([[1, 2]])
    """
    if isinstance(space, spaces.MultiBinary):
        return BinaryHead(space)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return ChoiceHead(space)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return RealHead(space)
    raise TypeError(
        f"needed actions that are Discrete, MultiDiscrete, MultiBinary or a Box of real numbers, got {space}; "
        "wrap the environment in one that translates its actions"
    )


def _shaped(numbers: np.ndarray, space: spaces.Space) -> np.ndarray:  # type: ignore[type-arg]
    """One row of numbers an action, in the shape and the type that the space has."""
    return np.asarray(numbers, dtype=space.dtype).reshape(len(numbers), *(space.shape or ()))
