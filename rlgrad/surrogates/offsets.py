"""Threshold tuning for several classes: what to add to each class's logit before the largest is taken."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from rlgrad.checks import counted_logits, describe
from rlgrad.metrics import ConfusionMetric, hard_confusion
from rlgrad.metrics.items import split_ignored
from rlgrad.policies import slices
from rlgrad.surrogates.inputs import check_metric
from rlgrad.surrogates.thresholds import best_cut


def best_offsets(
    metric: ConfusionMetric, logits: Float[Tensor, "..."], target: Shaped[Tensor, "..."]
) -> tuple[Float[Tensor, " classes"], float]:
    """Offsets of the classes, and the metric of the decisions ``(logits + offsets).argmax(-1)``.

    Coordinate ascent from zero: with the other offsets as they are, an item goes to a class where its logit's lead over
    the others exceeds minus the class's offset, which is a threshold; all cuts are tried, and the best is kept where it
    raises the metric, until no class's does. So it is never worse than no offsets, and no change of one offset is
    better (up to ties in logits that rounding makes or parts). Where rows are scored apart it raises their mean.

    Args:
        metric: any ConfusionMetric.
        logits: ``*batch *items classes``, or log-probabilities.
        target: ``*batch *items``, classes, or ``ignore_index``.

    Raises:
        TypeError: the metric is no ConfusionMetric, or the logits are not floating point.
        ValueError: the shapes differ, no item counts, there is another number of classes, or a logit is not finite.

    Example:
        >>> from rlgrad.metrics import f1, macro
        >>> logits = torch.tensor([[2.0, 0.0], [1.5, 1.0], [1.0, 0.8]])
        >>> offsets, value = best_offsets(macro(f1, classes=2), logits, torch.tensor([0, 1, 1]))
        >>> (logits + offsets).argmax(-1), value
        (tensor([0, 1, 1]), 1.0)
    """
    check_metric(metric, (ConfusionMetric,))
    logits, true, kept = _rows(metric, logits, target)
    offsets = torch.zeros(metric.classes, dtype=logits.dtype, device=logits.device)
    best, raised = _value(metric, logits + offsets, true, kept), True
    while raised:  # it ends: the metric rises each time, and takes finitely many values
        raised = False
        for label in range(metric.classes):
            changed = offsets.clone()
            changed[label] = _best_offset(metric, logits + offsets, true, kept, label) + offsets[label]
            value = _value(metric, logits + changed, true, kept)
            if value > best:
                best, offsets, raised = value, changed, True
    return offsets, best


def _rows(metric: ConfusionMetric, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits ``rows items classes`` in double precision, truth, and which items count."""
    logits = counted_logits(logits.detach(), target, metric.ignore_index, axes=2)
    if logits.shape[-1] != metric.classes:
        raise ValueError(f"needed logits of {metric.classes} classes for {metric.name}, got {describe(logits)}")
    if not torch.isfinite(logits).all():
        raise ValueError("needed finite logits, got an infinite one; clamp them first")
    true, kept = split_ignored(target, metric.ignore_index)
    kept = torch.ones_like(true, dtype=torch.bool) if kept is None else kept
    if not kept.any():
        raise ValueError(f"needed an item that counts, got {describe(target)} without; add data")
    shape = (-1, target.shape[target.ndim - metric.item_axes :].numel())
    return logits.double().reshape(*shape, metric.classes), true.reshape(shape), kept.reshape(shape)


def _value(metric: ConfusionMetric, logits: Tensor, true: Tensor, kept: Tensor) -> float:
    confusion = hard_confusion(logits.argmax(-1), true, metric.classes, kept)
    return float(metric.of_confusion(confusion).mean())


def _best_offset(
    metric: ConfusionMetric,
    logits: Float[Tensor, "rows items classes"],
    true: Int[Tensor, "rows items"],
    kept: Shaped[Tensor, "rows items"],
    label: int,
) -> float:
    """What to add to one class's logit: minus the best threshold of its lead over the other classes."""
    others = logits.index_fill(-1, torch.tensor(label, device=logits.device), -torch.inf)
    runner_up, other = others.max(-1)
    lead, order = (logits[..., label] - runner_up).sort(dim=-1, descending=True)
    true, other, kept = (each.gather(-1, order) for each in (true, other, kept))
    leads, claimed = best_cut(lead, kept, _values_at_cuts(metric, true, other, kept, label))
    # Halfway between two leads, or well beyond the last: an item whose lead is made up exactly would be a tie.
    bounded = F.pad(leads, (1, 1))
    bounded[0], bounded[-1] = leads[0] + 2, leads[-1] - 2
    return -float(bounded[claimed : claimed + 2].mean())


def _values_at_cuts(
    metric: ConfusionMetric,
    true: Shaped[Tensor, "rows items"],
    other: Shaped[Tensor, "rows items"],
    kept: Shaped[Tensor, "rows items"],
    label: int,
) -> Float[Tensor, "rows items+1"]:
    """What each row scores after its first k items, k = 0, 1, ..., have gone from another class to this one."""
    confusion = hard_confusion(other, true, metric.classes, kept)
    values = [metric.of_confusion(confusion)[:, None]]
    for part in slices(true.shape[-1], len(true) * metric.classes**2):
        moves = _cells(true[:, part], label, metric.classes) - _cells(true[:, part], other[:, part], metric.classes)
        along = confusion[:, None] + (moves * kept[:, part, None, None]).cumsum(1)
        values.append(metric.of_confusion(along))
        confusion = along[:, -1]
    return torch.cat(values, dim=1)


def _cells(true: Tensor, claimed: Tensor | int, classes: int) -> Int[Tensor, "rows items true claimed"]:
    """One-hot in the confusion matrix, for each item."""
    cell = F.one_hot((true * classes + claimed).long(), classes**2)
    return cell.view(*true.shape, classes, classes)
