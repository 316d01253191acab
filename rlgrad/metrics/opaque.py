"""Any callable as a metric: scored whole, so only sampling estimators apply."""

import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from rlgrad.checks import check_decision, check_rows, describe
from rlgrad.metrics.counts import count_dtype
from rlgrad.metrics.items import JointItems


class OpaqueMetric(JointItems):
    """A black box ``function(decision, target) -> number``, larger is better, called once for each draw and row.

    The function sees what a person would score: the decisions of one row and its target, two tensors of shape
    ``items``, copies on the processor that it may change. They turn into arrays where NumPy wants them.

    Args:
        function: gives one finite number.
        batched: the function follows the shape rule itself: it gets ``draws *batch items`` and ``*batch items`` at
            once, on the device they are on, and gives ``draws *batch``. Faster where it can.
        name: how tables and messages call it; the function's own name by default.

    Raises:
        TypeError: ``function`` is not callable.

    Example:
        >>> from sklearn.metrics import matthews_corrcoef
        >>> metric = OpaqueMetric(lambda decision, target: matthews_corrcoef(target, decision), name="mcc")
        >>> metric(torch.tensor([[True, False, True], [True, False, False]]), torch.tensor([1, 0, 1]))
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """

    def __init__(self, function: Callable[..., Any], *, batched: bool = False, name: str | None = None) -> None:
        if not callable(function):
            raise TypeError(f"needed a function(decision, target), got {function!r}; pass a callable")
        self.function = function
        self.batched = batched
        self.name = name or str(getattr(function, "__name__", type(function).__name__))

    def __repr__(self) -> str:
        return f"OpaqueMetric({self.name}{', batched=True' if self.batched else ''})"

    def __call__(self, decision: Shaped[Tensor, "..."], target: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Score decisions against the target.

        Args:
            decision: ``*draws *batch items``, bool or integer.
            target: ``*batch items``.

        Returns:
            The metric, ``*draws *batch``, float64, detached.

        Raises:
            ValueError: a shape is wrong, or the function gave no finite number; draw and row are named.
            RuntimeError: the function raised; draw and row are named, the original is the cause.
        """
        check_decision(decision)
        check_rows(decision, target)
        scores = self._at_once(decision, target) if self.batched else self._one_by_one(decision, target)
        if not torch.isfinite(scores).all():
            at = tuple(int(i) for i in (~torch.isfinite(scores)).nonzero()[0])
            raise ValueError(
                f"needed a finite score from {self.name}, got {scores[at].item()} at draw and row {at}; "
                "return the worst value instead"
            )
        return scores

    def _at_once(self, decision: Tensor, target: Tensor) -> Tensor:
        try:
            scores = self.function(decision.clone(), target.clone())
        except Exception as error:
            raise RuntimeError(f"{self.name} raised {type(error).__name__}: {error}") from error
        if not isinstance(scores, Tensor) or scores.shape != decision.shape[:-1]:
            got = describe(scores) if isinstance(scores, Tensor) else repr(scores)
            raise ValueError(
                f"needed scores of shape {tuple(decision.shape[:-1])} from {self.name}, got {got}; reduce items alone"
            )
        if scores.requires_grad:
            self._warn_of_graph()
        return scores.detach().to(decision.device, count_dtype(decision.device))

    def _one_by_one(self, decision: Tensor, target: Tensor) -> Tensor:
        rows = decision.shape[:-1]
        device = decision.device
        scores = torch.empty(rows, dtype=count_dtype(device))
        # On the processor, where NumPy can read them, in one transfer.
        decision, targets = decision.cpu(), target.cpu().expand(decision.shape)
        for at in product(*map(range, rows)):
            scores[at] = self._one(decision[at], targets[at], at)
        return scores.to(device)

    def _one(self, decision: Tensor, target: Tensor, at: tuple[int, ...]) -> float:
        try:
            score = self.function(decision.clone(), target.clone())
        except Exception as error:
            raise RuntimeError(f"{self.name} raised {type(error).__name__} at draw and row {at}: {error}") from error
        if isinstance(score, Tensor) and score.requires_grad:
            self._warn_of_graph()
            score = score.detach()
        try:
            return float(score)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"needed a number from {self.name}, got {score!r} at draw and row {at}; return one float"
            ) from error

    def _warn_of_graph(self) -> None:
        warnings.warn(
            f"{self.name} returned a score with a gradient, which a black box has no use for; it is taken as a number. "
            "If what it holds is to learn, score by rlgrad.metrics.Downstream",
            stacklevel=4,
        )
