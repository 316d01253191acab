"""The usual count metrics, each the textbook's formula.

``undefined`` is the value at 0/0. It is 1 where nothing was to be found and nothing was claimed (f1, f_beta, iou:
scikit-learn's ``zero_division=1``), so that an empty image left empty scores full marks, and 0 elsewhere
(scikit-learn's default): a precision of 1 for claiming nothing would teach a model to claim nothing.
"""

import torch
from torch import Tensor

from rlgrad.metrics.counts import CountMetric


def f_beta(beta: float) -> CountMetric:
    """F-beta score: recall weighs ``beta`` times as much as precision.

    F = (1 + beta^2) tp / ((1 + beta^2) tp + beta^2 fn + fp), and 1 where there is neither a positive nor a claim.

    Args:
        beta: positive weight of recall.

    Raises:
        ValueError: ``beta`` is not a positive finite number.

    Source: van Rijsbergen, Information Retrieval, 2nd edition (1979), chapter 7.

    Example:
        >>> f_beta(2.0)(torch.tensor([True, True, False]), torch.tensor([1, 0, 1]))
        tensor(0.5000, dtype=torch.float64)
    """
    if not 0 < beta < float("inf"):
        raise ValueError(f"needed a positive finite beta, got {beta}; beta 2 weighs recall twice, 0.5 half")
    b2 = beta**2
    return CountMetric(
        lambda tp, fp, fn, tn: (1 + b2) * tp / ((1 + b2) * tp + b2 * fn + fp), undefined=1.0, name=f"f{beta:g}"
    )


def _balanced_accuracy(tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
    # A class without rows has no rate and is left out of the mean, as in scikit-learn.
    return torch.stack([tp / (tp + fn), tn / (tn + fp)]).nanmean(0)


def _mcc(tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
    # Roots of single margins: their product under one root would overflow float32 from 1e10 items on.
    margins = torch.sqrt(tp + fp) * torch.sqrt(tp + fn) * torch.sqrt(tn + fp) * torch.sqrt(tn + fn)
    return (tp * tn - fp * fn) / margins


f1 = f_beta(1.0)
precision = CountMetric(lambda tp, fp, fn, tn: tp / (tp + fp), undefined=0.0, name="precision")
recall = CountMetric(lambda tp, fp, fn, tn: tp / (tp + fn), undefined=0.0, name="recall")
specificity = CountMetric(lambda tp, fp, fn, tn: tn / (tn + fp), undefined=0.0, name="specificity")
accuracy = CountMetric(lambda tp, fp, fn, tn: (tp + tn) / (tp + fp + fn + tn), undefined=1.0, name="accuracy")
balanced_accuracy = CountMetric(_balanced_accuracy, undefined=0.0, name="balanced_accuracy")
iou = CountMetric(lambda tp, fp, fn, tn: tp / (tp + fp + fn), undefined=1.0, name="iou")
mcc = CountMetric(_mcc, undefined=0.0, name="mcc")
cohen_kappa = CountMetric(
    lambda tp, fp, fn, tn: 2 * (tp * tn - fp * fn) / ((tp + fp) * (fp + tn) + (tp + fn) * (fn + tn)),
    undefined=0.0,
    name="cohen_kappa",
)
g_mean = CountMetric(lambda tp, fp, fn, tn: torch.sqrt(tp / (tp + fn) * (tn / (tn + fp))), undefined=0.0, name="g_mean")
youden_j = CountMetric(lambda tp, fp, fn, tn: tp / (tp + fn) + tn / (tn + fp) - 1, undefined=0.0, name="youden_j")
fowlkes_mallows = CountMetric(
    lambda tp, fp, fn, tn: tp / torch.sqrt((tp + fp) * (tp + fn)), undefined=0.0, name="fowlkes_mallows"
)

CATALOGUE: dict[str, CountMetric] = {
    metric.name: metric
    for metric in (
        f1,
        f_beta(0.5),
        f_beta(2.0),
        precision,
        recall,
        specificity,
        accuracy,
        balanced_accuracy,
        iou,
        mcc,
        cohen_kappa,
        g_mean,
        youden_j,
        fowlkes_mallows,
    )
}
