import gymnasium as gym
import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score

import rlgrad
import rlgrad_envs  # noqa: F401  # registers
from rlgrad.metrics import OpaqueMetric, cost_matrix, f1
from rlgrad_envs.batch_classification import BatchClassificationEnv, BatchClassificationVectorEnv

ROWS = np.random.default_rng(0)
X, Y = ROWS.normal(size=(40, 3)), ROWS.integers(3, size=40)


@pytest.mark.parametrize("seed", range(3))
def test_the_reward_is_the_f1_of_the_batch_that_was_shown(seed: int) -> None:
    env = BatchClassificationEnv(batch_size=50)
    observation, info = env.reset(seed=seed)
    assert not info["confusion"].any()
    rows = [np.flatnonzero((env.data.features == shown).all(1))[0] for shown in observation]
    action = env.action_space.sample()
    after, reward, terminated, truncated, info = env.step(action)
    true = env.data.target[rows]
    assert reward == pytest.approx(f1_score(true, action, zero_division=1.0))
    assert (terminated, truncated, info["metric"]) == (True, False, reward)
    np.testing.assert_array_equal(info["confusion"], confusion_matrix(true, action))
    np.testing.assert_array_equal(after, observation)


def test_a_pass_shows_each_row_once_and_the_next_one_in_another_order() -> None:
    env = BatchClassificationEnv(data=(X, Y), batch_size=13)
    batches = [env.reset(seed=5)[0]] + [env.reset()[0] for _ in range(5)]
    for one in (batches[:3], batches[3:]):  # 39 of 40 rows
        shown = np.concatenate(one)
        assert len(np.unique(shown, axis=0)) == 39
        assert {tuple(row) for row in shown} <= {tuple(row) for row in X.astype(np.float32)}
    assert not np.array_equal(batches[0], batches[3])
    np.testing.assert_array_equal(env.reset(seed=5)[0], batches[0])


def test_all_rows_at_once_come_in_their_order() -> None:
    env = BatchClassificationEnv(data=(X, Y), batch_size=None, metric="cohen_kappa")
    np.testing.assert_array_equal(env.reset(seed=0)[0], X.astype(np.float32))
    action = env.action_space.sample()
    _, reward, *_ = env.step(action)
    assert reward == pytest.approx(cohen_kappa_score(Y, action))


@pytest.mark.parametrize("metric", [None, "weighted_f1", "mcc", cost_matrix([[0, 1, 2], [3, 0, 1], [1, 5, 0]])])
def test_64_at_once_score_to_the_last_bit_what_one_does(metric: object) -> None:
    envs = BatchClassificationVectorEnv(num_envs=64, data=(X, Y), metric=metric, batch_size=17)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    actions = envs.action_space.sample()
    _, rewards, *_ = envs.step(actions)
    single = BatchClassificationEnv(data=(X, Y), metric=metric, batch_size=17)
    for seed, (action, reward) in enumerate(zip(actions, rewards, strict=True)):
        single.reset(seed=seed)
        assert single.step(action)[1] == reward
    assert len(set(rewards)) > 10


def test_a_function_of_ones_own_sees_one_episode_at_a_time() -> None:
    seen = []

    def hits(decision: torch.Tensor, target: torch.Tensor) -> float:
        seen.append((decision.shape, decision.dtype, target.shape))
        return float((decision == target).sum())

    envs = BatchClassificationVectorEnv(num_envs=3, metric=hits, batch_size=5)
    envs.reset(seed=0)
    _, rewards, *_ = envs.step(np.ones((3, 5)))
    assert seen == [((5,), torch.bool, (5,))] * 3
    np.testing.assert_array_equal(rewards, envs.data.target[envs.game.rows].sum(1))


def nan(decision: torch.Tensor, target: torch.Tensor) -> float:
    return float("nan")


def broken(decision: torch.Tensor, target: torch.Tensor) -> float:
    raise ZeroDivisionError("by zero")


def wrong(decision: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.zeros(7)


@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        (nan, ValueError, "needed a finite score from nan, got nan"),
        (broken, RuntimeError, "broken raised ZeroDivisionError.*by zero"),
        (wrong, ValueError, "needed a number from wrong"),
        (OpaqueMetric(wrong, batched=True), ValueError, r"needed scores of shape \(1,\) from wrong"),
        (OpaqueMetric(nan, item_axes=2), ValueError, "needed one score for each of 1 episodes from nan|finite"),
    ],
)
def test_a_metric_that_fails_is_named(metric: object, error: type[Exception], message: str) -> None:
    env = BatchClassificationEnv(metric=metric)
    env.reset(seed=0)
    with pytest.raises(error, match=message):
        env.step(env.action_space.sample())


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (0, ValueError, "needed batch_size between 1 and 569, the number of rows there are, got 0"),
        (1798, ValueError, "got 1798"),
        (2.5, TypeError, r"needed a whole number for batch_size, got 2\.5"),
        (True, TypeError, "got True"),
    ],
)
def test_a_batch_of_no_size_is_refused(size: object, error: type[Exception], message: str, as_a_user: None) -> None:
    with pytest.raises(error, match=message):
        gym.make("rlgrad/BatchClassification-v0", batch_size=size)


def test_the_same_rows_serve_the_metric_loss() -> None:
    data = BatchClassificationEnv(data="breast_cancer", batch_size=None).data
    x, y = torch.tensor(data.features), torch.tensor(data.target)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(x.shape[1], 1), torch.nn.Flatten(0))
    stage = rlgrad.Stage(rlgrad.MetricLoss(f1), lr=0.05, epochs=5)
    rlgrad.fit(model, stage, (x, y), (x, y), f1, progress=False)
    env = BatchClassificationEnv(data="breast_cancer", batch_size=None)
    observation, _ = env.reset()
    with torch.no_grad():
        decisions = model(torch.as_tensor(observation)) > 0
    _, reward, *_ = env.step(decisions.numpy())
    assert reward == pytest.approx(rlgrad.evaluate(model, (x, y), f1).value)
    assert reward > 0.9
