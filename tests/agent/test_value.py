"""A learned value: advantages against a loop, ends against cuts, and that it learns what it should."""

import math
from itertools import pairwise

import gymnasium as gym
import pytest
import torch
from torch import Tensor, nn

from rlgrad.agent import Reinforce, Value
from rlgrad.agent.episodes import Episodes


def episodes_of(lengths: list[int], terminated: list[bool]) -> Episodes:
    generator = torch.Generator().manual_seed(0)
    ran = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    observation = torch.randn(*ran.shape, 2, generator=generator) * ran[..., None]
    reward = torch.randn(ran.shape, generator=generator, dtype=torch.float64) * ran
    last = torch.randn(len(lengths), 2, generator=generator)
    return Episodes(observation, None, reward, ran, torch.tensor(terminated), last, asked=int(ran.numel()))


@pytest.mark.parametrize("decay", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("discount", [0.5, 1.0])
def test_advantages_are_those_of_a_loop_with_a_tail_where_an_episode_was_cut_off(discount: float, decay: float) -> None:
    lengths, terminated = [3, 1, 4, 4, 1], [True, True, False, True, False]
    episodes = episodes_of(lengths, terminated)
    generator = torch.Generator().manual_seed(1)
    expected, after = (
        torch.randn(count, generator=generator, dtype=torch.float64) for count in (sum(lengths), len(lengths))
    )
    advantage, target = Value(nn.Linear(2, 1), decay=decay).advantage(episodes, expected, after, discount=discount)
    wanted: list[float] = []
    for i, (start, stop) in enumerate(pairwise([0, *torch.tensor(lengths).cumsum(0).tolist()])):
        value = [*expected[start:stop].tolist(), 0.0 if terminated[i] else after[i].item()]
        ahead, found = 0.0, []
        for t in reversed(range(lengths[i])):
            error = episodes.reward[i, t].item() + discount * value[t + 1] - value[t]
            ahead = error + discount * decay * ahead
            found.append(ahead)
        wanted += found[::-1]
    torch.testing.assert_close(advantage, torch.tensor(wanted, dtype=torch.float64))
    torch.testing.assert_close(target, torch.tensor(wanted, dtype=torch.float64) + expected)


def test_with_a_true_value_a_cut_changes_nothing() -> None:
    """Rewards of 1 for ever, discounted by a half, are worth 2 wherever one looks."""
    ran = torch.ones(1, 3, dtype=torch.bool)
    reward = torch.ones(1, 3, dtype=torch.float64)
    cut = Episodes(torch.zeros(1, 3, 2), None, reward, ran, torch.tensor([False]), torch.zeros(1, 2), asked=3)
    for decay in (0.0, 0.5, 1.0):
        found, target = Value(decay=decay).advantage(cut, torch.full((3,), 2.0), torch.tensor([2.0]), discount=0.5)
        assert found.tolist() == [0, 0, 0]
        assert target.tolist() == [2, 2, 2]


def test_the_value_learns_how_long_the_pole_will_stand() -> None:
    agent = Reinforce("CartPole-v1", None, "value", episodes=8, max_episode_steps=10, discount=0.9, seed=0)
    agent.learn(8 * 10 * 40, progress=False)
    observation, _ = gym.make("CartPole-v1").reset(seed=0)
    assert isinstance(agent.credit, Value)
    with torch.no_grad():
        found = agent.credit(agent._seen(torch.from_numpy(observation)[None])).item()
    assert found == pytest.approx(1 / (1 - 0.9), rel=0.2)  # cut off at 10 steps, but it is not the end


def test_values_are_in_the_deviations_of_earlier_returns() -> None:
    network = nn.Linear(4, 1)
    agent = Reinforce("CartPole-v1", None, Value(network, decay=1.0), episodes=4, discount=1.0, reuse=1, seed=0)
    seen = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert isinstance(agent.credit, Value)
    assert agent.credit(seen).equal(network(seen)[:, 0])
    length = agent.update().mean_length * 4
    assert agent.credit.returns.count == length  # one return to go a step, and no more for being used again
    torch.testing.assert_close(
        agent.credit(seen),
        (network(seen)[:, 0] * agent.credit.returns.variance.sqrt() + agent.credit.returns.mean).float(),
    )


@pytest.mark.parametrize("network", [nn.Linear(4, 1), nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))])
def test_values_come_as_a_column_or_a_row(network: nn.Module) -> None:
    assert Value(network)(torch.zeros(5, 4)).shape == (5,)
    agent = Reinforce("CartPole-v1", None, Value(network, decay=0.9), episodes=2)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    agent.update()
    assert any(not one.equal(other) for one, other in zip(before, network.parameters(), strict=True))


def test_one_value_given_to_two_agents_becomes_two() -> None:
    value = Value(decay=0.5)
    one, other = (Reinforce("CartPole-v1", None, value, episodes=2, seed=seed) for seed in (0, 1))
    assert value.network is None
    assert isinstance(one.credit, Value)
    assert isinstance(other.credit, Value)
    assert one.credit.decay == other.credit.decay == 0.5
    assert {id(p) for p in one.parameters()}.isdisjoint(id(p) for p in other.parameters())


@pytest.mark.usefixtures("as_a_user")
def test_bad_values_are_told() -> None:
    with pytest.raises(TypeError, match=r"^needed a network that gives values, got 3; pass an nn.Module$"):
        Value(3)
    for decay in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"^needed a decay from 0 to 1, got .*; 0.98 is usual$"):
            Value(decay=decay)
    agent = Reinforce("CartPole-v1", None, Value(nn.Linear(4, 2)), episodes=2)
    with pytest.raises(
        ValueError, match=r"^needed values of shape \(\d+,\) or \(\d+, 1\) .* got \(\d+, 2\); end it so$"
    ):
        agent.update()

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * x[:, 0] * math.nan

    with pytest.raises(ValueError, match=r"^needed finite values, got nan"):
        Reinforce("CartPole-v1", None, Value(Broken()), episodes=2).update()
