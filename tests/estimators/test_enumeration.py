"""Outcomes summed exactly, and the rest drawn: every draw of the rest weighed with its probability."""

from importlib import import_module
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgrad import policies
from rlgrad.estimators import enumeration as every_outcome
from rlgrad.estimators import score_function, sum_and_sample
from rlgrad.metrics import Scorer, f1
from rlgrad.policies import Bernoulli, Categorical
from tests.estimators.proof import (
    LOGITS,
    MASKED,
    METRICS,
    PROBLEMS,
    TARGET,
    Case,
    Estimates,
    Problem,
    black_box,
    distance,
    estimates,
    every_estimate,
    network,
    of_metric,
    of_network,
    product_lists,
    rows_of,
)

HOME = import_module("rlgrad.estimators.enumeration")  # the function of this name hides it


def plain(problem: Problem) -> type[Bernoulli] | type[Categorical]:
    return Bernoulli if problem.yes_no else Categorical


# All outcomes


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_every_outcome_is_exact(problem: Problem) -> None:
    once = estimates(every_outcome(), problem, torch.ones(1, dtype=torch.float64), plain(problem))
    assert not distance(once, problem)


@pytest.mark.parametrize("at_once", [1, 7, 30])
def test_slices_do_not_matter(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies.shared, "_SLICE", at_once)
    for name in ("profit, rows", "network, masked, rows"):
        problem = PROBLEMS[name]
        assert not distance(
            estimates(every_outcome(), problem, torch.ones(1, dtype=torch.float64), plain(problem)), problem
        )


def test_outcomes_have_a_limit() -> None:
    def score(decision: Tensor) -> Tensor:
        return decision[..., :2].float().sum(-1)

    logits = torch.zeros(16, requires_grad=True)
    value = every_outcome()(Bernoulli(logits), score)
    assert value.item() == pytest.approx(1.0)
    value.backward()
    assert logits.grad.tolist() == pytest.approx([0.25, 0.25] + [0.0] * 14, abs=1e-6)
    for estimator in (every_outcome(), sum_and_sample()):
        for policy in (Bernoulli(torch.zeros(17)), Categorical(torch.zeros(11, 3))):
            with pytest.raises(ValueError, match=r"needed at most 65536 outcomes a row, got (2\^17|3\^11); use "):
                estimator(policy, score)


# The likeliest outcomes, and draws of the others


def over_draws(problem: Problem, monkeypatch: pytest.MonkeyPatch, *, summed: int = 1, draws: int = 1) -> Estimates:
    """sum_and_sample with every list of indices drawn of the others."""
    rows = []
    for p in rows_of(problem):
        others = p.copy()
        others[np.argsort(-p, kind="stable")[:summed]] = 0.0
        if others.sum() == 0:
            others[:] = 1.0  # nothing is left: whatever is drawn has weight zero
        others /= others.sum()
        lists = [at for at in product(range(len(p)), repeat=draws) if others[list(at)].all()]
        rows.append((torch.tensor([others[list(at)].prod() for at in lists]), torch.tensor(lists)))
    probability, drawn = product_lists(rows)
    drawn = drawn.reshape(len(drawn), *problem.target.shape[:-1], draws)
    monkeypatch.setattr(HOME, "_drawn", lambda weights, draws, generator: drawn)
    return estimates(sum_and_sample(summed=summed, draws=draws), problem, probability, plain(problem))


SMALL = {
    "profit": of_metric(METRICS["profit"], LOGITS[:3], TARGET[:3]),
    "network, one item": of_network(torch.tensor([[1.0, -0.4, 0.3]], dtype=torch.float64), classes=3),
    **{
        name: PROBLEMS[name]
        for name in ("profit, rows", "black box, rows", "network", "network, classes", "black box, masked, rows")
    },
}


