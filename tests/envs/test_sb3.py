"""Stable-Baselines3 trains on the environments as they come, without a wrapper, and gets better."""

import contextlib
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import rlgrad_envs  # noqa: F401  # registers

pytest.importorskip("stable_baselines3")

from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import DummyVecEnv

IDS = sorted(name for name in gym.registry if name.startswith("rlgrad/"))

# Arguments that make an easy problem of each environment, and how many steps each algorithm takes in it.
PROBLEMS: dict[str, tuple[dict[str, Any], int]] = {
    "rlgrad/BatchClassification-v0": ({"data": "breast_cancer", "batch_size": 4, "metric": "accuracy"}, 1500),
    "rlgrad/Classification-v0": ({"data": "breast_cancer", "steps": 8, "metric": "f1", "rewards": "change"}, 2500),
    "rlgrad/Segmentation-v0": ({"metric": "accuracy"}, 1500),
    "rlgrad/StepNetwork-v0": ({"data": "iris", "hidden": (4,)}, 1500),
    "rlgrad/Threshold-v0": ({"steps": 1}, 2500),
}
ALGORITHMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "PPO": (PPO, {"n_steps": 32, "batch_size": 128, "learning_rate": 1e-2}),
    "A2C": (A2C, {"learning_rate": 5e-3}),
}
# What Stable-Baselines3 has to say: its own policies flatten rows of data, and its convolutions want larger images.
REMARKS = {
    "rlgrad/BatchClassification-v0": "unconventional shape",
    "rlgrad/Segmentation-v0": "minimal resolution for an image is 36x36",
}


EPISODES = 80


def returns(name: str, arguments: dict[str, Any], model: Any) -> np.ndarray:
    """Of an episode of each of many environments, played by a trained model, or at random."""
    envs = gym.make_vec(name, num_envs=EPISODES, **arguments)
    envs.action_space.seed(0)
    observations, _ = envs.reset(seed=1000)
    total, running = np.zeros(EPISODES), np.ones(EPISODES, dtype=bool)
    while running.any():
        actions = envs.action_space.sample() if model is None else model.predict(observations)[0]
        observations, rewards, terminated, truncated, _ = envs.step(actions)
        total += np.where(running, rewards, 0.0)
        running &= ~(terminated | truncated)
    return total


@pytest.fixture(scope="module")
def at_random() -> dict[str, np.ndarray]:
    return {name: returns(name, arguments, None) for name, (arguments, _) in PROBLEMS.items()}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_training_beats_chance_by_more_than_three_standard_errors(
    name: str, algorithm: str, at_random: dict[str, np.ndarray], as_a_user: None
) -> None:
    arguments, steps = PROBLEMS[name]
    kind, settings = ALGORITHMS[algorithm]
    envs = DummyVecEnv([lambda: gym.make(name, **arguments).unwrapped] * 8)
    model = kind("MlpPolicy", envs, seed=0, device="cpu", **settings)
    model.learn(steps)
    trained, random = returns(name, arguments, model), at_random[name]
    error = np.sqrt(trained.var(ddof=1) / len(trained) + random.var(ddof=1) / len(random))
    assert trained.mean() - random.mean() > 3 * error


@pytest.mark.parametrize("name", IDS)
def test_its_checker_has_one_remark_at_most(name: str) -> None:
    remark = REMARKS.get(name)
    with pytest.warns(UserWarning, match=remark) if remark else contextlib.nullcontext():
        check_env(gym.make(name).unwrapped)


def test_every_environment_is_trained_on() -> None:
    assert sorted(PROBLEMS) == IDS
