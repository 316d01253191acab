"""The proof: an estimator averaged over every outcome, weighed with its probability, is the exact gradient.

The estimators are shown every list of draws there is, so their expectation is a finite sum, free of chance.
The exact gradient is found without them, in NumPy and scikit-learn: E[metric] is linear in the probability of
each single decision, so its derivative there is the difference between its values at 1 and at 0.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef
from torch import Tensor

from rlgrad import credit, policies
from rlgrad.credit import Credit, MovingAverage, Play
from rlgrad.estimators import Estimator, counterfactual, exact, score_function
from rlgrad.metrics import CountMetric, Metric, OpaqueMetric, Score, Scorer, f1, mcc
from rlgrad.policies import Bernoulli, Categorical, Policy
from rlgrad.surrogates import soft

Array = NDArray[np.float64]
Judge = Callable[[tuple[int, ...], tuple[int, ...]], float]  # (target, decision) of one row
TOLERANCE = 1e-8

LOGITS = torch.tensor([0.9, 0.6, 0.4, 0.2], dtype=torch.float64).logit()
TARGET = torch.tensor([1, 0, 1, 0])


# Metrics, and what they are in scikit-learn

profit = CountMetric(lambda tp, fp, fn, tn: (10 * tp - 3 * fp) / torch.sqrt(tp + fp), undefined=-0.5, name="profit")


def profit_by_hand(target: tuple[int, ...], decision: tuple[int, ...]) -> float:
    (_, fp), (_, tp) = confusion_matrix(target, decision, labels=[0, 1])
    return -0.5 if tp + fp == 0 else float(10 * tp - 3 * fp) / math.sqrt(tp + fp)


def hits_by_hand(target: tuple[int, ...], decision: tuple[int, ...]) -> float:
    return sum(1.0 + d for t, d in zip(target, decision, strict=True) if t == d) ** 2


JUDGES: dict[str, Judge] = {
    "f1": lambda target, decision: float(f1_score(target, decision, zero_division=1.0)),
    "mcc": lambda target, decision: float(matthews_corrcoef(target, decision)),
    "profit": profit_by_hand,
    "hits": hits_by_hand,
}
METRICS = {metric.name: metric for metric in (CountMetric(f1.formula, undefined=1.0, name="f1"), mcc, profit)}


# The exact gradient, without a line of the library


def exact_row(judge: Judge, logits: Array, target: tuple[int, ...]) -> tuple[float, Array]:
    """E[metric] and its gradient in the logits of one row, decisions being independent yes or no."""
    p = 1 / (1 + np.exp(-logits))
    outcomes = np.array(list(product([0, 1], repeat=len(p))))
    with warnings.catch_warnings():  # scikit-learn warns of 0/0 and of absent classes
        warnings.simplefilter("ignore")
        scores = np.array([judge(target, tuple(outcome)) for outcome in outcomes.tolist()])

    def expected(p: Array) -> float:
        return float(scores @ np.prod(np.where(outcomes, p, 1 - p), axis=1))

    units = np.eye(len(p))
    slopes = [expected(np.where(unit, 1.0, p)) - expected(np.where(unit, 0.0, p)) for unit in units]
    return expected(p), np.array(slopes) * p * (1 - p)


def exact_row_of_classes(judge: Judge, logits: Array, target: tuple[int, ...]) -> tuple[float, Array]:
    """The same for choices among classes, by central differences."""
    outcomes = list(product(range(logits.shape[1]), repeat=len(logits)))
    scores = np.array([judge(target, outcome) for outcome in outcomes])

    def expected(z: Array) -> float:
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        return float(
            sum(s * math.prod(p[i, c] for i, c in enumerate(o)) for s, o in zip(scores, outcomes, strict=True))
        )

    step = 1e-5
    gradient = np.zeros_like(logits)
    for at in np.ndindex(logits.shape):
        shift = np.zeros_like(logits)
        shift[at] = step
        gradient[at] = (expected(logits + shift) - expected(logits - shift)) / (2 * step)
    return expected(logits), gradient


def exactly(judge: Judge, logits: Tensor, target: Tensor) -> tuple[Array, Array]:
    """E[metric] of each row, and its gradient."""
    items = target.shape[-1]
    row = exact_row if logits.ndim == target.ndim else exact_row_of_classes
    rows = logits.reshape(-1, *logits.shape[target.ndim - 1 :]).numpy()
    parts = [row(judge, z, tuple(y)) for z, y in zip(rows, target.reshape(-1, items).tolist(), strict=True)]
    values, gradients = zip(*parts, strict=True)
    return np.array(values).reshape(target.shape[:-1]), np.array(gradients).reshape(logits.shape)


# The expectation of an estimator


class _Listed:
    """Shows the decisions of a list, from the first on, in place of random ones."""

    def __init__(self, logits: Tensor, decision: Tensor) -> None:
        super().__init__(logits)  # type: ignore[call-arg]
        self.decision = decision
        self.shown = 0

    def sample(self, draws: int, *, generator: torch.Generator | None = None) -> Tensor:
        self.shown += draws
        return self.decision[self.shown - draws : self.shown]


class ListedBernoulli(_Listed, Bernoulli):
    pass


class ListedCategorical(_Listed, Categorical):
    pass


@dataclass(frozen=True)
class Case:
    """An estimator, made anew for each use, and how many draws it takes."""

    make: Callable[[], Estimator]
    draws: int


def every_estimate(case: Case, logits: Tensor, target: Tensor, metric: Metric) -> tuple[Tensor, Tensor, Tensor]:
    """The estimate, its gradient and the probability of each list of draws.

    The lists stand side by side in a batch axis of their own: rows of a batch are scored apart.
    """
    yes_no = logits.ndim == target.ndim
    classes = 2 if yes_no else logits.shape[-1]
    lists = torch.tensor(list(product(range(classes), repeat=case.draws * target.numel())))
    decision = lists.reshape(len(lists), case.draws, *target.shape).movedim(0, 1)
    leaf = logits.expand(len(lists), *logits.shape).clone().requires_grad_()
    policy = ListedBernoulli(leaf, decision.bool()) if yes_no else ListedCategorical(leaf, decision)
    estimate = case.make()(policy, Scorer(metric, target.expand(len(lists), *target.shape)))
    assert policy.shown == case.draws
    (gradient,) = torch.autograd.grad(estimate.sum(), leaf)
    log_prob = policy.log_prob(policy.decision).detach()
    return estimate.detach(), gradient, log_prob.movedim(1, 0).flatten(1).sum(1).exp()


@dataclass(frozen=True)
class Bias:
    """How far an estimator's expectation lies from the truth, at most, in its value and in its gradient."""

    value: float
    gradient: float

    def __bool__(self) -> bool:
        return max(self.value, self.gradient) > TOLERANCE


