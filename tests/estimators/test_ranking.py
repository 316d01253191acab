"""Gradients of the expected metric of rankings: expectations over all lists of draws, against NumPy."""

import math
from collections.abc import Callable
from itertools import permutations, product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlgrad.credit import LearnedValue, MovingAverage, Play, greedy, leave_one_out, none, reward_to_go
from rlgrad.estimators import (
    REBAR,
    RELAX,
    Estimator,
    arm,
    blockwise,
    counterfactual,
    disarm,
    enumeration,
    evolution_strategies,
    exact,
    gumbel_softmax,
    importance_weighted,
    inclusion_weighted,
    muprop,
    score_function,
    second_order,
    spsa,
    straight_through,
    sum_and_sample,
    unordered_set,
)
from rlgrad.metrics import CountMetric, RankingMetric, Scorer, f1, mrr, ndcg, precision_at
from rlgrad.policies import Bernoulli, PlackettLuce

Array = NDArray[np.float64]
Judge = Callable[[list[float], tuple[int, ...]], float]  # (relevance, ranking) of one list
THREE, FOUR = [0.3, -1.2, 0.9], [0.3, -0.7, 0.9, 1.4]


# The metrics once more


def ndcg_by_hand(k: int) -> Judge:
    def judge(relevance: list[float], ranking: tuple[int, ...]) -> float:
        discounts = 1 / np.log2(np.arange(2, k + 2))
        got = np.array([relevance[item] for item in ranking if relevance[item] >= 0])[:k]
        best = np.sort([r for r in relevance if r >= 0])[::-1][:k]
        return float(got @ discounts[: len(got)] / (best @ discounts[: len(best)]))

    return judge


def mrr_by_hand(relevance: list[float], ranking: tuple[int, ...]) -> float:
    return next(1 / rank for rank, item in enumerate(ranking, 1) if relevance[item] > 0)


def precision_by_hand(relevance: list[float], ranking: tuple[int, ...]) -> float:
    return sum(relevance[item] > 0 for item in ranking[:2]) / 2


def average_precision_by_hand(relevance: list[float], ranking: tuple[int, ...]) -> float:
    ranks = [rank for rank, item in enumerate(ranking, 1) if relevance[item] > 0]
    return sum(found / rank for found, rank in enumerate(ranks, 1)) / len(ranks)


def average_precision(relevance: Tensor) -> Tensor:
    relevant = (relevance > 0).double()
    return relevant * relevant.cumsum(-1) / torch.arange(1, relevance.shape[-1] + 1) / relevant.sum(-1, keepdim=True)


PROBLEMS: dict[str, tuple[list[float], list[float], RankingMetric, Judge]] = {
    "ndcg": (THREE, [2, 0, 1], ndcg(), ndcg_by_hand(3)),
    "ndcg@2 of 4": (FOUR, [0, 3, 1, 2], ndcg(2), ndcg_by_hand(2)),
    "ndcg@2, filled up": (FOUR, [0, 3, -1, 2], ndcg(2).ignoring(-1), ndcg_by_hand(2)),
    "ndcg@2, masked": ([0.3, -math.inf, 0.9, 1.4], [0, 3, 1, 2], ndcg(2), ndcg_by_hand(2)),
    "mrr": (THREE, [1, 1, 0], mrr(), mrr_by_hand),
    "precision@2": (FOUR, [1, 0, 0, 1], precision_at(2), precision_by_hand),
    "average precision": (FOUR, [1, 0, 0, 1], RankingMetric(average_precision), average_precision_by_hand),
}


# The truth


def law(logits: Array) -> dict[tuple[int, ...], float]:
    """The probability of each ranking, choice by choice."""
    weight = np.exp(logits)
    probs = {}
    for ranking in permutations(range(len(logits))):
        left = [weight[list(ranking[place:])].sum() for place in range(len(ranking))]
        steps = [w / total if total else 1.0 for w, total in zip(weight[list(ranking)], left, strict=True)]
        in_order = sorted(i for i in ranking if weight[i] == 0) == [i for i in ranking if weight[i] == 0]
        probs[ranking] = float(np.prod(steps)) * in_order
    return probs


