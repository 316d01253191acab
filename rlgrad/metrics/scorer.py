"""What estimators call: a metric with its target filled in, or whatever stands downstream of hidden decisions."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from rlgrad.checks import describe, values_visible
from rlgrad.metrics.averages import LabelMetric
from rlgrad.metrics.confusion import ConfusionMetric, expected_confusion
from rlgrad.metrics.counts import CountMetric, expected_counts
from rlgrad.metrics.items import flat_items
from rlgrad.metrics.opaque import OpaqueMetric
from rlgrad.metrics.ranking import RankingMetric
from rlgrad.metrics.summed import SummedMetric

Metric = CountMetric | ConfusionMetric | LabelMetric | OpaqueMetric | SummedMetric | RankingMetric
# How torch says that two tensors differ in dtype: each operation in its own words.
_OF_DTYPES = re.compile(r"dtype|scalar type|Input type \(")


@dataclass(frozen=True)
class Scorer:
    """Scores decisions by a metric against a target: ``scorer(decision) = metric(decision, target)``.

    Estimators know one axis of items. Where the metric scores several jointly, such as H and W of an image, the
    decisions' items are those axes as one, and the metric sees them in the target's shape. Sampling estimators take any
    function from decisions ``draws *batch items`` to rewards ``draws *batch`` in a scorer's place; those that use the
    formula of a metric find it here.

    Args:
        metric: what scores.
        target: ``*batch *items``, with as many axes of items as the metric's ``item_axes``.
        weight: ``*batch *items``, what each item counts for, where the metric is a formula of counts.

    Example:
        >>> import torch
        >>> from rlgrad.metrics import f1
        >>> Scorer(f1, torch.tensor([1, 0, 1]))(torch.tensor([[True, False, True]]))
        tensor([1.], dtype=torch.float64)
    """

    metric: Metric
    target: Shaped[Tensor, "..."]
    weight: Shaped[Tensor, "..."] | None = None

    def __post_init__(self) -> None:
        if self.weight is not None and isinstance(self.metric, OpaqueMetric | SummedMetric | RankingMetric):
            raise TypeError(f"needed a metric of counts to weigh items for, got {self.metric!r}; leave out weight")

    @property
    def flat_target(self) -> Shaped[Tensor, "*batch items"]:
        """The target in the shape of one draw's decisions."""
        return flat_items(self.target, self.metric.item_axes)

    def __call__(self, decision: Shaped[Tensor, "draws *batch items"]) -> Float[Tensor, "draws *batch"]:
        """Rewards of the decisions."""
        if self.metric.item_axes > 1:
            decision = decision.unflatten(-1, self.target.shape[-self.metric.item_axes :])
        if self.weight is None:
            return self.metric(decision, self.target)
        return self.metric(decision, self.target, self.weight)  # type: ignore[call-arg]

    def relaxed(self, decision: Float[Tensor, "draws *logits"]) -> Float[Tensor, "draws *batch"]:
        """The formula of the counts of fractional decisions: the same at 0 and 1, and differentiable between.

        Args:
            decision: ``draws *batch items`` for a CountMetric, ``draws *batch items classes`` for a ConfusionMetric.

        Raises:
            TypeError: the metric is neither; a black box has no values between.
        """
        if isinstance(self.metric, CountMetric):
            true, weight = self.metric.split(self.target, self.weight)
            return self.metric.of_counts(*expected_counts(decision, *expanded(decision.shape, true, weight)))
        if isinstance(self.metric, ConfusionMetric):
            true, weight = self.metric.split(self.target, self.weight)
            return self.metric.of_confusion(expected_confusion(decision, *expanded(decision.shape[:-1], true, weight)))
        raise TypeError(
            f"needed a score that is differentiable in the decision, got a Scorer of {self.metric!r}; "
            "use score_function, disarm or another estimator that only asks for rewards"
        )