def bias(case: Case, metric: Metric, logits: Tensor = LOGITS, target: Tensor = TARGET) -> Bias:
    estimate, gradient, probability = every_estimate(case, logits, target, metric)
    assert probability.sum().item() == pytest.approx(1.0)
    value, slope = exactly(JUDGES[metric.name], logits, target)
    value -= torch.tensordot(probability, estimate, 1).numpy()
    slope -= torch.tensordot(probability, gradient, 1).numpy()
    return Bias(float(np.abs(value).max()), float(np.abs(slope).max()))


def with_state() -> MovingAverage:
    moving = MovingAverage(decay=0.9)
    moving.average.fill_(0.2)
    moving.weight.fill_(0.5)
    return moving


def of_score(credit: Callable[[], Credit], draws: int) -> Case:
    return Case(lambda: score_function(draws=draws, credit=credit()), draws)


UNBIASED = {
    "plain": of_score(lambda: credit.none, 1),
    "plain, 2 draws": of_score(lambda: credit.none, 2),
    "leave one out, 2 draws": of_score(lambda: credit.leave_one_out, 2),
    "greedy": of_score(lambda: credit.greedy, 1),
    "moving average": of_score(with_state, 1),
    "counterfactual credit": of_score(lambda: credit.counterfactual, 1),
    "counterfactual credit, 2 draws": of_score(lambda: credit.counterfactual, 2),
    "counterfactual": Case(lambda: counterfactual(draws=1), 1),
    "counterfactual, 2 draws": Case(lambda: counterfactual(draws=2), 2),
    "exact": Case(exact, 0),
}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("case", UNBIASED.values(), ids=UNBIASED)
def test_unbiased(case: Case, metric: Metric) -> None:
    assert not bias(case, metric)