def truth(logits: list[float], relevance: list[float], judge: Judge) -> tuple[float, Array]:
    """E[metric], and its gradient by central differences; masked items have none."""

    def expected(z: Array) -> float:
        return math.fsum(p * judge(relevance, ranking) for ranking, p in law(z).items() if p)

    z, step = np.array(logits), 1e-5
    units = [step * unit if np.isfinite(value) else 0 * unit for unit, value in zip(np.eye(len(z)), z, strict=True)]
    return expected(z), np.array([(expected(z + unit) - expected(z - unit)) / (2 * step) for unit in units])


# The expectation of an estimator


class Listed(PlackettLuce):
    """Shows the draws that it is given, ``draws lists items``."""

    def __init__(self, logits: Tensor, decision: Tensor) -> None:
        super().__init__(logits)
        self.decision = decision

    def sample(self, draws: int, *, k: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        assert (len(self.decision), k) == (draws, None)
        return self.decision


def expectation(estimator: Estimator, name: str, draws: int) -> tuple[float, Array, Array]:
    """The estimator's mean over all lists of draws: of its value and of its gradient, and the latter's variance."""
    logits, relevance, metric, _ = PROBLEMS[name]
    probs = {ranking: p for ranking, p in law(np.array(logits)).items() if p}
    lists = list(product(probs, repeat=draws))
    probability = torch.tensor([math.prod(probs[ranking] for ranking in each) for each in lists], dtype=torch.float64)
    leaf = torch.tensor(logits, dtype=torch.float64).expand(len(lists), -1).clone().requires_grad_()
    target = torch.tensor(relevance).expand(len(lists), -1)
    value = estimator(Listed(leaf, torch.tensor(lists).movedim(1, 0)), Scorer(metric, target))
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    mean = probability @ gradient
    return float(probability @ value.detach()), mean.numpy(), (probability @ (gradient - mean).square()).numpy()


def value_network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 1), nn.Flatten(-2)).double()


def own_mean(reward: Tensor, play: Play | None = None) -> Tensor:
    """The mutant: a baseline that holds the own reward."""
    return reward - reward.mean(0)


CREDITS: dict[str, tuple[Callable[[], Callable[[Tensor, Play | None], Tensor]], int]] = {
    "none": (lambda: none, 1),
    "moving average": (MovingAverage, 1),
    "greedy": (lambda: greedy, 1),
    "leave one out": (lambda: leave_one_out, 2),
    "reward to go": (lambda: reward_to_go, 2),
}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("credit", CREDITS)
def test_the_score_function_is_unbiased(credit: str, problem: str) -> None:
    make, draws = CREDITS[credit]
    value, gradient, _ = expectation(score_function(draws, make()), problem, draws)
    logits, relevance, _, judge = PROBLEMS[problem]
    true_value, true_gradient = truth(logits, relevance, judge)
    assert value == pytest.approx(true_value, abs=1e-10)
    np.testing.assert_allclose(gradient, true_gradient, rtol=0, atol=1e-8)


def test_a_learned_value_is_unbiased_and_learns() -> None:
    credit = LearnedValue(value_network())
    _, gradient, _ = expectation(score_function(1, credit), "ndcg@2 of 4", 1)
    np.testing.assert_allclose(gradient, truth(FOUR, [0, 3, 1, 2], ndcg_by_hand(2))[1], rtol=0, atol=1e-8)
    leaf = torch.tensor([FOUR], dtype=torch.float64, requires_grad=True)
    score_function(4, credit)(PlackettLuce(leaf), Scorer(ndcg(2), torch.tensor([[0, 3, 1, 2]]))).sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in credit.parameters())


@pytest.mark.parametrize("credit", [leave_one_out, reward_to_go])
@pytest.mark.parametrize("draws", [2, 3])
def test_three_items_with_more_draws(credit: Callable[..., Tensor], draws: int) -> None:
    _, gradient, _ = expectation(score_function(draws, credit), "ndcg", draws)
    np.testing.assert_allclose(gradient, truth(THREE, [2, 0, 1], ndcg_by_hand(3))[1], rtol=0, atol=1e-8)


def test_mutants_are_biased() -> None:
    true = truth(FOUR, [0, 3, 1, 2], ndcg_by_hand(2))[1]

    def gains_before(reward: Tensor, play: Play | None) -> Tensor:  # what was gained until then
        gains = play.score.metric.gains_of(play.decision, play.score.target)
        return leave_one_out(gains.cumsum(-1))

    def without_now(reward: Tensor, play: Play | None) -> Tensor:
        gains = play.score.metric.gains_of(play.decision, play.score.target)
        return leave_one_out(gains.flip(-1).cumsum(-1).flip(-1) - gains)

    for credit in (own_mean, gains_before, without_now):
        _, gradient, _ = expectation(score_function(2, credit), "ndcg@2 of 4", 2)
        assert np.abs(gradient - true).max() > 1e-3


