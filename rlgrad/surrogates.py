"""What people train on instead of the metric: criteria with a useful gradient, called ``criterion(logits, target)``.

Each averages over all decisions, or over rows where it scores rows, and returns a scalar.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from rlgrad.checks import as_binary, check_logits, check_rows_of_several, check_target, describe
from rlgrad.metrics import CountMetric, expected_counts
from rlgrad.metrics.counts import count_dtype

Criterion = Callable[[Tensor, Tensor], Tensor]


def bce(logits: Float[Tensor, "*batch items"], target: Shaped[Tensor, "*batch items"]) -> Float[Tensor, ""]:
    """Cross-entropy of yes/no decisions: the mean of -log P(target).

    Args:
        logits: any floating-point type.
        target: 0 and 1 in any dtype.

    Raises:
        TypeError, ValueError: as every criterion here: logits that are not floating point or hold NaN, shapes that
            differ, a target other than 0 and 1.

    Example:
        >>> bce(torch.tensor([0.0, 0.0]), torch.tensor([1, 0]))
        tensor(0.6931)
    """
    logits, true = _checked(logits, target)
    return _mean(F.binary_cross_entropy_with_logits(logits, true.to(logits), reduction="none"))


@dataclass(frozen=True)
class weighted_bce:
    """Cross-entropy in which a positive weighs ``positive_weight`` times as much as a negative.

    Args:
        positive_weight: "balanced" gives both classes of a batch the same total weight, negatives / positives; a batch
            without one class is left unweighted.

    Raises:
        ValueError: ``positive_weight`` is neither "balanced" nor a positive finite number.

    Source: King, Zeng, Logistic regression in rare events data (2001); scikit-learn's class_weight="balanced".

    Example:
        >>> weighted_bce(positive_weight=3.0)(torch.tensor([0.0, 0.0]), torch.tensor([1, 0]))
        tensor(0.6931)
    """

    positive_weight: float | str = "balanced"

    def __post_init__(self) -> None:
        weight = self.positive_weight
        if weight != "balanced" and not (isinstance(weight, int | float) and 0 < weight < float("inf")):
            raise ValueError(f'needed "balanced" or a positive weight, got {weight!r}')

    def __call__(self, logits: Float[Tensor, "*batch items"], target: Shaped[Tensor, "*batch items"]) -> Tensor:
        """The loss, a scalar."""
        logits, true = _checked(logits, target)
        weight = torch.where(true, self._of_positives(true), 1.0).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, true.to(logits), reduction="none")
        return (weight * losses).sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)

    def _of_positives(self, true: Tensor) -> Tensor:
        if isinstance(self.positive_weight, str):
            positives = true.sum()
            negatives = true.numel() - positives
            return torch.where((positives > 0) & (negatives > 0), negatives / positives, 1.0)
        return torch.tensor(float(self.positive_weight), device=true.device)


@dataclass(frozen=True)
class focal:
    """Cross-entropy turned down on decisions that are already right: mean of -alpha_t (1 - p_t)^gamma log p_t.

    p_t is the probability of the true class; alpha_t is ``alpha`` for positives and 1 - alpha for negatives.

    Args:
        gamma: how strongly; 0 gives cross-entropy.
        alpha: weight of positives against negatives in [0, 1], or None for no weights.

    Raises:
        ValueError: ``gamma`` is negative, or ``alpha`` lies outside [0, 1].

    Source: Lin, Goyal, Girshick, He, Dollar, Focal loss for dense object detection (2017).

    Example:
        >>> focal(gamma=2.0)(torch.tensor([0.0, 0.0]), torch.tensor([1, 0]))
        tensor(0.1733)
    """

    gamma: float = 2.0
    alpha: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < float("inf"):
            raise ValueError(f"needed gamma of at least 0 and finite, got {self.gamma}")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ValueError(f"needed alpha in [0, 1] or None, got {self.alpha}")

    def __call__(self, logits: Float[Tensor, "*batch items"], target: Shaped[Tensor, "*batch items"]) -> Tensor:
        """The loss, a scalar."""
        logits, true = _checked(logits, target)
        of_truth = torch.where(true, logits, -logits)
        # (1 - p_t)^gamma through its logarithm, whose gradient is finite where p_t rounds to 1.
        losses = -torch.exp(self.gamma * F.logsigmoid(-of_truth)) * F.logsigmoid(of_truth)
        if self.alpha is not None:
            losses = losses * torch.where(true, self.alpha, 1 - self.alpha).to(losses.dtype)
        return _mean(losses)


@dataclass(frozen=True)
class soft:
    """One minus the metric's formula of *expected* counts: soft F1, Dice, soft Jaccard, and so on for any formula.

    soft(m) = 1 - m(E[tp], E[fp], E[fn], E[tn]): the expectation is moved inside the formula. For f1 this is the Dice
    loss, for iou the Jaccard loss, both without a smoothing term. Averaged over rows.

    Args:
        metric: any CountMetric, differentiable where the gradient is to be useful.

    Raises:
        TypeError: ``metric`` is not a CountMetric: only a formula can be given expected counts.

    Source: Pastor-Pellicer et al., F-measure as the error function to train neural networks (2013); Milletari, Navab,
        Ahmadi, V-Net (2016), for Dice.

    Example:
        >>> from rlgrad.metrics import f1
        >>> logits = torch.logit(torch.tensor([0.9, 0.6, 0.4, 0.2]))
        >>> print(f"{soft(f1)(logits, torch.tensor([1, 0, 1, 0])):.6f}")
        0.365854
    """

    metric: CountMetric

    def __post_init__(self) -> None:
        if not isinstance(self.metric, CountMetric):
            raise TypeError(f"needed a CountMetric, got {self.metric!r}; write the metric as a formula of counts")

    def __call__(self, logits: Float[Tensor, "*batch items"], target: Shaped[Tensor, "*batch items"]) -> Tensor:
        """The loss, a scalar."""
        logits, true = _checked(logits, target)
        check_rows_of_several(true)
        probs = torch.sigmoid(logits.to(count_dtype(logits.device)))
        losses = 1 - self.metric.of_counts(*expected_counts(probs, true))
        return _mean(losses).to(logits.dtype)


@dataclass(frozen=True)
class lovasz:
    """The Lovasz hinge of any formula of counts: Lovasz-Jaccard for iou, and so on.

    The loss 1 - metric is a function of the set of wrong decisions; its Lovasz extension interpolates it linearly
    between those sets and is evaluated at the hinge errors e_i = max(0, 1 - margin_i):

        loss(none) + sum over k of e_(k) (loss(first k wrong) - loss(first k - 1 wrong)),   e_(1) >= e_(2) >= ...

    The counts after k errors are cumulative sums, as for the best threshold: O(N log N). Where the loss is increasing
    and submodular, as for iou, it is convex in the logits and an upper bound; for other formulas it is the same
    extension without that promise. Averaged over rows.

    Args:
        metric: any CountMetric.

    Raises:
        TypeError: ``metric`` is not a CountMetric: only a formula can be asked about every number of errors.

    Source: Berman, Triki, Blaschko, The Lovasz-softmax loss (2018); Yu, Blaschko, Learning submodular losses with the
        Lovasz hinge (2015).

    Example:
        >>> from rlgrad.metrics import iou
        >>> lovasz(iou)(torch.tensor([2.0, 0.5, -3.0]), torch.tensor([1, 0, 0]))
        tensor(0.7500)
    """

    metric: CountMetric

    def __post_init__(self) -> None:
        if not isinstance(self.metric, CountMetric):
            raise TypeError(f"needed a CountMetric, got {self.metric!r}; write the metric as a formula of counts")

    def __call__(self, logits: Float[Tensor, "*batch items"], target: Shaped[Tensor, "*batch items"]) -> Tensor:
        """The loss, a scalar."""
        logits, true = _checked(logits, target)
        check_rows_of_several(true)
        errors, order = F.relu(1 - torch.where(true, logits, -logits)).sort(dim=-1, descending=True, stable=True)
        # After the first k errors, k = 0, 1, ...: so many are missed, the others claimed by mistake.
        fn = F.pad(true.gather(-1, order).cumsum(-1), (1, 0))
        fp = torch.arange(fn.shape[-1], device=fn.device) - fn
        positives, negatives = fn[..., -1:], fp[..., -1:]
        values = 1 - self.metric.of_counts(positives - fn, fp, fn, negatives - fp)
        extension = (errors * values.diff(dim=-1)).sum(-1) + values[..., 0]
        return _mean(extension).to(logits.dtype)


def best_threshold(
    metric: CountMetric, scores: Float[Tensor, " items"], target: Shaped[Tensor, " items"]
) -> tuple[float, float]:
    """The threshold whose decisions ``scores > threshold`` have the highest metric, and that metric.

    The scores are sorted once; the counts at every cut are cumulative sums, and the formula is evaluated at all of them
    together: O(N log N). Equal scores are never parted. Between two scores the threshold lies halfway; claiming
    nothing and claiming everything are cuts too. Among equals the highest threshold wins.

    Args:
        metric: any CountMetric.
        scores: one for each decision, larger for a more likely 1; logits or probabilities alike.
        target: 0 and 1 in any dtype.

    Raises:
        TypeError: the metric is not a CountMetric, or the scores are not floating point.
        ValueError: the shapes differ or are not one axis, there are no scores, or one is not finite.

    Source: Lipton, Elkan, Naryanaswamy, Optimal thresholding of classifiers to maximize F1 measure (2014).

    Example:
        >>> from rlgrad.metrics import f1
        >>> best_threshold(f1, torch.tensor([0.9, 0.4, 0.3, 0.1]), torch.tensor([1, 0, 1, 0]))
        (0.2..., 0.8...)
    """
    if not isinstance(metric, CountMetric):
        raise TypeError(f"needed a CountMetric, got {metric!r}; write the metric as a formula of counts")
    _, true = _checked(scores, target)
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"needed scores of shape (items,) with an item, got {describe(scores)}; flatten them")
    if not torch.isfinite(scores).all():
        raise ValueError("needed finite scores, got an infinite one; clamp them first")
    ordered, order = scores.detach().sort(descending=True)
    tp = F.pad(true[order].cumsum(0), (1, 0))
    claimed = torch.arange(len(ordered) + 1, device=tp.device)
    fp = claimed - tp
    values = metric.of_counts(tp, fp, tp[-1] - tp, fp[-1] - fp)
    # A cut after k scores is one where the next score is lower, or where there is no next.
    cut = F.pad(ordered[:-1] > ordered[1:], (1, 1), value=True)
    best = int(torch.where(cut, values, -torch.inf).eq(values[cut].max()).nonzero()[0])
    return _threshold_after(ordered, best), float(values[best])


def _threshold_after(ordered: Tensor, claimed: int) -> float:
    if claimed == 0:
        return float(ordered[0])
    low = ordered[claimed] if claimed < len(ordered) else torch.nextafter(ordered[-1], ordered[-1] - torch.inf)
    high = ordered[claimed - 1]
    middle = high / 2 + low / 2  # halved first: the sum of two large ones would overflow
    # Halfway between neighbouring floating-point numbers rounds to one of them; the lower keeps them apart.
    return float(middle if low <= middle < high else low)


def _mean(losses: Tensor) -> Tensor:
    # An empty batch has no mean; it gives zero, attached to the graph, which distributed training needs.
    return losses.sum() / max(1, losses.numel())


def _checked(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    check_logits(logits)
    check_target(logits, target)
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return wide, as_binary(target, what="target")
