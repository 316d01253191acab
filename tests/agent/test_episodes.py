"""Whole episodes side by side: against a plain loop, in each form of vector environment, and where things go wrong."""

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from torch import Tensor

import rlgrad.agent.episodes
from rlgrad.agent import EnvironmentFailed
from rlgrad.agent.episodes import Episodes, joined, play

LEAST, MOST = 2, 6


class Walk(gym.Env[NDArray[np.float32], Any]):
    """Lasts as long as its seed says, and is cut off or comes to its end; observations say seed, step and action."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,))
    action_space = spaces.Discrete(5)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.length, self.steps = int(self.np_random.integers(LEAST, MOST)), 0
        self.number = float(self.np_random.integers(1, 1000))
        return np.array([self.number, 0.0, -1.0], np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        assert self.steps <= self.length, "stepped after its end"
        ended = self.steps == self.length
        terminated = ended and self.number > 500
        observation = np.array([self.number, self.steps, action], np.float32)
        return observation, self.steps + 0.1 * float(action), terminated, ended and not terminated, {}


def act(observation: Tensor) -> tuple[Tensor, NDArray[Any]]:
    """Depends on each row alone."""
    decision = (observation[:, :1].long() + observation[:, 1:2].long()) % 5
    return decision, decision[:, 0].numpy()


def by_hand(seed: int, limit: int | None = None) -> dict[str, Any]:
    env = Walk()
    observation, _ = env.reset(seed=seed)
    seen, decisions, rewards, over, terminated = [], [], [], False, False
    while not over:
        seen.append(torch.from_numpy(observation))
        decision, action = act(seen[-1][None])
        decisions.append(decision[0])
        observation, reward, terminated, truncated, _ = env.step(action[0])
        rewards.append(reward)
        over = terminated or truncated or len(rewards) == limit
    return {"seen": seen, "decisions": decisions, "rewards": rewards, "last": observation, "terminated": terminated}


def assert_is_by_hand(episodes: Episodes, seeds: list[int], limit: int | None = None) -> None:
    assert episodes.decision is not None
    expected = [by_hand(seed, limit) for seed in seeds]
    longest = max(len(each["rewards"]) for each in expected)
    assert episodes.ran.shape == (len(seeds), longest)
    for i, each in enumerate(expected):
        length = len(each["rewards"])
        assert episodes.lengths[i] == length
        assert episodes.ran[i].tolist() == [True] * length + [False] * (longest - length)
        assert episodes.ended[i].nonzero().tolist() == [[length - 1]]
        assert episodes.observation[i, :length].equal(torch.stack(each["seen"]))
        assert episodes.decision[i, :length].equal(torch.stack(each["decisions"]))
        assert episodes.reward[i, :length].tolist() == each["rewards"]
        assert episodes.last[i].equal(torch.from_numpy(each["last"]))
        assert episodes.terminated[i] == each["terminated"]
        for padded in (episodes.observation, episodes.decision, episodes.reward):
            assert not padded[i, length:].any()
    assert episodes.returns.tolist() == pytest.approx([math.fsum(each["rewards"]) for each in expected])


def sync(mode: AutoresetMode) -> Callable[[int], VectorEnv[Any, Any, Any]]:
    return lambda count: SyncVectorEnv([Walk] * count, autoreset_mode=mode)


FORMS: dict[str, Callable[[int], VectorEnv[Any, Any, Any]]] = {
    "next step": sync(AutoresetMode.NEXT_STEP),
    "same step": sync(AutoresetMode.SAME_STEP),
    "disabled": sync(AutoresetMode.DISABLED),
    "not copied": lambda count: SyncVectorEnv([Walk] * count, copy=False),
}


@pytest.mark.parametrize("limit", [None, 1, 3, 100])
@pytest.mark.parametrize("form", FORMS)
def test_each_form_plays_what_a_loop_plays(form: str, limit: int | None) -> None:
    envs, seeds = FORMS[form](7), [3, 14, 15, 92, 65, 35, 3]
    for _ in range(2):  # what an earlier play left is of no consequence
        episodes = play(envs, act, seeds=seeds, limit=limit)
        assert_is_by_hand(episodes, seeds, limit)
        assert episodes.asked == episodes.ran.numel()


def test_one_after_the_other_is_side_by_side() -> None:
    envs = SyncVectorEnv([Walk])
    episodes = joined([play(envs, act, seeds=[seed]) for seed in range(9)])
    assert_is_by_hand(episodes, list(range(9)))
    assert episodes.asked == episodes.ran.sum()  # nobody waits


@pytest.mark.parametrize("mode", AutoresetMode)
def test_environments_in_other_processes(mode: AutoresetMode) -> None:
    envs = AsyncVectorEnv([Walk] * 3, autoreset_mode=mode)
    try:
        assert_is_by_hand(play(envs, act, seeds=[4, 8, 15]), [4, 8, 15])
    finally:
        envs.close()


def test_native_vector_forms_play_whole_episodes() -> None:
    envs = gym.make_vec("CartPole-v1", num_envs=6)
    assert not isinstance(envs, SyncVectorEnv)

    def left(observation: Tensor) -> tuple[None, NDArray[Any]]:
        return None, np.zeros(len(observation), dtype=np.int64)

    episodes = play(envs, left, seeds=list(range(6)))
    assert episodes.decision is None
    assert episodes.terminated.all()
    assert ((episodes.lengths >= 8) & (episodes.lengths <= 11)).all()  # a pole that is pushed left falls by then
    assert episodes.returns.tolist() == episodes.lengths.tolist()
    again = play(envs, left, seeds=list(range(6)))
    assert again.observation.equal(episodes.observation)


def test_the_same_seed_for_each_begins_them_alike() -> None:
    episodes = play(SyncVectorEnv([Walk] * 3), act, seeds=[7, 7, 7])
    assert_is_by_hand(episodes, [7, 7, 7])
    with pytest.raises(EnvironmentFailed, match="the same start needs environments that take a list of seeds"):
        play(gym.make_vec("CartPole-v1", num_envs=3), act, seeds=[7, 7, 7])


# What goes wrong


class Wrong(Walk):
    """One thing is wrong, in step 2 of every episode or after the end of one."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if self.fault == "reset":
            raise OSError("no such\n file")
        observation, info = super().reset(seed=seed)
        self.length = 4
        return observation * (np.nan if self.fault == "first" else 1), info

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        if self.steps == 2:
            if self.fault == "step":
                raise ZeroDivisionError("by 0")
            if self.fault == "four":
                return observation, reward, terminated, info
            if self.fault == "text":
                return "up", reward, terminated, truncated, info
            if self.fault == "shape":
                return observation[:2], reward, terminated, truncated, info
            if self.fault == "beyond":
                return observation.astype(float) * 1e300, reward, terminated, truncated, info
            if self.fault in ("nan", "inf"):
                return observation, float(self.fault), terminated, truncated, info
        if self.fault == "last" and (terminated or truncated):
            observation[1] = np.inf
        return observation, reward, terminated, truncated, info


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("reset", "got OSError in its reset: no such file; mend the environment"),
        ("first", "got nan in the observation of environment 1 after its reset; mend"),
        ("step", "got ZeroDivisionError in step 2 of an episode: by 0; mend"),
        ("four", "got ValueError in step 2 of an episode: not enough values to unpack"),
        ("text", "in step 2 of an episode: "),
        ("shape", "got ValueError in step 2 of an episode: "),
        ("beyond", "got inf in the observation of environment 1 in step 2 of its episode"),
        ("nan", "got nan in the reward of environment 1 in step 2 of its episode"),
        ("inf", "got inf in the reward of environment 1 in step 2 of its episode"),
        ("last", "got inf in the observation of environment 1 in step 4 of its episode"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # NumPy's own, within Gymnasium
def test_what_is_wrong_with_an_environment_is_told(fault: str, message: str, mode: AutoresetMode) -> None:
    envs = SyncVectorEnv([Walk, lambda: Wrong(fault)], autoreset_mode=mode)
    with pytest.raises(EnvironmentFailed, match=rf"^needed .*{message}"):
        play(envs, act, seeds=[0, 1])


class After(Walk):
    """Short episodes, the first of which is faultless; what comes in later ones is not."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observation, info = super().reset(seed=seed)
        self.is_later = seed is None
        self.length = 1
        return observation * (np.nan if self.is_later else 1), info

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, np.nan if self.is_later else reward, terminated, truncated, info


@pytest.mark.parametrize("mode", AutoresetMode)
def test_what_environments_say_while_they_wait_is_of_no_consequence(mode: AutoresetMode) -> None:
    shown: list[Tensor] = []

    def watched(observation: Tensor) -> tuple[Tensor, NDArray[Any]]:
        shown.append(observation)
        return act(observation)

    envs = SyncVectorEnv([After, Walk], autoreset_mode=mode)
    episodes = play(envs, watched, seeds=[0, 1])
    assert all(each.isfinite().all() for each in shown)
    assert episodes.lengths.tolist() == [1, len(by_hand(1)["rewards"])]
    for tensor in (episodes.observation, episodes.reward, episodes.last):
        assert tensor.isfinite().all()


class Endless(Walk):
    """Never comes to an end."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        found = super().reset(seed=seed)
        self.length = 10**9
        return found


def test_an_episode_that_does_not_end_is_told_or_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rlgrad.agent.episodes, "_ENDLESS", 20)
    envs = SyncVectorEnv([Walk, Endless])
    with pytest.raises(ValueError, match=r"^needed episodes that end, got one of 20 steps; pass max_episode_steps"):
        play(envs, act, seeds=[0, 1])
    assert play(envs, act, seeds=[0, 1], limit=20).lengths[1] == 20


