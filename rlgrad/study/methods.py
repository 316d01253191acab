"""The methods that a study of tables compares: a dictionary from name to function.

A method is a function of the metric, the budget and a generator that returns a recipe: the stages of training, and the
threshold of the decisions, by which each epoch is judged. One's own is one function more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from rlgrad.estimators import counterfactual, exact, score_function
from rlgrad.metrics import CountMetric, LabelMetric
from rlgrad.objective import MetricLoss
from rlgrad.surrogates import Criterion, bce, focal, soft, weighted_bce
from rlgrad.train import Stage, Threshold, Tuned

TableMetric = CountMetric | LabelMetric


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
        check_budget(**vars(self))


def check_budget(*, lr: float, **numbers: int) -> None:
    """A learning rate is positive and finite, and of everything else there is at least one.

    Raises:
        ValueError: a number is out of its range.
    """
    for what, number in numbers.items():
        if number < 1:
            raise ValueError(f"needed {what} of at least 1, got {number}")
    if not 0 < lr <= 1e30:  # above, a step overflows whatever the gradient
        raise ValueError(f"needed a positive finite lr, got {lr}; 0.001 to 0.01 is usual")


class Recipe(NamedTuple):
    """Stages of training, and the threshold of the decisions in logits, or how it is tuned on the validation data."""

    stages: list[Stage]
    threshold: Threshold | Tuned = 0.0


Method = Callable[[TableMetric, Budget, torch.Generator], Recipe]
MakeCriterion = Callable[[TableMetric, torch.Generator], Criterion]


def stage(criterion: Criterion, budget: Budget, *, epochs: int | None = None) -> Stage:
    """A stage of training, on all epochs of the budget or on some of them."""
    return Stage(criterion, epochs=epochs or budget.epochs, lr=budget.lr, patience=budget.patience)


def _from_scratch(criterion: MakeCriterion, metric: TableMetric, budget: Budget, generator: torch.Generator) -> Recipe:
    return Recipe([stage(criterion(metric, generator), budget)])


def _from_cross_entropy(
    criterion: MakeCriterion, metric: TableMetric, budget: Budget, generator: torch.Generator
) -> Recipe:
    """Half of the epochs on cross-entropy, the other half on the metric from the best weights of the first."""
    half = max(1, budget.epochs // 2)
    first, second = stage(bce, budget, epochs=half), criterion(metric, generator)
    return Recipe([first, stage(second, budget, epochs=max(1, budget.epochs - half))])


def _cross_entropy_tuned(threshold: Tuned, metric: TableMetric, budget: Budget, generator: torch.Generator) -> Recipe:
    return Recipe([stage(bce, budget)], threshold)


_WITHOUT_THE_METRIC: dict[str, MakeCriterion] = {
    "ce": lambda metric, generator: bce,
    "ce-weighted": lambda metric, generator: weighted_bce(),
    "focal": lambda metric, generator: focal(),
}
_ON_THE_METRIC: dict[str, MakeCriterion] = {
    "soft": lambda metric, generator: soft(metric),
    "score_function": lambda metric, generator: MetricLoss(metric, score_function(draws=16), generator=generator),
    "counterfactual": lambda metric, generator: MetricLoss(metric, counterfactual(draws=1), generator=generator),
    "exact": lambda metric, generator: MetricLoss(metric, exact(), generator=generator),
}
_SCRATCH: dict[str, Method] = {
    name: partial(_from_scratch, criterion) for name, criterion in (_WITHOUT_THE_METRIC | _ON_THE_METRIC).items()
}

METHODS: dict[str, Method] = {
    "ce": _SCRATCH["ce"],
    "ce-tuned": partial(_cross_entropy_tuned, "tuned"),
    **_SCRATCH,
    **{f"ce+{name}": partial(_from_cross_entropy, criterion) for name, criterion in _ON_THE_METRIC.items()},
}
REFERENCE = "ce-tuned"
# Of a table of several labels, whose logits are rows x labels, "ce-tuned" has one threshold for all of them.
LABEL_METHODS: dict[str, Method] = {
    "ce": METHODS["ce"],
    "ce-tuned": METHODS["ce-tuned"],
    "ce-tuned-per-label": partial(_cross_entropy_tuned, "tuned per label"),
    **METHODS,
}
