"""Metrics with numbers of one's own: Tversky's index, and a table of what each mistake costs."""

from collections.abc import Sequence

import torch
from jaxtyping import Num
from torch import Tensor

from rlgrad.checks import describe
from rlgrad.metrics.confusion import ConfusionMetric
from rlgrad.metrics.counts import CountMetric, count_dtype


def tversky_index(alpha: float, beta: float) -> CountMetric:
    """Tversky's index, tp / (tp + alpha fp + beta fn), and 1 where there is neither a positive nor a claim.

    alpha = beta = 1/2 is F1 (Dice), alpha = beta = 1 is IoU (Jaccard), and alpha + beta = 1 an F-beta score, whose
    beta squared is beta / alpha.

    Args:
        alpha: weight of a false positive.
        beta: weight of a false negative.

    Raises:
        ValueError: a weight is negative or not finite, or both are 0.

    Source: Tversky, Features of similarity (1977).

    Example:
        >>> tversky_index(0.3, 0.7)(torch.tensor([True, True, False]), torch.tensor([1, 0, 1]))
        tensor(0.5000, dtype=torch.float64)
    """
    if not (0 <= alpha < float("inf") and 0 <= beta < float("inf") and alpha + beta > 0):
        raise ValueError(f"needed finite weights of at least 0, not both 0, got {alpha=} and {beta=}")
    return CountMetric(
        lambda tp, fp, fn, tn: tp / (tp + alpha * fp + beta * fn),
        undefined=1.0,
        name=f"tversky_{alpha:g}_{beta:g}",
    )


def cost_matrix(costs: Sequence[Sequence[int | float]] | Num[Tensor, "true claimed"]) -> ConfusionMetric:
    """Minus the mean cost of a decision among classes, where ``costs[true][claimed]`` says what each costs.

    It is linear in the confusion matrix, so that its soft surrogate and the estimator ``second_order`` both give the
    expected cost, and its gradient, exactly.

    Args:
        costs: a square table, rows the truth; a negative cost is a gain.

    Raises:
        ValueError: the table is not square, of two classes or more, and finite.

    Source: Elkan, The foundations of cost-sensitive learning (2001).

    Example:
        >>> metric = cost_matrix([[0, 1, 1], [10, 0, 5], [2, 1, 0]])
        >>> metric(torch.tensor([0, 0, 2]), torch.tensor([0, 1, 2]))
        tensor(-3.3333, dtype=torch.float64)
    """
    table = torch.as_tensor(costs, dtype=torch.float64, device="cpu")
    if table.ndim != 2 or len(table) != table.shape[1] or len(table) < 2 or not torch.isfinite(table).all():
        raise ValueError(f"needed a finite cost for each true and claimed class, got {describe(table)}; make it square")

    def mean_cost(confusion: Tensor) -> Tensor:
        cost = confusion * table.to(confusion.device, count_dtype(confusion.device))
        return -cost.sum((-2, -1)) / confusion.sum((-2, -1))

    return ConfusionMetric(mean_cost, classes=len(table), undefined=0.0, name="minus_mean_cost")