# Two rows; nothing is to be found in the second, where f1 and the profit are 0/0 if nothing is claimed.
ROWS = torch.tensor([[0.3, -1.2], [-0.5, 0.8]], dtype=torch.float64)
TARGETS = torch.tensor([[1, 0], [0, 0]])


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("case", UNBIASED.values(), ids=UNBIASED)
def test_unbiased_in_each_row_of_a_batch(case: Case, metric: Metric) -> None:
    assert not bias(case, metric, ROWS, TARGETS)


def test_unbiased_with_three_draws() -> None:
    assert not bias(of_score(lambda: credit.leave_one_out, 3), profit, LOGITS[:3], TARGET[:3])


@pytest.mark.parametrize(
    "name", ["counterfactual, 2 draws", "leave one out, 2 draws", "counterfactual credit, 2 draws"]
)
def test_unbiased_across_slices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "_SLICE", 1)  # a slice for each draw
    assert not bias(UNBIASED[name], profit)


ANY_METRIC = ["plain", "plain, 2 draws", "leave one out, 2 draws", "greedy", "moving average"]


def black_box(name: str) -> OpaqueMetric:
    return OpaqueMetric(lambda d, t: JUDGES[name](tuple(t.tolist()), tuple(d.tolist())), name=name)


@pytest.mark.parametrize("name", ANY_METRIC)
def test_unbiased_for_a_black_box(name: str) -> None:
    assert not bias(UNBIASED[name], black_box("profit"))


@pytest.mark.parametrize("name", ANY_METRIC)
def test_unbiased_for_choices_among_classes(name: str) -> None:
    logits = torch.tensor([[0.3, -1.0, 0.5], [1.2, 0.1, -0.4]], dtype=torch.float64)
    assert not bias(UNBIASED[name], black_box("hits"), logits, torch.tensor([2, 0]))