@pytest.mark.parametrize("problem", [name for name in PROBLEMS if name != "ndcg"])
def test_reward_to_go_is_quieter_than_the_whole_reward(problem: str) -> None:
    whole, to_go = (expectation(score_function(2, each), problem, 2)[2].sum() for each in (leave_one_out, reward_to_go))
    assert to_go < whole


@pytest.mark.parametrize(("metric", "share"), [(ndcg(5), 0.1), (ndcg(), 0.6), (mrr(), 0.1), (precision_at(5), 0.15)])
def test_and_much_quieter_for_long_lists(metric: RankingMetric, share: float, generator: torch.Generator) -> None:
    logits, relevance = torch.randn(50, generator=generator), torch.arange(50) % 5
    variance = []
    for credit in (leave_one_out, reward_to_go):
        leaf = logits.expand(200, -1).clone().requires_grad_()
        score = Scorer(metric, relevance.expand(200, -1))
        score_function(16, credit)(PlackettLuce(leaf), score, generator=generator).sum().backward()
        variance.append(leaf.grad.var(0).sum())
    assert variance[1] < share * variance[0]


def test_positions_after_the_last_rank_that_counts_get_exactly_nothing(generator: torch.Generator) -> None:
    policy = PlackettLuce(torch.randn(5, 9, generator=generator))
    decision = policy.sample(7, generator=generator)
    score = Scorer(ndcg(3), torch.randint(5, (5, 9), generator=generator).float())
    advantage = reward_to_go(score(decision), Play(policy, decision, score))
    assert (advantage[..., 3:] == 0).all()
    torch.testing.assert_close(advantage[..., 0], leave_one_out(score(decision)))
    leaf = policy.logits.clone().requires_grad_()
    likelihood = PlackettLuce(leaf).log_likelihood(decision, advantage)
    top = (PlackettLuce(leaf).log_prob(decision[..., :3]) * advantage[..., :3]).sum((0, -1))
    torch.testing.assert_close(*(torch.autograd.grad(value.sum(), leaf)[0] for value in (likelihood, top)))


# The other estimators


@pytest.mark.parametrize("problem", PROBLEMS)
def test_enumeration_is_exact(problem: str) -> None:
    logits, relevance, metric, judge = PROBLEMS[problem]
    leaf = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    value = enumeration()(PlackettLuce(leaf), Scorer(metric, torch.tensor(relevance)))
    true_value, true_gradient = truth(logits, relevance, judge)
    assert value.item() == pytest.approx(true_value, abs=1e-10)
    np.testing.assert_allclose(torch.autograd.grad(value, leaf)[0].numpy(), true_gradient, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    "estimator",
    [sum_and_sample(summed=6), sum_and_sample(summed=5), unordered_set(draws=6), inclusion_weighted(draws=6)],
    ids=repr,
)
def test_estimators_that_list_outcomes_are_exact_where_nothing_is_left(estimator: Estimator) -> None:
    leaf = torch.tensor([THREE, THREE[::-1]], dtype=torch.float64, requires_grad=True)
    score = Scorer(ndcg(2), torch.tensor([[2, 0, 1], [0, 0, 1]]))
    found, listed = (
        torch.autograd.grad(each(PlackettLuce(leaf), score).sum(), leaf)[0] for each in (estimator, enumeration())
    )
    torch.testing.assert_close(found, listed, rtol=0, atol=1e-10)


