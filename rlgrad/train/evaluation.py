"""The true metric of a model's decisions."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlgrad.checks import check_rows_of_several, check_target, describe
from rlgrad.metrics import Counts, Metric, as_metric, hard_counts
from rlgrad.metrics.items import split_ignored
from rlgrad.objective import PolicyType, usual_policy
from rlgrad.policies import Bernoulli
from rlgrad.train.batches import Batches, Data

Threshold = float | tuple[float, ...]


@dataclass(frozen=True)
class Evaluation:
    """The true metric of a model's decisions.

    Args:
        value: the metric, averaged over rows where rows are scored apart.
        threshold: decisions were ``logits > threshold``; one, or one for each label.
        counts: confusion counts of all decisions together; None where decisions, or the target, are not yes or no.
    """

    value: float
    threshold: Threshold
    counts: Counts | None


def evaluate(
    model: nn.Module,
    data: Data,
    metric: Metric | Callable[..., object],
    *,
    threshold: Threshold = 0.0,
    policy: PolicyType | None = None,
    batch_size: int = 4096,
) -> Evaluation:
    """The true metric of a model's decisions on a data set, all batches together.

    Args:
        model: as in ``fit``; it is run in evaluation mode, on the device it is on.
        data: a pair of tensors, or an iterable of batches.
        metric: a CountMetric, or a function of one row's (decision, target).
        threshold: decisions are ``logits > threshold``; one, or one for each entry of the logits' last axis.
        policy: Bernoulli, Categorical, which decides for the most probable class, or PlackettLuce, which ranks by
            logit; by default the metric's own.
        batch_size: rows a batch, where the data are tensors.

    Raises:
        TypeError, ValueError: shapes or values that do not fit; there are no data.

    Example:
        >>> from rlgrad import evaluate
        >>> from rlgrad.metrics import f1
        >>> x = torch.tensor([[1.0], [2.0], [-1.0]])
        >>> result = evaluate(nn.Flatten(0), (x, torch.tensor([1, 0, 0])), f1)
        >>> print(f"{result.value:.4f}", [int(count) for count in result.counts])
        0.6667 [1, 1, 0, 1]
    """
    if batch_size < 1:
        raise ValueError(f"needed a batch_size of at least 1, got {batch_size}")
    metric = as_metric(metric)
    policy = usual_policy(metric) if policy is None else policy
    if not is_threshold(threshold) or (policy is not Bernoulli and threshold != 0):
        raise ValueError(f"needed a finite threshold, and 0 but for a Bernoulli policy, got {threshold}")
    logits, target = predict(model, Batches(data, "data").in_order(batch_size), policy)
    return judge(logits, target, metric, threshold, policy)


def is_threshold(threshold: object) -> bool:
    """Whether it is a finite number, or several."""
    each = threshold if isinstance(threshold, tuple) else (threshold,)
    return all(isinstance(t, float | int) and not isinstance(t, bool) and math.isfinite(t) for t in each)


def judge(logits: Tensor, target: Tensor, metric: Metric, threshold: Threshold, policy: PolicyType) -> Evaluation:
    """The metric of the decisions that logits stand for."""
    if isinstance(threshold, tuple):
        if logits.shape[-1] != len(threshold):
            raise ValueError(f"needed a threshold for each label of {describe(logits)}, got {len(threshold)}")
        decision = policy(logits - torch.tensor(threshold).to(logits)).mode
    else:
        decision = policy(logits - threshold).mode if threshold else policy(logits).mode
    value = float(metric(decision, target).mean())
    counts = None
    true, kept = split_ignored(target, metric.ignore_index)
    if policy is Bernoulli and ((true == 0) | (true == 1)).all():  # what a black box judges by may be anything
        counts = hard_counts(decision.flatten(), true.flatten(), None if kept is None else kept.flatten())
    return Evaluation(value, threshold, counts)


def predict(model: nn.Module, batches: Iterable[Sequence[Tensor]], policy: PolicyType) -> tuple[Tensor, Tensor]:
    """Logits and targets of a data set, from the model in evaluation mode."""
    device = next((parameter.device for parameter in model.parameters()), None)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    logits, targets = [], []
    try:
        with torch.no_grad():
            for x, y in batches:
                target = y.to(device)
                logits.append(_checked(model(x.to(device)), target, policy))
                targets.append(target)
    finally:
        for module, training in modes.items():
            module.training = training
    if not targets:
        raise ValueError("needed data to evaluate on, got no batch; an iterator can be gone through only once")
    together = torch.cat(targets)
    check_rows_of_several(together)
    return torch.cat(logits), together


def _checked(logits: Tensor, target: Tensor, policy: PolicyType) -> Tensor:
    if policy is Bernoulli and logits.ndim > 1 and logits.shape[-1] > 1 and logits.shape[:-1] == target.shape:
        raise ValueError(
            f"needed a target of shape {tuple(logits.shape)} for yes/no decisions on the logits {describe(logits)}, "
            f"got {describe(target)}; if the logits' last axis is classes, pass policy=rlgrad.Categorical"
        )
    check_target(logits, target, axes=len(policy.axes))
    return logits
