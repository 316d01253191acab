"""Baselines: the written-out formulas, their exact zeros, and the state of the one that has some."""

import copy
import re

import pytest
import torch
from torch import Tensor, nn

from rlgrad import MetricLoss, credit
from rlgrad.credit import LearnedValue, MovingAverage, Play
from rlgrad.estimators import exact, score_function
from rlgrad.metrics import CATALOGUE, Downstream, OpaqueMetric, Score, Scorer, f1
from rlgrad.policies import Bernoulli, Categorical
from tests.estimators.proof import PROBLEMS, Case, bias, every_estimate, exactly


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def a_play(*, metric: str = "f1", draws: int = 6) -> Play:
    generator = torch.Generator().manual_seed(1)
    policy = Bernoulli(normal(2, 5))
    target = torch.rand(2, 5, generator=generator) < 0.5
    return Play(policy, policy.sample(draws, generator=generator), Scorer(CATALOGUE[metric], target))


def rewards(play: Play) -> Tensor:
    return play.score(play.decision)


def test_none_is_the_reward_itself() -> None:
    reward = normal(4, 3)
    assert torch.equal(credit.none(reward), reward)


@pytest.mark.parametrize("shape", [(2,), (5,), (5, 3), (4, 2, 3)])
def test_leave_one_out_is_the_reward_less_the_mean_of_the_others(shape: tuple[int, ...]) -> None:
    reward = normal(*shape)
    expected = torch.stack([reward[d] - torch.cat([reward[:d], reward[d + 1 :]]).mean(0) for d in range(len(reward))])
    torch.testing.assert_close(credit.leave_one_out(reward), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("draws", [2, 3, 7, 16, 1000])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_equal_rewards_earn_exactly_nothing(dtype: torch.dtype, draws: int) -> None:
    # The mean of equal numbers need not be that number: rounding must not pass for an advantage.
    equal = torch.tensor([0.1, 1 / 3, 0.935, 1e-30, 1e4]).to(dtype).expand(draws, 5)
    assert torch.equal(credit.leave_one_out(equal), torch.zeros(draws, 5, dtype=dtype))


def test_a_common_offset_changes_nothing() -> None:
    reward = normal(8, 3)
    torch.testing.assert_close(credit.leave_one_out(reward + 1000), credit.leave_one_out(reward), atol=1e-11, rtol=0)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("draws", [0, 1])
def test_one_draw_leaves_no_other(draws: int) -> None:
    with pytest.raises(ValueError, match=rf"^needed at least 2 draws to leave one out, got {draws}; raise draws$"):
        credit.leave_one_out(torch.ones(draws, 3))


def test_moving_average_subtracts_the_corrected_average_of_earlier_calls() -> None:
    moving = MovingAverage(decay=0.8)
    past: list[float] = []
    for call in range(6):
        reward = normal(3, 2) + call
        weights = torch.tensor([0.8**age for age in range(len(past), 0, -1)], dtype=torch.float64)
        baseline = (weights * torch.tensor(past)).sum() / weights.sum() if past else torch.tensor(0.0)
        torch.testing.assert_close(moving(reward), reward - baseline, rtol=1e-5, atol=1e-6)
        past.append(reward.mean().item())


def test_moving_average_without_decay_remembers_the_last_call_alone() -> None:
    moving = MovingAverage(decay=0.0)
    moving(torch.tensor([1.0, 3.0]))
    assert moving(torch.tensor([5.0, 7.0])).tolist() == [3.0, 5.0]
    assert moving(torch.tensor([0.0])).tolist() == [-6.0]


def test_the_first_call_has_nothing_to_subtract() -> None:
    reward = normal(3, 2)
    assert torch.equal(MovingAverage()(reward), reward)


def test_moving_average_is_saved_and_restored() -> None:
    moving = MovingAverage(decay=0.5)
    moving(torch.tensor([1.0, 3.0]))
    state = copy.deepcopy(moving.state_dict())
    assert {name: value.tolist() for name, value in state.items()} == {"average": 1.0, "weight": 0.5}
    fresh = MovingAverage(decay=0.5)
    fresh.load_state_dict(state)
    for _ in range(3):
        assert torch.equal(fresh(normal(3)), moving(normal(3)))


def test_moving_average_keeps_its_own_precision() -> None:
    moving = MovingAverage(decay=0.5)
    moving(normal(3))
    assert moving(normal(3)).dtype == torch.float64
    assert moving(normal(3, dtype=torch.float32)).dtype == torch.float32
    assert moving.average.dtype == torch.float32
    assert repr(moving) == "MovingAverage(decay=0.5)"


def test_an_empty_batch_leaves_the_average_alone() -> None:
    moving = MovingAverage(decay=0.5)
    moving(torch.tensor([2.0]))
    assert moving(torch.zeros(4, 0)).shape == (4, 0)
    assert moving(torch.tensor([3.0])).tolist() == [1.0]


def test_evaluation_looks_at_the_average_and_leaves_it_alone() -> None:
    moving = MovingAverage(decay=0.5)
    moving(torch.tensor([2.0]))
    moving.eval()
    assert [moving(torch.tensor([3.0])).tolist() for _ in range(2)] == [[1.0], [1.0]]


def test_moving_average_is_a_module_without_parameters() -> None:
    module = nn.ModuleDict({"credit": MovingAverage()})
    assert list(module.state_dict()) == ["credit.average", "credit.weight"]
    assert list(module.parameters()) == []


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0, float("nan")])
def test_decay_lies_between_zero_and_one(decay: float) -> None:
    with pytest.raises(ValueError, match=r"^needed a decay in \[0, 1\), got "):
        MovingAverage(decay)


