"""The environment of hard steps: the episode is a forward pass, as torch would make it, and its loss the reward."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from rlgrad.metrics import f1, macro
from rlgrad_envs.data import load_data
from rlgrad_envs.step_network import StepNetworkEnv, StepNetworkVectorEnv, cross_entropy, random_code


def network(widths: tuple[int, ...]) -> list[torch.nn.Linear]:
    """Layers of random weights, the last without a bias."""
    generator = torch.Generator().manual_seed(0)
    layers = [torch.nn.Linear(a, b).double() for a, b in pairwise(widths)]
    for layer in layers:
        layer.weight.data = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64)
    return layers


def test_an_episode_is_the_forward_pass_of_a_network_and_its_reward_minus_the_loss() -> None:
    first, second, readout = network((4, 5, 3, 3))
    weights = readout.weight.detach().numpy()
    env = StepNetworkEnv(data="iris", hidden=(5, 3), readout=weights)
    data = load_data("iris", None)
    for seed in range(10):
        observation, info = env.reset(seed=seed)
        x = torch.tensor(observation[:4]).double()
        h1 = (first(x) > 0).double()
        seen, reward, terminated, _, info = env.step(h1.numpy().astype(int))
        assert (reward, terminated, info["layer"], info["loss"]) == (0.0, False, 1, 0.0)
        np.testing.assert_array_equal(seen, [*observation[:4], *h1, 0, 0, 0, 0, 1])
        h2 = (second(h1) > 0).double()
        seen, reward, terminated, truncated, info = env.step(np.array([*h2.int(), 1, 0]))  # two more than there are
        np.testing.assert_array_equal(seen, [*observation[:4], *h1, *h2, 0, 0])
        row = np.flatnonzero((data.features == observation[:4]).all(1))[0]
        loss = torch.nn.functional.cross_entropy(readout.weight @ (2 * h2 - 1), torch.tensor(data.target[row]))
        assert reward == pytest.approx(-loss.item(), abs=1e-12)
        assert (terminated, truncated, info["loss"]) == (True, False, -reward)


def test_at_first_the_agent_sees_the_rows_alone_and_that_the_first_layer_is_next() -> None:
    observation, _ = StepNetworkEnv(data="iris", hidden=(5, 3), batch_size=2).reset(seed=0)
    assert observation.shape == (2 * (4 + 8) + 2,)
    of_rows = observation[:24].reshape(2, 12)
    features = load_data("iris", None).features
    assert all((features == row[:4]).all(1).any() for row in of_rows)
    assert not of_rows[:, 4:].any()
    assert observation[24:].tolist() == [1, 0]


@pytest.mark.parametrize("metric", ["f1", f1, None])
def test_the_metric_is_that_of_the_classes_with_the_largest_logits(metric: Any) -> None:
    env = StepNetworkEnv(data="digits", hidden=(4, 6), batch_size=32, metric=metric)
    data = load_data("digits", None)
    for seed in range(5):
        env.reset(seed=seed)
        truth = data.target[env.game.rows[0]]
        actions = np.random.default_rng(seed).integers(2, size=(2, 32, 6))
        env.step(actions[0].ravel())
        *_, reward, _, _, info = env.step(actions[1].ravel())
        logits = (2 * actions[1] - 1) @ random_code(2, 6).T
        loss = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(truth)).item()
        assert info["loss"] == pytest.approx(loss)
        expected = -loss if metric is None else f1_score(truth, logits.argmax(1), zero_division=1)
        assert reward == pytest.approx(expected)
        assert ("metric" in info) is (metric is not None)


def test_units_that_fire_as_a_class_is_coded_make_it_sure() -> None:
    code = random_code(10, 16)
    envs = StepNetworkVectorEnv(50, metric="accuracy", batch_size=3)
    envs.reset(seed=0)
    envs.step(np.zeros((50, 48), dtype=int))
    fires = code[load_data("ten_digits", None).target[envs.game.rows]] > 0
    _, rewards, terminated, _, infos = envs.step(fires.reshape(50, -1))
    assert terminated.all()
    assert (rewards == 1).all()
    assert infos["loss"].max() < 0.5
    np.testing.assert_array_equal(np.abs(code), 0.25)


def test_metrics_of_several_classes_and_functions_get_class_numbers() -> None:
    shapes = set()

    def hits(decision: Any, target: Any) -> float:
        shapes.add((tuple(decision.shape), tuple(target.shape)))
        return float((decision == target).double().sum())

    for metric in (hits, macro(f1, classes=3), "macro_f1"):
        env = StepNetworkEnv(data="wine", hidden=(3,), batch_size=7, metric=metric)
        env.reset(seed=0)
        *_, reward, terminated, _, _ = env.step(np.ones(21, dtype=int))
        assert terminated
        decided = random_code(3, 3).sum(1).argmax()
        right = (load_data("wine", None).target[env.game.rows[0]] == decided).sum()
        assert (reward == right) or metric is not hits
    assert shapes == {((7,), (7,))}


def test_a_file_is_read(tmp_path: Path) -> None:
    lines = [f"{a},{b},{'yes' if a > b else 'no'}" for a in range(6) for b in range(6)]
    (tmp_path / "data.csv").write_text("\n".join(["a,b,more", *lines]))
    env = StepNetworkEnv(data=tmp_path / "data.csv", target="more", hidden=[2])
    assert env.reset(seed=0)[0].shape == (2 + 2 + 1,)
    assert env.game.data.classes == ("no", "yes")


def test_cross_entropy_of_large_logits_is_finite() -> None:
    logits = np.array([[[1000.0, -1000.0]]])
    np.testing.assert_allclose(cross_entropy(logits, np.array([[1]])), [2000.0])


def test_a_picture_shows_the_units_and_is_as_large_before_as_after() -> None:
    env = StepNetworkEnv(data="iris", hidden=(3, 2), batch_size=40, render_mode="rgb_array", metric="macro_f1")
    env.reset(seed=0)
    frames = [env.render()]
    for _ in range(2):
        env.step(np.ones(120, dtype=int))
        frames.append(env.render())
    assert len({frame.shape for frame in frames}) == 1
    dark = [(frame.sum(-1) < 200).sum() for frame in frames]
    assert dark[0] < dark[1] < dark[2]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"hidden": ()}, ValueError, r"needed the number of units of each hidden layer, such as \(16, 16\), got \(\)"),
        ({"hidden": 4}, ValueError, "needed the number of units"),
        ({"hidden": (4, 0)}, ValueError, "needed each of hidden of at least 1, got 0"),
        ({"hidden": (4.0,)}, TypeError, "needed a whole number for each of hidden, got 4.0"),
        ({"batch_size": 0}, ValueError, "needed batch_size between 1 and 1797"),
        ({"batch_size": 2000}, ValueError, "got 2000"),
        ({"readout": np.ones((3, 16))}, ValueError, r"needed a finite readout of shape \(10, 16\)"),
        ({"readout": np.full((10, 16), np.inf)}, ValueError, "needed a finite readout"),
        ({"metric": "f1"}, ValueError, "needed a metric of 10 classes, got 'f1'; there are macro_f1"),
        ({"data": "wines"}, ValueError, "needed the target's column"),
        ({"data": (np.full((4, 1), np.nan), [0, 1, 0, 1])}, ValueError, "needed finite features"),
        ({"metric": lambda decision, target: float("nan")}, ValueError, "needed a finite score from .*lambda"),
        ({"metric": lambda decision, target: 1 / 0}, RuntimeError, "lambda.* raised ZeroDivisionError"),
    ],
)
def test_bad_arguments_are_refused_at_construction(
    arguments: dict[str, Any], error: type[Exception], said: str, as_a_user: None
) -> None:
    with pytest.raises(error, match=said):
        StepNetworkEnv(**arguments)
