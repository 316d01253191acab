"""Averages of a count metric over classes or labels: macro, micro, weighted.

Over *classes* a decision chooses one, and each class against the rest has four counts, which are sums of the confusion
matrix. Over *labels* each is decided by itself, and its counts are those of a column of a table (rows, labels).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Num, Shaped
from torch import Tensor

from rlgrad.checks import check_decision, check_rows, describe
from rlgrad.metrics.confusion import ConfusionMetric
from rlgrad.metrics.counts import CountMetric, Counts, count_dtype

Average = Literal["macro", "micro", "weighted"]
Absent = Literal["undefined", "skip", "skip_untrue"]
_ABSENT = ("undefined", "skip", "skip_untrue")


def class_counts(confusion: Num[Tensor, "*rows true claimed"]) -> Counts:
    """The counts of each class against the rest, each ``*rows classes``.

    Example:
        >>> counts = class_counts(torch.tensor([[5, 1], [2, 7]]))
        >>> counts.tp.tolist(), counts.fp.tolist()
        ([5, 7], [2, 1])
    """
    tp = confusion.diagonal(dim1=-2, dim2=-1)
    fp, fn = confusion.sum(-2) - tp, confusion.sum(-1) - tp
    return Counts(tp, fp, fn, confusion.sum((-2, -1)).unsqueeze(-1) - tp - fp - fn)


@dataclass(frozen=True)
class ClassAverage:
    """The formula of a confusion matrix that averages a count metric over the classes, each against the rest.

    Args:
        metric: of the four counts of one class.
        average: "macro", the mean over classes; "weighted", weighted by how many items are of the class; "micro", the
            metric of the counts of all classes added up.
        absent: what a class counts for that no item is of and no decision claims. "undefined": the metric's value at
            0/0 (scikit-learn with ``labels`` of all classes and ``zero_division``). "skip": it is left out of the mean
            (scikit-learn without ``labels``; torchmetrics). "skip_untrue": so is every class that no item is of,
            claimed or not (mean IoU over the classes of the ground truth).
    """

    metric: CountMetric
    average: Average
    absent: Absent = "undefined"

    def __call__(self, confusion: Float[Tensor, "*rows true claimed"]) -> Float[Tensor, "*rows"]:
        """The average; NaN, which the metric takes for undefined, where no class is left."""
        tp, fp, fn, _ = counts = class_counts(confusion)
        if self.average == "micro":
            return self.metric.of_counts(*(count.sum(-1) for count in counts))
        present = tp + fn > 0 if self.absent == "skip_untrue" else tp + fp + fn > 0
        weight = torch.ones_like(tp) if self.absent == "undefined" else present.to(tp)
        if self.average == "weighted":
            weight = weight * (tp + fn)
        return (weight * self.metric.of_counts(*counts)).sum(-1) / weight.sum(-1)

    @property
    def linear(self) -> bool:
        """Whether the weights of the classes depend on the truth alone, so that E[average] averages the E[metric]."""
        return self.average != "micro" and not (self.average == "macro" and self.absent == "skip")

    def weights(self, truth: Num[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
        """Weight of each class, adding up to 1, from how many items are of it; where it is linear."""
        weight = torch.ones_like(truth) if self.absent == "undefined" else (truth > 0).to(truth)
        weight = weight * truth if self.average == "weighted" else weight
        return weight / weight.sum(-1, keepdim=True)


class LabelMetric:
    """An average over labels that are decided each by itself: a metric of tables (rows, labels), scored jointly.

    Macro F1 is the mean of the labels' F1s, so that its gradient is exact where that of the count metric is, and each
    label has a reward of its own. The mean of the *rows*' scores ("instance" or "samples" average) needs no such thing:
    it is the count metric itself on logits (rows, labels).

    Args:
        metric: of the four counts of one label.
        average: "macro", the mean over labels; "weighted", weighted by how many rows have the label; "micro", the
            metric of all decisions of the table together.
        labels: how many there are.

    Raises:
        TypeError: ``labels`` is no whole number.
        ValueError: there is none, or the metric scores several axes jointly, where a label's decisions are one.
    """

    item_axes = 2

    def __init__(self, metric: CountMetric, average: Average, labels: int) -> None:
        if isinstance(labels, bool) or not isinstance(labels, int):
            raise TypeError(f"needed a number of labels, got {labels!r}")
        if labels < 1:
            raise ValueError(f"needed at least 1 label, got {labels}")
        if metric.item_axes != 1:
            raise ValueError(
                f"needed a metric of one label's rows, got {metric!r} over {metric.item_axes} axes; leave over() out, "
                "a table is always scored jointly"
            )
        self.metric = metric
        self.average = average
        self.labels = labels
        self.name = f"{average}_{metric.name}"

    def __repr__(self) -> str:
        return f"LabelMetric({self.name}, labels={self.labels})"

    @property
    def ignore_index(self) -> int | None:
        """Target value of the decisions that count for nothing."""
        return self.metric.ignore_index

    def ignoring(self, value: int | None) -> "LabelMetric":
        """The same metric without the decisions whose target is ``value``: a label unknown for some rows."""
        return LabelMetric(self.metric.ignoring(value), self.average, self.labels)

    def over(self, axes: int) -> "LabelMetric":
        """The same metric, whose axes are those of a table.

        Raises:
            ValueError: other axes are asked for.
        """
        if axes != self.item_axes:
            raise ValueError(
                f"needed {self.item_axes} item axes for {self!r}, rows and labels, got {axes}; flatten what is scored "
                "jointly, such as pixels, to rows"
            )
        return self

    def __call__(
        self,
        decision: Shaped[Tensor, "..."],
        target: Shaped[Tensor, "..."],
        weight: Shaped[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "..."]:
        """Score decisions ``*draws *batch rows labels`` against the target ``*batch rows labels``: ``*draws *batch``.

        Raises:
            TypeError, ValueError: as ``CountMetric``; another number of labels.
        """
        check_decision(decision)
        check_rows(decision, target)
        of_label = self.metric(*self.parts(decision, target, weight))
        return self.reduce(of_label, self.support(target, weight))

    def parts(
        self, values: Shaped[Tensor, "..."], target: Shaped[Tensor, "..."], weight: Shaped[Tensor, "..."] | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Decisions or logits, target and weights as the rows that the count metric scores; see ``arrange``."""
        return self.arrange(values), self.arrange(target), None if weight is None else self.arrange(weight)

    def arrange(self, values: Shaped[Tensor, "*any rows labels"]) -> Shaped[Tensor, "..."]:
        """A table as the rows of decisions that the count metric scores: one a label, or all in one for "micro"."""
        if values.ndim < 2 or values.shape[-1] != self.labels:
            raise ValueError(f"needed (rows, {self.labels}) for {self.name}, got {describe(values)}; name the labels")
        return values.flatten(-2) if self.average == "micro" else values.mT

    def support(
        self, target: Shaped[Tensor, "..."], weight: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, "*batch labels"]:
        """How many rows have each label, or what they weigh together."""
        true, weight = self.metric.split(target.mT, None if weight is None else weight.mT)
        return (true if weight is None else true * weight).sum(-1).to(count_dtype(target.device))

    def reduce(self, of_label: Float[Tensor, "..."], support: Float[Tensor, "*batch labels"]) -> Float[Tensor, "..."]:
        """The average over labels, the last axis of what ``arrange`` has set apart."""
        if self.average == "micro":
            return of_label
        if self.average == "macro":
            return of_label.mean(-1)
        total = support.sum(-1, keepdim=True)
        # Divided by 1 where no row has a label: 0/0 in what is not chosen would still be the gradient's NaN.
        share = (support / torch.where(total > 0, total, 1.0)).to(of_label.dtype)
        return torch.where(total[..., 0] > 0, (share * of_label).sum(-1), self.metric.undefined)