def test_greedy_subtracts_the_reward_of_the_most_probable_decision() -> None:
    play = a_play()
    reward = rewards(play)
    of_mode = play.score(play.policy.logits[None] > 0)[0]
    assert torch.equal(credit.greedy(reward, play), reward - of_mode)


def test_greedy_with_classes_and_an_opaque_metric() -> None:
    policy = Categorical(normal(2, 5, 3))
    target = policy.mode
    play = Play(policy, target[None], Scorer(OpaqueMetric(lambda d, t: (d == t).double().mean()), target))
    assert credit.greedy(torch.tensor([[0.25, 1.0]]), play).tolist() == [[-0.75, 0.0]]


@pytest.mark.parametrize("metric", CATALOGUE)
def test_counterfactual_is_the_reward_less_its_mean_over_one_decision(metric: str) -> None:
    play = a_play(metric=metric)
    advantage = credit.counterfactual(rewards(play), play)
    assert advantage.shape == (6, 2, 5)
    for item in range(5):
        outcomes = []
        for outcome in (False, True):
            decision = play.decision.clone()
            decision[..., item] = outcome
            outcomes.append(play.score(decision))
        p = play.policy.probs[:, item]
        expected = rewards(play) - ((1 - p) * outcomes[0] + p * outcomes[1])
        torch.testing.assert_close(advantage[..., item], expected, rtol=0, atol=1e-12)


def test_credit_carries_no_gradient() -> None:
    logits = normal(2, 5).requires_grad_()
    play = a_play()
    play = Play(Bernoulli(logits), play.decision, play.score)
    for function in (
        credit.none,
        credit.leave_one_out,
        credit.greedy,
        credit.counterfactual,
        MovingAverage(),
    ):
        assert not function(rewards(play), play).requires_grad


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("function", [credit.greedy, credit.counterfactual])
def test_a_play_is_needed_to_ask_what_else_could_have_been(function) -> None:
    with pytest.raises(ValueError, match=r"^needed a play to .*, got none; pass Play\(policy, decision, score\)$"):
        function(torch.ones(3), None)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.ones(4, 1), "needed a target of shape (4,) for"),
        (torch.ones(2, 4), "needed a target of shape (4,) for"),
        (torch.full((4,), 0.5), "needed a target of 0 and 1, got 0.5"),
    ],
    ids=["column", "rows", "soft label"],
)
def test_a_formula_is_asked_about_a_target_of_0_and_1(target: Tensor, message: str) -> None:
    policy = Bernoulli(torch.zeros(4))
    with pytest.raises(ValueError, match=re.escape(message)):
        credit.counterfactual(torch.zeros(3), Play(policy, policy.sample(3).bool(), Scorer(f1, target)))


SCORES = {
    "opaque": Scorer(OpaqueMetric(lambda d, t: (d == t).double().mean().exp()), torch.tensor([[1, 0, 2]] * 2)),
    "bare function": lambda decision: decision.double().sum(-1).square(),
    "network": Downstream(lambda one_hot: one_hot[..., 0].sum(-1).exp(), classes=3, dtype=torch.float64),
}


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_counterfactual_of_any_score_among_classes(score: Score) -> None:
    policy = Categorical(torch.cat([normal(2, 3, 2), torch.full((2, 3, 1), -torch.inf)], -1).roll(1, 0))
    policy.logits[1, 1, 2] = 0.3
    decision = policy.sample(5, generator=torch.Generator().manual_seed(1))
    reward = score(decision)
    advantage = credit.counterfactual(reward, Play(policy, decision, score))
    assert advantage.shape == (5, 2, 3)
    for item in range(3):
        mean = torch.zeros(5, 2, dtype=torch.float64)
        for c in range(3):
            changed = decision.clone()
            changed[..., item] = c
            mean += policy.probs[:, item, c] * score(changed)
        torch.testing.assert_close(advantage[..., item], reward - mean, rtol=0, atol=1e-12)


# A baseline that learns


class Values(nn.Module):
    """A small network from logits to values, one for each row."""

    def __init__(self, items: int, *, classes: bool = False) -> None:
        super().__init__()
        self.classes = classes
        self.hidden = nn.Linear(items, 3, dtype=torch.float64)
        self.out = nn.Linear(3, 1, dtype=torch.float64)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.linspace(-2, 1.5, weight.numel()).reshape(weight.shape))

    def forward(self, logits: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(logits.flatten(-2) if self.classes else logits))).squeeze(-1)


