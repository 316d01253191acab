"""Draws of an old policy, weighed for a new one: every list of draws, weighed with its probability under the old."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rlgrad import MetricLoss, credit
from rlgrad.credit import Credit, MovingAverage, Play
from rlgrad.estimators import importance_weighted, score_function
from rlgrad.metrics import OpaqueMetric, Scorer, f1, iou
from rlgrad.policies import Bernoulli, Categorical, Policy
from tests.estimators.proof import (
    LOGITS,
    METRICS,
    PROBLEMS,
    TARGET,
    Array,
    Estimates,
    ListedBernoulli,
    ListedCategorical,
    Problem,
    black_box,
    distance,
    estimates,
    every_list,
    network,
    network_by_hand,
    of_metric,
)


def moved(problem: Problem, size: float = 0.7) -> Problem:
    """The same with other logits: the policy some steps later."""
    step = size * torch.cos(torch.arange(problem.logits.numel()).double()).reshape(problem.logits.shape)
    return Problem(problem.logits + step, problem.target, problem.judge, problem.score)


def later(
    old: Problem, new: Problem, *, draws: int, credit: Credit = credit.leave_one_out, **options: Any
) -> tuple[Estimates, importance_weighted]:
    """The estimator at the new logits, of every list of draws at the old ones."""
    decision, probability = every_list(old, draws)
    listed = (ListedBernoulli if old.yes_no else ListedCategorical)(
        old.logits.expand(len(probability), *old.logits.shape), decision
    )
    score = old.score(old.target.expand(len(probability), *old.target.shape))
    again = importance_weighted.draw(listed, score, draws=draws, credit=credit, **options)
    assert listed.shown == draws
    same = Problem(new.logits, new.target, new.judge, lambda target: score)
    found = estimates(again, same, probability, Bernoulli if old.yes_no else Categorical)
    return found, again


CREDITS: dict[str, tuple[Callable[[], Credit], int]] = {
    "none": (lambda: credit.none, 1),
    "none, 2 draws": (lambda: credit.none, 2),
    "leave one out": (lambda: credit.leave_one_out, 2),
    "greedy": (lambda: credit.greedy, 1),
    "moving average": (lambda: MovingAverage(0.5), 1),
}
NAMES = ["f1", "profit, rows", "black box", "network", "network, rows", "black box, classes", "network, classes"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", CREDITS)
def test_unbiased_at_another_policy(kind: str, name: str) -> None:
    make, draws = CREDITS[kind]
    old = PROBLEMS[name]
    new = moved(old)
    assert not distance(later(old, new, draws=draws, credit=make())[0], new)


@pytest.mark.parametrize("kind", ["none", "greedy"])
@pytest.mark.parametrize("name", ["black box, masked, rows", "network, masked, rows"])
def test_unbiased_with_a_masked_class(kind: str, name: str) -> None:
    new = moved(PROBLEMS[name])
    assert not distance(later(PROBLEMS[name], new, draws=1, credit=CREDITS[kind][0]())[0], new)


@pytest.mark.parametrize("kind", ["none", "leave one out"])
def test_unbiased_with_three_draws(kind: str) -> None:
    old = of_metric(METRICS["profit"], LOGITS[:3], TARGET[:3])
    new = moved(old)
    assert not distance(later(old, new, draws=3, credit=CREDITS[kind][0]())[0], new)


@pytest.mark.parametrize("name", ["f1", "network", "network, classes"])
def test_unbiased_with_credit_to_single_decisions(name: str) -> None:
    old = PROBLEMS[name]
    new = moved(old)
    assert not distance(later(old, new, draws=1, credit=credit.counterfactual)[0], new)


# At the policy that drew


def pair(
    logits: Tensor, score: Callable[[Tensor], Tensor], given: Credit, **options: Any
) -> tuple[tuple[Tensor, Tensor], ...]:
    """Value and gradient of the two estimators, of the same draws."""
    results = []
    for again in (True, False):
        leaf = logits.clone().requires_grad_()
        policy = Bernoulli(leaf) if logits.ndim < 3 else Categorical(leaf)
        generator = torch.Generator().manual_seed(0)
        if again:
            estimator = importance_weighted.draw(policy, score, draws=6, credit=given, generator=generator, **options)
            value = estimator(policy, score)
        else:
            value = score_function(draws=6, credit=given)(policy, score, generator=generator)
        results.append((value.detach(), torch.autograd.grad(value.sum(), leaf)[0]))
    return tuple(results)


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("per_decision", [False, True])
@pytest.mark.parametrize("given", [credit.none, credit.leave_one_out, credit.greedy])
def test_the_same_as_score_function_at_the_policy_that_drew(given: Credit, per_decision: bool, clip) -> None:
    rows = torch.linspace(-2, 2, 8, dtype=torch.float64).reshape(2, 4)
    torch.testing.assert_close(
        *pair(rows, Scorer(f1, torch.eye(2, 4)), given, clip=clip, per_decision=per_decision), rtol=1e-12, atol=1e-14
    )
    classes = torch.linspace(-2, 2, 24, dtype=torch.float64).sin().reshape(2, 4, 3)
    torch.testing.assert_close(
        *pair(
            classes,
            Scorer(black_box("hits"), torch.ones(2, 4).long()),
            given,
            clip=clip,
            per_decision=per_decision,
        ),
        rtol=1e-12,
        atol=1e-14,
    )


@pytest.mark.parametrize(
    "per_decision",
    [
        True,
        False,
    ],
)
def test_the_same_with_credit_to_single_decisions(per_decision: bool) -> None:
    rows = torch.linspace(-2, 2, 8, dtype=torch.float64).reshape(2, 4)
    found = pair(rows, Scorer(f1, torch.eye(2, 4)), credit.counterfactual, per_decision=per_decision)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


# What is biased on purpose


def test_each_decision_by_its_own_ratio_is_biased_elsewhere_alone() -> None:
    old = PROBLEMS["f1"]
    assert not distance(later(old, old, draws=2, per_decision=True)[0], old)
    found = distance(later(old, moved(old), draws=2, per_decision=True)[0], moved(old))
    print(f"per decision: bias {found.gradient:.4f}")
    assert found.gradient > 1e-3
    assert found.value < 1e-8


@pytest.mark.parametrize("clip", [0.1, 0.5])
def test_a_clip_is_biased(clip: float) -> None:
    old = PROBLEMS["f1"]
    found = distance(later(old, moved(old), draws=2, clip=clip)[0], moved(old))
    print(f"clip {clip}: bias {found.gradient:.4f}")
    assert found.gradient > 1e-3
    assert found.value < 1e-8


def test_a_clip_that_nothing_reaches_changes_nothing() -> None:
    old = PROBLEMS["network"]
    new = moved(old, 0.01)
    one, other = (later(old, new, draws=2, clip=clip)[0] for clip in (None, 0.2))
    torch.testing.assert_close(one.gradient, other.gradient, rtol=1e-12, atol=1e-14)


def clipped(z: Array, old: Array, decision: Array, advantage: Array, clip: float, per_decision: bool) -> float:
    """The surrogate of proximal policy optimization, of one row: the mean over draws."""

    def log_p(logits: Array) -> Array:
        return -np.log1p(np.exp(np.where(decision, -logits, logits)))

    ratio = np.exp(log_p(z) - log_p(old)) if per_decision else np.exp((log_p(z) - log_p(old)).sum(-1, keepdims=True))
    pessimist = np.minimum(ratio * advantage[:, None], np.clip(ratio, 1 - clip, 1 + clip) * advantage[:, None])
    return float(pessimist.sum(-1).mean())


@pytest.mark.parametrize("clip", [0.1, 0.3, 1.5])
@pytest.mark.parametrize("per_decision", [False, True])
def test_the_clipped_surrogate_of_numpy(per_decision: bool, clip: float) -> None:
    old, new = PROBLEMS["profit"], moved(PROBLEMS["profit"])
    score = old.score(old.target)
    again = importance_weighted.draw(
        Bernoulli(old.logits),
        score,
        draws=40,
        clip=clip,
        per_decision=per_decision,
        generator=torch.Generator().manual_seed(0),
    )
    leaf = new.logits.clone().requires_grad_()
    again(Bernoulli(leaf), score).backward()
    reward = again.reward.numpy()
    advantage = reward - (reward.sum() - reward) / 39
    here = new.logits.numpy()

    def surrogate(z: Array) -> float:
        return clipped(z, old.logits.numpy(), again.play.decision.numpy(), advantage, clip, per_decision)

    slopes = [(surrogate(here + 1e-6 * unit) - surrogate(here - 1e-6 * unit)) / 2e-6 for unit in np.eye(4)]
    np.testing.assert_allclose(leaf.grad.numpy(), slopes, rtol=0, atol=1e-8)


def test_what_has_gone_far_enough_is_left_out() -> None:
    """One decision that has become much likelier, or less likely, than it was: which sign of advantage still pulls."""
    score = lambda decision: decision.double().squeeze(-1)  # noqa: E731
    for shift, signs in ((2.0, {-1.0}), (-2.0, {1.0})):
        for sign in (1.0, -1.0):
            play = Play(Bernoulli(torch.zeros(1)), torch.ones(1, 1, dtype=torch.bool), score)
            again = importance_weighted(play, torch.tensor([sign]), torch.tensor([sign]), clip=0.2)
            leaf = torch.tensor([shift], requires_grad=True)
            again(Bernoulli(leaf), score).backward()
            assert (leaf.grad.item() != 0) == (sign in signs)


# What is remembered


@pytest.mark.parametrize("policy", [Bernoulli, Categorical])
def test_an_optimizer_in_place_changes_nothing_that_is_remembered(policy: type[Policy]) -> None:
    problem = PROBLEMS["f1" if policy is Bernoulli else "black box, classes"]
    logits, score = problem.logits.clone().requires_grad_(), problem.score(problem.target)
    again = importance_weighted.draw(policy(logits), score, draws=8, generator=torch.Generator().manual_seed(0))
    decision, reward = again.play.decision.clone(), again.reward.clone()
    remembered = Play(policy(problem.logits.clone()), decision, score)
    fixed = importance_weighted(remembered, reward, credit.leave_one_out(reward))
    optimizer = torch.optim.SGD([logits], lr=3.0)
    for _ in range(3):
        gradients = [torch.autograd.grad(one(policy(logits), score), logits)[0] for one in (again, fixed)]
        torch.testing.assert_close(*gradients, rtol=0, atol=0)
        optimizer.zero_grad()
        (-again(policy(logits), score)).backward()
        optimizer.step()
        assert torch.equal(again.play.policy.logits, problem.logits)
        assert torch.equal(again.play.decision, decision)
        assert torch.equal(again.reward, reward)
    assert not torch.allclose(logits.detach(), problem.logits)


def test_rewards_are_asked_for_once() -> None:
    asked: list[int] = []

    def score(decision: Tensor) -> Tensor:
        asked.append(len(decision))
        return decision.double().sum(-1)

    policy = Bernoulli(torch.zeros(3))
    again = importance_weighted.draw(policy, score, draws=5)
    before = torch.get_rng_state()
    for _ in range(3):
        again(policy, score)
    assert asked == [5]
    assert torch.equal(before, torch.get_rng_state())


def test_it_stands_in_a_metric_loss() -> None:
    layer = nn.Linear(3, 1)
    inputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    target = (inputs[:, 0] > 0).long()
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    metric = f1
    again = importance_weighted.draw(
        Bernoulli(layer(inputs).squeeze(-1)),
        Scorer(metric, target),
        draws=64,
        clip=0.3,
        per_decision=True,
        credit=credit.counterfactual,
        generator=torch.Generator().manual_seed(1),
    )
    criterion = MetricLoss(metric, again)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    losses = []
    for _ in range(5):
        exact = MetricLoss(metric)(layer(inputs).squeeze(-1), target).item()
        losses.append(exact)
        optimizer.zero_grad()
        criterion(layer(inputs).squeeze(-1), target).backward()
        optimizer.step()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.02
    with pytest.raises(ValueError, match="needed the score that the draws were rewarded by"):
        criterion(layer(inputs).squeeze(-1), 1 - target)


def test_a_learning_baseline_learns_from_what_is_remembered() -> None:
    layer = nn.Linear(3, 1).double()
    value = credit.LearnedValue(nn.Sequential(layer, nn.Flatten(0)))
    logits, score = LOGITS.reshape(2, 2), network()
    logits = torch.cat([logits, logits[:, :1]], 1)
    again = importance_weighted.draw(Bernoulli(logits), score, draws=4, credit=value)
    with torch.no_grad():
        guess = value.network(logits)
    (-again(Bernoulli(logits + 1), score)).sum().backward()
    expected = (guess - again.reward).mean(0)
    torch.testing.assert_close(layer.bias.grad, expected.sum()[None])


# Errors


@pytest.mark.usefixtures("as_a_user")
def test_another_policy_or_score_is_named() -> None:
    target = torch.tensor([1, 0, 1])
    again = importance_weighted.draw(Bernoulli(torch.zeros(3)), Scorer(f1, target), draws=2)
    again(Bernoulli(torch.ones(3)), Scorer(f1, target.clone()))  # equal targets are one score
    with pytest.raises(TypeError, match=r"^needed the Bernoulli that drew, later on, got Categorical$"):
        again(Categorical(torch.zeros(3, 2)), Scorer(f1, target))
    for shape in ((4,), (2, 3), (1, 3)):
        with pytest.raises(ValueError, match=r"^needed logits of shape \(3,\), as those that drew, got "):
            again(Bernoulli(torch.zeros(shape)), Scorer(f1, target))
    for score in (
        Scorer(f1, 1 - target),
        Scorer(f1, target, torch.ones(3)),
        Scorer(f1, torch.ones(2, 3)),
        Scorer(iou, target),
        Scorer(OpaqueMetric(f1.formula), target),
        network(),
    ):
        with pytest.raises(ValueError, match=r"^needed the score that the draws were rewarded by, got another; draw "):
            again(Bernoulli(torch.zeros(3)), score)


def test_equal_weights_are_one_score() -> None:
    target, weight = torch.tensor([1, 0, 1]), torch.tensor([1.0, 2.0, 3.0])
    again = importance_weighted.draw(Bernoulli(torch.zeros(3)), Scorer(f1, target, weight), draws=2)
    again(Bernoulli(torch.ones(3)), Scorer(f1, target, weight.clone()))
    for other in (None, weight + 1):
        with pytest.raises(ValueError, match="got another; draw again"):
            again(Bernoulli(torch.ones(3)), Scorer(f1, target, other))


def test_a_function_is_the_score_that_it_is() -> None:
    score = network()
    again = importance_weighted.draw(Bernoulli(LOGITS), score, draws=2)
    again(Bernoulli(LOGITS), score)
    with pytest.raises(ValueError, match="needed the score that the draws were rewarded by"):
        again(Bernoulli(LOGITS), network())
    assert network_by_hand()((0,) * 4, (1, 0, 1, 0)) == pytest.approx(
        score(torch.tensor([[True, False, True, False]])).item()
    )


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("clip", [0.0, -0.1, torch.inf, torch.nan])
def test_a_clip_lies_above_zero(clip: float) -> None:
    with pytest.raises(ValueError, match=r"^needed a clip above 0 or None, got "):
        importance_weighted.draw(Bernoulli(torch.zeros(3)), network(), draws=2, clip=clip)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("given", [credit.leave_one_out, credit.none])
def test_too_few_draws(given: Credit) -> None:
    with pytest.raises(ValueError, match=r"^needed at least [12] draws?, got 0; raise draws$"):
        importance_weighted.draw(Bernoulli(torch.zeros(3)), network(), draws=0, credit=given)


def test_an_average_that_moves_on_leaves_remembered_advantages_alone() -> None:
    """An average that has taken in these very rewards would be a baseline that knows the draw."""
    score = Scorer(f1, torch.tensor([1, 0, 1]))
    again = importance_weighted.draw(Bernoulli(torch.zeros(3)), score, draws=4, credit=credit.MovingAverage(0.5))
    logits = torch.tensor([0.5, -0.5, 0.2], requires_grad=True)
    first, second = (torch.autograd.grad(again(Bernoulli(logits), score), logits)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("clip", [None, 0.2])
def test_many_decisions_that_moved_far_give_numbers(clip: float | None) -> None:
    score = Scorer(f1, torch.arange(200) % 2)
    again = importance_weighted.draw(
        Bernoulli(torch.zeros(200)), score, draws=4, clip=clip, generator=torch.Generator().manual_seed(0)
    )
    logits = (4 * again.play.decision[0].float() - 2).requires_grad_()
    value = again(Bernoulli(logits), score)
    (gradient,) = torch.autograd.grad(value, logits)
    assert not torch.isnan(value)
    assert torch.isfinite(gradient).all()


def test_a_policy_of_a_class_of_ones_own() -> None:
    class Own(Bernoulli):
        pass

    score = network()
    again = importance_weighted.draw(Own(LOGITS), score, draws=2)
    torch.testing.assert_close(again(Own(LOGITS), score), again(Bernoulli(LOGITS), score))
