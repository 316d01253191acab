"""Soft metrics: the formula of expected counts, for Dice, Jaccard, Tversky and any metric of counts."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from rlgrad.checks import counted_logits
from rlgrad.metrics import (
    ConfusionMetric,
    CountMetric,
    LabelMetric,
    expected_confusion,
    expected_counts,
    f1,
    flat_items,
    iou,
    tversky_index,
)
from rlgrad.metrics.counts import count_dtype
from rlgrad.policies import wide
from rlgrad.surrogates.cross_entropy import bce, cross_entropy
from rlgrad.surrogates.inputs import Counted, check_metric, mean, of_metric

_FORMULAS = (CountMetric, ConfusionMetric, LabelMetric)


@dataclass(frozen=True)
class soft:
    """One minus the metric's formula of *expected* counts: soft F1, Dice, soft Jaccard, and so on for any formula.

    soft(m) = 1 - m(E[tp], E[fp], E[fn], E[tn]): the expectation is moved inside the formula. For f1 this is the Dice
    loss, for iou the Jaccard loss, both without a smoothing term. For classes it is the formula of the expected
    confusion matrix: ``soft(macro(f1, classes=4))`` is the multi-class Dice loss. Averaged over rows.

    Items are what the metric says: ``soft(f1.over(2))`` scores each image of ``batch H W`` by itself, ``.over(3)`` the
    batch as one, and ``.ignoring(255)`` leaves out the pixels whose target is 255, which have no gradient. A row of
    nothing else counts as the metric does there: with its value at 0/0.

    Args:
        metric: any CountMetric, ConfusionMetric, or average over labels, differentiable where the gradient is to be
            useful.

    Raises:
        TypeError: ``metric`` is something else: only a formula can be given expected counts.

    Source: Pastor-Pellicer et al., F-measure as the error function to train neural networks (2013); Milletari, Navab,
        Ahmadi, V-Net (2016), for Dice; Rahman, Wang, Optimizing intersection-over-union in deep neural networks for
        image segmentation (2016), for Jaccard.

    Example:
        >>> from rlgrad.metrics import f1
        >>> logits = torch.logit(torch.tensor([0.9, 0.6, 0.4, 0.2]))
        >>> print(f"{soft(f1)(logits, torch.tensor([1, 0, 1, 0])):.6f}")
        0.365854
    """

    metric: Counted

    def __post_init__(self) -> None:
        check_metric(self.metric, _FORMULAS)

    def __call__(self, logits: Float[Tensor, "..."], target: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """The loss of logits ``*batch *items [classes]`` and a target ``*batch *items``, a scalar."""
        axes = 2 if isinstance(self.metric, ConfusionMetric) else 1
        logits = wide(counted_logits(logits, target, self.metric.ignore_index, axes=axes))
        return mean(1 - of_metric(self.metric, _of_expected, logits, target)).to(logits.dtype)


def _of_expected(metric: Counted, logits: Tensor, target: Tensor) -> Tensor:
    assert isinstance(metric, CountMetric | ConfusionMetric)
    logits = logits.to(count_dtype(logits.device))
    true, kept = metric.split(target)
    if isinstance(metric, CountMetric):
        probs = torch.sigmoid(flat_items(logits, metric.item_axes))
        return metric.of_counts(*expected_counts(probs, true, kept))
    probs = torch.softmax(logits, -1).flatten(-1 - metric.item_axes, -2)
    return metric.of_confusion(expected_confusion(probs, true, kept))


dice = soft(f1)
"""The Dice loss of rows, 1 - 2 E[tp] / (2 E[tp] + E[fp] + E[fn]); of images: ``soft(f1.over(2))``."""

jaccard = soft(iou)
"""The Jaccard loss of rows, 1 - E[tp] / (E[tp] + E[fp] + E[fn]); of images: ``soft(iou.over(2))``."""


def tversky(alpha: float, beta: float) -> soft:
    """The Tversky loss, 1 - E[tp] / (E[tp] + alpha E[fp] + beta E[fn]).

    A false negative costs as much as beta / alpha false positives. It is ``soft(tversky_index(alpha, beta))``:
    alpha = beta = 1/2 is Dice, alpha = beta = 1 Jaccard. Of images: ``soft(tversky_index(alpha, beta).over(2))``.

    Raises:
        ValueError: a weight is negative or not finite, or both are 0.

    Source: Salehi, Erdogmus, Gholipour, Tversky loss function for image segmentation using 3D fully convolutional deep
        networks (2017).

    Example:
        >>> tversky(0.3, 0.7)(torch.zeros(4), torch.tensor([1, 0, 1, 0]))
        tensor(0.5000)
    """
    return soft(tversky_index(alpha, beta))


@dataclass(frozen=True)
class bce_dice:
    """Cross-entropy plus a soft metric: bce + weight * Dice, whose gradient neither fades far off nor ignores overlap.

    Args:
        weight: of the soft metric.
        metric: f1 for Dice, iou for Jaccard, or any other that ``soft`` takes; its items and what it ignores are those
            of both terms. With ``macro(f1, classes=K)`` the other term is the cross-entropy of classes.

    Raises:
        TypeError: ``metric`` has no formula of counts.
        ValueError: ``weight`` is negative or not finite.

    Source: Isensee, Jaeger, Kohl, Petersen, Maier-Hein, nnU-Net (2021); Taghanaki et al., Combo loss (2019).

    Example:
        >>> bce_dice()(torch.zeros(4), torch.tensor([1, 0, 1, 0]))
        tensor(1.1931)
    """

    weight: float = 1.0
    metric: Counted = f1

    def __post_init__(self) -> None:
        check_metric(self.metric, _FORMULAS)
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"needed a weight of at least 0 and finite, got {self.weight}")

    def __call__(self, logits: Float[Tensor, "..."], target: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """The loss of logits ``*batch *items [classes]`` and a target ``*batch *items``, a scalar."""
        entropy = cross_entropy if isinstance(self.metric, ConfusionMetric) else bce
        of_each = entropy(logits, target, ignore_index=self.metric.ignore_index)
        return of_each + self.weight * soft(self.metric)(logits, target)