class Misshapen(VectorEnv[Any, Any, Any]):
    """A vector form of its own, whose numbers have other shapes than it says."""

    num_envs = 2
    metadata: dict[str, Any] = {}  # noqa: RUF012
    single_observation_space = spaces.Box(-1.0, 1.0, (3,))
    single_action_space = spaces.Discrete(5)

    def __init__(self, observation: NDArray[Any], reward: NDArray[Any]) -> None:
        self.observation, self.reward = observation, reward

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.zeros((2, 3), np.float32), {}

    def step(self, actions: Any) -> Any:
        return self.observation, self.reward, np.ones(2, bool), np.zeros(2, bool), {}


@pytest.mark.parametrize(
    ("observation", "reward"), [((2, 3), (3,)), ((2, 4), (2,)), ((3, 3), (2,)), ((3,), (2,)), ((2, 3), ())]
)
def test_shapes_of_other_vector_forms_are_looked_at(observation: tuple[int, ...], reward: tuple[int, ...]) -> None:
    with pytest.raises(EnvironmentFailed, match="got ValueError in step 1 of an episode"):
        play(Misshapen(np.zeros(observation), np.zeros(reward)), act, seeds=[0, 1])
    assert play(Misshapen(np.zeros((2, 3)), np.ones((2, 1))), act, seeds=[0, 1]).returns.tolist() == [1, 1]
