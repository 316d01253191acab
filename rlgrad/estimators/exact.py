"""The policy gradient of a count metric without sampling, and of its averages over classes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlgrad.checks import check_target
from rlgrad.credit import check_classes, counted
from rlgrad.estimators.count_law import count_rule
from rlgrad.metrics import ClassAverage, ConfusionMetric, CountMetric, Counts, Score, Scorer
from rlgrad.metrics.averages import class_counts
from rlgrad.metrics.confusion import check_class_numbers
from rlgrad.metrics.counts import count_dtype
from rlgrad.policies import Categorical, Policy


@dataclass(frozen=True)
class exact:
    """The exact expectation of a CountMetric under a Bernoulli policy, and by autograd its gradient.

        E[metric] = sum over s, t of P(tp = s) P(fp = t) formula(s, t, positives - s, negatives - t)

    True and false positives are independent counts of independent decisions. Each enters by its full law where it has
    few likely outcomes, else by a Gauss rule matched to its first six cumulants (see ``count_law``): O(items), no
    sampling, zero variance, and the formula is evaluated only, never differentiated.

    The law is taken for a count whose standard deviation lies below 6, and leaves an error of about 1e-11. The Gauss
    rule leaves, in the gradient relative to the full law's, at most 1e-9 for each metric of the catalogue at the
    switch itself, where it is worst (g_mean, then precision), at most 1e-12 for f1 and iou, and less from there on.
    That holds for smooth formulas. One with a jump or a kink inside the counts' range, such as a quota, is exact under
    the law alone; the Gauss rule misses the jump between its nodes, so train such a formula with ``counterfactual``.

    An average over classes under a Categorical policy (``macro(f1, classes=K)``, mean IoU, ...) is as exact: the items
    that are given one class are counts of independent decisions too, and the mean of the classes' expectations is that
    of their mean, as long as the truth alone decides which classes are in it (``ClassAverage.linear``).

    Raises:
        TypeError: on use, with a policy, a metric or weights of items for which there is no law of counts: anything
            but a CountMetric under a Bernoulli policy and a linear or micro ``ClassAverage`` under a Categorical one.

    Source: Jansche, Maximum expected F-measure training of logistic regression models (2005), whose approximation this
        replaces; Hong (2013) for the law.

    Example:
        >>> from rlgrad import Bernoulli
        >>> from rlgrad.metrics import Scorer, f1
        >>> logits = torch.logit(torch.tensor([0.9, 0.6, 0.4, 0.2], dtype=torch.float64)).requires_grad_()
        >>> value = exact()(Bernoulli(logits), Scorer(f1, torch.tensor([1, 0, 1, 0])))
        >>> print(f"{value:.8f}")
        0.61925333
        >>> value.backward()
        >>> print(logits.grad)
        tensor([ 0.0403, -0.0375,  0.0792, -0.0210], dtype=torch.float64)
    """

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """E[reward] for each row, differentiable in the policy's logits."""
        if isinstance(policy, Categorical) and isinstance(score, Scorer) and isinstance(score.metric, ConfusionMetric):
            return _of_classes(policy, score.metric, *_checked(policy, score)).to(policy.logits.dtype)
        metric, true, weight = counted(policy, score, who="exact")
        return _expectation(metric, _wide(torch.sigmoid, policy), true, _mask(weight)).to(policy.logits.dtype)


def is_exact(metric: ConfusionMetric) -> bool:
    """Whether ``exact`` knows the expectation of a metric of classes."""
    average = metric.formula
    return isinstance(average, ClassAverage) and (average.linear or average.average == "micro")


def _checked(policy: Categorical, score: Scorer) -> tuple[Tensor, Tensor | None]:
    metric = score.metric
    assert isinstance(metric, ConfusionMetric)
    if not is_exact(metric):
        absent = f" with absent={metric.formula.absent!r}" if isinstance(metric.formula, ClassAverage) else ""
        raise TypeError(
            f"exact needed an average of a CountMetric over classes, such as macro(f1, classes=3), got {metric!r}"
            f"{absent}; use counterfactual or second_order"
        )
    check_classes(policy, score)
    check_target(policy.logits, score.flat_target, axes=2)
    true, weight = metric.split(score.target, score.weight)
    check_class_numbers(true, metric.classes, "target")
    return true, weight


