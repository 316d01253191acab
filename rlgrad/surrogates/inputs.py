"""What every surrogate does with its input: check it, leave out what is ignored, average what is left."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from rlgrad.checks import check_rows_of_several, describe
from rlgrad.metrics import ConfusionMetric, CountMetric, LabelMetric, flat_items

Criterion = Callable[[Tensor, Tensor], Tensor]
Counted = CountMetric | ConfusionMetric | LabelMetric


def check_metric(metric: object, kinds: tuple[type, ...]) -> None:
    """A metric is a formula of counts, of one of these kinds.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(metric, kinds):
        names = " or a ".join(kind.__name__ for kind in kinds)
        if isinstance(metric, Tensor):
            raise TypeError(f"needed a {names}, got {describe(metric)}; the metric comes first, then logits and target")
        raise TypeError(f"needed a {names}, got {metric!r}; write the metric as a formula of counts")


def mean(losses: Float[Tensor, "*shape"], kept: Bool[Tensor, "*shape"] | None = None) -> Float[Tensor, ""]:
    """The mean of the losses that are kept."""
    # An empty batch has no mean; it gives zero, attached to the graph, which distributed training needs.
    if kept is None:
        return losses.sum() / max(1, losses.numel())
    return torch.where(kept, losses, 0.0).sum() / kept.sum().clamp_min(1)


def of_metric(
    metric: Counted,
    value: Callable[[Counted, Tensor, Tensor], Tensor],
    logits: Float[Tensor, "..."],
    target: Shaped[Tensor, "..."],
) -> Float[Tensor, "*batch"]:
    """What ``value(metric, logits, target)`` gives for each row, or for each label and averaged as the metric says."""
    if isinstance(metric, LabelMetric):
        of_label = value(metric.metric, metric.arrange(logits), metric.arrange(target))
        return metric.reduce(of_label, metric.support(target))
    check_rows_of_several(flat_items(target, metric.item_axes))
    return value(metric, logits, target)
