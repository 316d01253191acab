"""The environment of masks: scored as scikit-learn scores, flipped as told, and fed with images of every kind."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score

from rlgrad.images import generated, write_folder
from rlgrad.metrics import boundary_f1, cost_matrix, iou, ndcg, panoptic_quality
from rlgrad_envs.image_data import images_of
from rlgrad_envs.segmentation import SegmentationEnv, SegmentationVectorEnv, coloured


def squares(count: int = 6, side: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Images of noise, and masks that are no function of them."""
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(count, 3, side, side), dtype=np.uint8)
    return images, rng.integers(2, size=(count, side, side))


def played(env: SegmentationEnv, seed: int = 0) -> tuple[np.ndarray, np.ndarray, float, dict[str, Any]]:
    """A random first step: the truth, the action, the reward and the info."""
    _, info = env.reset(seed=seed)
    action = np.random.default_rng(seed).integers(2, size=env.action_space.shape)
    _, reward, terminated, truncated, after = env.step(action)
    assert terminated
    assert not truncated
    return env.game.masks[info["image"]].ravel(), action, reward, after


@pytest.mark.parametrize(("name", "reference"), [("iou", jaccard_score), ("f1", f1_score), ("dice", f1_score)])
def test_the_reward_is_that_of_scikit_learn(name: str, reference: Any) -> None:
    env = SegmentationEnv(metric=name)
    for seed in range(10):
        truth, action, reward, info = played(env, seed)
        assert reward == pytest.approx(reference(truth, action, zero_division=1), abs=1e-12)
        tn, fp, fn, tp = confusion_matrix(truth, action, labels=[0, 1]).ravel()
        assert [info[key] for key in ("tp", "fp", "fn", "tn", "metric")] == [tp, fp, fn, tn, reward]


def test_an_episode_shows_the_image_that_it_scores_and_a_pass_shows_each_once() -> None:
    images, masks = squares()
    env = SegmentationEnv(data=(images, masks))
    seen = []
    for episode in range(12):
        observation, info = env.reset(seed=3 if episode == 0 else None)
        np.testing.assert_array_equal(observation, images[info["image"]])
        np.testing.assert_array_equal(env.step(masks[info["image"]].ravel())[0], observation)
        seen.append(info["image"])
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))


def test_the_true_mask_has_a_reward_of_one_and_its_complement_of_none() -> None:
    images, masks = squares()
    envs = SegmentationVectorEnv(6, data=(images, masks))
    _, infos = envs.reset(seed=0)
    truth = masks[infos["image"]].reshape(6, -1)
    np.testing.assert_array_equal(envs.step(truth)[1], np.ones(6))
    envs.reset(seed=0)
    np.testing.assert_array_equal(envs.step(1 - truth)[1], np.zeros(6))


def test_several_steps_flip_pixels_and_their_rewards_add_up_to_what_the_mask_gained() -> None:
    images, masks = squares()
    env = SegmentationEnv(data=(images, masks), steps=4, metric="accuracy")
    observation, info = env.reset(seed=1)
    assert observation.shape == (4, 5, 5)
    assert not observation[3].any()
    truth = masks[info["image"]]
    mask, rng, rewards = np.zeros((5, 5), dtype=bool), np.random.default_rng(0), []
    for step in range(4):
        flips = rng.integers(2, size=25)
        observation, reward, terminated, _, after = env.step(flips)
        mask ^= flips.reshape(5, 5).astype(bool)
        rewards.append(reward)
        np.testing.assert_array_equal(observation[3], 255 * mask)
        np.testing.assert_array_equal(observation[:3], images[info["image"]])
        assert after["metric"] == pytest.approx((mask == truth).mean())
        assert terminated is (step == 3)
    assert sum(rewards) == pytest.approx((mask == truth).mean() - (truth == 0).mean(), abs=1e-12)


@pytest.mark.parametrize("metric", ["iou", boundary_f1(tolerance=0)])
def test_pixels_that_are_ignored_count_for_nothing(metric: Any) -> None:
    images, masks = squares()
    masks[:, :2] = 7
    env = SegmentationEnv(data=(images, masks), ignore_index=7, metric=metric)
    action = np.random.default_rng(0).integers(2, size=(5, 5))
    rewards = set()
    for claimed in (0, 1):
        _, info = env.reset(seed=0)
        truth = masks[info["image"]]
        action[:2] = claimed
        _, reward, _, _, after = env.step(action.ravel())
        rewards.add(reward)
        assert after["tp"] + after["fn"] == (truth[2:] == 1).sum()
        assert after["fp"] == (action[2:] > truth[2:]).sum()
        assert after["fp"] + after["tn"] == (truth[2:] == 0).sum()
        assert reward == pytest.approx(jaccard_score(truth[2:].ravel(), action[2:].ravel())) or metric != "iou"
    assert len(rewards) == 1


def test_a_folder_is_read_and_its_padding_ignored(tmp_path: Path) -> None:
    made = generated("blobs", n=5, size=16)
    write_folder(tmp_path, made.images, made.masks)
    env = SegmentationEnv(data=tmp_path, size=(20, 16))
    _, info = env.reset(seed=0)
    game = env.game
    assert (game.masks == -1).sum() == 5 * 4 * 16
    np.testing.assert_array_equal(game.masks[:, 2:18], made.masks)
    assert np.abs(game.images[:, 0, 2:18] / 255 - made.images[..., 0]).max() < 0.005
    truth = game.masks[info["image"]]
    assert env.step((truth != 0).astype(int).ravel())[1] == 1.0  # claims of padding are no false alarms
    assert SegmentationEnv(data=str(tmp_path)).observation_space.shape == (1, 16, 16)


