"""One metric subject to another: the most recall with a precision of at least 0.9.

Three parts that use the same words: ``Constrained`` trains, ``subject_to`` is the metric by which epochs and thresholds
are chosen, ``met`` says on held-out data whether the constraint holds, and how surely.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from rlgrad.checks import describe
from rlgrad.metrics import ConfusionMetric, CountMetric, Metric, OpaqueMetric, RankingMetric, as_metric
from rlgrad.objective import MetricLoss
from rlgrad.policies import Bernoulli, PolicyType

AnyMetric = Metric | Callable[..., object]


class Constrained(nn.Module):
    """Raise one metric subject to another being at least so much: the Lagrangian, with a multiplier that learns.

    loss = (1 - E[objective]) + multiplier * (at_least - E[constraint])

    In training mode each call then moves the multiplier, which is never negative, by
    rate * (at_least - E[constraint]): it grows for as long as the constraint is violated, which turns the gradient
    towards it, and shrinks when there is slack (dual ascent). It is a buffer, so ``state_dict`` saves it.

    What is held is the mean over batches of the metric of *random* decisions, on the training data. The most probable
    decisions on other data differ: ask for a little more than is needed, let ``fit`` choose epoch and threshold by
    ``subject_to``, with ``threshold="tuned"``, and look at the result by ``met`` on data that chose nothing. A higher
    rate is there sooner, but overshoots.

    Args:
        objective: a metric, or a MetricLoss of one where the estimator is to be named.
        constraint: likewise.
        at_least: what the constraint needs.
        rate: step of the multiplier. 0.1 reaches a multiplier of 1 in 100 calls that fall short by 0.1.
        multiplier: at the start.

    Raises:
        TypeError: something else than a metric.
        ValueError: a MetricLoss that is not the mean over rows, or a number that is out of its range.

    Source: Cotter, Jiang, Gupta et al., Optimization with non-differentiable constraints with applications to fairness,
        recall, churn, and other goals (2019).

    Example:
        >>> from rlgrad.metrics import precision, recall
        >>> criterion = Constrained(recall, precision, at_least=0.9)
        >>> loss = criterion(torch.zeros(4, requires_grad=True), torch.tensor([1, 0, 1, 0]))
        >>> criterion.multiplier
        tensor(0.0431)
    """

    multiplier: Tensor

    def __init__(
        self,
        objective: MetricLoss | AnyMetric,
        constraint: MetricLoss | AnyMetric,
        *,
        at_least: float,
        rate: float = 0.1,
        multiplier: float = 0.0,
    ) -> None:
        super().__init__()
        self.objective, self.constraint = _as_loss(objective), _as_loss(constraint)
        for what, value in (("at_least", at_least), ("rate", rate), ("multiplier", multiplier)):
            if not math.isfinite(value) or (what != "at_least" and value < 0):
                raise ValueError(f"needed a finite {what}{' of at least 0' * (what != 'at_least')}, got {value}")
        self.at_least = at_least
        self.rate = rate
        self.register_buffer("multiplier", torch.tensor(float(multiplier), dtype=torch.float32))

    def extra_repr(self) -> str:
        """The numbers, for ``repr``."""
        return f"at_least={self.at_least:g}, rate={self.rate:g}"

    def start_pass(self) -> None:
        """Tell both losses that a new pass over the data begins; see ``MetricLoss``. ``fit`` calls it."""
        self.objective.start_pass()
        self.constraint.start_pass()

    def forward(
        self, logits: Float[Tensor, "..."], target: Shaped[Tensor, "..."], weight: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, ""]:
        """The loss of logits ``*batch *items [classes]``, a target and weights ``*batch *items``, a scalar."""
        shortfall = self.constraint(logits, target, weight) - (1 - self.at_least)
        multiplier = self.multiplier.clone()  # autograd keeps it, and it is about to change
        if self.training and target.numel():
            self.multiplier.add_(self.rate * shortfall.detach().to(self.multiplier)).clamp_(min=0)
        loss: Tensor = self.objective(logits, target, weight) + multiplier.to(shortfall) * shortfall
        return loss


def _as_loss(metric: MetricLoss | AnyMetric) -> MetricLoss:
    loss = metric if isinstance(metric, MetricLoss) else MetricLoss(metric)
    if loss.reduction != "mean":
        raise ValueError(f"needed a MetricLoss that is the mean over rows, got reduction={loss.reduction!r}")
    return loss


def subject_to(objective: AnyMetric, constraint: AnyMetric, *, at_least: float, worst: float = -1.0) -> Metric:
    """The objective where the constraint is met, and less than any objective where it is not, the less the worse.

    constraint >= at_least:  max(objective, worst)
    else:                    worst - (at_least - constraint)

    It ranks everything feasible above everything that is not, and this by how far it falls short. Of two CountMetrics
    it is one, whose best threshold is the textbook's answer to the same question; so it is of two ConfusionMetrics.
    Where rows are scored apart it holds each row to the constraint. It jumps, so train on ``Constrained``, and choose
    by this.

    Args:
        objective: larger is better.
        constraint: larger is better.
        at_least: what the constraint needs.
        worst: the least that the objective can be; -1 serves the whole catalogue. A profit can be less: name it.

    Raises:
        TypeError: something else than a metric.
        ValueError: the two differ in their items, in what they ignore, or in their classes; a number is not finite.

    Example:
        >>> from rlgrad.metrics import precision, recall
        >>> from rlgrad.surrogates import best_threshold
        >>> metric = subject_to(recall, precision, at_least=0.9)
        >>> best_threshold(metric, torch.tensor([0.9, 0.8, 0.4, 0.3]), torch.tensor([1, 1, 0, 1]))
        (0.6..., 0.6...)
    """
    one, other = as_metric(objective), as_metric(constraint)
    if not math.isfinite(at_least) or not math.isfinite(worst):
        raise ValueError(f"needed finite numbers, got {at_least=} and {worst=}")
    if (one.item_axes, one.ignore_index) != (other.item_axes, other.ignore_index):
        raise ValueError(
            f"needed an objective and a constraint of the same items, got item_axes {one.item_axes} and "
            f"{other.item_axes}, ignore_index {one.ignore_index} and {other.ignore_index}; use over and ignoring"
        )
    name = f"{one.name}_at_{other.name}_{at_least:g}"

    def ranked(value: Tensor, held: Tensor) -> Tensor:
        return torch.where(held >= at_least, value.clamp_min(worst), worst - (at_least - held))

    if isinstance(one, CountMetric) and isinstance(other, CountMetric):
        of_counts = CountMetric(lambda *c: ranked(one.of_counts(*c), other.of_counts(*c)), undefined=worst, name=name)
        return of_counts.over(one.item_axes).ignoring(one.ignore_index)
    if isinstance(one, ConfusionMetric) and isinstance(other, ConfusionMetric):
        return _of_classes(one, other, ranked, worst, name)
    return _of_any(one, other, ranked, name)


def _of_any(one: Metric, other: Metric, ranked: Callable[[Tensor, Tensor], Tensor], name: str) -> OpaqueMetric:
    # A ranking has no decision at the place of an ignored item, and its metric passes over that by itself.
    ignored = None if isinstance(one, RankingMetric) else one.ignore_index

    def both(decision: Tensor, target: Tensor) -> Tensor:
        if ignored is not None:  # marked there, which only black boxes take
            decision = decision.masked_fill(target == ignored, 0)
        return ranked(one(decision, target), other(decision, target))

    return OpaqueMetric(both, batched=True, name=name, item_axes=one.item_axes, ignore_index=ignored)


def _of_classes(
    one: ConfusionMetric, other: ConfusionMetric, ranked: Callable[[Tensor, Tensor], Tensor], worst: float, name: str
) -> ConfusionMetric:
    if one.classes != other.classes:
        raise ValueError(f"needed metrics of the same classes, got {one.classes} and {other.classes}")
    metric = ConfusionMetric(
        lambda confusion: ranked(one.of_confusion(confusion), other.of_confusion(confusion)),
        classes=one.classes,
        undefined=worst,
        name=name,
    )
    return metric.over(one.item_axes).ignoring(one.ignore_index)


@dataclass(frozen=True)
class ConstraintReport:
    """What decisions on held-out data score, and whether they meet a constraint; ``str`` says it in a sentence.

    Args:
        objective: its name.
        constraint: its name.
        value: of the objective.
        held: of the constraint.
        low: lower end of the constraint's interval.
        high: upper end.
        at_least: what the constraint needs.
        confidence: of the interval.
    """

    objective: str
    constraint: str
    value: float
    held: float
    low: float
    high: float
    at_least: float
    confidence: float

    @property
    def met(self) -> bool:
        """Whether the constraint holds on these data."""
        return self.held >= self.at_least

    @property
    def surely(self) -> bool:
        """Whether it holds at the lower end of the interval too."""
        return self.met and self.low >= self.at_least

    def __str__(self) -> str:
        sign = ">=" if self.met else "<"
        verdict = "met" if self.surely else "met on these data, not surely on others" if self.met else "not met"
        interval = f"[{self.low:.3g}, {self.high:.3g}]"
        return (
            f"{self.constraint} {self.held:.3g} {interval} {sign} {self.at_least:g}: {verdict}; "
            f"{self.objective} {self.value:.3g}"
        )


def met(
    logits: Float[Tensor, "..."],
    target: Shaped[Tensor, "..."],
    objective: AnyMetric,
    constraint: AnyMetric,
    *,
    at_least: float,
    threshold: float = 0.0,
    policy: PolicyType | None = None,
    confidence: float = 0.95,
    resamples: int = 999,
    rng: int | np.random.Generator = 0,
) -> ConstraintReport:
    """Whether the decisions on held-out data meet a constraint, with a bootstrap interval of how well.

    Resampled are the rows where rows are scored apart, and else what the first axis of the target holds: items, or the
    images of a batch that is scored as one. The interval (percentiles) knows nothing of a threshold or an epoch that
    was chosen on the same data: choose on others. Where no mistake was seen it is a point, and too sure.

    Args:
        logits: ``*batch *items [classes]``.
        target: ``*batch *items``.
        objective: a metric.
        constraint: a metric.
        at_least: what the constraint needs.
        threshold: decisions are ``logits > threshold``; 0 for classes.
        policy: as for ``MetricLoss``; Categorical for the tags of ``span_f1``.
        confidence: of the interval.
        resamples: of the bootstrap.
        rng: a seed or a NumPy generator.

    Raises:
        TypeError, ValueError: as the metrics; fewer than two things to resample, a threshold for classes.

    Source: Efron, Tibshirani, An introduction to the bootstrap (1993), chapter 13.

    Example:
        >>> from rlgrad.metrics import precision, recall
        >>> generator = torch.Generator().manual_seed(0)
        >>> target = torch.rand(2000, generator=generator) < 0.3
        >>> logits = 4 * target - 2 + torch.randn(2000, generator=generator)
        >>> print(met(logits, target, recall, precision, at_least=0.9))
        precision 0.955 [0.9..., 0.9...] >= 0.9: met; recall 0.987
    """
    from scipy.stats import bootstrap

    one, other = as_metric(objective), as_metric(constraint)
    decision = _decided(MetricLoss(other, policy=policy), logits, target, threshold)
    values, statistic = _resampled(other, decision, target)
    if len(values) < 2:
        raise ValueError(f"needed at least two rows or items to resample, got {describe(target)}; add data")
    ends = bootstrap(
        (values,),
        statistic,
        n_resamples=resamples,
        batch=max(1, 10**6 // target.numel()),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(rng),
    ).confidence_interval
    value, held = (float(metric(decision, target).mean()) for metric in (one, other))
    low, high = float(ends.low), float(ends.high)
    return ConstraintReport(one.name, other.name, value, held, low, high, at_least, confidence)


def _decided(loss: MetricLoss, logits: Tensor, target: Tensor, threshold: float) -> Tensor:
    """The most probable decisions, where the logits fit the metric."""
    yes_no = loss.policy is Bernoulli
    if not math.isfinite(threshold) or (threshold and not yes_no):
        raise ValueError(f"needed a finite threshold, and 0 for classes, got {threshold}")
    known = loss.check(logits.detach(), target)
    return known > threshold if yes_no else loss.policy(known).mode


def _resampled(
    metric: Metric, decision: Tensor, target: Tensor
) -> tuple[np.ndarray, Callable[[np.ndarray, int], np.ndarray]]:
    """What is drawn with replacement, and the metric of such draws, ``*many n`` to ``*many``."""
    if target.ndim > metric.item_axes:
        return metric(decision, target).flatten().cpu().numpy(), np.mean
    every = np.arange(len(target))

    def of_drawn(index: np.ndarray, axis: int) -> np.ndarray:
        drawn = torch.from_numpy(index).to(target.device)
        return np.asarray(metric(decision[drawn], target[drawn]).cpu())

    return every, of_drawn
