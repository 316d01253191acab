"""Environments in the one form that the agent plays: vectorised, with observations that are arrays of numbers."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv, VectorEnv

AnyEnv = str | gym.Env[Any, Any] | VectorEnv[Any, Any, Any] | Callable[[], gym.Env[Any, Any]]


class EnvironmentFailed(RuntimeError):
    """An environment raised, or gave something that is no observation or reward."""


def vectorised(env: AnyEnv, episodes: int) -> VectorEnv[Any, Any, Any]:
    """An environment as a vector of environments, whose observations are flattened unless they are a Box.

    Args:
        env: an id, of which as many are made as there are episodes, in their native vector form where there is one; a
            function that makes one, likewise; an environment, which plays one episode after the other; or several
            that are vectorised already.
        episodes: to be played for an update.

    Raises:
        TypeError: it is none of these, or its observations are no numbers.
        ValueError: the episodes are no multiple of the environments.
    """
    if isinstance(env, str):
        envs: VectorEnv[Any, Any, Any] = gym.make_vec(env, num_envs=episodes)
    elif isinstance(env, VectorEnv):
        envs = env
    elif isinstance(env, gym.Env):
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


def _flat(envs: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    space = envs.single_observation_space
    if isinstance(space, spaces.Box) and not np.issubdtype(space.dtype, np.complexfloating):
        return envs
    if not space.is_np_flattenable:
        raise TypeError(
            f"needed observations of a fixed number of numbers, got {space}; wrap the environment to encode them"
        )
    return gym.wrappers.vector.FlattenObservation(envs)
