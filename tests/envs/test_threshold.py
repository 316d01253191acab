"""The environment of thresholds: what is above one is claimed, and scored as scikit-learn scores."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef, multilabel_confusion_matrix

from rlgrad.metrics import accuracy, f1, macro, mcc
from rlgrad_envs.score_data import scores_of
from rlgrad_envs.threshold import ThresholdEnv, ThresholdVectorEnv

RNG = np.random.default_rng(0)
YES_NO = (RNG.random(300), RNG.integers(2, size=300))
CLASSES = (RNG.dirichlet([1, 1, 1, 1], size=300), RNG.integers(4, size=300))
LABELS = (RNG.random((300, 3)), RNG.integers(2, size=(300, 3)))


def sample(env: ThresholdEnv) -> tuple[np.ndarray, np.ndarray]:
    """Scores and truth of the episode's rows."""
    rows = env.game.drawn[0]
    return env.game.data.scores[rows], env.game.data.truth[rows]


def action_for(threshold: Any) -> np.ndarray:
    return (2 * np.atleast_1d(threshold) - 1).astype(np.float32)


def cells(info: dict[str, Any]) -> np.ndarray:
    """The counts of each column, in scikit-learn's order."""
    return np.stack([info[key] for key in ("tn", "fp", "fn", "tp")], axis=-1)


def tried(env: ThresholdEnv, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, dict[str, Any]]:
    """Scores, truth, random thresholds, their reward and info."""
    env.reset(seed=seed)
    action = action_for(np.random.default_rng(seed).random(env.action_space.shape))
    _, reward, _, _, info = env.step(action)
    return *sample(env), (action.astype(float) + 1) / 2, reward, info


@pytest.mark.parametrize(("metric", "reference"), [(None, f1_score), ("mcc", matthews_corrcoef), (mcc, None)])
def test_a_score_above_the_threshold_is_claimed(metric: Any, reference: Any) -> None:
    env = ThresholdEnv(data=YES_NO, metric=metric)
    for seed in range(10):
        scores, truth, threshold, reward, info = tried(env, seed)
        claimed = scores[:, 0] > threshold[0]
        assert reward == pytest.approx((reference or matthews_corrcoef)(truth, claimed))
        tn, fp, fn, tp = confusion_matrix(truth, claimed).ravel()
        assert [info[key].tolist() for key in ("tp", "fp", "fn", "tn")] == [[tp], [fp], [fn], [tn]]
        assert (info["metric"], info["threshold"]) == (reward, pytest.approx(threshold))


def test_of_classes_the_one_furthest_above_its_threshold_is_chosen() -> None:
    env = ThresholdEnv(data=CLASSES)
    assert env.game.metric.name == "macro_f1"
    for seed in range(10):
        scores, truth, threshold, reward, info = tried(env, seed)
        chosen = [max(range(4), key=lambda at, row=row: row[at] - threshold[at]) for row in scores]
        assert reward == pytest.approx(f1_score(truth, chosen, average="macro", labels=range(4), zero_division=1))
        tables = multilabel_confusion_matrix(truth, chosen, labels=range(4))
        np.testing.assert_array_equal(
            np.stack([info["tn"], info["fp"], info["fn"], info["tp"]], -1), tables.reshape(4, 4)
        )


@pytest.mark.parametrize(
    ("metric", "average"),
    [
        (None, "macro"), ("micro_f1", "micro"), ("weighted_f1", "weighted"), ("instance_f1", "samples"),
        (f1, "samples"), (macro(f1, labels=3), "macro"),
    ],
)  # fmt: skip
def test_labels_are_decided_each_by_itself(metric: Any, average: str) -> None:
    env = ThresholdEnv(data=LABELS, metric=metric)
    for seed in range(10):
        scores, truth, threshold, reward, info = tried(env, seed)
        claimed = scores > threshold
        assert reward == pytest.approx(f1_score(truth, claimed, average=average, zero_division=1))
        tables = multilabel_confusion_matrix(truth, claimed)
        np.testing.assert_array_equal(
            np.stack([info["tn"], info["fp"], info["fn"], info["tp"]], -1), tables.reshape(3, 4)
        )