def macro(
    metric: CountMetric, *, classes: int | None = None, labels: int | None = None, absent: Absent = "undefined"
) -> ConfusionMetric | LabelMetric:
    """The mean of a count metric over classes, one chosen for each item, or over labels, each decided by itself.

    Args:
        metric: of the four counts of one class against the rest, or of one label.
        classes: how many classes; decisions are their numbers.
        labels: how many labels; decisions are yes or no, in tables (rows, labels). Give one of the two.
        absent: what a class counts for that neither the target nor the decisions hold; see ``ClassAverage``.

    Raises:
        TypeError: the metric is no CountMetric.
        ValueError: both or none of classes and labels, an unknown rule, or one for labels, which all count.

    Example:
        >>> from rlgrad.metrics import f1
        >>> macro(f1, classes=3)(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]))
        tensor(0.5556, dtype=torch.float64)
        >>> macro(f1, labels=2)(torch.tensor([[True, False], [True, True]]), torch.tensor([[1, 0], [0, 1]]))
        tensor(0.8333, dtype=torch.float64)
    """
    return _averaged(metric, "macro", classes, labels, absent)


def micro(
    metric: CountMetric, *, classes: int | None = None, labels: int | None = None
) -> ConfusionMetric | LabelMetric:
    """A count metric of the counts of all classes or labels added up; arguments and errors as for ``macro``.

    Example:
        >>> from rlgrad.metrics import f1
        >>> micro(f1, classes=3)(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]))
        tensor(0.6667, dtype=torch.float64)
    """
    return _averaged(metric, "micro", classes, labels, "undefined")


