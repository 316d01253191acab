"""``audit``: every candidate against the true gradient, on one batch."""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from rlgrad.auditing.bench import Bench, View, check_effort, check_not_zero, versions
from rlgrad.auditing.bias import Rarity, Truth
from rlgrad.auditing.candidates import Batch, candidates, default_estimators, default_surrogates
from rlgrad.auditing.result import Audit
from rlgrad.auditing.truth import find_truth, rarity_of
from rlgrad.auditing.weights import PullBack
from rlgrad.checks import check_logits, check_rows_of_several, check_target
from rlgrad.estimators import Estimator
from rlgrad.metrics import Metric, as_metric
from rlgrad.objective import PolicyType, usual_policy
from rlgrad.policies import Bernoulli, Categorical
from rlgrad.surrogates import Criterion


def audit(
    logits: Float[Tensor, "..."],
    target: Shaped[Tensor, "*batch items"],
    metric: Metric | Callable[..., object],
    estimators: Mapping[str, Estimator] | None = None,
    surrogates: Mapping[str, Criterion] | None = None,
    *,
    policy: PolicyType | None = None,
    weights: Iterable[Tensor] | None = None,
    estimates: int = 1000,
    seconds: float = 0.8,
    truth_seconds: float = 10.0,
    seed: int = 0,
    problem: str = "batch",
    progress: bool = False,
) -> Audit:
    """Measure how good gradient estimates, and surrogates' gradients, are on a batch of one's own.

    The objective is the mean over rows of E[metric], as in ``MetricLoss``. Its true gradient is found by listing every
    outcome where there are few, by the law of counts for a CountMetric, and otherwise by a long run, whose standard
    error is shown and taken into account. Each candidate is then asked for many estimates: their bias, tested with
    false alarms controlled over all coordinates; their variance; their cosine to the truth; the rewards that a cosine
    of 0.9 needs; and what one estimate costs. With weights, the same estimates are pulled back to them and measured
    there as well. The pull-back being linear, an estimator without bias in the logits has none in the weights, so bias
    is tested in the logits alone.

    Args:
        logits: ``*batch items``, or ``*batch items classes``, with the model's graph if weights are given.
        target: ``*batch items``, in the form that the metric and the surrogates take.
        metric: a CountMetric, or any function of one row's (decision, target) that returns a number.
        estimators: by name, each called ``(policy, score, generator=...)`` for E[reward]; the library's own by default.
            They are copied: what they learn or remember here is forgotten.
        surrogates: by name, each called ``(logits, target)`` for a loss, such as ``nn.BCEWithLogitsLoss()`` (with a
            target in floating point); the library's own by default.
        policy: Bernoulli or Categorical; by default the metric's own.
        weights: such as ``model.parameters()``; none for the logits alone.
        estimates: of each candidate, at most.
        seconds: for each candidate; at least 16 estimates are made all the same if they take no more than four times as
            long. Where a single one takes longer, it is all there is of a candidate that draws nothing, and one that
            draws is too slow.
        truth_seconds: that a long run for the truth may take.
        seed: of all draws. Numbers repeat if ``estimates`` end a run, not ``seconds``.
        problem: what the table calls it.
        progress: show a bar.

    Returns:
        The result: ``print`` it, or ``save`` it as JSON.

    Raises:
        TypeError: a wrong dtype, a candidate that cannot be called, weights that take no gradients.
        ValueError: shapes that differ, NaN logits, fewer than 2 estimates, logits that do not depend on the weights,
            or a true gradient of zero, to which nothing can be compared.
        RuntimeError: the metric itself raised.

    Example:
        >>> from rlgrad.estimators import counterfactual
        >>> from rlgrad.metrics import f1
        >>> from rlgrad.surrogates import bce, soft
        >>> logits, target = torch.tensor([2.0, 0.5, -0.5, -1.5]), torch.tensor([1, 0, 1, 0])
        >>> surrogates = {"soft": soft(f1), "bce": bce}
        >>> result = audit(logits, target, f1, {"cf": counterfactual()}, surrogates, estimates=100, seconds=60.0)
        >>> result["cf"].biased, result["soft"].biased, result["bce"].biased
        (False, True, True)
        >>> print(f"{result['soft'].logits.cosine:.3f}, {result['bce'].logits.cosine:.3f}")
        0.993, 0.884
    """
    metric = as_metric(metric)
    if metric.item_axes != 1 or metric.ignore_index is not None:
        raise ValueError(
            f"needed a metric of one axis of items, all of which count, got {metric!r}; flatten logits and target, "
            "leave out what is ignored, and audit the metric of a single label or row"
        )
    policy = usual_policy(metric) if policy is None else policy
    _check(logits, target, policy, estimates, seconds, truth_seconds)
    detached = logits.detach().float() if logits.dtype in (torch.float16, torch.bfloat16) else logits.detach()
    batch = Batch(detached, target, metric, policy)
    usual = default_surrogates(metric, policy=policy) if surrogates is None else surrogates
    listed = candidates(batch, default_estimators() if estimators is None else estimators, usual, seed=seed)
    pull_back = None if weights is None else PullBack(logits, weights)
    found, rarity = find_truth(batch, seconds=truth_seconds, seed=seed), rarity_of(batch)
    spaces = _spaces(found.truth, batch, rarity, pull_back)
    bench = Bench(batch, found, rarity, spaces, estimates, seconds, seed)
    return Audit(
        problem=problem,
        metric=metric.name,
        policy=getattr(policy, "__name__", repr(policy)),
        shape=tuple(target.shape),
        weights=0 if pull_back is None else pull_back.numbers,
        truth=found.how,
        noise=spaces["logits"].noise,
        noise_weights=spaces["weights"].noise if pull_back else None,
        norm=math.sqrt(found.truth.squared),
        rows=bench.rows(listed, progress=progress),
        seed=seed,
        device=str(logits.device),
        versions=versions(),
    )


def _check(
    logits: Tensor, target: Tensor, policy: PolicyType, estimates: int, seconds: float, truth_seconds: float
) -> None:
    if policy not in (Bernoulli, Categorical):
        raise TypeError(f"needed the policy Bernoulli or Categorical, got {policy!r}")
    axes = 1 if policy is Bernoulli else 2
    check_logits(logits, axes=axes)
    check_target(logits, target, axes=axes)
    check_rows_of_several(target)
    if not target.numel():
        raise ValueError("needed a batch with decisions, got an empty one")
    check_effort(estimates, seconds, truth_seconds)


def _spaces(truth: Truth, batch: Batch, rarity: Rarity, pull_back: PullBack | None) -> dict[str, View]:
    advice = "take a batch or weights where the metric depends on undecided decisions"
    # Below these are rounding, where the metric is a constant, and what the logits' own precision cannot hold.
    tiny = torch.finfo(batch.dtype).tiny
    spaces = {"logits": View(truth)}
    check_not_zero(spaces["logits"], max(1e-12 * float(rarity.spread.norm()), tiny), where="logits", advice=advice)
    if pull_back is not None:
        blocks = None if truth.blocks is None else pull_back(truth.blocks)
        spaces["weights"] = View(Truth(pull_back(truth.gradient[None])[0], blocks, truth.draws), pull_back)
        check_not_zero(spaces["weights"], tiny, where="weights", advice=advice)
    return spaces