def test_the_observation_is_quantiles_the_last_threshold_and_shares() -> None:
    env = ThresholdEnv(data=LABELS, rows=50)
    observation, info = env.reset(seed=0)
    scores, truth = sample(env)
    for threshold in ([0.5, 0.5, 0.5], [0.25, 0.5, 1.0]):
        seen = observation.reshape(3, 16)
        np.testing.assert_allclose(seen[:, :11], np.percentile(scores, np.arange(0, 101, 10), axis=0).T, rtol=1e-6)
        np.testing.assert_allclose(seen[:, 11], threshold)
        claimed = scores > threshold
        np.testing.assert_allclose(seen[:, 12], (claimed & (truth == 1)).mean(0), rtol=1e-6)
        np.testing.assert_allclose(seen[:, 12:].sum(1), 1, rtol=1e-6)
        np.testing.assert_allclose(seen[:, 12] + seen[:, 14], truth.mean(0), rtol=1e-6)
        observation, *_, info = env.step(action_for([0.25, 0.5, 1.0]))
    assert (info["tp"][2], info["fp"][2]) == (0, 0)


def test_an_episode_is_of_one_sample_and_ends_after_its_steps() -> None:
    env = ThresholdEnv(data=YES_NO, steps=3)
    env.reset(seed=0)
    rows, rewards, ends = env.game.drawn.copy(), [], []
    for _ in range(3):
        _, reward, terminated, truncated, _ = env.step(action_for(0.3))
        rewards.append(reward)
        ends.append((terminated, truncated))
    assert ends == [(False, False), (False, False), (True, False)]
    assert len(set(rewards)) == 1
    np.testing.assert_array_equal(env.game.drawn, rows)
    _, info = env.reset()
    assert (env.game.drawn != rows).any()
    assert info["threshold"] == 0.5


def test_samples_are_drawn_with_replacement_from_all_rows() -> None:
    envs = ThresholdVectorEnv(200, data=YES_NO, rows=300)
    envs.reset(seed=0)
    counts = np.stack([np.bincount(rows, minlength=300) for rows in envs.game.drawn])
    assert counts.max() > 2
    # The count of a row is binomial; its mean over 200 samples lies within five standard errors of 1.
    assert np.abs(counts.mean(0) - 1).max() < 5 / np.sqrt(200)


def test_the_best_threshold_of_the_built_in_scores_is_not_a_half_and_pays() -> None:
    env = ThresholdEnv(rows=899, steps=1)

    def reward(threshold: float) -> float:
        env.reset(seed=0)
        return env.step(action_for(threshold))[1]

    assert reward(0.25) > reward(0.5) + 0.2
    assert reward(0.25) > reward(0.02) + 0.2
    assert scores_of("digits", None).scores is scores_of("digits", None).scores  # fitted once
    assert scores_of("iris", None).kind == "classes"


def test_files_and_tables_are_read(tmp_path: Path) -> None:
    table = pd.DataFrame({"score": YES_NO[0], "class": np.where(YES_NO[1], "spam", "ham")})
    table.to_csv(tmp_path / "scores.csv", index=False)
    one = scores_of(tmp_path / "scores.csv", "class")
    assert (one.kind, one.names) == ("yes or no", ("spam",))
    np.testing.assert_allclose(one.scores[:, 0], YES_NO[0])
    np.testing.assert_array_equal(one.truth, YES_NO[1])

    names = ["d", "b", "c", "a"]
    table = pd.DataFrame(CLASSES[0], columns=names).assign(truth=np.array(names)[CLASSES[1]])
    several = scores_of(table, "truth")
    assert (several.kind, several.names) == ("classes", tuple(names))
    np.testing.assert_array_equal(several.truth, CLASSES[1])

    table = pd.DataFrame(np.hstack(LABELS), columns=["p1", "p2", "p3", "sad", "calm", "loud"])
    labels = scores_of(table, "sad,calm,loud")
    assert (labels.kind, labels.names) == ("labels", ("sad", "calm", "loud"))
    np.testing.assert_array_equal(labels.truth, LABELS[1])
    assert ThresholdEnv(data=table, target=["sad", "calm", "loud"]).action_space.shape == (3,)


def test_a_function_sees_one_sample() -> None:
    shapes = set()

    def claims(decision: Any, target: Any) -> float:
        shapes.add((tuple(decision.shape), tuple(target.shape)))
        return float(decision.double().mean())

    for data, shape in ((YES_NO, (20,)), (CLASSES, (20,)), (LABELS, (20, 3))):
        shapes.clear()
        ThresholdVectorEnv(2, data=data, metric=claims, rows=20).reset(seed=0)
        assert shapes == {(shape, shape)}


