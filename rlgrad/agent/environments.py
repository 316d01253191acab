"""Environments in the one form that the agent plays: vectorised, with observations that are arrays of numbers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

AnyEnv = str | gym.Env[Any, Any] | VectorEnv[Any, Any, Any] | Callable[[], gym.Env[Any, Any]]


class EnvironmentFailed(RuntimeError):
    """An environment raised, or gave something that is no observation or reward."""


class _Flattened(gym.wrappers.vector.FlattenObservation):
    """One that was flattened here, so that single observations are known to need it too."""


def vectorised(env: AnyEnv, episodes: int, *, same_start: bool = False) -> VectorEnv[Any, Any, Any]:
    """An environment as a vector of environments, whose observations are flattened unless they are a Box.

    Args:
        env: an id, of which as many are made as there are episodes, in their native vector form where there is one; a
            function that makes one, likewise; an environment, which plays one episode after the other; or several
            that are vectorised already.
        episodes: to be played for an update.
        same_start: environments have to take seeds of their own, as not every native vector form does.

    Raises:
        TypeError: it is none of these, or its observations are no numbers.
        ValueError: the episodes are no multiple of the environments, or observations cannot be flattened.
    """
    if isinstance(env, str):
        envs: VectorEnv[Any, Any, Any] = gym.make_vec(
            env, num_envs=episodes, vectorization_mode="sync" if same_start else None
        )
    elif isinstance(env, VectorEnv):
        envs = env
    elif isinstance(env, gym.Env):
        _check_observations(env.observation_space)
        envs = SyncVectorEnv([lambda: env])
    elif callable(env):
        envs = SyncVectorEnv([env] * episodes)
    else:
        raise TypeError(
            f'needed an environment, a function that makes one, or an id, got {env!r}; "CartPole-v1" is one'
        )
    if episodes % envs.num_envs:
        raise ValueError(
            f"needed episodes that are a multiple of the {envs.num_envs} environments, got {episodes}; "
            f"{envs.num_envs * -(-episodes // envs.num_envs)} would do"
        )
    return _flat(envs)


@contextmanager
def another(env: AnyEnv, episodes: int, *, like: VectorEnv[Any, Any, Any]) -> Iterator[VectorEnv[Any, Any, Any]]:
    """An environment to be tested in, as a vector, which is closed in the end if it is made here.

    Args:
        env: as of ``vectorised``.
        episodes: to be played side by side, where it is not a vector yet.
        like: what the agent learned in.

    Raises:
        TypeError, ValueError: as ``vectorised``, or observations of another shape or other actions.
    """
    envs = vectorised(env, env.num_envs if isinstance(env, VectorEnv) else episodes)
    try:
        wanted, got = ((each.single_observation_space.shape, each.single_action_space) for each in (like, envs))
        if wanted != got:
            raise ValueError(
                f"needed an environment with observations of shape {wanted[0]} and actions {wanted[1]}, as the agent "
                f"learned in, got {got[0]} and {got[1]}; wrap it so"
            )
        yield envs
    finally:
        if is_made_here(env):
            envs.close()


def name_of(envs: VectorEnv[Any, Any, Any]) -> str:
    """The id of the environments, or the name of their class where they have none."""
    first = getattr(envs.unwrapped, "envs", [envs])[0]
    spec = envs.spec or first.spec
    return spec.id if spec else type(first.unwrapped).__name__


def is_made_here(env: AnyEnv) -> bool:
    """Whether ``vectorised`` makes the environments, so that nobody else can close them."""
    return not isinstance(env, VectorEnv | gym.Env)


def as_numbers(envs: VectorEnv[Any, Any, Any], observation: Any) -> np.ndarray:
    """One observation, as a single environment gives it, in the form of ``envs``."""
    if isinstance(envs, _Flattened):
        observation = spaces.flatten(envs.env.single_observation_space, observation)
    return np.array(observation, dtype=np.float32)


def _flat(envs: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    space = envs.single_observation_space
    _check_observations(space)
    if isinstance(space, spaces.Box) and space.shape:
        return envs
    if envs.metadata.get("autoreset_mode") == AutoresetMode.SAME_STEP:  # which Gymnasium's wrapper refuses
        raise ValueError(
            f"needed observations that are a Box where environments begin anew in the same step, got {space}; wrap "
            "each environment in gymnasium.wrappers.FlattenObservation, or choose another autoreset_mode"
        )
    return _Flattened(envs)


def _check_observations(space: spaces.Space[Any]) -> None:
    if not space.is_np_flattenable:
        raise TypeError(
            f"needed observations of a fixed number of numbers, got {space}; wrap the environment to encode them"
        )
