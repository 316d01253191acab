"""A metric with its target filled in: what estimators call."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Shaped
from torch import Tensor

from rlgrad.metrics.counts import CountMetric
from rlgrad.metrics.opaque import OpaqueMetric

Metric = CountMetric | OpaqueMetric


@dataclass(frozen=True)
class Scorer:
    """Scores decisions by a metric against a target: ``scorer(decision) = metric(decision, target)``.

    Sampling estimators take any function from decisions ``draws *batch items`` to rewards ``draws *batch`` in its
    place; those that use the formula of a ``CountMetric`` find it here.

    Args:
        metric: a CountMetric or an OpaqueMetric.
        target: ``*batch items``.

    Example:
        >>> import torch
        >>> from rlgrad.metrics import f1
        >>> Scorer(f1, torch.tensor([1, 0, 1]))(torch.tensor([[True, False, True]]))
        tensor([1.], dtype=torch.float64)
    """

    metric: Metric
    target: Shaped[Tensor, "*batch items"]

    def __call__(self, decision: Shaped[Tensor, "draws *batch items"]) -> Float[Tensor, "draws *batch"]:
        """Rewards of the decisions."""
        return self.metric(decision, self.target)


Score = Callable[[Tensor], Tensor]


def as_metric(metric: Metric | Callable[..., object]) -> Metric:
    """The metric itself, or a bare function wrapped as an ``OpaqueMetric``.

    Raises:
        TypeError: it is neither.
    """
    return metric if isinstance(metric, Metric) else OpaqueMetric(metric)
