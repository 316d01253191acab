"""The module that stands where a criterion stood."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from rlgrad.checks import check_generator, check_rows_of_several, counted_logits
from rlgrad.credit import reward_to_go
from rlgrad.estimators import (
    Estimator,
    as_estimator,
    blockwise,
    counterfactual,
    exact,
    is_exact,
    learning_credit,
    score_function,
)
from rlgrad.metrics import (
    ConfusionMetric,
    CountMetric,
    LabelMetric,
    Metric,
    RankingMetric,
    Scorer,
    SummedMetric,
    as_metric,
    flat_items,
)
from rlgrad.policies import Bernoulli, Categorical, Gaussian, PlackettLuce, Policy
from rlgrad.policies import PolicyType as PolicyType
from rlgrad.scope import Rest, check_sums, counted_in_batch, joined, parts_of, with_rest


def usual_policy(metric: Metric) -> PolicyType:
    """The policy that decides what a metric scores: among classes, in which order, or yes and no."""
    if isinstance(metric, RankingMetric):
        return PlackettLuce
    return Categorical if isinstance(metric, ConfusionMetric) else Bernoulli


def usual_estimator(metric: Metric, policy: PolicyType) -> Estimator:
    """The estimator with the least noise for a metric: without sampling, by single changes, or by whole rewards."""
    if isinstance(metric, CountMetric | LabelMetric) and policy is Bernoulli:
        return exact()
    if isinstance(metric, ConfusionMetric) and policy is Categorical:
        return exact() if is_exact(metric) else counterfactual()
    if isinstance(metric, SummedMetric):
        return blockwise()
    if isinstance(metric, RankingMetric) and policy is PlackettLuce:
        return score_function(credit=reward_to_go)
    return score_function()


class MetricLoss(nn.Module):
    """1 - E[metric] of the decisions that logits stand for, with a policy gradient: minimise it to raise the metric.

    It stands where ``nn.BCEWithLogitsLoss`` stood. The logits are a policy: each decision is drawn with probability
    sigmoid(logit), and the loss is one minus the (estimated) expectation of the metric over those draws, averaged over
    the rows of the batch. For a metric between 0 and 1 it lies there too and falls as training succeeds; a metric in
    other units (a profit) gives one minus that number. It is the metric of *random* decisions: that of the most
    probable ones, ``logits > 0``, which is what ``rlgrad.evaluate`` reports, is usually higher.

    ``items`` is the axis that is scored jointly: logits of shape ``(items,)`` give one metric for the whole minibatch,
    logits ``(batch, items)`` one for each row. Images ``(batch, H, W)`` are scored one by one by ``f1.over(2)``, all
    together by ``f1.over(3)``. Items whose target is the metric's ``ignore_index`` have no gradient. The mean of the
    metrics of small batches is not the metric of the whole: accumulating gradients, or averaging over ranks, does not
    enlarge a batch; ``scope="data"`` does.

    Args:
        metric: a CountMetric, or any function of one row's (decision, target) that returns a number.
        estimator: "auto" takes "exact" where the counts have a known law (a CountMetric, and its averages over labels
            and classes), "counterfactual" where items weigh differently and for any other formula of a confusion
            matrix, "blockwise" (8 draws, credit to each row) for a SummedMetric, and "score_function" (16 draws) for
            all else, with credit by rank for a RankingMetric and leave-one-out for a black box; or a name, or an
            estimator such as
            ``counterfactual(draws=4)``, which is the one for a formula of counts with a jump or a kink.
            ``rlgrad.estimators.ESTIMATORS`` holds the names.
        policy: Bernoulli for logits ``*batch items``, Categorical for logits ``*batch items classes``, PlackettLuce for
            scores ``*batch items`` to rank by; by default the one that decides what the metric scores, Categorical for
            a ConfusionMetric, PlackettLuce for a RankingMetric and Bernoulli for all else.
        reduction: over rows: "mean", "sum" or "none".
        scope: "batch" scores each batch by itself; "data" scores it together with the rest of the data set, whose
            counts are kept from the pass before (``start_pass``, which ``fit`` calls, begins a new one) and saved in
            ``state_dict``. A batch of four images then learns for the corpus IoU and not for the mean of noisy ratios
            that a rare class makes of four. For formulas of counts and summed statistics, rows scored jointly.
        generator: source of randomness of the sampling estimators, on the logits' device.

    Shape:
        logits ``*batch *items [classes]``, target ``*batch *items``; the loss is a scalar, or ``*batch`` without
        reduction.

    Raises:
        TypeError: the metric or the estimator is nothing of the kind, the policy draws real numbers, which no metric
            scores, or the metric is no formula of sums for ``scope="data"``; a wrong dtype.
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
        policy: PolicyType | None = None,
        reduction: Literal["mean", "sum", "none"] = "mean",
        scope: Literal["batch", "data"] = "batch",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if scope not in ("batch", "data"):
            raise ValueError(f"needed scope batch or data, got {scope!r}")
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"needed reduction mean, sum or none, got {reduction!r}")
        check_generator(generator)
        self.metric = as_metric(metric)
        if scope == "data":
            check_sums(self.metric)
        self.policy = usual_policy(self.metric) if policy is None else policy
        self.estimator = (
            usual_estimator(self.metric, self.policy) if estimator == "auto" else as_estimator(estimator, also="auto, ")
        )
        if self.policy is Gaussian:
            raise TypeError(
                f"needed a policy whose decisions {self.metric!r} scores, got Gaussian, which draws real numbers; call "
                "score_function with a function of them"
            )
        self.auto = estimator == "auto"
        self.credit = learning_credit(self.estimator)
        self.reduction = reduction
        self.rest = Rest() if scope == "data" else None
        self.generator = generator

    def start_pass(self) -> None:
        """With ``scope="data"``: the batches to come are those of a new pass over the data. ``fit`` calls it."""
        if self.rest is not None:
            self.rest.start_pass()

    def extra_repr(self) -> str:
        """What the loss is made of, for ``repr``."""
        scope = "" if self.rest is None else ", scope='data'"
        return (
            f"{self.metric!r}, {self.estimator!r}, policy={self.policy.__name__}, reduction={self.reduction!r}{scope}"
        )

    def forward(
        self, logits: Float[Tensor, "..."], target: Shaped[Tensor, "..."], weight: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, "*rows"]:
        """1 - E[metric], reduced over rows.

        Args:
            logits: ``*batch *items``, or ``*batch *items classes``.
            target: ``*batch *items``.
            weight: ``*batch *items``, what each item counts for in a metric of counts; 1 by default.
        """
        loss = self.of_rows(logits, target, weight=weight)
        if self.reduction == "none":
            return loss
        # A batch without rows has no mean; it gives zero, attached to the graph, which distributed training needs.
        return loss.sum() / max(1, loss.numel()) if self.reduction == "mean" else loss.sum()

    def of_rows(
        self,
        logits: Float[Tensor, "..."],
        target: Shaped[Tensor, "..."],
        *,
        weight: Shaped[Tensor, "..."] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*batch"]:
        """1 - E[metric] of each row; without a generator of its own the loss takes the one that is given."""
        logits = self.check(logits, target)
        generator = generator if self.generator is None else self.generator
        if self.rest is not None:
            return 1 - self._of_data(self.rest, logits, target, weight, generator)
        if not isinstance(self.metric, LabelMetric):
            return 1 - self._expected(self.metric, logits, target, weight, generator)
        parts = self.metric.parts(logits, target, weight)
        of_label = self._expected(self.metric.metric, *parts, generator)
        return 1 - self.metric.reduce(of_label, self.metric.support(target, weight))

    def _of_data(
        self, rest: Rest, logits: Tensor, target: Tensor, weight: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        """E[metric of all data with this batch drawn], its gradient times the number of batches in the data.

        So the mean of the batches' gradients is the gradient of the whole, on which each batch has only its share.
        """
        parts = parts_of(self.metric, logits, target, weight)
        others = rest.of(rows=len(target), parts=len(parts), device=logits.device)
        values, sums = [], []
        for part, other in zip(parts, others, strict=True):
            metric, policy = with_rest(part.metric, other), self._policy(part.metric, part.logits)
            values.append(self._estimator(part.weight)(policy, Scorer(metric, *part[2:]), generator=generator))
            sums.append(counted_in_batch(part, policy, generator=generator))
        value = joined(self.metric, torch.stack(values), torch.stack(sums), others)
        times = rest.times(rows=len(target))
        if self.training:
            rest.add(torch.cat(sums), rows=len(target))
        return value.detach() + times * (value - value.detach())

    def _expected(
        self, metric: Metric, logits: Tensor, target: Tensor, weight: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        score = Scorer(metric, target, weight)
        return self._estimator(weight)(self._policy(metric, logits), score, generator=generator)

    def _estimator(self, weight: Tensor | None) -> Estimator:
        """The estimator; where "auto" chose it for the law of the counts, another for weights, whose sums have none."""
        lawful = not isinstance(weight, Tensor) or weight.dtype == torch.bool
        return self.estimator if lawful or not self.auto or not isinstance(self.estimator, exact) else counterfactual()

    def _policy(self, metric: Metric, logits: Tensor) -> Policy:
        classes, axes = len(self.policy.axes) - 1, metric.item_axes
        return self.policy(logits.flatten(-axes - classes, -1 - classes) if axes > 1 else logits)

    def check(self, logits: Float[Tensor, "..."], target: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Refuse what is not logits and a target that fits them; see the class for the errors.

        Returns:
            The logits, constant where the target is ignored: there nothing has a gradient, and NaN does no harm.
        """
        # What is ranked leaves the ranking: masked, and last.
        instead = -torch.inf if self.policy is PlackettLuce else 0.0
        axes = len(self.policy.axes)
        logits = counted_logits(logits, target, self.metric.ignore_index, axes=axes, instead=instead)
        if not isinstance(self.metric, LabelMetric):
            check_rows_of_several(flat_items(target, self.metric.item_axes))
        return logits