@pytest.mark.parametrize("metric", [boundary_f1(), panoptic_quality(), iou.over(2), cost_matrix([[0, 1], [5, 0]])])
def test_metrics_of_whole_images_see_images(metric: Any) -> None:
    env = SegmentationEnv(metric=metric)
    _, info = env.reset(seed=2)
    truth = env.game.masks[info["image"]]
    assert env.step(truth.ravel())[1] == pytest.approx(float("cost" not in metric.name))


def test_a_function_gets_one_decision_and_one_target_in_the_shape_of_the_image() -> None:
    shapes = []

    def share(decision: Any, target: Any) -> float:
        shapes.append((tuple(decision.shape), tuple(target.shape)))
        return float((decision == target).double().mean())

    envs = SegmentationVectorEnv(3, metric=share)
    _, infos = envs.reset(seed=0)
    truth = envs.game.masks[infos["image"]].reshape(3, -1)
    rewards = envs.step(np.zeros((3, 256), dtype=int))[1]
    np.testing.assert_allclose(rewards, (truth == 0).mean(1))
    assert set(shapes) == {((16, 16), (16, 16))}


def test_images_come_in_several_forms() -> None:
    images, masks = squares()
    grey = images[:, 0]
    for given in (grey, grey[:, None], grey / 255, (grey / 255).astype(np.float32)):
        read, _ = images_of((given, masks > 0), size=None, ignore_index=None)
        np.testing.assert_array_equal(read, grey[:, None])
    read, _ = images_of((images, masks), size=None, ignore_index=None)
    read[:] = 0  # the environment's own
    assert images.any()
    assert images_of("lines", size=20, ignore_index=None)[0].shape == (160, 1, 20, 20)


def test_each_kind_of_error_has_its_colour() -> None:
    light = np.full((1, 5, 3), 100, dtype=np.uint8)
    painted = coloured(light, np.array([[1, 0, 1, 0, -1]]), np.array([[True, True, False, False, True]]))
    assert painted[0].tolist() == [[255, 255, 255], [230, 159, 0], [86, 180, 233], [55, 55, 55], [0, 0, 0]]


def test_a_colour_image_is_shown_in_colour() -> None:
    env = SegmentationEnv(data=squares(side=8), render_mode="rgb_array")
    _, info = env.reset(seed=0)
    frame = env.render()
    np.testing.assert_array_equal(frame[-1, 0], env.game.images[info["image"]][:, -1, 0])


IMAGES, MASKS = squares()
HOLED = (IMAGES / 255).copy()
HOLED[2, 0, 1, 1] = np.nan


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"steps": 0}, ValueError, "needed steps of at least 1, got 0"),
        (
            {"data": "nowhere"},
            FileNotFoundError,
            "needed a folder of images/ and masks/, or one of blobs, lines.* got nowhere",
        ),
        ({"data": "rare"}, ValueError, "needed masks of 0 and 1, got 2"),
        ({"ignore_index": 1}, ValueError, "needed no ignore_index for images that are no arrays, got 1"),
        ({"size": (16, 16)}, ValueError, "needed one side for generated images"),
        ({"size": 20.0}, TypeError, r"needed a whole number for size, got 20\.0"),
        ({"data": 3}, TypeError, r"needed a kind of images, a folder, or \(images, masks\), got int"),
        ({"data": (HOLED, MASKS)}, ValueError, "floats from 0 to 1 without NaN"),
        ({"data": (IMAGES.astype(int), MASKS)}, ValueError, "needed images of uint8, or of floats"),
        ({"data": (IMAGES, MASKS[:, :4])}, ValueError, r"got \(6, 3, 5, 5\) and \(6, 4, 5\)"),
        ({"data": (IMAGES[:0], MASKS[:0])}, ValueError, "needed images"),
        ({"data": (IMAGES, 255 * MASKS)}, ValueError, "needed masks of 0 and 1, got 255"),
        ({"data": (IMAGES, np.where(MASKS, np.nan, 0))}, ValueError, "needed masks of 0 and 1, got nan"),
        ({"data": (IMAGES, MASKS), "size": 8}, ValueError, "needed no size for images that are arrays"),
        ({"size": (16, 20)}, ValueError, "needed one side for generated images"),
        ({"size": 8}, ValueError, "size of at least 16"),
        ({"metric": "iuo"}, ValueError, "did you mean iou"),
        ({"metric": ndcg(3)}, TypeError, "needed a metric of choices"),
        ({"metric": lambda decision, target: float("nan")}, ValueError, "needed a finite score from .*lambda"),
        ({"metric": lambda decision, target: decision}, ValueError, "lambda"),
        ({"metric": lambda decision, target: 1 / 0}, RuntimeError, "lambda.* raised ZeroDivisionError"),
    ],
)
def test_bad_arguments_are_refused_at_construction(
    arguments: dict[str, Any], error: type[Exception], said: str, as_a_user: None
) -> None:
    with pytest.raises(error, match=said):
        SegmentationEnv(**arguments)
