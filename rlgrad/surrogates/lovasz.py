"""Lovasz extensions: the loss of a set of wrong decisions, made piecewise linear in how wrong each is."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from rlgrad.checks import check_rows_of_several, counted_logits
from rlgrad.metrics import CountMetric, LabelMetric, flat_items, iou
from rlgrad.metrics.confusion import check_class_numbers
from rlgrad.metrics.items import split_ignored
from rlgrad.policies import wide
from rlgrad.surrogates.inputs import Counted, check_metric, mean, of_metric


def extension(
    metric: CountMetric,
    errors: Float[Tensor, "*batch items"],
    true: Bool[Tensor, "*batch items"],
    kept: Bool[Tensor, "*batch items"] | None = None,
) -> Float[Tensor, "*batch"]:
    """The Lovasz extension of 1 - metric at these errors.

    loss(none wrong) + sum over k of e_(k) (loss(first k wrong) - loss(first k - 1 wrong)),   e_(1) >= e_(2) >= ...

    Args:
        metric: of the counts.
        errors: how wrong each decision is; 0 is right, 1 wrong.
        true: truth of each, false where it does not count.
        kept: which count; all by default.
    """
    errors, order = errors.sort(dim=-1, descending=True, stable=True)
    # After the first k errors, k = 0, 1, ...: so many are missed, the others claimed by mistake.
    fn = F.pad(true.gather(-1, order).cumsum(-1), (1, 0))
    counted = torch.ones_like(true) if kept is None else kept.gather(-1, order)
    fp = F.pad(counted.cumsum(-1), (1, 0)) - fn
    positives, negatives = fn[..., -1:], fp[..., -1:]
    values = 1 - metric.of_counts(positives - fn, fp, fn, negatives - fp)
    return (errors * values.diff(dim=-1)).sum(-1) + values[..., 0]


@dataclass(frozen=True)
class lovasz:
    """The Lovasz hinge of any formula of counts: Lovasz-Jaccard for iou, and so on.

    The loss 1 - metric is a function of the set of wrong decisions; its Lovasz extension interpolates it linearly
    between those sets and is evaluated at the hinge errors e_i = max(0, 1 - margin_i):

        loss(none) + sum over k of e_(k) (loss(first k wrong) - loss(first k - 1 wrong)),   e_(1) >= e_(2) >= ...

    The counts after k errors are cumulative sums, as for the best threshold: O(N log N). Where the loss is increasing
    and submodular, as for iou, it is convex in the logits and an upper bound; for other formulas it is the same
    extension without that promise. Averaged over rows; ``lovasz(iou.over(2).ignoring(255))`` for images, as ``soft``.

    Args:
        metric: any CountMetric, or an average of one over labels.

    Raises:
        TypeError: ``metric`` is something else: only a formula can be asked about every number of errors.

    Source: Berman, Triki, Blaschko, The Lovasz-softmax loss (2018); Yu, Blaschko, Learning submodular losses with the
        Lovasz hinge (2015).

    Example:
        >>> from rlgrad.metrics import iou
        >>> lovasz(iou)(torch.tensor([2.0, 0.5, -3.0]), torch.tensor([1, 0, 0]))
        tensor(0.7500)
    """

    metric: CountMetric | LabelMetric

    def __post_init__(self) -> None:
        check_metric(self.metric, (CountMetric, LabelMetric))

    def __call__(self, logits: Float[Tensor, "..."], target: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """The loss of logits and a target ``*batch *items``, a scalar."""
        logits = wide(counted_logits(logits, target, self.metric.ignore_index))
        return mean(of_metric(self.metric, _hinge, logits, target)).to(logits.dtype)


def _hinge(metric: Counted, logits: Tensor, target: Tensor) -> Tensor:
    assert isinstance(metric, CountMetric)
    true, kept = metric.split(target)
    margin = flat_items(logits, metric.item_axes) * torch.where(true, 1, -1)
    return extension(metric, F.relu(1 - margin), true, kept)


@dataclass(frozen=True)
class lovasz_softmax:
    """The Lovasz extension for classes, at the errors of the probabilities: |1 if the class is true - P(class)|.

    Each class against the rest has its own extension of 1 - metric; they are averaged over the classes of a row, and
    then over rows. For iou it is a surrogate of the mean IoU.

    Args:
        metric: of one class against the rest; ``lovasz_softmax(iou.over(2).ignoring(255))`` for images.
        classes: "present" averages over the classes that the row's target holds, as the paper does; "all" over all,
            one that is absent counting for its largest probability. A row that is wholly ignored is 0 under "present".

    Raises:
        TypeError: ``metric`` is no CountMetric.
        ValueError: another word for ``classes``.

    Source: Berman, Triki, Blaschko, The Lovasz-softmax loss (2018).

    Example:
        >>> lovasz_softmax()(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
        tensor(0.5000)
    """

    metric: CountMetric = iou
    classes: Literal["present", "all"] = "present"

    def __post_init__(self) -> None:
        check_metric(self.metric, (CountMetric,))
        if self.classes not in ("present", "all"):
            raise ValueError(f"needed classes of present or all, got {self.classes!r}")

    def __call__(self, logits: Float[Tensor, "..."], target: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """The loss of logits ``*batch *items classes`` and a target ``*batch *items``, a scalar."""
        axes, ignored = self.metric.item_axes, self.metric.ignore_index
        logits = wide(counted_logits(logits, target, ignored, axes=2))
        number, (true, kept) = logits.shape[-1], split_ignored(target, ignored)
        check_class_numbers(true, number, "target")
        check_rows_of_several(flat_items(true, axes))
        hot = _by_class(F.one_hot(true.long(), number).bool(), axes)
        if kept is not None:
            kept = flat_items(kept, axes)[..., None, :].expand(hot.shape)
            hot = hot & kept
        probs = _by_class(torch.softmax(logits, -1), axes)
        of_class = extension(self.metric, torch.where(hot, 1 - probs, probs), hot, kept)
        weight = hot.any(-1).to(of_class) if self.classes == "present" else torch.ones_like(of_class)
        return mean((weight * of_class).sum(-1) / weight.sum(-1).clamp_min(1)).to(logits.dtype)


def _by_class(values: Tensor, axes: int) -> Shaped[Tensor, "*batch classes items"]:
    return values.flatten(-1 - axes, -2).mT
