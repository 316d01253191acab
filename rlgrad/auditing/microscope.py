"""``audit``: every candidate against the true gradient, on one batch."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from rlgrad.auditing.bias import LEVEL, Rarity, Truth, bias_test
from rlgrad.auditing.candidates import (
    Batch,
    Candidate,
    TooSlow,
    candidates,
    default_estimators,
    default_surrogates,
)
from rlgrad.auditing.cost import SHORT, peak_memory, timed
from rlgrad.auditing.measures import Space, best_scale, measure
from rlgrad.auditing.result import Audit, Row
from rlgrad.auditing.truth import double, find_truth, rarity_of
from rlgrad.auditing.weights import PullBack
from rlgrad.checks import check_logits, check_rows_of_several, check_target
from rlgrad.estimators import Estimator
from rlgrad.metrics import Metric, as_metric
from rlgrad.policies import Bernoulli, Categorical
from rlgrad.surrogates import Criterion
from rlgrad.train.evaluation import PolicyType

_NUMBERS = 1 << 24  # of all estimates of a candidate together, in either space: they are kept in memory
_LEAST = 16  # estimates, unless they take several times as long as they may
_PATIENCE = 4  # so many times; after it 2 are enough
_FORECAST = 30  # times as long as all estimates may take: a single one that asks for more rewards is not made
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
        policy: Bernoulli or Categorical.
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
    for each in listed:
        each.tally.each, each.tally.most = found.each, _FORECAST * seconds / found.each
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
            run = self._run(candidate)
            memory = self._memory(candidate, run.seconds)
        except Exception as error:  # whatever is wrong with one candidate, the others are still measured
            return Row(name=candidate.name, kind=candidate.kind, error=_first_sentence(error))
        return self._row(candidate, run, memory)

    def _run(self, candidate: Candidate) -> "_Made":
        device = self.batch.logits.device
        first, taken = timed(candidate.gradient, device)
        if taken > self.seconds and not candidate.draws:
            return _Made(double(first)[None], float(candidate.tally.rewards), taken)
        if taken > self.seconds:  # or is it only the first that does, to choose kernels and the like?
            taken = timed(candidate.gradient, device)[1]
        if taken > self.seconds:
            raise TooSlow(f"too slow: {taken:.2g} s an estimate; raise seconds")
        return self._many(candidate)

    def _many(self, candidate: Candidate) -> "_Made":
        kept: list[Tensor] = []
        times: list[float] = []
        rewards = 0
        still = not candidate.draws
        start = time.perf_counter()
        most = min(self.estimates, self._room())
        while len(kept) < most and not self._enough(len(kept), time.perf_counter() - start, still=still):
            gradient, taken = timed(candidate.gradient, self.batch.logits.device)
            kept.append(double(gradient))
            times.append(taken)
            rewards += candidate.tally.rewards
            still = still and kept[0].equal(kept[-1])
        return _Made(torch.stack(kept), rewards / len(kept), median(times))

    def _enough(self, made: int, spent: float, *, still: bool) -> bool:
        if still:
            return (
                made >= _TIMED or (made >= _SAME and spent > 0.1 * self.seconds) or (made > 0 and spent > self.seconds)
            )
        return spent > self.seconds and made >= (_LEAST if spent < _PATIENCE * self.seconds else 2)

    def _memory(self, candidate: Candidate, seconds: float) -> int | None:
        device = self.batch.logits.device
        short = seconds <= (self.seconds if device.type == "cuda" else min(SHORT, self.seconds))
        return peak_memory(candidate.gradient, device) if short else None

    def _room(self) -> int:
        numbers = self.batch.logits.numel() + (self.pull_back.numbers if self.pull_back else 0)
        return max(_LEAST, _NUMBERS // numbers)

    def _row(self, candidate: Candidate, run: "_Made", memory: int | None) -> Row:
        # What needs two estimates to tell that they do not vary may take the only one twice.
        sample = run.sample.expand(max(2, len(run.sample)), -1)
        surrogate = candidate.kind == "surrogate"
        varies = bool((sample != sample[0]).any())
        p_value = self._p_value(sample, candidate.draws or int(varies), rescale=surrogate)
        # Who draws and asked for nothing has ways of its own to a reward; a surrogate asks for none.
        rewards = None if varies and not run.rewards and not surrogate else run.rewards
        biased = None if math.isnan(p_value) else p_value < LEVEL

        def measured(sample: Tensor, truth: Truth) -> Space:
            return measure(sample, truth, rewards=rewards, rescale=surrogate, biased=biased, rounding=self._rounding)

        pulled = None
        if self.pull_back is not None and self.truth.weights is not None:
            pulled = measured(self.pull_back(sample), self.truth.weights)
        return Row(
            name=candidate.name,
            kind=candidate.kind,
            estimates=len(run.sample),
            rewards=rewards,
            p_value=None if math.isnan(p_value) else p_value,
            logits=measured(sample, self.truth.logits),
            weights=pulled,
            seconds=run.seconds,
            memory=memory,
        )

    @property
    def _rounding(self) -> float:
        # A hundred times the relative precision of the logits, or of the law of counts, whose error is 1e-9.
        return max(100 * torch.finfo(self.batch.logits.dtype).eps, 1e-8)

    def _p_value(self, sample: Tensor, draws: int, *, rescale: bool) -> float:
        truth = self.truth.logits
        if rescale:
            sample = sample * best_scale(sample, truth)
        slack = self._rounding * math.sqrt(truth.squared)
        return bias_test(sample, truth, self.rarity, draws=draws, slack=slack, seed=self.seed)


@dataclass(frozen=True)
class _Made:
    sample: Float64[Tensor, "estimates numbers"]
    rewards: float  # that an estimate asked for
    seconds: float  # that it took


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    sentence = text.partition("; ")[0].partition(". ")[0]
    expected = isinstance(error, TypeError | ValueError | TooSlow)
    return sentence if expected else f"{type(error).__name__}: {sentence}"
