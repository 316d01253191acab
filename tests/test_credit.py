"""Baselines: the written-out formulas, their exact zeros, and the state of the one that has some."""

import copy

import pytest
import torch
from torch import Tensor, nn

from rlgrad import credit
from rlgrad.credit import MovingAverage, Play
from rlgrad.metrics import CATALOGUE, OpaqueMetric, Scorer, f1
from rlgrad.policies import Bernoulli, Categorical


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
    ("policy", "score", "error", "message"),
    [
        (
            Categorical(torch.zeros(4, 2)),
            Scorer(f1, torch.ones(4)),
            TypeError,
            "needed a Bernoulli policy, got Categ",
        ),
        (
            Bernoulli(torch.zeros(4)),
            lambda d: d.sum(-1),
            TypeError,
            "needed a Scorer of a CountMetric, got <function",
        ),
        (
            Bernoulli(torch.zeros(4)),
            Scorer(OpaqueMetric(lambda d, t: 0.0, name="mine"), torch.ones(4)),
            TypeError,
            "needed a Scorer of a CountMetric, got OpaqueMetric(mine); write the metric as a formula",
        ),
        (
            Bernoulli(torch.zeros(4)),
            Scorer(f1, torch.ones(4, 1)),
            ValueError,
            "needed a target of shape (4,) for",
        ),
        (
            Bernoulli(torch.zeros(2, 4)),
            Scorer(f1, torch.ones(4)),
            ValueError,
            "needed a target of shape (2, 4) for",
        ),
        (
            Bernoulli(torch.zeros(4)),
            Scorer(f1, torch.full((4,), 0.5)),
            ValueError,
            "needed a target of 0 and 1, got 0.5",
        ),
    ],
    ids=["classes", "bare function", "opaque", "column", "row", "soft label"],
)
def test_only_counts_of_yes_or_no_can_be_asked_what_if(policy, score, error, message: str) -> None:
    with pytest.raises(error) as caught:
        credit.counterfactual(torch.zeros(3), Play(policy, policy.sample(3).bool(), score))
    assert message in str(caught.value)
