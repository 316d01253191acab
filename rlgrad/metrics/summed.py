"""A formula of statistics summed over rows: corpus F1 of spans, BLEU, the panoptic quality of many images."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from rlgrad.checks import check_decision, check_rows, describe
from rlgrad.metrics.calling import Calling, OnError
from rlgrad.metrics.counts import check_undefined, count_dtype, finite_gradient
from rlgrad.metrics.items import JointItems, flat_items
from rlgrad.metrics.opaque import OpaqueMetric, seeing
from rlgrad.metrics.outcomes import name_of


class SummedMetric(JointItems):
    """A metric of many rows at once that is a formula of sums over them; larger is better.

    metric = score(sum over rows of statistic(decision of the row, target of the row))

    What CountMetric is for single decisions, with tp, fp, fn and tn, this is for rows that only count as a whole: a
    sentence has so many spans that were found, claimed and there, an image so many segments. The formula of the sums
    is the corpus score that papers report; the mean of the rows' own scores, which ``apart`` gives, is another number.

    Args:
        statistic: of one row's decision and target, two tensors of ``row_axes`` axes, copies on the processor that it
            may change; it gives a tuple of finite numbers, as many for every row.
        score: ``score(*sums)``, an elementwise formula on floating-point tensors of one shape, as CountMetric's.
        undefined: the value where the formula divides by zero, or where there are no rows.
        row_axes: how many trailing axes make a row: 1, the tokens of a sentence; 2, the pixels of an image. The axis
            before them is the one that is summed over, so the metric's ``item_axes`` are one more.
        name: how tables and messages call it; the score's own name by default.
        ignore_index: target value of items that count for nothing, kept from the statistic as from the function of an
            OpaqueMetric.
        workers: worker processes that share the calls; see OpaqueMetric.
        timeout: seconds that one call may take; see OpaqueMetric.
        on_error: "raise", or a tuple of statistics that stands for those of a row whose call fails.

    Raises:
        TypeError: an argument is not of its kind.
        ValueError: an argument is out of its range.

    Example:
        Edits of characters per character of reference, over a batch of two texts:

        >>> def edits(decision, target):
        ...     return int((decision != target).sum()), len(target)
        >>> accuracy = SummedMetric(edits, lambda wrong, length: 1 - wrong / length, undefined=0.0, name="accuracy")
        >>> accuracy(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1, 2, 0], [4, 5, 6]]))
        tensor(0.8333, dtype=torch.float64)
    """

    def __init__(
        self,
        statistic: Callable[..., Any],
        score: Callable[..., Tensor],
        *,
        undefined: int | float,
        row_axes: int = 1,
        name: str | None = None,
        ignore_index: int | None = None,
        workers: int = 1,
        timeout: int | float | None = None,
        on_error: OnError = "raise",
    ) -> None:
        if not callable(statistic) or not callable(score):
            raise TypeError(
                f"needed a statistic(decision, target) and a score(*sums), got {statistic!r} and {score!r}; "
                "pass two functions"
            )
        if on_error != "raise" and not isinstance(on_error, tuple):
            raise TypeError(f'needed on_error "raise" or a tuple of statistics, got {on_error!r}; a row has several')
        self.statistic = statistic
        self.score = score
        check_undefined(undefined)
        self.undefined = float(undefined)
        self.row_axes = JointItems().over(row_axes).item_axes
        self.item_axes = self.row_axes + 1
        self.name = name or name_of(score)
        self.ignore_index = ignore_index
        self.how = Calling(workers=workers, timeout=timeout, on_error=on_error)
        self.rest: Tensor | None = None

    def __repr__(self) -> str:
        return f"SummedMetric({self.name}, undefined={self.undefined:g}, row_axes={self.row_axes})"

    def over(self, axes: int) -> "SummedMetric":
        """The same metric, whose axes are fixed by those of a row.

        Raises:
            ValueError: other axes are asked for.
        """
        if axes != self.item_axes:
            raise ValueError(
                f"needed {self.item_axes} item axes for {self!r}, rows and the {self.row_axes} of a row, got {axes}; "
                "set row_axes, or use apart() to score rows by themselves"
            )
        return self

    def offset(self, rest: Float[Tensor, " statistics"]) -> "SummedMetric":
        """The same metric of these rows and of others whose statistics have been summed: ``score(sums + rest)``."""
        other = copy.copy(self)
        other.rest = rest
        return other

    def apart(self) -> OpaqueMetric:
        """The same score of each row by itself."""
        penalty = self.how.penalty
        return OpaqueMetric(
            self._alone,
            name=self.name,
            item_axes=self.row_axes,
            ignore_index=self.ignore_index,
            workers=self.how.workers,
            timeout=self.how.timeout,
            on_error=float(self.of_sums(torch.tensor(penalty, dtype=torch.float64))) if penalty else "raise",
        )

    def _alone(self, decision: Tensor, target: Tensor) -> Tensor:
        statistics = torch.tensor([float(number) for number in self.statistic(decision, target)], dtype=torch.float64)
        return self.of_sums(statistics)

    def __call__(self, decision: Shaped[Tensor, "..."], target: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Score decisions against the target.

        Args:
            decision: ``*draws *batch rows *row``, bool or integer.
            target: ``*batch rows *row``.

        Returns:
            The metric, ``*draws *batch``, float64, detached.

        Raises:
            TypeError, ValueError, RuntimeError: as ``statistics`` and ``of_sums``.
        """
        return self.of_sums(self.statistics(decision, target).sum(-2))

    def statistics(
        self, decision: Shaped[Tensor, "..."], target: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "*draws_batch rows statistics"]:
        """The statistics of each row.

        Returns:
            ``*draws *batch rows statistics``, float64, detached.

        Raises:
            ValueError: a shape is wrong, or the statistic gave no tuple of finite numbers; draw and row are named.
            RuntimeError: the statistic raised, hung or ended its process; the original is the cause.
        """
        check_decision(decision)
        check_rows(decision, target)
        flat_items(target, self.item_axes)  # refuses a target that lacks axes
        statistic = seeing(self.statistic, self.ignore_index, item_axes=self.row_axes)
        return self.how.each(statistic, decision, target, item_axes=self.row_axes, name=self.name, several=True)

    def of_sums(self, sums: Float[Tensor, "*any statistics"]) -> Float[Tensor, "*any"]:
        """The formula of summed statistics, with ``undefined`` and a gradient of zero where it is not finite.

        Raises:
            TypeError: the score returns something other than a tensor of the sums' shape.
        """
        rows = sums.shape[:-1]
        if sums.shape[-1] == 0:  # no row has told how many statistics there are
            return torch.full(rows, self.undefined, dtype=count_dtype(sums.device), device=sums.device)
        counted = finite_gradient(sums.to(count_dtype(sums.device)))
        value = self._evaluate((counted if self.rest is None else counted + self.rest).unbind(-1))
        return torch.where(torch.isfinite(value), value, self.undefined)

    def _evaluate(self, sums: tuple[Tensor, ...]) -> Tensor:
        try:
            value = self.score(*sums)
        except Exception as error:
            raise TypeError(
                f"needed a score that works elementwise on {len(sums)} tensors of sums, got {type(error).__name__} "
                f"from {self.name}: {error}; use arithmetic and torch functions"
            ) from error
        if not isinstance(value, Tensor) or value.shape != sums[0].shape:
            got = describe(value) if isinstance(value, Tensor) else repr(value)
            raise TypeError(
                f"needed {self.name} to return one value for each of the sums {tuple(sums[0].shape)}, got {got}; "
                "write it elementwise, with arithmetic and torch functions"
            )
        return value.to(sums[0].dtype)
