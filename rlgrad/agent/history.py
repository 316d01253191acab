"""What an agent tells of its learning, and of a test of what it has learned."""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Update:
    """One line of a history: the episodes that were played, and the gradient steps that were made with them.

    Args:
        update: counted from 1.
        steps: that all environments were asked for so far, those of environments that waited for others included.
        episodes: that were played so far.
        mean_return: of this update's episodes, without discount; their decisions were drawn.
        mean_length: of this update's episodes, in steps.
        entropy: of the policy before the update, mean over the steps, in nats.
        gradient_norm: of the policy's gradient, before it was clipped; mean over the update's gradient steps.
        seconds: of learning so far.
    """

    update: int
    steps: int
    episodes: int
    mean_return: float
    mean_length: float
    entropy: float
    gradient_norm: float
    seconds: float


@dataclass
class History:
    """What happened in the learning: ``pandas.DataFrame(history.updates)`` makes a table of it."""

    updates: list[Update] = field(default_factory=list)

    @property
    def last(self) -> Update:
        """The latest update, or what there is before the first."""
        return self.updates[-1] if self.updates else Update(0, 0, 0, math.nan, math.nan, math.nan, math.nan, 0.0)


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Returns of whole episodes, without discount.

    Args:
        returns: of each episode.
        lengths: of each episode, in steps.
    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...]

    def __repr__(self) -> str:
        return f"Evaluation(mean={self.mean:.6g}, standard_error={self.standard_error:.3g}, of {len(self.returns)})"

    @property
    def mean(self) -> float:
        """Mean return.

        Example:
            >>> Evaluation((1.0, 2.0, 3.0), (5, 5, 5))
            Evaluation(mean=2, standard_error=0.577, of 3)
        """
        return math.fsum(self.returns) / len(self.returns)

    @property
    def standard_error(self) -> float:
        """Of the mean return; NaN for a single episode."""
        count = len(self.returns)
        if count < 2:
            return math.nan
        return math.sqrt(math.fsum((each - self.mean) ** 2 for each in self.returns) / (count - 1) / count)
