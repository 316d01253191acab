from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score

from rlgrad.metrics import OpaqueMetric, f1
from rlgrad_envs.classification import ClassificationEnv, ClassificationVectorEnv

ROWS = np.random.default_rng(1)
X, Y = ROWS.normal(size=(60, 3)), ROWS.integers(3, size=60)


def sklearn_f1(decision: torch.Tensor, target: torch.Tensor) -> float:
    return float(f1_score(target.numpy(), decision.numpy(), average="macro", zero_division=1.0, labels=[0, 1, 2]))


def played(env: gym.Env[Any, Any], seed: int) -> tuple[list[Any], list[int]]:
    env.action_space.seed(seed)
    steps, actions = [env.reset(seed=seed)], []
    while len(steps) == 1 or not steps[-1][2]:
        actions.append(int(env.action_space.sample()))
        steps.append(env.step(actions[-1]))
    return steps, actions


@pytest.mark.parametrize("seed", range(3))
def test_the_final_reward_is_the_metric_of_all_decisions(seed: int) -> None:
    env = ClassificationEnv(data=(X, Y), steps=20)
    steps, actions = played(env, seed)
    assert len(actions) == 20
    rows = [np.flatnonzero((env.data.features == given[0][:3]).all(1))[0] for given in steps[:-1]]
    assert len(set(rows)) == 20
    rewards = [given[1] for given in steps[1:]]
    assert rewards[:-1] == [0.0] * 19
    true = Y[rows]
    assert rewards[-1] == pytest.approx(f1_score(true, actions, average="macro", zero_division=1.0, labels=[0, 1, 2]))
    for at, given in enumerate(steps):
        counted = confusion_matrix(true[:at], actions[:at], labels=[0, 1, 2]) if at else np.zeros((3, 3))
        np.testing.assert_allclose(given[0][3:], counted.ravel() / 20, rtol=1e-6)
        np.testing.assert_array_equal(given[-1]["confusion"], counted)
        assert given[-1]["decisions"] == at
    assert steps[-1][-1]["metric"] == rewards[-1]


@pytest.mark.parametrize("metric", ["macro_f1", sklearn_f1])
def test_changes_are_those_of_the_metric_so_far_and_add_up_to_the_final_reward(metric: object) -> None:
    final, _ = played(ClassificationEnv(data=(X, Y), metric=metric, steps=20), 4)
    env = ClassificationEnv(data=(X, Y), metric=metric, steps=20, rewards="change")
    steps, actions = played(env, 4)
    assert sum(given[1] for given in steps[1:]) == pytest.approx(final[-1][1], abs=1e-12)
    true = env.data.target[env.game.rows[0]]
    before = 0.0
    for at, given in enumerate(steps[1:], start=1):
        now = sklearn_f1(torch.tensor(actions[:at]), torch.tensor(true[:at]))
        assert given[1] == pytest.approx(now - before, abs=1e-12)
        before = now


@pytest.mark.parametrize("rewards", ["final", "change"])
@pytest.mark.parametrize("counted", [None, f1, f1.ignoring(5)])
def test_counts_score_as_the_decisions_do_out_of_step(rewards: Any, counted: Any) -> None:
    """A formula of running counts against the same metric as a black box, whose episodes are at different steps."""
    blind = OpaqueMetric(lambda decision, target: float(f1(decision, target)), name="blind")
    both = [
        ClassificationVectorEnv(num_envs=5, metric=metric, steps=12, rewards=rewards, autoreset_mode="SameStep")
        for metric in (counted, blind)
    ]
    for envs in both:
        envs.reset(seed=0)
        envs.action_space.seed(0)
    total = 0.0
    for step in range(40):
        if step in (3, 7):
            for envs in both:
                envs.reset(options={"reset_mask": np.arange(5) % 2 == step % 4 // 2})
        actions = both[0].action_space.sample()
        one, other = (envs.step(actions) for envs in both)
        np.testing.assert_allclose(one[1], other[1], atol=1e-12)
        np.testing.assert_array_equal(one[0], other[0])
        total += one[1].sum()
    assert total > 0
    assert len(set(both[0].game.step)) > 1


@pytest.mark.parametrize("rewards", ["Final", "", None])
def test_other_rewards_are_refused(rewards: Any, as_a_user: None) -> None:
    with pytest.raises(ValueError, match='needed rewards "final" or "change", got'):
        ClassificationEnv(rewards=rewards)


def test_to_look_asks_a_function_for_nothing() -> None:
    asked = []

    def hits(decision: torch.Tensor, target: torch.Tensor) -> float:
        asked.append(len(decision))
        return float((decision == target).sum())

    env = gym.make("rlgrad/Classification-v0", metric=hits, steps=3, render_mode="rgb_array")
    env.reset(seed=0)
    for _ in range(3):
        env.render()
        env.step(0)
    env.render()
    assert asked == [3]


def test_an_episode_longer_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match="needed steps between 1 and 60"):
        ClassificationEnv(data=(X, Y), steps=61)


def test_the_counts_of_one_episode_reach_no_other() -> None:
    envs = ClassificationVectorEnv(num_envs=2, steps=6)
    envs.reset(seed=[3, 3])
    for _ in range(6):
        envs.step(np.array([0, 1]))
    np.testing.assert_array_equal(envs.game.counts[0].sum(1), envs.game.counts[1].sum(1))
    assert not envs.game.counts[0, :, 1].any()
    assert not envs.game.counts[1, :, 0].any()
