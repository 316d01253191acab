"""The agent as its user meets it: what it learns, repeats, refuses, and leaves alone."""

import math
import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlgrad.agent import EnvironmentFailed, Reinforce, Value
from rlgrad.credit import LearnedValue, MovingAverage, counterfactual, greedy, leave_one_out, none, reward_to_go


def made(credit: Any = "leave_one_out", policy: nn.Module | None = None, **settings: Any) -> Reinforce:
    return Reinforce("CartPole-v1", policy, credit, **{"episodes": 4, "max_episode_steps": 30, **settings})


def weights(agent: Reinforce) -> list[Tensor]:
    return [value.clone() for value in agent.state_dict().values()]


def assert_same(one: list[Tensor], other: list[Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


# Learning


@pytest.mark.parametrize("credit", ["leave_one_out", "value", "moving_average", "none"])
def test_it_learns_to_balance(credit: str) -> None:
    agent = made(credit, episodes=8, max_episode_steps=60)
    agent.learn(3_000, progress=False)
    after, chance = agent.evaluate(30), agent.evaluate(30, by="random")
    assert after.mean - chance.mean > 3 * math.hypot(after.standard_error, chance.standard_error)


def test_the_same_seed_repeats_itself_and_another_does_not() -> None:
    one, again, other = made(seed=7), made(seed=7), made(seed=8)
    for agent in (one, again, other):
        agent.update()
        agent.evaluate(2)
        agent.act(np.zeros(4))
        agent.update()
    assert_same(weights(one), weights(again))
    assert not torch.equal(weights(one)[0], weights(other)[0])
    assert one.evaluate(5, by="random", seed=2) == again.evaluate(5, by="random", seed=2)
    assert one.evaluate(5, by="draws", seed=2) != one.evaluate(5, by="draws", seed=3)


def test_global_random_numbers_are_neither_used_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    agent = made("value")
    agent.update()
    agent.evaluate(2, by="random")
    agent.act(np.zeros(4), deterministic=False, generator=torch.Generator().manual_seed(0))
    assert torch.get_rng_state().equal(before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
    torch.manual_seed(2)
    other = made("value")
    other.update()
    assert_same(weights(agent), weights(other))


def test_steps_are_a_total() -> None:
    agent = made()
    assert agent.learn(0, progress=False).updates == []
    count = len(agent.learn(200, progress=False).updates)
    assert len(agent.learn(200, progress=False).updates) == count
    assert agent.history.updates[-2].steps < 200 <= agent.history.last.steps


def test_a_bar_begins_where_the_agent_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import tqdm

    told: list[Any] = []

    class Bar(tqdm.tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": False})
            told.append(self)

    agent = made()
    agent.learn(100, progress=False)
    begun = agent.history.last.steps
    monkeypatch.setattr(tqdm, "tqdm", Bar)
    agent.learn(begun + 300)
    assert (told[0].initial, told[0].total, told[0].n) == (begun, begun + 300, begun + 300)
    agent.learn(begun)
    assert (told[1].initial, told[1].total, told[1].n) == (begun, begun, begun)
    capsys.readouterr()
    monkeypatch.undo()
    agent.learn(agent.history.last.steps + 1, progress=False)
    assert capsys.readouterr() == ("", "")


# Acting and testing


class Still(gym.Env[Any, Any]):
    """One step; rewards and observations are as it is told."""

    action_space: Any = spaces.Discrete(3, start=4)
    observation_space: Any = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(-1.0, 1.0, (2,))})

    def __init__(self, reward: float = 1.0) -> None:
        self.reward = reward

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), self.reward * float(self.np_random.uniform()), True, False, {}


def test_an_action_is_of_the_space_for_an_observation_as_the_environment_gives_it() -> None:
    env = Still()
    agent = Reinforce(env, episodes=4)
    observation, _ = env.reset(seed=0)
    assert env.action_space.contains(agent.act(observation).item())
    drawn = {
        agent.act(observation, deterministic=False, generator=torch.Generator().manual_seed(i)).item()
        for i in range(30)
    }
    assert drawn == {4, 5, 6}
    assert len({agent.act(observation).item() for _ in range(5)}) == 1


def test_testing_teaches_nothing() -> None:
    agent = made("moving_average")
    agent.update()
    before = weights(agent)
    for by in ("mode", "draws", "random"):
        found = agent.evaluate(5, by=by)
        assert len(found.returns) == len(found.lengths) == 8  # a multiple of the environments
        assert found.returns == tuple(map(float, found.lengths))
    assert_same(weights(agent), before)
    assert len(agent.history.updates) == 1


def test_it_is_tested_on_another_environment_of_the_same_spaces() -> None:
    agent = made("value")
    agent.update()
    many = gym.make_vec("CartPole-v1", num_envs=3, max_episode_steps=12)
    with gym.make("CartPole-v1") as single:
        for env, count in ((many, 6), ("CartPole-v1", 8), (single, 5), (lambda: gym.make("CartPole-v1"), 8)):
            found = agent.evaluate(5, env=env, by="draws")
            assert len(found.returns) == count
            assert (max(found.lengths) <= 12) == (env is many)
            assert found == agent.evaluate(5, env=env, by="draws")
        single.reset()  # closed by who made it alone
    assert agent.evaluate(4, env="CartPole-v1") == agent.evaluate(4)
    with pytest.raises(ValueError, match=r"^needed .* of shape \(4,\) and actions Discrete\(2\), .*, got \(6,\) and"):
        agent.evaluate(4, env="Acrobot-v1")


def test_wrappers_that_record_see_every_episode() -> None:
    single = gym.wrappers.RecordEpisodeStatistics(gym.make("CartPole-v1"))
    agent = Reinforce(single, episodes=3)
    update = agent.update()
    assert np.mean(single.return_queue) == pytest.approx(update.mean_return)
    assert len(single.return_queue) == 3


def test_a_schedule_may_change_the_learning_rate_between_updates() -> None:
    still, moving = made(), made()
    for agent in (still, moving):
        agent.update()
    still.optimizer.param_groups[0]["lr"] = 0.0
    before = [each.clone() for each in still.parameters()]
    for agent in (still, moving):
        agent.update()
    assert_same([*still.parameters()], before)
    assert not torch.equal(next(moving.parameters()), before[0])


def test_actions_of_no_policy_are_as_likely_as_any() -> None:
    agent = Reinforce(lambda: Loud(), episodes=4)
    Loud.heard.clear()
    agent.evaluate(400, by="random")
    counts = np.bincount(Loud.heard)
    assert counts.sum() >= 400
    assert counts.min() > 400 / 3 - 4 * math.sqrt(400 * 2 / 9)


class Loud(Still):
    """Says what it was told to do."""

    action_space = spaces.Discrete(3)
    heard: list[int] = []  # noqa: RUF012

    def step(self, action: Any) -> Any:
        self.heard.append(int(action))
        return super().step(action)


# Networks


class Moody(nn.Module):
    """Behaves differently in training mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        out: Tensor = self.layers(x)
        return out


def test_networks_stay_in_evaluation_mode() -> None:
    """The policy that learns is the one that drew: otherwise the first ratio would not be 1."""
    policy = Moody()
    agent = made("value", policy, reuse=1)
    policy.train()
    agent.update()
    agent.train()
    assert agent.training
    assert not any(module.training for module in policy.modules())
    agent.eval()
    agent.evaluate(2)
    agent.update()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_other_precision_are_given_what_they_take(dtype: torch.dtype) -> None:
    network = nn.Linear(4, 2, dtype=dtype)
    agent = made("leave_one_out", network)
    before = network.weight.detach().clone()
    agent.update()
    assert network.weight.dtype == dtype
    assert not network.weight.equal(before)


@pytest.mark.parametrize("credit", ["value", "moving_average", "leave_one_out"])
@pytest.mark.parametrize("box", [False, True])
def test_a_default_type_and_a_default_device_of_torch_are_of_no_consequence(credit: Any, box: bool) -> None:
    name = "MountainCarContinuous-v0" if box else "CartPole-v1"
    settings: dict[str, Any] = {
        "credit": credit, "episodes": 2, "max_episode_steps": 10, "optimizer": torch.optim.SGD  # Adam's own count moves
    }  # fmt: skip
    plain = Reinforce(name, **settings)
    plain.update()
    torch.set_default_device("meta")
    try:
        moved = Reinforce(name, **settings)
        moved.update()
        assert moved.evaluate(2) == plain.evaluate(2)
    finally:
        torch.set_default_device(None)
    assert_same(weights(moved), weights(plain))
    torch.set_default_dtype(torch.float64)
    try:
        double = Reinforce(name, **settings)
        double.update()
        double.evaluate(2)
    finally:
        torch.set_default_dtype(torch.float32)


def test_frozen_weights_stay_and_a_shared_trunk_learns_from_both() -> None:
    trunk = nn.Linear(4, 8)
    trunk.bias.requires_grad_(False)
    policy, value = (nn.Sequential(trunk, nn.Tanh(), nn.Linear(8, outputs)) for outputs in (2, 1))
    agent = made(Value(value), policy)
    before = [parameter.detach().clone() for parameter in trunk.parameters()]
    agent.update()
    assert not trunk.weight.equal(before[0])
    assert trunk.bias.equal(before[1])


# What goes wrong


class Spiteful(Still):
    """Its rewards are beyond all bounds."""

    observation_space = spaces.Box(-1.0, 1.0, (2,))


@pytest.mark.parametrize("credit", ["leave_one_out", "moving_average", "none"])
@pytest.mark.parametrize("reward", [1e30, -1e300])
def test_rewards_that_are_huge_are_learned_from(credit: Any, reward: float) -> None:
    agent = Reinforce(lambda: Spiteful(reward), None, credit, episodes=4)
    before = weights(agent)
    update = agent.update()
    assert math.isfinite(update.gradient_norm)
    assert update.gradient_norm > 0
    assert not torch.equal(weights(agent)[0], before[0])


@pytest.mark.parametrize(
    ("credit", "settings", "what"),
    [
        ("value", {"reward": 1e30}, "gradient"),
        ("none", {"reward": 1e60}, "gradient"),
        ("none", {"lr": 1e38, "optimizer": torch.optim.SGD, "max_grad_norm": math.inf, "reward": 1e9}, "weight"),
    ],
)
def test_what_diverges_is_told_and_leaves_the_agent_as_it_was(credit: Any, settings: Any, what: str) -> None:
    reward = settings.pop("reward", 1.0)
    agent = Reinforce(lambda: Spiteful(reward), nn.Linear(2, 3), credit, episodes=4, scale=False, **settings)
    before = weights(agent)
    with pytest.raises(FloatingPointError, match=rf"^needed finite numbers, got a {what} that is not; the agent is as"):
        agent.update()
    assert_same(weights(agent), before)


def test_equal_rewards_teach_nothing_and_do_no_harm() -> None:
    agent = Reinforce(lambda: Spiteful(0.0), episodes=4)
    before = weights(agent)
    update = agent.update()
    assert update.gradient_norm == 0
    assert_same(weights(agent)[:6], before[:6])


def test_an_environment_that_fails_changes_nothing() -> None:
    class Flaky(Spiteful):
        fails = False

        def step(self, action: Any) -> Any:
            if Flaky.fails:
                raise RuntimeError("off")
            return super().step(action)

    agent, sound = (Reinforce(lambda: Flaky(1.0), None, "value", episodes=4) for _ in range(2))
    agent.update()
    before = weights(agent)
    Flaky.fails = True
    with pytest.raises(EnvironmentFailed, match="got RuntimeError in step 1 of an episode: off; mend the environment"):
        agent.update()
    assert_same(weights(agent), before)
    Flaky.fails = False
    for each in (agent, sound, sound):
        each.update()
    assert_same(weights(agent), weights(sound))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"episodes": 0}, ValueError, "needed episodes of at least 1 and below 2^63, got 0"),
        ({"episodes": 2.0}, TypeError, "needed a whole number of episodes, got 2.0"),
        ({"episodes": True}, TypeError, "needed a whole number of episodes, got True"),
        ({"episodes": 1}, ValueError, "needed at least 2 episodes to leave one out, got 1; raise episodes"),
        ({"reuse": 0}, ValueError, "needed reuse of at least 1 and below 2^63, got 0"),
        ({"max_episode_steps": 0}, ValueError, "needed max_episode_steps of at least 1 and below 2^63, got 0"),
        ({"seed": -1}, ValueError, "needed seed of at least 0 and below 2^63, got -1"),
        ({"seed": 2**65}, ValueError, "needed seed of at least 0 and below 2^63, got 36893488147419103232"),
        ({"discount": 1.5}, ValueError, "needed a discount from 0 to 1, got 1.5; 0.99 is usual"),
        ({"discount": math.nan}, ValueError, "needed a discount from 0 to 1, got nan"),
        ({"lr": 0}, ValueError, "needed a positive finite lr, got 0"),
        ({"lr": math.inf}, ValueError, "needed a positive finite lr, got inf"),
        ({"entropy": -1}, ValueError, "needed a weight of entropy of at least 0, got -1"),
        ({"clip": 0.0}, ValueError, "needed a positive finite clip, got 0.0; 0.2 is usual, None is for none"),
        ({"max_grad_norm": 0}, ValueError, "needed a positive max_grad_norm, got 0; math.inf leaves"),
        (
            {"credit": "rloo"},
            ValueError,
            "needed a credit, got 'rloo'; there are none, moving_average, leave_one_out, ",
        ),
        ({"credit": 3}, TypeError, "needed a credit, got 3; pass one of none, moving_average, leave_one_out, value, a"),
        ({"credit": Value}, TypeError, "needed a credit, got <class"),
        ({"credit": MovingAverage}, TypeError, "needed a credit, got <class"),
        ({"credit": greedy}, TypeError, "needed a credit that returns are enough for, got greedy, which scores"),
        ({"credit": counterfactual}, TypeError, "needed a credit that returns are enough for, got counterfactual"),
        ({"credit": reward_to_go}, TypeError, "needed a credit that returns are enough for, got reward_to_go"),
        (
            {"credit": LearnedValue(nn.Linear(2, 1))},
            TypeError,
            "got one of logits, LearnedValue; use rlgrad.agent.Value",
        ),
        ({"policy": lambda x: x}, TypeError, "needed a network, got <function"),
        (
            {"policy": nn.Linear(4, 2, device="meta")},
            ValueError,
            "needed a network on the CPU, got weight on meta; call",
        ),
        ({"credit": Value(nn.Linear(4, 1, device="meta"))}, ValueError, "needed a network on the CPU, got weight on"),
    ],
)
def test_settings_that_cannot_be_are_told(settings: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        made(**settings)


@pytest.mark.usefixtures("as_a_user")
def test_calls_that_cannot_be_are_told() -> None:
    agent = made()
    for call, error, message in (
        (lambda: agent.learn(-1), ValueError, "needed steps of at least 0"),
        (lambda: agent.learn(1e4), TypeError, "needed a whole number of steps, got 10000.0"),
        (lambda: agent.learn(1, save_every=0), ValueError, "needed save_every of at least 1"),
        (lambda: agent.evaluate(0), ValueError, "needed episodes of at least 1"),
        (lambda: agent.evaluate(1, seed=-1), ValueError, "needed seed of at least 0"),
        (lambda: agent.evaluate(1, by="luck"), ValueError, 'needed by="mode", "draws" or "random", got'),
        (lambda: made(policy=nn.Linear(4, 3)).update(), ValueError, "needed outputs of shape (rows, 2)"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            call()
    assert agent.history.updates == []


def test_a_credit_is_known_by_its_function_as_by_its_name() -> None:
    for name, function in (("none", none), ("leave_one_out", leave_one_out)):
        one, other = made(name), made(function)
        one.update()
        other.update()
        assert_same(weights(one), weights(other))
