"""Any callable as a metric: scored whole, so only sampling estimators apply."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from rlgrad.checks import check_decision, check_rows, describe, first_index
from rlgrad.metrics.calling import Calling, OnError
from rlgrad.metrics.counts import count_dtype
from rlgrad.metrics.items import JointItems, flat_items
from rlgrad.metrics.outcomes import name_of, warn_of_graph


class OpaqueMetric(JointItems):
    """A black box ``function(decision, target) -> number``, larger is better, called once for each draw and row.

    The function sees what a person would score: the decisions of one row and its target, two tensors of shape
    ``*items``, copies on the processor that it may change. They turn into arrays where NumPy wants them. It keeps
    nothing between calls, so after a failure the next call of the metric is like any other.

    Args:
        function: gives one finite number.
        batched: the function follows the shape rule itself: it gets ``*draws *batch *items`` and ``*batch *items`` at
            once, on the device they are on, and gives ``*draws *batch``. Faster where it can.
        name: how tables and messages call it; the function's own name by default.
        item_axes: how many trailing axes make a row: 1, the items of a sentence or a minibatch; 2, the height and
            width of an image.
        ignore_index: target value of items that count for nothing. Rows of one axis arrive without them, as a sentence
            without its padding (a row of nothing else arrives empty, and the function's word counts). An image must
            keep its shape, so the decisions there are set to this value too, as integers; so they are if ``batched``.
        workers: worker processes that share the calls, which pays for slow functions; 1 calls here.
        timeout: seconds that one call may take, watched in a worker process, be it the only one. Without it a function
            that never returns is waited for.
        on_error: "raise", or a finite number that stands for a call that raises, hangs, or gives no finite number; one
            warning for each call of the metric then says how many calls did.

    Raises:
        TypeError: ``function`` is not callable, or another argument not of its kind.
        ValueError: an argument is out of its range; a batched function, which is called but once, is to be shared
            among workers or limited in time.

    Example:
        >>> from sklearn.metrics import matthews_corrcoef
        >>> metric = OpaqueMetric(lambda decision, target: matthews_corrcoef(target, decision), name="mcc")
        >>> metric(torch.tensor([[True, False, True], [True, False, False]]), torch.tensor([1, 0, 1]))
        tensor([1.0000, 0.5000], dtype=torch.float64)

        Images, scored by a function of their outlines:

        >>> corners = OpaqueMetric(lambda decision, target: float(decision[0, 0] == target[0, 0]), item_axes=2)
        >>> corners(torch.ones(3, 5, 8, 8, dtype=torch.bool), torch.ones(5, 8, 8)).shape
        torch.Size([3, 5])
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        batched: bool = False,
        name: str | None = None,
        item_axes: int = 1,
        ignore_index: int | None = None,
        workers: int = 1,
        timeout: int | float | None = None,
        on_error: OnError = "raise",
    ) -> None:
        if not callable(function):
            raise TypeError(f"needed a function(decision, target), got {function!r}; pass a callable")
        self.function = function
        self.batched = batched
        self.how = self._how(workers, timeout, on_error)
        self.name = name or name_of(function)
        self.item_axes = JointItems().over(item_axes).item_axes
        self.ignore_index = ignore_index

    def __repr__(self) -> str:
        told = [f"{key}={value!r}" for key, value, usual in self._arguments() if value != usual]
        return f"OpaqueMetric({', '.join([self.name, *told])})"

    def _arguments(self) -> list[tuple[str, object, object]]:
        return [
            ("batched", self.batched, False),
            ("item_axes", self.item_axes, 1),
            ("ignore_index", self.ignore_index, None),
            ("workers", self.how.workers, 1),
            ("timeout", self.how.timeout, None),
            ("on_error", self.how.on_error, "raise"),
        ]

    def calling(
        self, *, workers: int = 1, timeout: int | float | None = None, on_error: OnError = "raise"
    ) -> "OpaqueMetric":
        """The same metric, called in this way; see the class."""
        other = copy.copy(self)
        other.how = self._how(workers, timeout, on_error)
        return other

    def _how(self, workers: int, timeout: int | float | None, on_error: OnError) -> Calling:
        if self.batched and (workers != 1 or timeout is not None):
            raise ValueError("needed workers=1 and no timeout for a batched function, which is called once, here")
        if isinstance(on_error, tuple):
            raise TypeError(f'needed on_error "raise" or one number, got {on_error!r}; a metric gives one number')
        return Calling(workers=workers, timeout=timeout, on_error=on_error)

    def __call__(self, decision: Shaped[Tensor, "..."], target: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Score decisions against the target.

        Args:
            decision: ``*draws *batch *items``, bool or integer.
            target: ``*batch *items``.

        Returns:
            The metric, ``*draws *batch``, float64, detached.

        Raises:
            ValueError: a shape is wrong, or the function gave no finite number; draw and row are named.
            RuntimeError: the function raised, hung or ended its process; draw and row are named, the original is the
                cause.
        """
        check_decision(decision)
        check_rows(decision, target)
        flat_items(target, self.item_axes)  # refuses a target that lacks axes
        if self.batched:
            return self._at_once(decision, target)
        return self.how.each(
            seeing(self.function, self.ignore_index, item_axes=self.item_axes),
            decision,
            target,
            item_axes=self.item_axes,
            name=self.name,
        )[..., 0]

    def _at_once(self, decision: Tensor, target: Tensor) -> Tensor:
        if self.ignore_index is not None:
            decision = marked(decision, target, self.ignore_index)
        try:
            scores = self._answer(decision, target)
        except (RuntimeError, ValueError) as error:
            if self.how.raises:
                raise
            warnings.warn(f"{self.name} failed and counts as {self.how.on_error}: {error}", stacklevel=3)
            rows = decision.shape[: decision.ndim - self.item_axes]
            scores = torch.full(rows, self.how.penalty[0], device=decision.device)
        return self._finite(scores.detach().to(decision.device, count_dtype(decision.device)))

    def _answer(self, decision: Tensor, target: Tensor) -> Tensor:
        rows = decision.shape[: decision.ndim - self.item_axes]
        try:
            scores = self.function(decision.clone(), target.clone())
        except (Exception, SystemExit) as error:
            raise RuntimeError(f"{self.name} raised {type(error).__name__}: {error}") from error
        if not isinstance(scores, Tensor) or scores.shape != rows:
            got = describe(scores) if isinstance(scores, Tensor) else repr(scores)
            raise ValueError(f"needed scores of shape {tuple(rows)} from {self.name}, got {got}; reduce items alone")
        if scores.requires_grad:
            warn_of_graph(self.name)
        return scores

    def _finite(self, scores: Tensor) -> Tensor:
        bad = ~torch.isfinite(scores)
        if not bad.any():
            return scores
        at = first_index(bad)
        message = f"needed a finite score from {self.name}, got {scores[at].item()} at draw and row {at}"
        if self.how.raises:
            raise ValueError(f"{message}; return the worst value instead")
        warnings.warn(
            f"{int(bad.sum())} of {bad.numel()} scores of {self.name} count as {self.how.on_error}: {message}",
            stacklevel=4,
        )
        return torch.where(bad, self.how.penalty[0], scores)


def marked(decision: Shaped[Tensor, "..."], target: Shaped[Tensor, "..."], ignored: int) -> Int[Tensor, "..."]:
    """The decisions as integers, with the ignored value where the target has it."""
    return decision.long().masked_fill(target == ignored, ignored)


@dataclass(frozen=True)
class _WithoutIgnored:
    """A function that does not see the ignored items: taken out of a sequence, marked in an image."""

    function: Callable[..., Any]
    ignored: int
    item_axes: int

    def __call__(self, decision: Tensor, target: Tensor) -> Any:
        if self.item_axes == 1:
            kept = target != self.ignored
            return self.function(decision[kept], target[kept])
        return self.function(marked(decision, target, self.ignored), target)


def seeing(function: Callable[..., Any], ignored: int | None, *, item_axes: int) -> Callable[..., Any]:
    """The function of what is left when items are ignored."""
    return function if ignored is None else _WithoutIgnored(function, ignored, item_axes)
