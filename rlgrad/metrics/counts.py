"""A metric is a formula of tp, fp, fn, tn, written once; the hard, soft and counterfactual forms follow from it."""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Num, Shaped
from torch import Tensor

from rlgrad.checks import as_binary, check_decision, check_rows
from rlgrad.metrics.items import JointItems, flat_items

Formula = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Counts(NamedTuple):
    """The confusion counts of binary decisions, tensors of one shape ``*rows``."""

    tp: Num[Tensor, "*rows"]
    fp: Num[Tensor, "*rows"]
    fn: Num[Tensor, "*rows"]
    tn: Num[Tensor, "*rows"]


def hard_counts(
    decision: Shaped[Tensor, "..."], target: Shaped[Tensor, "..."], weight: Shaped[Tensor, "..."] | None = None
) -> Counts:
    """Count decisions against the target over ``items``, in int64 so that none is lost.

    Args:
        decision: ``*draws *batch items``, bool or 0/1 integers.
        target: ``*batch items``, 0 and 1 in any dtype.
        weight: ``*batch items``, what each item counts for: a mask, or numbers, which are added up in float64.

    Returns:
        Counts of shape ``*draws *batch``.

    Raises:
        TypeError: the decision is floating point.
        ValueError: shapes differ (nothing is broadcast), or a value is neither 0 nor 1.

    Example:
        >>> counts = hard_counts(torch.tensor([True, True, False, False]), torch.tensor([1, 0, 1, 0]))
        >>> [int(count) for count in counts]
        [1, 1, 1, 1]
    """
    check_decision(decision)
    check_rows(decision, target)
    chosen, true = as_binary(decision, what="decision"), as_binary(target, what="target")
    if weight is None:
        return _complete((chosen & true).sum(-1), chosen.sum(-1), true.sum(-1), items=target.shape[-1])
    weight = weight if weight.dtype == torch.bool else weight.to(count_dtype(weight.device))
    of_true = true * weight
    return _complete((chosen * of_true).sum(-1), (chosen * weight).sum(-1), of_true.sum(-1), items=weight.sum(-1))


def expected_counts(
    probs: Float[Tensor, "*batch items"],
    target: Shaped[Tensor, "*batch items"],
    weight: Shaped[Tensor, "*batch items"] | None = None,
) -> Counts:
    """Counts of independent decisions in expectation: each decision counts with its probability.

    Args:
        probs: probability of deciding 1.
        target: 0 and 1 in any dtype.
        weight: what each item counts for: a mask, or numbers.

    Returns:
        Counts of shape ``*batch``, float64 where the device has it, differentiable in ``probs``.
    """
    true = as_binary(target, what="target")
    p = probs.to(count_dtype(probs.device))
    if weight is None:
        return _complete((p * true).sum(-1), p.sum(-1), true.sum(-1), items=target.shape[-1])
    p, of_true = p * weight, true * weight.to(p.dtype)
    return _complete((p * true).sum(-1), p.sum(-1), of_true.sum(-1), items=weight.to(p.dtype).sum(-1))


def count_dtype(device: torch.device) -> torch.dtype:
    """The type in which formulas are evaluated: float64, or float32 on Apple's MPS, which has no other."""
    return torch.float32 if device.type == "mps" else torch.float64


def _complete(tp: Tensor, predicted: Tensor, positives: Tensor, *, items: int | Tensor) -> Counts:
    positives = positives.expand_as(tp)
    fp, fn = predicted - tp, positives - tp
    return Counts(tp, fp, fn, items - tp - fp - fn)


def check_undefined(undefined: float) -> None:
    """The value of a formula at 0/0 is a finite number.

    Raises:
        TypeError: it is no number.
        ValueError: it is not finite.
    """
    if isinstance(undefined, bool) or not isinstance(undefined, int | float):
        raise TypeError(f"needed a number for undefined, got {undefined!r}; 0.0 and 1.0 are usual")
    if not math.isfinite(undefined):
        raise ValueError(f"needed a finite undefined, got {undefined}; 0.0 and 1.0 are usual")


