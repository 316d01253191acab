"""``audit``: every candidate against the true gradient, on one batch."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from rlgrad.auditing.bias import LEVEL, Rarity, Truth, bias_test
from rlgrad.auditing.candidates import (
    Batch,
    Candidate,
    PolicyType,
    candidates,
    default_estimators,
    default_surrogates,
)
from rlgrad.auditing.cost import peak_memory, timed
from rlgrad.auditing.measures import measure
from rlgrad.auditing.result import Audit, Row
from rlgrad.auditing.truth import double, find_truth, rarity_of
from rlgrad.auditing.weights import PullBack
from rlgrad.checks import check_logits, check_rows_of_several, check_target
from rlgrad.estimators import Estimator
from rlgrad.metrics import Metric, as_metric
from rlgrad.policies import Bernoulli, Categorical
from rlgrad.surrogates import Criterion

_NUMBERS = 1 << 24  # of all estimates of a candidate together, in either space: they are kept in memory
_LEAST = 16  # estimates, whatever the time
_SAME, _TIMED = 5, 25  # estimates that agree before nothing is taken to be random; and that are timed, if quickly


def audit(
    logits: Float[Tensor, "..."],
    target: Shaped[Tensor, "*batch items"],
    metric: Metric | Callable[..., object],
    estimators: Mapping[str, Estimator] | None = None,
    surrogates: Mapping[str, Criterion] | None = None,
    *,
    policy: PolicyType = Bernoulli,
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
    false alarms controlled over all coordinates; their variance; their cosine to the truth; the draws that a cosine of
    0.9 needs; and what one estimate costs. With weights, the same estimates are pulled back to them and measured
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
        policy: Bernoulli or Categorical.
        weights: such as ``model.parameters()``; none for the logits alone.
        estimates: of each candidate, at most.
        seconds: for each candidate; at least 16 estimates are made all the same.
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
        >>> result = audit(logits, target, f1, {"cf": counterfactual()}, {"soft": soft(f1), "bce": bce}, estimates=100)
        >>> result["cf"].biased, result["soft"].biased, result["bce"].biased
        (False, True, True)
        >>> print(f"{result['soft'].logits.cosine:.3f}, {result['bce'].logits.cosine:.3f}")
        0.993, 0.884
    """
    metric = as_metric(metric)
    _check(logits, target, policy, estimates, seconds, truth_seconds)
    detached = logits.detach().float() if logits.dtype in (torch.float16, torch.bfloat16) else logits.detach()
    batch = Batch(detached, target, metric, policy)
    usual = default_surrogates(metric, policy=policy) if surrogates is None else surrogates
    listed = candidates(batch, default_estimators() if estimators is None else estimators, usual, seed=seed)
    pull_back = None if weights is None else PullBack(logits, weights)
    found = find_truth(batch, seconds=truth_seconds, seed=seed)
    truth = _Truths.of(found.truth, batch, pull_back)
    bench = _Bench(batch, truth, rarity_of(batch), pull_back, estimates, seconds, seed)
    return Audit(
        problem=problem,
        metric=metric.name,
        policy=getattr(policy, "__name__", repr(policy)),
        shape=tuple(target.shape),
        weights=0 if pull_back is None else pull_back.numbers,
        truth=found.how,
        noise=_noise(truth.logits),
        noise_weights=None if truth.weights is None else _noise(truth.weights),
        norm=math.sqrt(truth.logits.squared),
        rows=tuple(bench.measure(candidate) for candidate in _shown(listed, progress)),
        seed=seed,
        device=str(logits.device),
        versions={package: version(package) for package in ("rlgrad", "torch")},
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
    if estimates < 2:
        raise ValueError(f"needed at least 2 estimates to tell their variance, got {estimates}; 1000 are usual")
    if not (seconds > 0 and truth_seconds > 0):
        raise ValueError(f"needed seconds above 0, got {seconds=} and {truth_seconds=}")


def _shown(listed: list[Candidate], progress: bool) -> Iterable[Candidate]:
    if not progress:
        return listed
    from tqdm import tqdm

    bar: Iterable[Candidate] = tqdm(listed, unit="candidate", leave=False, disable=None)
    return bar


def _noise(truth: Truth) -> float:
    return math.sqrt(truth.noise / truth.squared)


@dataclass(frozen=True)
class _Truths:
    logits: Truth
    weights: Truth | None

    @classmethod
    def of(cls, truth: Truth, batch: Batch, pull_back: PullBack | None) -> "_Truths":
        _check_not_zero(truth, batch, "logits")
        if pull_back is None:
            return cls(truth, None)
        blocks = None if truth.blocks is None else pull_back(truth.blocks)
        pulled = Truth(pull_back(truth.gradient[None])[0], blocks, truth.draws)
        _check_not_zero(pulled, batch, "weights")
        return cls(truth, pulled)


def _check_not_zero(truth: Truth, batch: Batch, where: str) -> None:
    # Below these are rounding, where the metric is a constant, and what the logits' own precision cannot hold.
    rounding = 1e-12 * float(rarity_of(batch).spread.norm()) if where == "logits" else 0.0
    norm = math.sqrt(max(0.0, truth.squared))
    if norm <= max(rounding, torch.finfo(batch.logits.dtype).tiny) or truth.squared <= 3 * truth.noise:
        raise ValueError(
            f"needed a true gradient to compare with, got {norm:.1e} in the {where}, with standard error "
            f"{math.sqrt(truth.noise):.1e}: zero as far as can be told; take a batch or weights where the metric "
            "depends on undecided decisions, or raise truth_seconds"
        )


@dataclass(frozen=True)
class _Bench:
    batch: Batch
    truth: _Truths
    rarity: Rarity
    pull_back: PullBack | None
    estimates: int
    seconds: float
    seed: int

    def measure(self, candidate: Candidate) -> Row:
        """One row of the table; a candidate that does not apply says why."""
        try:
            candidate.gradient()  # what only the first estimate does, such as choosing kernels, is not timed
            sample, seconds = self._sample(candidate)
            memory = peak_memory(candidate.gradient, self.batch.logits.device)
        except Exception as error:  # whatever is wrong with one candidate, the others are still measured
            return Row(name=candidate.name, kind=candidate.kind, error=_first_sentence(error))
        return self._row(candidate, sample, seconds, memory)

    def _sample(self, candidate: Candidate) -> tuple[Tensor, float]:
        kept: list[Tensor] = []
        times: list[float] = []
        end = time.perf_counter() + self.seconds
        most = min(self.estimates, self._room())
        while len(kept) < most and (len(kept) < _LEAST or time.perf_counter() < end):
            gradient, taken = timed(candidate.gradient, self.batch.logits.device)
            kept.append(double(gradient))
            times.append(taken)
            if not candidate.declared and self._same(kept, end - time.perf_counter()):
                break
        return torch.stack(kept), median(times)

    def _same(self, kept: list[Tensor], left: float) -> bool:
        asked_enough = len(kept) >= _TIMED or (len(kept) >= _SAME and left < 0.9 * self.seconds)
        return asked_enough and all(kept[0].equal(each) for each in kept)

    def _room(self) -> int:
        numbers = self.batch.logits.numel() + (self.pull_back.numbers if self.pull_back else 0)
        return max(_LEAST, _NUMBERS // numbers)

    def _row(self, candidate: Candidate, sample: Tensor, seconds: float, memory: int) -> Row:
        surrogate = candidate.kind == "surrogate"
        varies = bool((sample != sample[0]).any())
        draws = candidate.declared or (1 if varies or candidate.declared else 0)
        p_value = self._p_value(sample, draws, rescale=surrogate)
        unbiased = not p_value < LEVEL
        in_logits = measure(sample, self.truth.logits, draws=draws, rescale=surrogate, unbiased=unbiased)
        in_weights = None
        if self.pull_back is not None and self.truth.weights is not None:
            pulled = self.pull_back(sample)
            in_weights = measure(pulled, self.truth.weights, draws=draws, rescale=surrogate, unbiased=unbiased)
        return Row(
            name=candidate.name,
            kind=candidate.kind,
            estimates=len(sample),
            draws=draws,
            p_value=None if math.isnan(p_value) else p_value,
            logits=in_logits,
            weights=in_weights,
            seconds=seconds,
            memory=memory,
        )

    def _p_value(self, sample: Tensor, draws: int, *, rescale: bool) -> float:
        truth = self.truth.logits
        if rescale:
            sample = sample * measure(sample, truth, draws=draws, rescale=True, unbiased=False).scale
        # Rounding: a hundred times the relative precision of the logits, or of the law of counts, whose error is 1e-9.
        slack = max(100 * torch.finfo(self.batch.logits.dtype).eps, 1e-8) * math.sqrt(truth.squared)
        return bias_test(sample, truth, self.rarity, draws=draws, slack=slack, seed=self.seed)


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    sentence = text.partition("; ")[0].partition(". ")[0]
    expected = isinstance(error, TypeError | ValueError)
    return sentence if expected else f"{type(error).__name__}: {sentence}"
