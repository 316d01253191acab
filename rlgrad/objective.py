"""The module that stands where a criterion stood."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from rlgrad.checks import check_generator, check_logits, check_rows_of_several, check_target
from rlgrad.estimators import Estimator, as_estimator, exact, learning_credit, score_function
from rlgrad.metrics import CountMetric, Metric, Scorer, as_metric
from rlgrad.policies import Bernoulli, Categorical


class MetricLoss(nn.Module):
    """1 - E[metric] of the decisions that logits stand for, with a policy gradient: minimise it to raise the metric.

    It stands where ``nn.BCEWithLogitsLoss`` stood. The logits are a policy: each decision is drawn with probability
    sigmoid(logit), and the loss is one minus the (estimated) expectation of the metric over those draws, averaged over
    the rows of the batch. For a metric between 0 and 1 it lies there too and falls as training succeeds; a metric in
    other units (a profit) gives one minus that number. It is the metric of *random* decisions: that of the most
    probable ones, ``logits > 0``, which is what ``rlgrad.evaluate`` reports, is usually higher.

    ``items`` is the axis that is scored jointly: logits of shape ``(items,)`` give one metric for the whole minibatch,
    logits ``(batch, items)`` one for each row. Flatten images: ``logits.flatten(1)``. The mean of the metrics of small
    batches is not the metric of the whole: accumulating gradients, or averaging over ranks, does not enlarge a batch.

    Args:
        metric: a CountMetric, or any function of one row's (decision, target) that returns a number.
        estimator: "auto" takes "exact" for a CountMetric under a Bernoulli policy and "score_function" (leave-one-out,
            16 draws) for all else; or a name, or an estimator such as ``counterfactual(draws=4)``, which is the one for
            a formula of counts with a jump or a kink. ``rlgrad.estimators.ESTIMATORS`` holds the names.
        policy: Bernoulli for logits ``*batch items``, Categorical for logits ``*batch items classes``.
        reduction: over rows: "mean", "sum" or "none".
        generator: source of randomness of the sampling estimators, on the logits' device.

    Shape:
        logits ``*batch items``, target ``*batch items``; the loss is a scalar, or ``*batch`` without reduction.

    Raises:
        TypeError: the metric or the estimator is nothing of the kind; a wrong dtype.
        ValueError: an unknown name; on use, shapes that differ, NaN logits, targets other than 0 and 1, rows of a
            single item (a trailing axis of size one that should be squeezed away).

    Example:
        >>> import rlgrad
        >>> from rlgrad.metrics import f1
        >>> criterion = rlgrad.MetricLoss(f1)
        >>> logits = torch.tensor([2.0, -1.0, 0.5], requires_grad=True)
        >>> loss = criterion(logits, torch.tensor([1.0, 0.0, 1.0]))
        >>> loss.backward()
        >>> print(f"{loss.item():.4f}")
        0.2283
    """

    def __init__(
        self,
        metric: Metric | Callable[..., object],
        estimator: str | Estimator = "auto",
        *,
        policy: type[Bernoulli] | type[Categorical] = Bernoulli,
        reduction: Literal["mean", "sum", "none"] = "mean",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"needed reduction mean, sum or none, got {reduction!r}")
        check_generator(generator)
        self.metric = as_metric(metric)
        self.policy = policy
        self.estimator = self._usual() if estimator == "auto" else as_estimator(estimator, also="auto, ")
        self.credit = learning_credit(self.estimator)
        self.reduction = reduction
        self.generator = generator

    def extra_repr(self) -> str:
        """What the loss is made of, for ``repr``."""
        return f"{self.metric!r}, {self.estimator!r}, policy={self.policy.__name__}, reduction={self.reduction!r}"

    def forward(self, logits: Float[Tensor, "..."], target: Shaped[Tensor, "*batch items"]) -> Float[Tensor, "*rows"]:
        """1 - E[metric], reduced over rows."""
        loss = self.of_rows(logits, target)
        if self.reduction == "none":
            return loss
        # A batch without rows has no mean; it gives zero, attached to the graph, which distributed training needs.
        return loss.sum() / max(1, loss.numel()) if self.reduction == "mean" else loss.sum()

    def of_rows(
        self,
        logits: Float[Tensor, "..."],
        target: Shaped[Tensor, "*batch items"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*batch"]:
        """1 - E[metric] of each row; without a generator of its own the loss takes the one that is given."""
        self.check(logits, target)
        generator = generator if self.generator is None else self.generator
        return 1 - self.estimator(self.policy(logits), Scorer(self.metric, target), generator=generator)

    def check(self, logits: Float[Tensor, "..."], target: Shaped[Tensor, "*batch items"]) -> None:
        """Refuse what is not logits and a target that fits them; see the class for the errors."""
        axes = len(self.policy.axes)
        check_logits(logits, axes=axes)
        check_target(logits, target, axes=axes)
        check_rows_of_several(target)

    def _usual(self) -> Estimator:
        by_formula = isinstance(self.metric, CountMetric) and self.policy is Bernoulli
        return exact() if by_formula else score_function()
