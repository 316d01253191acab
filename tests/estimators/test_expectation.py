"""The proof: an estimator averaged over every outcome, weighed with its probability, is the exact gradient.

The estimators are shown every list of draws there is, so their expectation is a finite sum, free of chance.
The exact gradient is found without them, in NumPy and scikit-learn: E[metric] is linear in the probability of
each single decision, so its derivative there is the difference between its values at 1 and at 0.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgrad import credit, policies
from rlgrad.credit import Credit, MovingAverage, Play
from rlgrad.estimators import Estimator, blockwise, counterfactual, exact, score_function
from rlgrad.metrics import CountMetric, Metric, OpaqueMetric, Score, Scorer, f1
from rlgrad.policies import Bernoulli, Categorical, Policy
from rlgrad.surrogates import soft
from tests.estimators.proof import (
    LOGITS,
    METRICS,
    PROBLEMS,
    ROWS,
    TARGET,
    TARGETS,
    TOLERANCE,
    Case,
    ListedBernoulli,
    Problem,
    bias,
    black_box,
    every_estimate,
    every_list,
    exactly,
    network,
    network_by_hand,
    of_metric,
    profit,
)


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
    "blockwise, pairs": Case(lambda: blockwise(draws=2, blocks=2), 2),
    "blockwise, single": Case(lambda: blockwise(draws=2, blocks=1), 2),
    "exact": Case(exact, 0),
}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("case", UNBIASED.values(), ids=UNBIASED)
def test_unbiased(case: Case, metric: Metric) -> None:
    assert not bias(case, of_metric(metric))


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("case", UNBIASED.values(), ids=UNBIASED)
def test_unbiased_in_each_row_of_a_batch(case: Case, metric: Metric) -> None:
    assert not bias(case, of_metric(metric, ROWS, TARGETS))


def test_unbiased_with_three_draws() -> None:
    assert not bias(of_score(lambda: credit.leave_one_out, 3), of_metric(profit, LOGITS[:3], TARGET[:3]))


@pytest.mark.parametrize(
    "name", ["counterfactual, 2 draws", "leave one out, 2 draws", "counterfactual credit, 2 draws"]
)
def test_unbiased_across_slices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies.shared, "_SLICE", 1)  # a slice for each draw
    assert not bias(UNBIASED[name], of_metric(profit))


ANY_SCORE = {name: case for name, case in UNBIASED.items() if name != "exact"}
OTHERS = {name: problem for name, problem in PROBLEMS.items() if name not in METRICS and name != "profit, rows"}


@pytest.mark.parametrize("problem", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("case", ANY_SCORE.values(), ids=ANY_SCORE)
def test_unbiased_for_any_score(case: Case, problem: Problem) -> None:
    if (classes := 2 if problem.yes_no else 3) ** (case.draws * problem.target.numel()) > 1000:
        problem = Problem(
            problem.logits[..., :1, :] if classes == 3 else problem.logits[..., :2],
            problem.target[..., : 4 - classes],
            problem.judge,
            problem.score,
        )
    assert not bias(case, problem)


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
    found = bias(of_score(lambda: mutant, 2), of_metric(METRICS["f1"], ROWS, TARGETS))
    print(f"{mutant.__name__}: bias {found.gradient:.4f}")
    assert found.gradient > 1e-3


def test_a_mean_over_rows_is_found_out() -> None:
    def over_the_batch(reward: Tensor, play: Play | None = None) -> Tensor:
        return reward - reward.mean() if reward.ndim > 1 else reward

    assert not rows_are_apart(of_score(lambda: over_the_batch, 2))


def test_a_mean_that_contains_its_own_draw_halves_the_gradient_of_two() -> None:
    found = bias(of_score(lambda: own_mean, 2), of_metric(METRICS["f1"]))
    print(f"own_mean: bias {found.gradient:.6f}")
    assert found.value < TOLERANCE
    assert found.gradient == pytest.approx(0.079232 / 2, abs=1e-8)


@pytest.mark.parametrize("case", UNBIASED.values(), ids=UNBIASED)
def test_a_wrong_value_at_0_over_0_is_found_out(case: Case) -> None:
    found = bias(case, of_metric(CountMetric(f1.formula, undefined=0.0, name="f1"), ROWS, TARGETS))
    assert found.gradient > 1e-2
    assert found.value > 1e-2


def test_the_soft_surrogate_is_biased() -> None:
    def soft_f1(policy: Policy, score: Score, *, generator: torch.Generator | None = None) -> Tensor:
        return 1 - soft(f1)(policy.logits, TARGET[None])[None]

    found = bias(Case(lambda: soft_f1, 0), of_metric(METRICS["f1"]))
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
    logits, target = torch.zeros(1, dtype=torch.float64), torch.zeros(1)
    problem = Problem(logits, target, lambda target, decision: 0.0, lambda target: Scorer(squared, target))
    found = every_estimate(case, problem)
    return float(found.mean[1][0]), float(found.variance[0])


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
        monkeypatch.setattr(policies.shared, "_SLICE", at_once)
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


# A score with a graph


def slope_of_weight(estimator: Estimator, problem: Problem, draws: int, scale: Tensor) -> float:
    """d/dw of the expectation of the estimate over every list of draws."""
    decision, probability = every_list(problem, draws)
    logits = problem.logits.expand(len(probability), *problem.logits.shape)
    value = estimator(ListedBernoulli(logits, decision), problem.score(problem.target))
    (slope,) = torch.autograd.grad(probability @ value, scale)
    return slope.item()


@pytest.mark.parametrize("case", ANY_SCORE.values(), ids=ANY_SCORE)
def test_weights_in_the_graph_of_a_score_get_the_gradient_of_the_mean_reward(case: Case) -> None:
    scale = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    logits, target = LOGITS[:3], torch.zeros(3)

    def expected(w: float) -> float:
        return float(exactly(Problem(logits, target, network_by_hand(scale=w), lambda target: network()))[0])

    truth = (expected(0.8 + 1e-5) - expected(0.8 - 1e-5)) / 2e-5
    assert abs(truth) > 0.1
    problem = Problem(logits, target, network_by_hand(scale=0.8), lambda target: network(scale=scale))
    assert slope_of_weight(case.make(), problem, case.draws, scale) == pytest.approx(truth, abs=TOLERANCE)
    # The logits' gradient is what it is without the weight's.
    found, fixed = (
        every_estimate(case, Problem(logits, target, problem.judge, lambda target, w=w: network(scale=w)))
        for w in (scale, 0.8)
    )
    torch.testing.assert_close(found.gradient, fixed.gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", UNBIASED.values(), ids=UNBIASED)
def test_a_weight_in_a_formula_gets_the_gradient_of_the_mean_reward(case: Case) -> None:
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    formula = CountMetric(lambda tp, fp, fn, tn: weight * tp - fp, undefined=0.0)
    logits, target = LOGITS[:2].clone().requires_grad_(), TARGET[:2]
    problem = Problem(LOGITS[:2], target, lambda target, decision: 0.0, lambda target: Scorer(formula, target))
    decision, probability = every_list(problem, case.draws)
    lists = len(probability)
    policy = ListedBernoulli(logits.expand(lists, 2), decision)
    value = case.make()(policy, Scorer(formula, target.expand(lists, 2)))
    assert value.shape == (lists,)
    of_logits, of_weight = torch.autograd.grad(probability @ value, (logits, weight))
    p = LOGITS[:2].sigmoid()
    assert of_weight.item() == pytest.approx(p[0].item(), abs=TOLERANCE)
    torch.testing.assert_close(of_logits, p * (1 - p) * torch.tensor([2.0, -1.0]), rtol=0, atol=TOLERANCE)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("policy", "metric", "message"),
    [
        (
            Categorical(torch.zeros(3, 2)),
            f1,
            "exact needed a Bernoulli policy, got Categorical; use score_function",
        ),
        (
            Bernoulli(torch.zeros(3)),
            black_box("profit"),
            r"exact needed a Scorer of a CountMetric, got OpaqueMetric\(profit\)",
        ),
    ],
)
def test_what_needs_the_formula_says_so(policy: Policy, metric, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        exact()(policy, Scorer(metric, torch.ones(3)))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("case", UNBIASED.values(), ids=UNBIASED)
@pytest.mark.parametrize("target", [(4, 1), (1, 4), (3,), (2, 4)])
def test_a_target_is_not_broadcast(case: Case, target: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="nothing is broadcast"):
        case.make()(Bernoulli(torch.zeros(4)), Scorer(f1, torch.ones(target)))