@pytest.mark.parametrize(("summed", "draws"), [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("name", SMALL)
def test_unbiased(name: str, summed: int, draws: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = SMALL[name]
    if draws == 2 and name == "black box, masked, rows":  # one row of it: lists of both would be too many
        problem = of_metric(black_box("hits"), MASKED[0], torch.tensor([2, 0]))
    assert not distance(over_draws(problem, monkeypatch, summed=summed, draws=draws), problem)


@pytest.mark.parametrize("summed", [4, 8, 9, 100])
def test_nothing_is_left_to_chance_where_all_outcomes_are_summed(summed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = PROBLEMS["profit, rows"] if summed == 4 else SMALL["profit"]
    found = over_draws(problem, monkeypatch, summed=summed)
    assert not distance(found, problem)
    assert found.variance.max() < 1e-24


@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("problem", [SMALL["profit"], SMALL["network"], SMALL["network, one item"]])
def test_never_noisier_than_drawing_from_all(problem: Problem, draws: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its value, and its gradient against the same baseline, the mean reward of the likely outcomes."""
    (p,) = rows_of(problem)
    rewards = np.array([problem.judge(tuple(problem.target.tolist()), outcome) for outcome in problem.outcomes])
    for summed in range(1, len(p)):
        likely = np.argsort(-p, kind="stable")[:summed]
        baseline = float(p[likely] @ rewards[likely] / p[likely].sum())
        plain = Case(lambda b=baseline: score_function(draws=draws, credit=lambda reward, play: reward - b), draws)
        all_drawn, found = every_estimate(plain, problem), over_draws(problem, monkeypatch, summed=summed, draws=draws)
        assert (found.variance <= all_drawn.variance + 1e-15).all()
        spread = [one.probability @ (one.value - one.mean[0].item()).square() for one in (found, all_drawn)]
        assert spread[0] <= spread[1]
    assert found.variance.max() < 1e-24  # a single outcome is left


def test_an_offset_of_the_reward_changes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = SMALL["network"]
    higher = Problem(problem.logits, problem.target, problem.judge, lambda target: lambda b: network()(b) + 1000)
    one, other = (over_draws(each, monkeypatch, summed=3) for each in (problem, higher))
    torch.testing.assert_close(one.gradient, other.gradient, rtol=0, atol=1e-10)
    torch.testing.assert_close(one.value + 1000, other.value, rtol=0, atol=1e-10)


def test_draws_of_the_others_follow_their_probabilities(generator: torch.Generator) -> None:
    """Frequencies lie within six standard errors, and none of the likely is drawn again."""
    logits = torch.tensor([0.9, -0.4, 0.2], dtype=torch.float64)
    seen = []

    def score(decision: Tensor) -> Tensor:
        seen.append(decision)
        return decision.double().sum(-1)

    draws = 20_000
    sum_and_sample(summed=2, draws=draws)(Bernoulli(logits), score, generator=generator)
    (p,) = rows_of(Problem(logits, torch.zeros(3), lambda target, decision: 0.0, lambda target: score))
    index = (seen[0].long() * torch.tensor([4, 2, 1])).sum(-1)
    assert index[:2].tolist() == np.argsort(-p)[:2].tolist()
    p[np.argsort(-p)[:2]] = 0
    p /= p.sum()
    frequency = torch.bincount(index[2:], minlength=8).numpy() / draws
    assert (np.abs(frequency - p) <= 6 * np.sqrt(p * (1 - p) / draws)).all()


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("summed", [0, -1])
def test_one_outcome_is_summed_at_least(summed: int) -> None:
    with pytest.raises(ValueError, match=rf"^needed at least 1 outcome to sum, got {summed}; "):
        sum_and_sample(summed=summed)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("summed", [2.5, True, "3"])
def test_a_whole_number_of_outcomes_is_summed(summed: object) -> None:
    with pytest.raises(TypeError, match="needed a whole number of "):
        sum_and_sample(summed=summed)(Bernoulli(torch.zeros(3)), Scorer(f1, torch.ones(3)))