def weighted(
    metric: CountMetric, *, classes: int | None = None, labels: int | None = None
) -> ConfusionMetric | LabelMetric:
    """The mean of a count metric over classes or labels, each weighing as often as it is true.

    Arguments and errors as for ``macro``. ``weighted(iou, classes=K)`` is the frequency-weighted IoU.

    Example:
        >>> from rlgrad.metrics import iou
        >>> weighted(iou, classes=3)(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]))
        tensor(0.5000, dtype=torch.float64)
    """
    return _averaged(metric, "weighted", classes, labels, "undefined")


def _averaged(
    metric: CountMetric, average: Average, classes: int | None, labels: int | None, absent: Absent
) -> ConfusionMetric | LabelMetric:
    if not isinstance(metric, CountMetric):
        raise TypeError(f"needed a CountMetric to average, got {metric!r}; write it as a formula of counts")
    if (classes is None) == (labels is None):
        raise ValueError(f"needed classes (one is chosen) or labels (each yes or no), got {classes=} and {labels=}")
    if absent not in _ABSENT or (labels is not None and absent != "undefined"):
        raise ValueError(f"needed absent of {', '.join(_ABSENT)}, and undefined for labels, got {absent!r}")
    if labels is not None:
        return LabelMetric(metric, average, labels)
    assert classes is not None
    name = f"{average}_{metric.name}"
    formula = ClassAverage(metric, average, absent)
    averaged = ConfusionMetric(formula, classes=classes, undefined=metric.undefined, name=name)
    return averaged.ignoring(metric.ignore_index).over(metric.item_axes)


def class_accuracy(classes: int) -> ConfusionMetric:
    """The share of items that were given their class.

    Example:
        >>> class_accuracy(3)(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]))
        tensor(0.6667, dtype=torch.float64)
    """
    return ConfusionMetric(
        lambda c: c.diagonal(dim1=-2, dim2=-1).sum(-1) / c.sum((-2, -1)),
        classes=classes,
        undefined=1.0,
        name="class_accuracy",
    )


def class_mcc(classes: int) -> ConfusionMetric:
    """Matthews' correlation coefficient of several classes (R_K): 0 where truth or decisions are all of one.

    (c s - sum of p_k t_k) / sqrt((s^2 - sum p_k^2) (s^2 - sum t_k^2)), with s items, c of them right, t_k of class k
    and p_k claimed for it.

    Source: Gorodkin, Comparing two K-category assignments by a K-category correlation coefficient (2004).

    Example:
        >>> class_mcc(3)(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]))
        tensor(0.6124, dtype=torch.float64)
    """
    return ConfusionMetric(_mcc, classes=classes, undefined=0.0, name="class_mcc")


def _mcc(confusion: Tensor) -> Tensor:
    true, claimed, right, items = _margins(confusion)
    spread = torch.sqrt(items**2 - (claimed**2).sum(-1)) * torch.sqrt(items**2 - (true**2).sum(-1))
    return (right * items - (true * claimed).sum(-1)) / spread


def class_kappa(classes: int) -> ConfusionMetric:
    """Cohen's kappa: agreement beyond what the margins alone would give.

    Source: Cohen, A coefficient of agreement for nominal scales (1960).

    Example:
        >>> class_kappa(3)(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]))
        tensor(0.5000, dtype=torch.float64)
    """
    return ConfusionMetric(_kappa, classes=classes, undefined=0.0, name="class_kappa")


def _kappa(confusion: Tensor) -> Tensor:
    true, claimed, right, items = _margins(confusion)
    by_chance = (true * claimed).sum(-1)
    return (right * items - by_chance) / (items**2 - by_chance)


def _margins(confusion: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    right = confusion.diagonal(dim1=-2, dim2=-1).sum(-1)
    return confusion.sum(-1), confusion.sum(-2), right, confusion.sum((-2, -1))


def mean_iou(classes: int, *, absent: Absent = "undefined") -> ConfusionMetric:
    """Mean over classes of intersection over union: ``macro(iou, classes=classes)``.

    Three conventions are in use for a class that is in neither target nor decision: it scores 1 ("undefined"), it is
    left out ("skip"), and every class that is not in the target is left out ("skip_untrue"); see ``ClassAverage``.

    Example:
        >>> mean_iou(3)(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]))
        tensor(0.5000, dtype=torch.float64)
    """
    from rlgrad.metrics.catalogue import iou

    metric = macro(iou, classes=classes, absent=absent)
    assert isinstance(metric, ConfusionMetric)
    return metric