def _of_classes(
    policy: Categorical, metric: ConfusionMetric, true: Int[Tensor, "*batch items"], weight: Tensor | None
) -> Float[Tensor, "*batch"]:
    average, keep = metric.formula, _mask(weight)
    assert isinstance(average, ClassAverage)
    probs = _wide(lambda logits: torch.softmax(logits, -1), policy)
    one_hot = F.one_hot(true.long(), metric.classes).bool()
    if average.average == "micro":
        return _micro(metric, (probs * one_hot).sum(-1), keep)
    one_hot = one_hot if keep is None else one_hot & keep[..., None]
    truth = one_hot.sum(-2).to(probs)
    if metric.rest is not None:
        truth = truth + metric.rest.sum(-1)
    rests = [None] * metric.classes if metric.rest is None else zip(*class_counts(metric.rest), strict=True)
    values = [
        _expectation(average.metric if rest is None else average.metric.offset(Counts(*rest)), p, y, keep)
        for rest, p, y in zip(rests, probs.unbind(-1), one_hot.unbind(-1), strict=True)
    ]
    value = (average.weights(truth) * torch.stack(values, -1)).sum(-1)
    return torch.where(torch.isfinite(value), value, metric.undefined)


def _micro(
    metric: ConfusionMetric, right: Float[Tensor, "*batch items"], keep: Bool[Tensor, "*batch items"] | None
) -> Float[Tensor, "*batch"]:
    """Each wrong item is one false positive and one false negative, so that the law is that of the right ones."""
    average, classes = metric.formula, metric.classes
    assert isinstance(average, ClassAverage)
    binary = CountMetric(
        lambda tp, fp, fn, tn: average.metric.of_counts(tp, fn, fn, (classes - 1) * (tp + fn) - fn),
        undefined=metric.undefined,
        name=metric.name,
    )
    if metric.rest is not None:
        before = metric.rest.diagonal().sum()
        binary = binary.offset(Counts(before, 0 * before, metric.rest.sum() - before, 0 * before))
    return _expectation(binary, right, torch.ones_like(right, dtype=torch.bool), keep)


def _expectation(
    metric: CountMetric,
    probs: Float[Tensor, "*batch items"],
    true: Bool[Tensor, "*batch items"],
    keep: Bool[Tensor, "*batch items"] | None,
) -> Float[Tensor, "*batch"]:
    """E[formula] over the laws of the true and of the false positives."""
    *batch, items = true.shape
    rows = math.prod(batch)
    kept = torch.full((rows,), items, device=true.device) if keep is None else keep.reshape(rows, items).sum(-1)
    true, probs = (values.reshape(rows, items) for values in (true, probs if keep is None else probs * keep))
    tp, tp_weights = count_rule(probs * true)
    fp, fp_weights = count_rule(probs * ~true)
    positives = (true if keep is None else true & keep.reshape(rows, items)).sum(-1)[:, None, None]
    negatives = kept[:, None, None] - positives
    # A node of weight zero may lie beyond the counts there are.
    tp = torch.minimum(tp[:, :, None], positives).expand(-1, -1, fp.shape[-1])
    fp = torch.minimum(fp[:, None, :], negatives).expand_as(tp)
    values = metric.of_counts(tp, fp, positives - tp, negatives - fp)
    return torch.einsum("rs,rst,rt->r", tp_weights, values, fp_weights).reshape(batch)


def _wide(squash: Callable[[Tensor], Tensor], policy: Policy) -> Tensor:
    return squash(policy.logits.to(count_dtype(policy.logits.device)))


def _mask(weight: Tensor | None) -> Tensor | None:
    if weight is not None and weight.dtype != torch.bool:
        raise TypeError("exact needed items of equal weight, whose counts have a law, got weights; use counterfactual")
    return weight