def expanded(shape: torch.Size, true: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Truth and weights of the items, the same for all draws."""
    return true.expand(shape), None if weight is None else weight.expand(shape)


@dataclass(frozen=True)
class Downstream:
    """Scores decisions *inside* a network by what follows them: any differentiable function of decisions as numbers.

    The function takes the decisions as 0 and 1, or one-hot where there are classes, and the estimators that use its
    derivative also ask it in between. Its parameters get their gradient through the estimate, as everything that a
    score's graph holds does.

    Args:
        function: from ``draws *batch items [classes]`` to rewards ``draws *batch``, larger is better: a loss with its
            sign changed.
        classes: how many there are to choose from; None for yes or no.
        dtype: of the numbers; torch's default dtype by default. It must be that of the function's weights, which
            decisions, being bool or integer, do not tell.

    Raises:
        TypeError: no function; on use, one whose weights are of another dtype.
        ValueError: on use, decisions that are not what ``classes`` says.

    Example:
        >>> decoder = torch.nn.Linear(3, 1)
        >>> score = Downstream(lambda hidden: -decoder(hidden).squeeze(-1).square())
        >>> score(torch.tensor([[True, False, True], [False, False, True]])).shape
        torch.Size([2])
    """

    function: Callable[[Tensor], Tensor]
    classes: int | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"needed a function of the decisions as numbers, got {self.function!r}; pass a callable")

    def __call__(self, decision: Shaped[Tensor, "draws *batch items"]) -> Float[Tensor, "draws *batch"]:
        """Rewards of the decisions."""
        if decision.is_floating_point() or (self.classes is None) != (decision.dtype == torch.bool):
            raise ValueError(
                f"needed {'yes/no' if self.classes is None else 'integer'} decisions for Downstream(..., "
                f"classes={self.classes}), got {describe(decision)}; name the policy's classes, or None for Bernoulli"
            )
        if self.classes is not None and values_visible() and decision.numel() and decision.max() >= self.classes:
            raise ValueError(
                f"needed classes below {self.classes}, got {int(decision.max())}; name the policy's number of classes"
            )
        coded = decision if self.classes is None else F.one_hot(decision.long(), self.classes)
        return self._reward(coded)

    def relaxed(self, decision: Float[Tensor, "draws *logits"]) -> Float[Tensor, "draws *batch"]:
        """Rewards of decisions between 0 and 1."""
        return self._reward(decision)

    def _reward(self, decision: Tensor) -> Tensor:
        numbers = decision.to(self.dtype or torch.get_default_dtype())
        try:
            return self.function(numbers)
        except (RuntimeError, ValueError) as error:
            if not _OF_DTYPES.search(str(error)):
                raise
            raise TypeError(
                f"needed decisions in the dtype of the function's weights, got {describe(numbers)}: "
                f"{str(error).splitlines()[0]}; name it, as in Downstream(function, dtype=torch.float64)"
            ) from error


Score = Callable[[Tensor], Tensor]


@runtime_checkable
class Differentiable(Protocol):
    """A score that is also defined between the decisions, and differentiable there."""

    def __call__(self, decision: Tensor, /) -> Tensor:
        """Rewards ``draws *batch`` of decisions ``draws *batch items``."""
        ...

    def relaxed(self, decision: Tensor, /) -> Tensor:
        """Rewards of decisions as numbers, ``draws *batch items [classes]``; equal to the rewards at 0 and 1."""
        ...


def as_metric(metric: Metric | Callable[..., object]) -> Metric:
    """The metric itself, or a bare function wrapped as an ``OpaqueMetric``.

    Raises:
        TypeError: it is neither; a name, or tensors in its place.
    """
    if isinstance(metric, str | Tensor):
        got = repr(metric) if isinstance(metric, str) else describe(metric)
        raise TypeError(f"needed a metric, got {got}; pass the object, such as rlgrad.metrics.f1")
    return metric if isinstance(metric, Metric) else OpaqueMetric(metric)
