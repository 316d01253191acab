"""Environments of every form become a vector of environments whose observations are numbers."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn

from rlgrad.agent import Reinforce
from rlgrad.agent.environments import as_numbers, vectorised

OBSERVATIONS = {
    "discrete": spaces.Discrete(4, start=2),
    "yes or no": spaces.MultiBinary(3),
    "choices": spaces.MultiDiscrete([2, 3]),
    "dictionary": spaces.Dict({"b": spaces.Discrete(3), "a": spaces.Box(-1.0, 1.0, (2, 2))}),
    "tuple": spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(2)]),
    "one number": spaces.Box(-1.0, 1.0, ()),
    "numbers": spaces.Box(-1.0, 1.0, (3,)),
    "double": spaces.Box(-1.0, 1.0, (3,), dtype=np.float64),
    "image": spaces.Box(0, 255, (8, 8, 3), dtype=np.uint8),
}
FLAT = {"discrete": 4, "yes or no": 3, "choices": 5, "dictionary": 7, "tuple": 4, "one number": 1}


class Show(gym.Env[Any, Any]):
    """Shows something, and rewards the action that fits it."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.observation_space, self.is_closed = space, False

    def shown(self) -> Any:
        self.best = int(self.np_random.integers(2))
        self.observation_space.seed(4 * self.best)  # one of two observations
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.shown(), {}

    def step(self, action: int) -> Any:
        reward, self.steps = float(action == self.best), self.steps + 1
        return self.shown(), reward, self.steps == 5, False, {}

    def close(self) -> None:
        self.is_closed = True


class Convolution(nn.Module):
    """A user's own network of images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x.movedim(-1, 1))
        return out


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_every_kind_of_observation_is_learned_from(name: str) -> None:
    policy = Convolution() if name == "image" else None
    agent = Reinforce(lambda: Show(OBSERVATIONS[name]), policy, episodes=8, seed=0)
    before = agent.evaluate(40, by="random")
    agent.learn(8 * 5 * 25, progress=False)
    after = agent.evaluate(40)
    assert after.mean - before.mean > 3 * np.hypot(after.standard_error, before.standard_error)
    env = Show(OBSERVATIONS[name])
    observation, _ = env.reset(seed=3)
    assert env.action_space.contains(agent.act(observation).item())


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observations_are_flattened_as_gymnasium_does_unless_they_are_a_box(name: str) -> None:
    space = OBSERVATIONS[name]
    envs = vectorised(SyncVectorEnv([lambda: Show(space)] * 3), 3)
    shape = (FLAT[name],) if name in FLAT else space.shape
    assert envs.single_observation_space.shape == shape
    seen, _ = envs.reset(seed=0)
    for i in range(3):
        single, _ = Show(space).reset(seed=i)
        wanted = spaces.flatten(space, single) if name in FLAT else single
        np.testing.assert_array_equal(np.asarray(seen[i]), np.asarray(wanted))
        np.testing.assert_array_equal(as_numbers(envs, single), np.asarray(wanted, np.float32))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(spaces.Discrete(2), None),
        spaces.Dict({"a": spaces.Sequence(spaces.Box(-1.0, 1.0))}),
    ],
)
@pytest.mark.parametrize("form", [lambda make: make, lambda make: make(), lambda make: SyncVectorEnv([make])])
def test_observations_that_are_no_numbers_are_refused(space: spaces.Space[Any], form: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"^needed observations of a fixed number of numbers, got .*; wrap the env"):
        Reinforce(form(lambda: Show(space)), episodes=2)


def test_observations_cannot_be_flattened_where_environments_begin_anew_in_the_same_step() -> None:
    """Gymnasium's wrapper refuses it; what it says instead is what helps."""
    make = [lambda: Show(OBSERVATIONS["dictionary"])] * 2
    with pytest.raises(ValueError, match=r"got Dict\(.*; wrap each environment in gymnasium.wrappers.FlattenObs"):
        vectorised(SyncVectorEnv(make, autoreset_mode=AutoresetMode.SAME_STEP), 2)


# Forms


def test_an_id_is_made_in_its_native_vector_form() -> None:
    assert not isinstance(vectorised("CartPole-v1", 4), SyncVectorEnv)
    assert isinstance(vectorised("CartPole-v1", 4, same_start=True), SyncVectorEnv)  # each takes a seed of its own
    assert vectorised("Acrobot-v1", 4).num_envs == 4


def test_the_history_is_the_same_in_every_form() -> None:
    def make() -> gym.Env[Any, Any]:
        return gym.make("CartPole-v1")

    forms: list[Any] = [make, *(SyncVectorEnv([make] * 4, autoreset_mode=mode) for mode in AutoresetMode)]
    forms.append(gym.make_vec("CartPole-v1", num_envs=4, vectorization_mode="sync"))
    told = []
    for form in forms:
        agent = Reinforce(form, credit="value", episodes=4, max_episode_steps=20)
        told.append([(u.steps, u.mean_return, u.entropy, u.gradient_norm) for u in (agent.update(), agent.update())])
    assert all(each == told[0] for each in told)


def test_one_environment_plays_its_episodes_one_after_the_other() -> None:
    one, many = (Reinforce(env, episodes=4) for env in (gym.make("CartPole-v1"), lambda: gym.make("CartPole-v1")))
    alone, together = one.evaluate(4), many.evaluate(4)
    assert alone == together  # the same seeds, and nothing is drawn
    assert one.update().steps == one.history.last.mean_length * 4  # nobody waits


class Deaf(Show):
    """Pays no heed to seeds."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return super().reset()


def test_an_environment_may_ignore_seeds() -> None:
    agent = Reinforce(lambda: Deaf(OBSERVATIONS["numbers"]), episodes=4)
    assert agent.learn(40, progress=False).last.episodes == 8


@pytest.mark.usefixtures("as_a_user")
def test_what_is_no_environment_is_told() -> None:
    with pytest.raises(TypeError, match=r"^needed an environment, a function that makes one, or an id, got 3; "):
        Reinforce(3)
    with pytest.raises(ValueError, match=r"a multiple of the 3 environments, got 16; 18 would do$"):
        Reinforce(SyncVectorEnv([lambda: Show(OBSERVATIONS["numbers"])] * 3))
    with pytest.raises(gym.error.NameNotFound, match="Nowhere"):
        Reinforce("Nowhere-v0")


# Who closes


def test_only_what_was_made_here_is_closed() -> None:
    made: list[Show] = []

    def make() -> Show:
        made.append(Show(OBSERVATIONS["discrete"]))
        return made[-1]

    Reinforce(make, episodes=2).close()
    assert [env.is_closed for env in made] == [True, True]
    env, envs = make(), SyncVectorEnv([make])
    for lent in (env, envs):
        agent = Reinforce(lent, episodes=2)
        agent.update()
        agent.close()
        del agent
    assert not made[2].is_closed
    assert not made[3].is_closed


def test_what_was_made_here_is_closed_if_the_agent_cannot_be() -> None:
    made: list[Show] = []

    class Textual(Show):
        action_space = spaces.Text(3)  # type: ignore[assignment]

        def __init__(self) -> None:
            super().__init__(OBSERVATIONS["numbers"])
            made.append(self)

    with pytest.raises(TypeError, match="needed actions that are Discrete"):
        Reinforce(Textual, episodes=2)
    assert [env.is_closed for env in made] == [True, True]