def rows_are_apart(case: Case) -> bool:
    """Whether every row of a batch has the value and gradient that it has alone."""
    logits = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)
    target = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 1]])
    decision = torch.rand(case.draws, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.5

    def estimate(z: Tensor, y: Tensor, b: Tensor) -> Tensor:
        leaf = z.clone().requires_grad_()
        value = case.make()(ListedBernoulli(leaf, b), Scorer(f1, y))
        return torch.cat([value.detach()[..., None], torch.autograd.grad(value.sum(), leaf)[0]], -1)

    alone = [estimate(logits[row], target[row], decision[:, row]) for row in range(3)]
    return torch.allclose(estimate(logits, target, decision), torch.stack(alone), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", UNBIASED.values(), ids=UNBIASED)
def test_rows_are_apart(case: Case) -> None:
    assert rows_are_apart(case)


# The same check fails for what is biased


def own_mean(reward: Tensor, play: Play | None = None) -> Tensor:
    """The own reward left in the baseline."""
    return reward - reward.mean(0)


def flipped(reward: Tensor, play: Play | None = None) -> Tensor:
    """A sign flipped."""
    return -credit.leave_one_out(reward)


def over_rows(reward: Tensor, play: Play | None = None) -> Tensor:
    """The mean over the wrong axis: of the rows, the own one among them."""
    return reward - reward.mean(-1, keepdim=True)


def of_the_winner(reward: Tensor, play: Play | None = None) -> Tensor:
    """A baseline chosen by looking at the draw."""
    return reward - reward.max(0, keepdim=True).values


def undivided(reward: Tensor, play: Play | None = None) -> Tensor:
    """The sum over draws in place of the mean."""
    return len(reward) * credit.leave_one_out(reward)


def scaled(reward: Tensor, play: Play | None = None) -> Tensor:
    """Advantages divided by their standard deviation."""
    return credit.leave_one_out(reward) / (reward.std(0) + 1e-6)


MUTANTS = [own_mean, flipped, over_rows, of_the_winner, undivided, scaled]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_biased_credit_is_found_out(mutant: Credit) -> None:
    found = bias(of_score(lambda: mutant, 2), METRICS["f1"], ROWS, TARGETS)
    print(f"{mutant.__name__}: bias {found.gradient:.4f}")
    assert found.gradient > 1e-3


def test_a_mean_over_rows_is_found_out() -> None:
    def over_the_batch(reward: Tensor, play: Play | None = None) -> Tensor:
        return reward - reward.mean() if reward.ndim > 1 else reward

    assert not rows_are_apart(of_score(lambda: over_the_batch, 2))


def test_a_mean_that_contains_its_own_draw_halves_the_gradient_of_two() -> None:
    found = bias(of_score(lambda: own_mean, 2), METRICS["f1"])
    print(f"own_mean: bias {found.gradient:.6f}")
    assert found.value < TOLERANCE
    assert found.gradient == pytest.approx(0.079232 / 2, abs=1e-8)


@pytest.mark.parametrize("case", UNBIASED.values(), ids=UNBIASED)
def test_a_wrong_value_at_0_over_0_is_found_out(case: Case) -> None:
    found = bias(case, CountMetric(f1.formula, undefined=0.0, name="f1"), ROWS, TARGETS)
    assert found.gradient > 1e-2
    assert found.value > 1e-2


def test_the_soft_surrogate_is_biased() -> None:
    def soft_f1(policy: Policy, score: Score, *, generator: torch.Generator | None = None) -> Tensor:
        return 1 - soft(f1)(policy.logits, TARGET[None])[None]

    found = bias(Case(lambda: soft_f1, 0), METRICS["f1"])
    print(f"soft F1: bias {found.gradient:.4f}")
    assert found.value == pytest.approx(0.63414634 - 0.61925333, abs=1e-8)
    assert found.gradient > 1e-3


# Randomness


def ignores_the_generator(policy: Policy, score: Score, *, generator: torch.Generator | None = None) -> Tensor:
    return score_function(draws=4)(policy, score)


def determined(make: Callable[[], Estimator]) -> bool:
    """Whether a generator's state determines the estimate, and no other randomness is touched."""
    before = torch.get_rng_state()
    logits = torch.zeros(20, requires_grad=True)
    score = Scorer(f1, torch.arange(20) % 2)
    gradients: list[Tensor] = []
    for seed in (5, 5, 6):
        estimate = make()(Bernoulli(logits), score, generator=torch.Generator().manual_seed(seed))
        gradients += torch.autograd.grad(estimate, logits)
    same, different = torch.equal(*gradients[:2]), not torch.equal(*gradients[1:])
    return same and different and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("case", [case for name, case in UNBIASED.items() if name != "exact"])
def test_a_generator_determines_the_estimate(case: Case) -> None:
    assert determined(case.make)


def test_an_ignored_generator_is_found_out() -> None:
    with torch.random.fork_rng(devices=[]):
        assert not determined(lambda: ignores_the_generator)


# Golden values


def test_golden_f1() -> None:
    logits = LOGITS.clone().requires_grad_()
    value = exact()(Bernoulli(logits), Scorer(f1, TARGET))
    value.backward()
    assert value.item() == pytest.approx(0.61925333, abs=5e-9)
    assert logits.grad.tolist() == pytest.approx([0.040272, -0.037472, 0.079232, -0.02097067], abs=5e-9)
    assert 1 - soft(f1)(LOGITS, TARGET).item() == pytest.approx(0.63414634, abs=5e-9)


def moments(case: Case) -> tuple[float, float]:
    """Mean and variance of the estimate of d E[(b - .499)^2] / d logit at p = 1/2."""
    squared = OpaqueMetric(lambda decision, target: (decision.double() - 0.499).square().squeeze(-1), batched=True)
    _, gradient, probability = every_estimate(case, torch.zeros(1, dtype=torch.float64), torch.zeros(1), squared)
    mean = probability @ gradient[:, 0]
    return mean.item(), (probability @ (gradient[:, 0] - mean) ** 2).item()


@pytest.mark.parametrize(
    ("name", "variance"),
    [("plain", 1.5625e-2), ("leave one out, 2 draws", 2.5e-7)],
    ids=["plain", "leave one out"],
)
def test_golden_variance(name: str, variance: float) -> None:
    mean, found = moments(UNBIASED[name])
    assert mean == pytest.approx(5.0e-4, rel=1e-9)
    assert found == pytest.approx(variance, rel=2e-5)


# What comes with the gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", UNBIASED.values(), ids=UNBIASED)
def test_the_estimate_has_the_shape_of_the_rows_and_the_dtype_of_the_logits(case: Case, dtype: torch.dtype) -> None:
    logits = torch.zeros(2, 3, 5, dtype=dtype, requires_grad=True)
    estimate = case.make()(Bernoulli(logits), Scorer(f1, torch.ones(2, 3, 5)))
    assert estimate.shape == (2, 3)
    assert estimate.dtype == dtype
    estimate.sum().backward()
    assert logits.grad.dtype == dtype


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
@pytest.mark.parametrize("case", UNBIASED.values(), ids=UNBIASED)
def test_an_empty_batch_and_rows_without_items(case: Case, shape: tuple[int, ...]) -> None:
    logits = torch.zeros(shape, requires_grad=True)
    estimate = case.make()(Bernoulli(logits), Scorer(f1, torch.ones(shape)))
    assert torch.equal(estimate, torch.ones(shape[:-1]))
    estimate.sum().backward()
    assert logits.grad.shape == shape


def test_many_draws_are_streamed_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    decision = torch.rand(50, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    results = []
    for at_once in (1 << 22, 13, 30, 1):
        monkeypatch.setattr(policies, "_SLICE", at_once)
        logits = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4).requires_grad_()
        policy = ListedBernoulli(logits, decision)
        value = counterfactual(draws=50)(policy, Scorer(f1, TARGET.expand(3, 4)))
        results.append((value.detach(), *torch.autograd.grad(value.sum(), logits)))
        assert policy.shown == 50
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-12, atol=1e-14)


# Errors


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    "make",
    [
        lambda: score_function(draws=1),
        lambda: score_function(draws=0, credit=credit.none),
        lambda: counterfactual(draws=0),
        lambda: counterfactual(draws=-1),
    ],
)
def test_too_few_draws(make: Callable[[], Estimator]) -> None:
    with pytest.raises(ValueError, match=r"^needed at least [12] draws?, got "):
        make()


