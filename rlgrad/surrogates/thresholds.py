"""What people do instead of training on the metric: train on something else, then tune the thresholds.

A row's scores are sorted once; its counts after each number of claims are cumulative sums, and the formula is evaluated
at all of them together. Where rows are scored apart and share a threshold, each score that it passes changes the metric
of one row, so the mean over rows is a cumulative sum too.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Num, Shaped
from torch import Tensor

from rlgrad.checks import as_binary, check_rows_of_several, counted_logits, describe
from rlgrad.metrics import CountMetric, Counts, LabelMetric, flat_items, hard_counts
from rlgrad.metrics.counts import count_dtype
from rlgrad.metrics.items import split_ignored
from rlgrad.surrogates.inputs import check_metric


def best_threshold(
    metric: CountMetric | LabelMetric, scores: Float[Tensor, "..."], target: Shaped[Tensor, "..."]
) -> tuple[float, float]:
    """The threshold whose decisions ``scores > threshold`` have the highest metric, and that metric.

    One threshold for all, the best for the mean over rows where rows are scored apart. Every cut is tried, in
    O(N log N). Equal scores are never parted. Between two scores the threshold lies halfway; claiming nothing and
    claiming everything are cuts too. Among equals the highest threshold wins; means over several rows are equal where
    they differ by a part in 10^12. Items whose target is the metric's ``ignore_index`` are left out.

    Args:
        metric: any CountMetric, or an average of one over labels.
        scores: ``*batch *items``, one for each decision, larger for a more likely 1; logits or probabilities alike.
        target: 0 and 1 in any dtype, or ``ignore_index``.

    Raises:
        TypeError: the metric is something else, or the scores are not floating point.
        ValueError: the shapes differ, no score counts, or one is not finite.

    Source: Lipton, Elkan, Naryanaswamy, Optimal thresholding of classifiers to maximize F1 measure (2014).

    Example:
        >>> from rlgrad.metrics import f1
        >>> best_threshold(f1, torch.tensor([0.9, 0.4, 0.3, 0.1]), torch.tensor([1, 0, 1, 0]))
        (0.2..., 0.8...)

        Of images, each scored by itself: ``best_threshold(iou.over(2), logits, masks)``.
    """
    check_metric(metric, (CountMetric, LabelMetric))
    scores = _usable(metric, scores, target)
    threshold = _one_for_all(metric, scores, target)
    return threshold, float(metric(scores > threshold, target).mean())


def best_thresholds(
    metric: CountMetric | LabelMetric, scores: Float[Tensor, "rows labels"], target: Shaped[Tensor, "rows labels"]
) -> tuple[Float[Tensor, " labels"], float]:
    """A threshold for each label of a table, and the metric of ``scores > thresholds``.

    For macro and weighted averages the labels are independent: each label's best threshold is the best for the
    average. Other metrics, ``f1`` of each row (the instance average) or ``micro(f1, labels=L)``, start from the best
    single threshold and change one label's at a time to its best cut, with the others as they are, for as long as that
    raises the metric: never worse than the single threshold, and no change of one label is better. A label of which no
    decision counts has the single threshold.

    Args:
        metric: any CountMetric, whose rows are those of the table, or the table as one for ``f1.over(2)``; or an
            average over labels.
        scores: one for each decision, larger for a more likely 1.
        target: 0 and 1 in any dtype, or ``ignore_index``.

    Raises:
        TypeError, ValueError: as ``best_threshold``; the scores are no table.

    Source: Fan, Lin, A study on threshold selection for multi-label classification (2007), for the coordinate ascent.

    Example:
        >>> from rlgrad.metrics import f1, macro
        >>> scores = torch.tensor([[0.9, 0.3], [0.8, 0.1], [0.4, 0.2]])
        >>> best_thresholds(macro(f1, labels=2), scores, torch.tensor([[1, 1], [1, 0], [0, 1]]))
        (tensor([0.6000, 0.1500]), 1.0)
    """
    check_metric(metric, (CountMetric, LabelMetric))
    if scores.ndim != 2:
        raise ValueError(f"needed scores of shape (rows, labels), got {describe(scores)}; reshape them")
    scores = _usable(metric, scores, target)
    thresholds = scores.new_full(scores.shape[1:], _one_for_all(metric, scores, target))
    if isinstance(metric, CountMetric):
        thresholds = _ascended(metric, scores, target, thresholds)
    elif metric.average == "micro":
        thresholds = _ascended(metric.metric.over(2), scores, target, thresholds)
    else:
        for label in range(len(thresholds)):
            if metric.ignore_index is None or (target[:, label] != metric.ignore_index).any():
                thresholds[label] = _one_for_all(metric.metric.over(1), scores[:, label], target[:, label])
    return thresholds, float(metric(scores > thresholds, target).mean())


def _usable(metric: CountMetric | LabelMetric, scores: Tensor, target: Tensor) -> Tensor:
    """The scores, 0 where they do not count; refused where a threshold cannot be found for them."""
    scores = counted_logits(scores.detach(), target, metric.ignore_index)
    true, kept = split_ignored(target, metric.ignore_index)
    as_binary(true, what="target")
    if not (true.numel() if kept is None else kept.sum()):
        raise ValueError(f"needed scores of a decision that counts, got {describe(scores)} without; add data")
    if not torch.isfinite(scores).all():
        raise ValueError("needed finite scores, got an infinite one; clamp them first")
    return scores


def _one_for_all(metric: CountMetric | LabelMetric, scores: Tensor, target: Tensor) -> float:
    """The best threshold of all rows, or of all labels."""
    if isinstance(metric, LabelMetric):
        if scores.ndim != 2:
            raise ValueError(f"needed a table (rows, labels) for {metric.name}, got {describe(scores)}; flatten it")
        rows = metric.arrange(scores)
        # The average is linear in what the labels score: these are its weights.
        one = torch.eye(metric.labels, dtype=count_dtype(target.device), device=target.device)
        share = None if metric.average == "micro" else metric.reduce(one, metric.support(target))
        return _best_of_rows(metric.metric, rows, metric.arrange(target), share)
    check_rows_of_several(flat_items(target, metric.item_axes))
    return _best_of_rows(metric, flat_items(scores, metric.item_axes), target, None)


def _best_of_rows(metric: CountMetric, scores: Tensor, target: Tensor, share: Tensor | None) -> float:
    items = scores.shape[-1]
    true, kept = metric.split(target)
    counted = torch.ones_like(true) if kept is None else kept
    ordered, order = scores.reshape(-1, items).sort(dim=-1, descending=True)
    counted = counted.reshape(-1, items).gather(-1, order)
    values = values_at_cuts(metric, true.reshape(-1, items).gather(-1, order), counted)
    return _threshold_after(*best_cut(ordered, counted, values, share))


def values_at_cuts(
    metric: CountMetric,
    true: Bool[Tensor, "rows items"],
    counted: Bool[Tensor, "rows items"],
    rest: Counts | None = None,
) -> Float[Tensor, "rows items+1"]:
    """What each row scores after its first k claims, k = 0, 1, ...

    Args:
        metric: of the counts.
        true: truth of the items, from the highest score to the lowest.
        counted: which of them count.
        rest: counts of the row's other decisions, ``rows``; none by default.
    """
    tp = F.pad((true & counted).cumsum(-1), (1, 0))
    fp = F.pad(counted.cumsum(-1), (1, 0)) - tp
    counts = Counts(tp, fp, tp[:, -1:] - tp, fp[:, -1:] - fp)
    if rest is not None:
        counts = Counts(*(count + other[:, None] for count, other in zip(counts, rest, strict=True)))
    return metric.of_counts(*counts)


def best_cut(
    ordered: Float[Tensor, "rows items"],
    counted: Bool[Tensor, "rows items"],
    values: Float[Tensor, "rows items+1"],
    share: Num[Tensor, " rows"] | None = None,
) -> tuple[Float[Tensor, " scores"], int]:
    """The cut common to all rows that has the highest mean of their values; the highest among equals.

    Args:
        ordered: each row's scores, from the highest to the lowest.
        counted: which of them count.
        values: of each row after its first k claims.
        share: weight of each row in the mean; equal by default.

    Returns:
        The scores of all rows that count, from the highest to the lowest, and how many of them lie above the cut.
    """
    if share is None:
        share = torch.full_like(values[:, 0], 1 / len(values))
    pooled, order = ordered[counted].sort(descending=True, stable=True)
    if len(values) == 1:  # as they are, without the rounding of sums
        totals, slack = torch.cat([values[0, :1], values[0, 1:][counted[0]]]), 0.0
    else:
        # Each score that the threshold passes changes the value of its own row.
        steps = (values.diff(dim=-1) * share.to(values)[:, None])[counted][order]
        totals = F.pad(steps.cumsum(0), (1, 0)) + (values[:, 0] * share.to(values)).sum()
        slack = 1e-12 * float(values.abs().max())
    # A cut after k scores is one where the next score is lower, or where there is no next.
    cut = F.pad(pooled[:-1] > pooled[1:], (1, 1), value=True)
    good = cut & (totals >= totals[cut].max() - slack)
    return pooled, int(good.nonzero()[0])


def _threshold_after(ordered: Tensor, claimed: int) -> float:
    if claimed == 0:
        return float(ordered[0])
    low = ordered[claimed] if claimed < len(ordered) else torch.nextafter(ordered[-1], ordered[-1] - torch.inf)
    high = ordered[claimed - 1]
    middle = high / 2 + low / 2  # halved first: the sum of two large ones would overflow
    # Halfway between neighbouring floating-point numbers rounds to one of them; the lower keeps them apart.
    return float(middle if low <= middle < high else low)


def _ascended(metric: CountMetric, scores: Tensor, target: Tensor, thresholds: Tensor) -> Tensor:
    """Coordinate ascent: each label's best cut in turn, kept where it raises the metric, until none does."""
    best = float(metric(scores > thresholds, target).mean())
    raised = True
    while raised:  # it ends: the metric rises each time, and takes finitely many values
        raised = False
        for label in range(len(thresholds)):
            changed = thresholds.clone()
            changed[label] = _best_of_label(metric, scores, target, thresholds, label)
            value = float(metric(scores > changed, target).mean())
            if value > best:
                best, thresholds, raised = value, changed, True
    return thresholds


def _best_of_label(metric: CountMetric, scores: Tensor, target: Tensor, thresholds: Tensor, label: int) -> float:
    """The best threshold of one label with those of the others as they are."""
    true, kept = split_ignored(target, metric.ignore_index)
    true = as_binary(true, what="target")
    kept = torch.ones_like(true) if kept is None else kept
    if not kept[:, label].any():
        return float(thresholds[label])
    others = kept.index_fill(1, torch.tensor(label, device=kept.device), False)
    shape = (1, -1) if metric.item_axes > 1 else (-1, 1)  # the table as one row, or each of its rows by itself
    table = (scores > thresholds, true, others)
    rest = hard_counts(*(each.flatten() if metric.item_axes > 1 else each for each in table))
    ordered, order = scores[:, label].reshape(shape).sort(dim=-1, descending=True)
    true, counted = (each[:, label].reshape(shape).gather(-1, order) for each in (true, kept))
    values = values_at_cuts(metric, true, counted, Counts(*(count.reshape(-1) for count in rest)))
    return _threshold_after(*best_cut(ordered, counted, values))