class CountMetric(JointItems):
    """A metric that is a formula of the counts tp, fp, fn, tn; larger is better.

    The formula is written once with arithmetic and ``torch`` functions; it is evaluated elementwise on tensors of
    counts, so the same line serves hard counts, expected counts (the soft surrogate), and the counts under every
    outcome (the exact policy gradient). Where it is not a finite number, as at 0/0, the metric is ``undefined`` and
    its gradient zero. Rows cannot be skipped there instead: whether a row is 0/0 depends on the decisions, so skipping
    would reward a policy for making itself undefined.

    Args:
        formula: ``formula(tp, fp, fn, tn)`` on floating-point tensors of one shape, giving a tensor of that shape.
        undefined: the value where the formula divides by zero.
        name: how tables and messages call it; the formula's own name by default.

    Raises:
        TypeError: ``formula`` is not callable, or ``undefined`` not a number.
        ValueError: ``undefined`` is not finite.

    Example:
        >>> profit = CountMetric(lambda tp, fp, fn, tn: 100 * tp - 5 * fp, undefined=0.0, name="profit")
        >>> profit(torch.tensor([True, True, False]), torch.tensor([1, 0, 1]))
        tensor(95., dtype=torch.float64)
    """

    def __init__(self, formula: Formula, *, undefined: float, name: str | None = None) -> None:
        if not callable(formula):
            raise TypeError(f"needed a formula(tp, fp, fn, tn), got {formula!r}; pass a function")
        check_undefined(undefined)
        self.formula = formula
        self.undefined = float(undefined)
        self.name = name or str(getattr(formula, "__name__", type(formula).__name__))

    def __repr__(self) -> str:
        return f"CountMetric({self.name}, undefined={self.undefined:g})"

    def __call__(
        self,
        decision: Shaped[Tensor, "..."],
        target: Shaped[Tensor, "..."],
        weight: Shaped[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "..."]:
        """Score decisions against the target.

        Args:
            decision: ``*draws *batch *items``, bool or 0/1 integers.
            target: ``*batch *items``, 0 and 1 in any dtype, or ``ignore_index``.
            weight: ``*batch *items``, what each item counts for (scikit-learn's ``sample_weight``); 1 by default.

        Returns:
            The metric, ``*draws *batch``, float64.

        Raises:
            TypeError, ValueError: as ``hard_counts``.
        """
        check_decision(decision)
        check_rows(decision, target)
        true, weight = self.split(target, weight)
        return self.of_counts(*hard_counts(flat_items(decision, self.item_axes), true, weight))

    def split(
        self, target: Shaped[Tensor, "..."], weight: Shaped[Tensor, "..."] | None = None
    ) -> tuple[Bool[Tensor, "*batch items"], Shaped[Tensor, "*batch items"] | None]:
        """A target of ``*batch *items`` as truth of each item, and what the items weigh (None where all weigh 1)."""
        target, weight = super().split(target, weight)
        return as_binary(target, what="target"), weight

    def offset(self, rest: Counts) -> "CountMetric":
        """The same metric of these items and of others that have been counted: ``formula(counts + rest)``.

        Args:
            rest: counts of what else there is, a number each.

        Example:
            >>> from rlgrad.metrics import recall
            >>> rest = Counts(*map(torch.tensor, (9, 0, 1, 0)))
            >>> recall.offset(rest)(torch.tensor([True, False]), torch.tensor([1, 1]))
            tensor(0.8333, dtype=torch.float64)
        """
        shifted = copy.copy(self)
        shifted.formula = lambda *counts: self.formula(
            *(mine + other for mine, other in zip(counts, rest, strict=True))
        )
        return shifted

    def of_counts(
        self, tp: Num[Tensor, "*rows"], fp: Num[Tensor, "*rows"], fn: Num[Tensor, "*rows"], tn: Num[Tensor, "*rows"]
    ) -> Float[Tensor, "*rows"]:
        """The formula of counts, hard or expected, with ``undefined`` where it is not finite.

        The gradient is that of the formula, and zero where the formula or its derivative is not finite.

        Raises:
            TypeError: the formula returns something other than a tensor of the counts' shape.
        """
        dtype = count_dtype(tp.device)
        value = self._evaluate([finite_gradient(count.to(dtype)) for count in (tp, fp, fn, tn)])
        return torch.where(torch.isfinite(value), value, self.undefined)

    def _evaluate(self, counts: list[Tensor]) -> Tensor:
        try:
            value = self.formula(*counts)
        except Exception as error:
            raise TypeError(
                f"needed a formula that works elementwise on tensors of counts, got {type(error).__name__} from "
                f"{self.name}: {error}; use arithmetic and torch functions"
            ) from error
        if not isinstance(value, Tensor) or value.shape != counts[0].shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else repr(value)
            raise TypeError(
                f"needed {self.name} to return one value for each of the counts {tuple(counts[0].shape)}, got {got}; "
                "write it elementwise, with arithmetic and torch functions"
            )
        return value.to(counts[0].dtype)

    def gain(
        self,
        decision: Bool[Tensor, "draws *batch items"],
        target: Bool[Tensor, "*batch items"],
        weight: Shaped[Tensor, "*batch items"] | None = None,
    ) -> Float[Tensor, "draws *batch items"]:
        """What deciding 1 instead of 0 adds to the metric, for each decision with all others as they are.

        Flipping a decision moves its weight from one count to another, so there are four gains a row, one for each cell
        of the confusion table, and every decision takes that of its cell: O(1) a decision. Where items weigh
        differently, each has gains of its own.

        Returns:
            metric(decision with 1 here) - metric(decision with 0 here), float64.
        """
        counts = hard_counts(decision, target, weight)
        one = 1 if weight is None or weight.dtype == torch.bool else weight
        tp, fp, fn, tn = (count[..., None] for count in counts)
        now = self.of_counts(*counts)[..., None]
        of_tp = now - self._of_any(tp - one, fp, fn + one, tn)
        of_fp = now - self._of_any(tp, fp - one, fn, tn + one)
        of_fn = self._of_any(tp + one, fp, fn - one, tn) - now
        of_tn = self._of_any(tp, fp + one, fn, tn - one) - now
        gain = torch.where(target, torch.where(decision, of_tp, of_fn), torch.where(decision, of_fp, of_tn))
        return gain if weight is None else gain.masked_fill(weight == 0, 0.0)

    def _of_any(self, *counts: Tensor) -> Tensor:
        return self.of_counts(*torch.broadcast_tensors(*counts))


def finite_gradient(count: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The same counts; what comes back to them and is not finite, as at 0/0, becomes a gradient of zero."""
    return _FiniteGradient.apply(count)  # type: ignore[no-any-return, no-untyped-call]


class _FiniteGradient(torch.autograd.Function):
    """The identity, whose backward pass turns what is not finite into zero: 0/0 then neither learns nor spreads NaN."""

    generate_vmap_rule = True

    @staticmethod
    def forward(count: Tensor) -> Tensor:
        """The identity."""
        return count.view_as(count)

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing to keep."""

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        """The gradient where it is finite."""
        return torch.where(torch.isfinite(gradient), gradient, 0.0)