@pytest.mark.parametrize("data", [YES_NO, CLASSES, LABELS])
def test_a_picture_moves_with_the_threshold(data: Any) -> None:
    env = ThresholdEnv(data=data, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(np.full(env.action_space.shape, 0.5, dtype=np.float32))
    after = env.render()
    assert before.shape == after.shape
    assert (before != after).any()


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"steps": 0}, ValueError, "needed steps of at least 1, got 0"),
        ({"rows": 0}, ValueError, "needed rows between 1 and 899"),
        ({"rows": 2.5}, TypeError, r"needed a whole number for rows, got 2\.5"),
        ({"rows": 900}, ValueError, "got 900"),
        ({"data": 7}, TypeError, r"needed data=\(scores, target\), a table, a file or a name, got int"),
        ({"data": "didgits"}, ValueError, "needed the target's column for the file didgits"),
        ({"target": "class"}, ValueError, "needed no target for a built-in set, got target='class'"),
        ({"data": YES_NO, "target": "class"}, ValueError, "needed no target beside arrays"),
        ({"data": (YES_NO[0] * 3, YES_NO[1])}, ValueError, "needed scores from 0 to 1, got"),
        ({"data": (np.where(YES_NO[1], np.nan, 0.5), YES_NO[1])}, ValueError, "needed scores from 0 to 1, got nan"),
        ({"data": (YES_NO[0], YES_NO[1] + 1)}, ValueError, "needed a target of whole numbers from 0 to 1"),
        ({"data": (YES_NO[0], YES_NO[0])}, ValueError, "needed numbers .* float64"),
        ({"data": (YES_NO[0], YES_NO[1][:9])}, ValueError, r"got \(300,\) float64 and \(9,\) int64"),
        ({"data": (CLASSES[0], CLASSES[1] + 1)}, ValueError, "needed a target of whole numbers from 0 to 3"),
        ({"data": (LABELS[0], LABELS[1] * 2)}, ValueError, "needed a target of whole numbers from 0 to 1"),
        ({"data": CLASSES, "metric": f1}, ValueError, "needed a metric of 4 classes"),
        ({"data": LABELS, "metric": "f1"}, ValueError, "needed a metric of 3 labels"),
        ({"data": LABELS, "metric": macro(f1, labels=4)}, ValueError, "needed a metric of tables of 3 labels"),
        ({"data": LABELS, "metric": macro(f1, classes=3)}, ValueError, "needed a metric of tables of 3 labels"),
        ({"metric": macro(accuracy, labels=2)}, TypeError, "needed a metric of choices"),
        ({"metric": lambda decision, target: float("inf")}, ValueError, "needed a finite score from .*lambda"),
        ({"metric": lambda decision, target: 1 / 0}, RuntimeError, "lambda.* raised ZeroDivisionError"),
    ],
)
def test_bad_arguments_are_refused_at_construction(
    arguments: dict[str, Any], error: type[Exception], said: str, as_a_user: None
) -> None:
    with pytest.raises(error, match=said):
        ThresholdEnv(**arguments)


@pytest.mark.parametrize(
    ("table", "target", "said"),
    [
        ({"a": [0.1, 0.9], "b": [0.9, 0.1], "y": ["a", "c"]}, "y", "got none for 'c'"),
        ({"a": [0.1, 0.9], "y": [0, 1], "z": [1, 0]}, "y,z", "needed a score for each of 2 labels, got columns 'a'"),
        ({"a": [0.1, None], "y": [0, 1]}, "y", "needed scores from 0 to 1, got nan in row 1"),
        ({"a": ["low", "high"], "y": [0, 1]}, "y", "needed numbers in column 'a', got 'low'"),
        ({"a": [0.1, 0.9], "y": [0, 1]}, "x", "'x'"),
        ({"y": ["a", "b"]}, "y", "needed a column of scores for each class"),
        ({"a": [0.1, 0.9], "b": [0.9, 0.1], "y": ["a", None]}, "y", "missing"),
    ],
)
def test_tables_that_do_not_fit_are_refused(table: dict[str, Any], target: str, said: str, as_a_user: None) -> None:
    with pytest.raises(ValueError, match=said):
        scores_of(pd.DataFrame(table), target)