def score_of(reward: Any) -> Score:
    return lambda decision: reward


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("reward", [1.0, None, np.ones((2, 3))], ids=["number", "none", "array"])
def test_a_reward_is_a_tensor(reward: object) -> None:
    with pytest.raises(TypeError, match=r"(?s)^needed a tensor of rewards, got .*OpaqueMetric$"):
        score_function(draws=2)(Bernoulli(torch.zeros(3, 4)), score_of(reward))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("shape", [(), (2,), (3,), (3, 2), (2, 3, 4), (2, 1), (1, 3)])
def test_a_reward_is_not_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^needed rewards of shape \(2, 3\) \(draws \*batch\), got "):
        score_function(draws=2)(Bernoulli(torch.zeros(3, 4)), score_of(torch.ones(shape)))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_is_finite(bad: float) -> None:
    reward = torch.zeros(2, 3)
    reward[1, 2] = bad
    with pytest.raises(ValueError, match=rf"^needed finite rewards, got {bad} for draw 1, row \(2,\)"):
        score_function(draws=2)(Bernoulli(torch.zeros(3, 4)), score_of(reward))


def test_a_reward_with_a_gradient_is_a_number_here() -> None:
    weight = torch.ones((), requires_grad=True)
    logits = torch.zeros(4, requires_grad=True)
    estimate = score_function(draws=2)(Bernoulli(logits), lambda decision: weight * decision.sum(-1))
    estimate.backward()
    assert weight.grad is None
    assert logits.grad is not None


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("estimator", [exact(), counterfactual()], ids=["exact", "counterfactual"])
@pytest.mark.parametrize(
    ("policy", "metric", "message"),
    [
        (
            Categorical(torch.zeros(3, 2)),
            f1,
            "needed a Bernoulli policy, got Categorical; use score_function",
        ),
        (
            Bernoulli(torch.zeros(3)),
            black_box("profit"),
            r"needed a Scorer of a CountMetric, got OpaqueMetric\(profit\)",
        ),
    ],
)
def test_what_needs_the_formula_says_so(estimator: Estimator, policy: Policy, metric, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        estimator(policy, Scorer(metric, torch.ones(3)))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("case", UNBIASED.values(), ids=UNBIASED)
@pytest.mark.parametrize("target", [(4, 1), (1, 4), (3,), (2, 4)])
def test_a_target_is_not_broadcast(case: Case, target: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="nothing is broadcast"):
        case.make()(Bernoulli(torch.zeros(4)), Scorer(f1, torch.ones(target)))
