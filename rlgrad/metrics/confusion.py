"""A metric of choices among classes is a formula of their confusion matrix, written once like that of four counts."""

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float, Int, Num, Shaped
from torch import Tensor

from rlgrad.checks import check_decision, check_rows, describe, first_index, values_visible
from rlgrad.metrics.counts import check_undefined, count_dtype, finite_gradient
from rlgrad.metrics.items import JointItems, flat_items

ConfusionFormula = Callable[[Tensor], Tensor]

_AT_ONCE = 1 << 22
"""About how many numbers the confusion matrices hold that are made at once."""


def hard_confusion(
    decision: Int[Tensor, "*draws_and_batch items"],
    target: Int[Tensor, "*batch items"],
    classes: int,
    weight: Shaped[Tensor, "*batch items"] | None = None,
) -> Num[Tensor, "*draws_and_batch true claimed"]:
    """How many items of each true class were given each class: rows are the truth, as in scikit-learn.

    Args:
        decision: classes from 0 to ``classes - 1``.
        target: likewise.
        classes: how many there are.
        weight: what each item counts for: a mask, or numbers, which are added up in float64.

    Returns:
        Counts, ``*draws *batch classes classes``, int64, or float64 where there are weights.

    Raises:
        ValueError: a class that there is not; it is named.

    Example:
        >>> hard_confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    check_class_numbers(decision, classes, "decision")
    check_class_numbers(target, classes, "target")
    cell = (target * classes + decision).long()
    whole = weight is None or weight.dtype == torch.bool
    dtype = torch.int64 if whole else count_dtype(cell.device)
    one = torch.ones_like(target, dtype=dtype) if weight is None else weight.to(dtype)
    counts = torch.zeros(*cell.shape[:-1], classes * classes, dtype=dtype, device=cell.device)
    counts.scatter_add_(-1, cell, one.expand(cell.shape))
    return counts.view(*cell.shape[:-1], classes, classes)


def expected_confusion(
    probs: Float[Tensor, "*draws_and_batch items classes"],
    target: Int[Tensor, "*batch items"],
    weight: Shaped[Tensor, "*batch items"] | None = None,
) -> Float[Tensor, "*draws_and_batch true claimed"]:
    """The confusion matrix in expectation: each item counts with the probability of each class.

    Args:
        probs: of the classes, for each item.
        target: classes.
        weight: what each item counts for: a mask, or numbers.

    Returns:
        ``*batch classes classes``, float64 where the device has it, differentiable in ``probs``.
    """
    classes = probs.shape[-1]
    check_class_numbers(target, classes, "target")
    p = probs.to(count_dtype(probs.device))
    true = torch.nn.functional.one_hot(target.long(), classes).to(p)
    if weight is not None:
        true = true * weight[..., None]
    return torch.einsum("...it,...ic->...tc", true, p)


def check_class_numbers(values: Tensor, classes: int, what: str) -> None:
    """Values are integers that number the classes; a TypeError or a ValueError names the first that is not."""
    if values.is_floating_point() or values.dtype == torch.bool:
        raise TypeError(f"needed a {what} of class numbers, got {describe(values)}; pass integers")
    if values_visible() and (bad := (values < 0) | (values >= classes)).any():
        where = first_index(bad)
        raise ValueError(
            f"needed a {what} of classes from 0 to {classes - 1}, got {int(values[where])} at {where}; "
            "check the number of classes, or name an ignore_index"
        )


class ConfusionMetric(JointItems):
    """A metric that is a formula of the confusion matrix of several classes; larger is better.

    The formula maps matrices ``*rows classes classes``, rows the truth and columns the decisions, to ``*rows``, with
    arithmetic and ``torch`` functions of the last two axes. It serves hard counts, expected counts (the soft
    surrogate) and the counts with one decision changed (the counterfactual gradient). Where it is not a finite number
    the metric is ``undefined`` and its gradient zero, as for a ``CountMetric``. ``macro``, ``micro`` and ``weighted``
    make one of any CountMetric.

    Args:
        formula: ``formula(confusion)``.
        classes: how many there are.
        undefined: the value where the formula divides by zero.
        name: how tables and messages call it; the formula's own name by default.

    Raises:
        TypeError: ``formula`` is not callable, or a number is none.
        ValueError: fewer than two classes, or ``undefined`` is not finite.

    Example:
        >>> hits = ConfusionMetric(lambda c: c.diagonal(dim1=-2, dim2=-1).sum(-1), classes=3, undefined=0.0)
        >>> hits(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]))
        tensor(2., dtype=torch.float64)
    """

    def __init__(self, formula: ConfusionFormula, *, classes: int, undefined: float, name: str | None = None) -> None:
        if not callable(formula):
            raise TypeError(f"needed a formula(confusion), got {formula!r}; pass a function")
        if isinstance(classes, bool) or not isinstance(classes, int):
            raise TypeError(f"needed a number of classes, got {classes!r}")
        if classes < 2:
            raise ValueError(f"needed at least 2 classes, got {classes}; yes or no is a matter for CountMetric")
        check_undefined(undefined)
        self.formula = formula
        self.classes = classes
        self.undefined = float(undefined)
        self.name = name or str(getattr(formula, "__name__", type(formula).__name__))
        self.rest: Tensor | None = None

    def __repr__(self) -> str:
        return f"ConfusionMetric({self.name}, classes={self.classes}, undefined={self.undefined:g})"

    def __call__(
        self,
        decision: Shaped[Tensor, "..."],
        target: Shaped[Tensor, "..."],
        weight: Shaped[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "..."]:
        """Score decisions against the target.

        Args:
            decision: ``*draws *batch *items``, classes.
            target: ``*batch *items``, classes, or ``ignore_index``.
            weight: ``*batch *items``, what each item counts for; 1 by default.

        Returns:
            The metric, ``*draws *batch``, float64.

        Raises:
            TypeError, ValueError: as ``hard_confusion``; shapes differ (nothing is broadcast).
        """
        check_decision(decision)
        check_rows(decision, target)
        true, weight = self.split(target, weight)
        flat = flat_items(decision, self.item_axes)
        return self.of_confusion(hard_confusion(flat, true, self.classes, weight))

    def of_confusion(self, confusion: Num[Tensor, "*rows true claimed"]) -> Float[Tensor, "*rows"]:
        """The formula of confusion matrices, hard or expected, with ``undefined`` where it is not finite.

        Raises:
            TypeError: the formula returns something other than a tensor of the rows' shape.
        """
        counts = finite_gradient(confusion.to(count_dtype(confusion.device)))
        value = self._evaluate(counts if self.rest is None else counts + self.rest)
        return torch.where(torch.isfinite(value), value, self.undefined)

    def _evaluate(self, confusion: Tensor) -> Tensor:
        try:
            value = self.formula(confusion)
        except Exception as error:
            raise TypeError(
                f"needed a formula of confusion matrices (*rows, classes, classes), got {type(error).__name__} from "
                f"{self.name}: {error}; reduce the last two axes with torch functions"
            ) from error
        if not isinstance(value, Tensor) or value.shape != confusion.shape[:-2]:
            got = tuple(value.shape) if isinstance(value, Tensor) else repr(value)
            raise TypeError(
                f"needed {self.name} to return one value for each matrix, shape {tuple(confusion.shape[:-2])}, got "
                f"{got}; reduce the last two axes"
            )
        return value.to(confusion.dtype)

    def offset(self, rest: Num[Tensor, "true claimed"]) -> "ConfusionMetric":
        """The same metric of these items and of others that have been counted: ``formula(confusion + rest)``."""
        shifted = copy.copy(self)
        shifted.rest = rest
        return shifted

    def gain(
        self,
        decision: Int[Tensor, "draws *batch items"],
        target: Int[Tensor, "*batch items"],
        weight: Shaped[Tensor, "*batch items"] | None = None,
    ) -> Float[Tensor, "draws *batch items classes"]:
        """What another class instead of the one decided would add, for each decision with all others as they are.

        Items of one cell of the confusion matrix gain alike: the formula is asked once for each move of a count along
        a row of the matrix, classes^3 times a row, however many items there are. Where these are fewer than cells, or
        weigh differently, it is asked for each by itself, items x classes times.

        Returns:
            metric(decision with this class here) - metric(decision), float64.
        """
        confusion = hard_confusion(decision, target, self.classes, weight)
        if decision.shape[-1] < self.classes**2 or (weight is not None and weight.dtype != torch.bool):
            return self._gain_of_each(confusion, decision, target, weight)
        of_cell = self.of_moves(confusion).flatten(-3, -2)
        cell = (target * self.classes + decision).long()[..., None].expand(*decision.shape, self.classes)
        gain = of_cell.gather(-2, cell)
        return gain if weight is None else gain.masked_fill(~weight[..., None], 0.0)

    def _gain_of_each(
        self,
        confusion: Num[Tensor, "draws *batch true claimed"],
        decision: Int[Tensor, "draws *batch items"],
        target: Int[Tensor, "*batch items"],
        weight: Shaped[Tensor, "*batch items"] | None,
    ) -> Float[Tensor, "draws *batch items classes"]:
        confusion = confusion.to(count_dtype(confusion.device))
        weight = torch.ones_like(target) if weight is None else weight
        unit = torch.eye(self.classes, dtype=confusion.dtype, device=confusion.device)
        now = self.of_confusion(confusion)[..., None, None]
        step = max(1, _AT_ONCE // max(1, confusion.numel() * self.classes))
        gains = [torch.zeros((*decision.shape[:-1], 0, self.classes), dtype=confusion.dtype, device=confusion.device)]
        for first in range(0, decision.shape[-1], step):
            part = slice(first, first + step)
            move = unit - unit[decision[..., part].long()][..., None, :]  # from the class decided to each, in a row
            row = weight[..., part, None] * unit[target[..., part].long()]
            moved = confusion[..., None, None, :, :] + row[..., None, :, None] * move[..., None, :]
            gains.append(self.of_confusion(moved) - now)
        return torch.cat(gains, -2)

    def of_moves(
        self, confusion: Num[Tensor, "*rows true claimed"], step: Float[Tensor, "*rows true claimed claimed"] | int = 1
    ) -> Float[Tensor, "*rows true claimed claimed"]:
        """What moving counts from (true, claimed) to (true, other), the last axis, adds to the metric.

        Args:
            confusion: hard or expected counts.
            step: how many are moved.
        """
        counts = confusion.to(count_dtype(confusion.device))
        now = self.of_confusion(counts)[..., None, None]
        unit = torch.eye(self.classes, dtype=counts.dtype, device=counts.device)
        move = unit[None, :, :] - unit[:, None, :]  # claimed, other, class
        gains = []
        for true in range(self.classes):  # one row of the matrix at a time: classes^4 numbers
            row = move * (step if isinstance(step, int) else step[..., true, :, :, None])
            moved = counts[..., None, None, :, :] + unit[true][:, None] * row[..., None, :]
            gains.append(self.of_confusion(moved) - now)
        return torch.stack(gains, -3)
