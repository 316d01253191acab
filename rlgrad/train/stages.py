"""What a fit is told, and what it tells: stages and the history."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from rlgrad.stochastic import ExpectedLoss
from rlgrad.surrogates import Criterion


@dataclass(frozen=True)
class Stage:
    """A stretch of training on one criterion.

    Args:
        criterion: ``criterion(logits, target)`` gives a scalar: a MetricLoss, a surrogate, or any of torch's own; or an
            ExpectedLoss, for a network of steps.
        epochs: passes over the data, at most.
        lr: learning rate.
        patience: the stage ends after this many epochs in a row without a validation metric better than its best.
        kl: weight of KL(policy || policy at the stage's start, in evaluation mode), the mean over decisions, added to
            the loss: a pull towards the model that the stage started from.
        optimizer: called as ``optimizer(parameters, lr=lr)``.
        name: how the history calls it; the criterion's name by default.

    Raises:
        TypeError: the criterion is not callable.
        ValueError: a number is out of its range.
    """

    criterion: Criterion | ExpectedLoss
    epochs: int = 100
    lr: float = 1e-3
    patience: int = 20
    kl: float = 0.0
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam
    name: str = ""

    def __post_init__(self) -> None:
        if not callable(self.criterion):
            raise TypeError(f"needed a criterion(logits, target), got {self.criterion!r}; pass MetricLoss(f1) or such")
        for what, value in (("epochs", self.epochs), ("patience", self.patience)):
            if value < 1:
                raise ValueError(f"needed {what} of at least 1, got {value}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"needed a positive finite lr, got {self.lr}")
        if not 0 <= self.kl < math.inf:
            raise ValueError(f"needed a kl weight of at least 0, got {self.kl}")
        if self.kl and isinstance(self.criterion, ExpectedLoss):
            raise ValueError(f"needed kl=0 with ExpectedLoss, got {self.kl}; no such pull passes a drawn step")
        if not self.name:
            default = getattr(self.criterion, "__name__", type(self.criterion).__name__)
            object.__setattr__(self, "name", default)


@dataclass(frozen=True)
class Epoch:
    """One line of a history: the loss, and the true metric beside it.

    Args:
        stage: its name.
        epoch: counted from 1 over all stages.
        loss: mean of the training criterion over the epoch's rows.
        train: metric on the training data after the epoch.
        validation: metric on the validation data after the epoch.
        threshold: of the decisions in both; one, or one for each label.
        seconds: since the fit began.
    """

    stage: str
    epoch: int
    loss: float
    train: float
    validation: float
    threshold: float | tuple[float, ...]
    seconds: float


@dataclass
class History:
    """What happened in a fit: ``pandas.DataFrame(history.epochs)`` makes a table of it."""

    epochs: list[Epoch] = field(default_factory=list)

    @property
    def best(self) -> Epoch:
        """The first epoch with the highest validation metric: the one whose weights the model has in the end."""
        return max(self.epochs, key=lambda epoch: epoch.validation)
