"""The methods that a study compares: a dictionary from name to function.

A method is a function of the metric, the budget and a generator that returns a recipe: the stages of training, and the
threshold of the decisions, by which each epoch is judged. One's own is one function more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch

from rlgrad.estimators import Estimator, counterfactual, exact, score_function
from rlgrad.metrics import CountMetric
from rlgrad.objective import MetricLoss
from rlgrad.surrogates import Criterion, bce, focal, soft, weighted_bce
from rlgrad.train import Stage


@dataclass(frozen=True)
class Budget:
    """What every method may spend, the same for all.

    Args:
        epochs: passes over the training data, over all stages.
        lr: learning rate of Adam, whose steps do not depend on the scale of a loss.
        patience: a stage ends after this many epochs without a better validation metric.
        batch_size: rows a batch.

    Raises:
        ValueError: a number is out of its range.
    """

    epochs: int = 100
    lr: float = 0.01
    patience: int = 20
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Refuse what no training can spend, before any run is made."""
        for what in ("epochs", "patience", "batch_size"):
            if getattr(self, what) < 1:
                raise ValueError(f"needed {what} of at least 1, got {getattr(self, what)}")
        if not 0 < self.lr <= 1e30:  # above, a step overflows whatever the gradient
            raise ValueError(f"needed a positive finite lr, got {self.lr}; 0.01 is usual")


class Recipe(NamedTuple):
    """Stages of training, and the threshold of the decisions in logits, or "tuned" on the validation data."""

    stages: list[Stage]
    threshold: float | Literal["tuned"] = 0.0


Method = Callable[[CountMetric, Budget, torch.Generator], Recipe]


def stage(criterion: Criterion, budget: Budget, *, epochs: int | None = None) -> Stage:
    """A stage of training, on all epochs of the budget or on some of them."""
    return Stage(criterion, epochs=epochs or budget.epochs, lr=budget.lr, patience=budget.patience)


def _surrogate(criterion: Criterion, metric: CountMetric, budget: Budget, generator: torch.Generator) -> Recipe:
    return Recipe([stage(criterion, budget)])


def _cross_entropy_tuned(metric: CountMetric, budget: Budget, generator: torch.Generator) -> Recipe:
    return Recipe([stage(bce, budget)], threshold="tuned")


def _soft(metric: CountMetric, generator: torch.Generator) -> Criterion:
    return soft(metric)


def _policy_gradient(estimator: Estimator, metric: CountMetric, generator: torch.Generator) -> Criterion:
    return MetricLoss(metric, estimator, generator=generator)


def _from_scratch(
    criterion: Callable[[CountMetric, torch.Generator], Criterion],
    metric: CountMetric,
    budget: Budget,
    generator: torch.Generator,
) -> Recipe:
    return Recipe([stage(criterion(metric, generator), budget)])


def _from_cross_entropy(
    criterion: Callable[[CountMetric, torch.Generator], Criterion],
    metric: CountMetric,
    budget: Budget,
    generator: torch.Generator,
) -> Recipe:
    """Half of the epochs on cross-entropy, the other half on the metric from the best weights of the first."""
    half = max(1, budget.epochs // 2)
    first, second = stage(bce, budget, epochs=half), criterion(metric, generator)
    return Recipe([first, stage(second, budget, epochs=max(1, budget.epochs - half))])


_TRAINED_ON_THE_METRIC: dict[str, Callable[[CountMetric, torch.Generator], Criterion]] = {
    "soft": _soft,
    "score_function": partial(_policy_gradient, score_function(draws=16)),
    "counterfactual": partial(_policy_gradient, counterfactual(draws=1)),
    "exact": partial(_policy_gradient, exact()),
}

METHODS: dict[str, Method] = {
    "ce": partial(_surrogate, bce),
    "ce-tuned": _cross_entropy_tuned,
    "ce-weighted": partial(_surrogate, weighted_bce()),
    "focal": partial(_surrogate, focal()),
    **{name: partial(_from_scratch, criterion) for name, criterion in _TRAINED_ON_THE_METRIC.items()},
    **{f"ce+{name}": partial(_from_cross_entropy, criterion) for name, criterion in _TRAINED_ON_THE_METRIC.items()},
}
REFERENCE = "ce-tuned"