@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("name", ["profit, rows", "black box, rows", "network", "network, classes"])
def test_a_learned_value_leaves_the_policy_gradient_unbiased(name: str, draws: int) -> None:
    problem = PROBLEMS[name]
    items = problem.logits.shape[-1] if problem.yes_no else problem.logits.numel()
    value = LearnedValue(Values(items, classes=not problem.yes_no))
    assert not bias(Case(lambda: score_function(draws=draws, credit=value), draws), problem)


def test_a_value_of_the_own_draw_would_be_found_out() -> None:
    def value_of_the_reward(reward: Tensor, play: Play | None) -> Tensor:
        return reward - torch.tanh(reward)

    case = Case(lambda: score_function(draws=1, credit=value_of_the_reward), 1)
    assert bias(case, PROBLEMS["network"]).gradient > 1e-2


def test_a_learned_value_goes_down_half_its_squared_error() -> None:
    """The estimate is maximised: minus the estimate is the loss, and carries the mean over draws of (r - v)^2 / 2."""
    network, policy = Values(4), Bernoulli(normal(3, 4))
    score = Scorer(f1, torch.eye(3, 4))
    seen: list[Tensor] = []

    def watched(decision: Tensor) -> Tensor:
        seen.append(score(decision))
        return seen[-1]

    estimate = score_function(draws=5, credit=LearnedValue(network))(policy, watched)
    found = torch.autograd.grad(-estimate.sum(), list(network.parameters()))
    squared_error = ((seen[0] - network(policy.logits)).square() / 2).mean(0).sum()
    torch.testing.assert_close(found, torch.autograd.grad(squared_error, list(network.parameters())))
    # The value is that of the rewards, and the policy's gradient is not the network's.
    torch.testing.assert_close(estimate.detach(), seen[0].mean(0))


def test_a_learned_value_hears_of_logits_without_their_graph() -> None:
    logits = normal(3, 4).requires_grad_()
    policy = Bernoulli(logits)
    decision = policy.sample(2)
    advantage = LearnedValue(Values(4))(torch.ones(2, 3), Play(policy, decision, Scorer(f1, torch.ones(3, 4))))
    (gradient,) = torch.autograd.grad(advantage.sum(), logits, allow_unused=True)
    assert gradient is None


def test_a_criterion_holds_the_network_and_trains_it(generator: torch.Generator) -> None:
    network = Values(4)
    criterion = MetricLoss(f1, score_function(draws=32, credit=LearnedValue(network)), generator=generator)
    assert {id(weight) for weight in criterion.parameters()} == {id(weight) for weight in network.parameters()}
    assert any(name.endswith("hidden.weight") for name in criterion.state_dict())
    logits, target = normal(3, 4), torch.eye(3, 4)
    expected = exact()(Bernoulli(logits), Scorer(f1, target))
    optimizer = torch.optim.Adam(criterion.parameters(), lr=0.05)
    away = []
    for _ in range(150):
        away.append((network(logits).detach() - expected).abs().max().item())
        optimizer.zero_grad()
        criterion(logits, target).backward()
        optimizer.step()
    assert away[0] > 0.5
    assert away[-1] < 0.05


def test_a_good_value_takes_variance_away() -> None:
    class Constant(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.tensor(value, dtype=torch.float64))

        def forward(self, logits: Tensor) -> Tensor:
            return self.value.expand(logits.shape[:-1])

    problem = PROBLEMS["f1"]
    mean = float(exactly(problem)[0])
    variances = [
        every_estimate(Case(lambda v=value: score_function(draws=1, credit=LearnedValue(Constant(v))), 1), problem)
        for value in (mean, 0.0)
    ]
    assert variances[0].variance.sum() < variances[1].variance.sum() / 3


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("network", [nn.Identity(), nn.Linear(4, 1), nn.Flatten(0)])
def test_one_value_for_each_row(network: nn.Module) -> None:
    policy = Bernoulli(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"^needed values of shape \(2,\) \(\*batch\), got .*; reduce the items"):
        score_function(draws=2, credit=LearnedValue(network))(policy, Scorer(f1, torch.ones(2, 4)))


@pytest.mark.usefixtures("as_a_user")
def test_a_learned_value_is_a_network_and_needs_a_play() -> None:
    with pytest.raises(TypeError, match=r"^needed a network that gives values, got .*; pass an nn.Module$"):
        LearnedValue(lambda logits: logits.sum(-1))
    with pytest.raises(ValueError, match=r"^needed a play to find the value of, got none; pass Play"):
        LearnedValue(Values(4))(torch.ones(3), None)


def test_a_reward_keeps_its_precision_under_autocast() -> None:
    network = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    nn.init.zeros_(network[0].weight)
    nn.init.zeros_(network[0].bias)
    policy = Bernoulli(torch.zeros(2, 4))
    reward = torch.tensor([[0.301, 0.703]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        advantage = LearnedValue(network)(reward, Play(policy, policy.sample(1), Scorer(f1, torch.ones(2, 4))))
    torch.testing.assert_close(advantage.float(), reward, rtol=1e-6, atol=0)