@pytest.mark.parametrize("credit", [leave_one_out, reward_to_go])
def test_remembered_draws_are_unbiased_at_another_policy(credit: Callable[..., Tensor]) -> None:
    """Drawn at one policy and used at a second one."""
    logits, relevance, metric, judge = PROBLEMS["ndcg@2 of 4"]
    then = [-0.2, 0.4, 0.1, 0.6]
    probs = law(np.array(then))
    lists = list(product(probs, repeat=2))
    probability = torch.tensor([probs[a] * probs[b] for a, b in lists], dtype=torch.float64)
    drew = Listed(torch.tensor(then, dtype=torch.float64).expand(len(lists), -1), torch.tensor(lists).movedim(1, 0))
    score = Scorer(metric, torch.tensor(relevance).expand(len(lists), -1))
    remembered = importance_weighted.draw(drew, score, draws=2, credit=credit)
    leaf = torch.tensor(logits, dtype=torch.float64).expand(len(lists), -1).clone().requires_grad_()
    value = remembered(PlackettLuce(leaf), score)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    true_value, true_gradient = truth(logits, relevance, judge)
    assert float(probability @ value.detach()) == pytest.approx(true_value, abs=1e-10)
    np.testing.assert_allclose((probability @ gradient).numpy(), true_gradient, rtol=0, atol=1e-8)


@pytest.mark.parametrize("estimator", [spsa(draws=4000, radius=0.3), evolution_strategies(draws=4000, sigma=0.3)])
def test_perturbations_of_the_logits_find_the_way(estimator: Estimator, generator: torch.Generator) -> None:
    leaf = torch.tensor(FOUR, requires_grad=True)
    estimator(PlackettLuce(leaf), Scorer(ndcg(), torch.tensor([0, 3, 1, 2])), generator=generator).backward()
    true = torch.tensor(truth(FOUR, [0, 3, 1, 2], ndcg_by_hand(4))[1])
    assert torch.cosine_similarity(leaf.grad.double(), true, dim=0) > 0.9


# What is refused


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    "estimator",
    [
        exact(),
        second_order(),
        counterfactual(),
        blockwise(blocks=2),
        arm(),
        disarm(),
        muprop(),
        REBAR(),
        RELAX(value_network()),
        straight_through(),
        gumbel_softmax(),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_estimators_of_independent_decisions_refuse_rankings(estimator: Estimator) -> None:
    with pytest.raises(
        TypeError, match=rf"^{type(estimator).__name__} needed a .*(Bernoulli|Categorical).* got PlackettLuce.*use"
    ):
        estimator(PlackettLuce(torch.zeros(2, 4)), Scorer(ndcg(), torch.ones(2, 4)))


@pytest.mark.usefixtures("as_a_user")
def test_rankings_of_nine_are_too_many_to_list() -> None:
    with pytest.raises(ValueError, match=r"^enumeration needed at most 65536 outcomes a row, got 9! rankings; use"):
        enumeration()(PlackettLuce(torch.zeros(9)), Scorer(ndcg(), torch.ones(9)))


@pytest.mark.usefixtures("as_a_user")
def test_reward_to_go_needs_rankings_and_gains() -> None:
    policy, decision = PlackettLuce(torch.zeros(3)), torch.tensor([[0, 1, 2], [2, 1, 0]])
    reward = torch.zeros(2)
    with pytest.raises(ValueError, match=r"^needed a play to find gains in, got none"):
        reward_to_go(reward, None)
    with pytest.raises(
        TypeError, match=r"^reward_to_go needed a PlackettLuce policy .* got PlackettLuce and <function"
    ):
        reward_to_go(reward, Play(policy, decision, lambda d: d.sum(-1)))
    with pytest.raises(TypeError, match=r"^reward_to_go needed .* got Bernoulli and CountMetric\(f1"):
        reward_to_go(reward, Play(Bernoulli(torch.zeros(3)), decision > 0, Scorer(f1, torch.ones(3))))
    with pytest.raises(ValueError, match=r"^needed at least 2 draws to leave one out, got 1"):
        reward_to_go(reward[:1], Play(policy, decision[:1], Scorer(ndcg(), torch.ones(3))))
    with pytest.raises(ValueError, match=r"^needed at least 2 draws, got 1"):
        score_function(1, reward_to_go)


@pytest.mark.usefixtures("as_a_user")
def test_a_metric_of_yes_and_no_does_not_take_rankings() -> None:
    metric = CountMetric(lambda tp, fp, fn, tn: tp, undefined=0.0)
    with pytest.raises(ValueError, match=r"^needed a decision of 0 and 1"):
        score_function()(PlackettLuce(torch.zeros(4)), Scorer(metric, torch.ones(4)))
    with pytest.raises(TypeError, match=r"^needed rankings, .* use PlackettLuce"):
        score_function()(Bernoulli(torch.zeros(4)), Scorer(ndcg(), torch.ones(4)))
