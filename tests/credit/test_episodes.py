"""Credit over time: against plain loops, by hand, and by listing every trajectory of a small decision process."""

import math
import re
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgrad.credit import discounted_returns, generalized_advantage, leave_one_out


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Against a loop


def returns_of(reward: list[float], discount: float, last: float) -> list[float]:
    found, ahead = [], last
    for r in reversed(reward):
        ahead = r + discount * ahead
        found.append(ahead)
    return found[::-1]


def advantages_of(
    reward: list[float], value: list[float], next_value: list[float], ended: list[bool], discount: float, decay: float
) -> list[float]:
    length = ended.index(True) + 1 if True in ended else len(ended)
    found, ahead = [0.0] * (len(reward) - length), 0.0
    for t in reversed(range(length)):
        ahead = reward[t] + discount * next_value[t] - value[t] + discount * decay * ahead
        found.append(ahead)
    return found[::-1]


@pytest.mark.parametrize("discount", [0.0, 0.3, 0.99, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 31, 64, 100])
def test_returns_are_those_of_a_loop(steps: int, discount: float) -> None:
    reward, last = normal(6, steps), normal(6, seed=1)
    for found, given in (
        (discounted_returns(reward, discount), torch.zeros(6)),
        (discounted_returns(reward, discount, last=last), last),
    ):
        rows = [returns_of(row.tolist(), discount, end.item()) for row, end in zip(reward, given, strict=True)]
        torch.testing.assert_close(found, torch.tensor(rows, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.95, 1.0])
@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_advantages_are_those_of_a_loop(steps: int, discount: float, decay: float) -> None:
    reward, value, next_value = (normal(30, steps, seed=seed) for seed in range(3))
    ended = normal(30, steps, seed=3) > 1
    found = generalized_advantage(reward, value, next_value, ended=ended, discount=discount, decay=decay)
    rows = zip(reward.tolist(), value.tolist(), next_value.tolist(), ended.tolist(), strict=True)
    expected = torch.tensor([advantages_of(*row, discount, decay) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_a_decay_of_one_is_the_return_less_the_value_and_of_zero_the_error_of_one_step(discount: float) -> None:
    reward, value, after = normal(4, 9), normal(4, 9, seed=1), normal(4, seed=2)
    next_value = torch.cat([value[:, 1:], after[:, None]], -1)
    nowhere = torch.zeros(4, 9, dtype=torch.bool)
    whole, one = (
        generalized_advantage(reward, value, next_value, ended=nowhere, discount=discount, decay=decay)
        for decay in (1.0, 0.0)
    )
    torch.testing.assert_close(whole, discounted_returns(reward, discount, last=after) - value, rtol=0, atol=1e-12)
    torch.testing.assert_close(one, reward + discount * next_value - value, rtol=0, atol=1e-12)


def test_long_episodes_keep_their_precision() -> None:
    """A cumulative sum divided by discount^t would overflow here: 0.5^2000 is no number."""
    reward = torch.ones(2000)
    assert (discounted_returns(reward, 0.5)[:-30] == 2).all()
    assert torch.equal(discounted_returns(reward, 1.0), torch.arange(2000.0, 0, -1))


# By hand


def test_the_return_of_three_steps_by_hand() -> None:
    found = discounted_returns(torch.tensor([1.0, 2.0, 4.0]), 0.5, last=torch.tensor(8.0))
    assert found.tolist() == [4.0, 6.0, 8.0]  # 4 + 0.5 * 8 = 8, 2 + 0.5 * 8 = 6, 1 + 0.5 * 6 = 4


def test_a_terminated_episode_has_no_future_and_a_truncated_one_that_of_its_next_value() -> None:
    reward, value = torch.tensor([[1.0, 1.0, 7.0]] * 2), torch.tensor([[3.0, 2.0, 7.0]] * 2)
    next_value = torch.tensor([[2.0, 0.0, 7.0], [2.0, 10.0, 7.0]])
    ended = torch.tensor([[False, True, False]] * 2)
    found = generalized_advantage(reward, value, next_value, ended=ended, discount=0.5, decay=0.5)
    # Errors: 1 + 0.5 * 2 - 3 = -1; then 1 - 2 = -1 where it terminated, 1 + 0.5 * 10 - 2 = 4 where it was cut.
    assert found.tolist() == [[-1 - 0.25, -1, 0], [-1 + 0.25 * 4, 4, 0]]


@pytest.mark.parametrize("mark", ["the last step", "all from the last step"])
def test_what_stands_in_the_padding_does_not_matter(mark: str) -> None:
    reward, value, next_value = (normal(3, 6, seed=seed) for seed in range(3))
    ended = torch.zeros(3, 6, dtype=torch.bool)
    ended[:, 2 : 3 if mark == "the last step" else None] = True
    short = generalized_advantage(
        reward[:, :3], value[:, :3], next_value[:, :3], ended=ended[:, :3], discount=0.9, decay=0.8
    )
    for each in (reward, value, next_value):
        each[:, 3:] = math.nan
    found = generalized_advantage(reward, value, next_value, ended=ended, discount=0.9, decay=0.8)
    torch.testing.assert_close(found[:, :3], short, rtol=1e-14, atol=0)
    assert found[:, 3:].tolist() == [[0.0] * 3] * 3


def test_returns_of_padded_episodes_are_those_of_the_episodes() -> None:
    reward = normal(2, 7)
    reward[:, 4:] = 0
    found = discounted_returns(reward, 0.9)
    torch.testing.assert_close(found[:, :4], discounted_returns(reward[:, :4], 0.9), rtol=1e-14, atol=0)
    assert found[:, 4:].tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4)])
def test_nothing_has_no_credit(shape: tuple[int, ...]) -> None:
    nothing = torch.zeros(shape)
    assert discounted_returns(nothing, 0.9, last=torch.zeros(shape[:-1])).shape == shape
    found = generalized_advantage(nothing, nothing, nothing, ended=nothing.bool(), discount=0.9, decay=0.9)
    assert found.shape == shape


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.int64, torch.float32),
    ],
)
def test_precision_is_single_at_least(given: torch.dtype, kept: torch.dtype) -> None:
    reward = torch.ones(3, 5000).to(given)
    assert discounted_returns(reward, 1.0).dtype == kept
    assert discounted_returns(reward, 1.0)[0, 0] == 5000  # in float16, 2048 + 1 is 2048
    ended = torch.zeros(3, 5000, dtype=torch.bool)
    found = generalized_advantage(reward, reward, reward, ended=ended, discount=1.0, decay=1.0)
    assert found.dtype == kept
    assert found[0, 0] == 5000


def test_the_graph_of_the_values_is_kept() -> None:
    value = normal(4).requires_grad_()
    ended = torch.tensor([False, False, True, False])
    generalized_advantage(normal(4), value, normal(4), ended=ended, discount=0.9, decay=0.5)[0].backward()
    torch.testing.assert_close(value.grad, -torch.tensor([1.0, 0.45, 0.45**2, 0.0], dtype=torch.float64))


# A decision process of two steps, listed


THETA = np.array([0.3, -0.4, 0.9])  # logits of action 1: at the start, and in each second state
REWARD = np.array([0.5, -1.0])  # of the first action, of which 1 ends the episode
GOES = np.array([0.7, 0.3])  # to which second state the other leads
SECOND = np.array([[2.0, -0.5], [0.3, 1.7]])  # reward by second state and action


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def expected_return(theta: np.ndarray, discount: float) -> float:
    """In closed form: theta holds the logit at the start, and one for each second state."""
    start, *seconds = sigmoid(theta)
    second = sum(g * (r[0] * (1 - p) + r[1] * p) for g, r, p in zip(GOES, SECOND, seconds, strict=True))
    return float(start * REWARD[1] + (1 - start) * (REWARD[0] + discount * second))


def trajectories(theta: np.ndarray) -> list[tuple[float, list[float], list[tuple[int, int]]]]:
    """Every episode: its probability, its rewards padded to two steps, and the (logit, action) of each real step."""
    p = sigmoid(theta)
    found = [(p[0], [REWARD[1], 0.0], [(0, 1)])]
    for state, action in product(range(2), range(2)):
        prob = (1 - p[0]) * GOES[state] * (p[1 + state] if action else 1 - p[1 + state])
        found.append((prob, [REWARD[0], SECOND[state, action]], [(0, 0), (1 + state, action)]))
    return found


def expected_estimate(theta: np.ndarray, discount: float, credit) -> np.ndarray:
    """The mean over all pairs of episodes of the estimate that they give, each episode's share averaged."""
    total, p = np.zeros(len(theta)), sigmoid(theta)
    for pair in product(trajectories(theta), repeat=2):
        reward = torch.tensor([rewards for _, rewards, _ in pair], dtype=torch.float64)
        advantage = credit(discounted_returns(reward, discount)).numpy()
        for of_episode, (_, _, steps) in zip(advantage, pair, strict=True):
            for t, (logit, action) in enumerate(steps):
                total[logit] += pair[0][0] * pair[1][0] * discount**t * of_episode[t] * (action - p[logit]) / 2
    return total


def slope(discount: float, size: float = 1e-5) -> np.ndarray:
    each = np.eye(3) * size
    return np.array(
        [(expected_return(THETA + e, discount) - expected_return(THETA - e, discount)) / (2 * size) for e in each]
    )


@pytest.mark.parametrize("discount", [1.0, 0.8])
@pytest.mark.parametrize("credit", [lambda returns: returns, leave_one_out])
def test_credit_to_each_step_leaves_the_gradient_of_the_expected_return_unbiased(credit, discount: float) -> None:
    assert sum(prob for prob, _, _ in trajectories(THETA)) == pytest.approx(1)
    np.testing.assert_allclose(expected_estimate(THETA, discount, credit), slope(discount), rtol=0, atol=1e-8)


def test_a_mean_that_holds_the_own_return_would_be_found_out() -> None:
    biased = expected_estimate(THETA, 1.0, lambda returns: returns - returns.mean(0))
    assert np.abs(biased - slope(1.0)).max() > 1e-2


# Bad input

OF_THREE = {name: torch.zeros(2, 3) for name in ("reward", "value", "next_value")}


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan, math.inf])
def test_weights_lie_between_zero_and_one(weight: float) -> None:
    ended = torch.zeros(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"^needed a discount in \[0, 1\], got "):
        discounted_returns(torch.zeros(3), weight)
    with pytest.raises(ValueError, match=r"^needed a discount in \[0, 1\], got "):
        generalized_advantage(**OF_THREE, ended=ended, discount=weight, decay=0.5)
    with pytest.raises(ValueError, match=r"^needed a decay in \[0, 1\], got "):
        generalized_advantage(**OF_THREE, ended=ended, discount=0.5, decay=weight)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", ["reward", "value", "next_value"])
@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 1), (1, 3)])
def test_nothing_is_broadcast(name: str, shape: tuple[int, ...]) -> None:
    ended = torch.zeros(2, 3, dtype=torch.bool)
    message = rf"^needed {name.replace('_', ' ')}s of shape \(2, 3\), got {re.escape(str(shape))} float32; nothing"
    with pytest.raises(ValueError, match=message):
        generalized_advantage(**OF_THREE | {name: torch.zeros(shape)}, ended=ended, discount=0.9, decay=0.9)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["reward", "value", "next_value"])
def test_a_number_that_is_none_is_named(name: str, bad: float) -> None:
    numbers = torch.zeros(2, 3)
    numbers[1, 2] = bad
    message = rf"^needed finite {name.replace('_', ' ')}s, got {bad} at \(1, 2\); look"
    ended = torch.zeros(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        generalized_advantage(**OF_THREE | {name: numbers}, ended=ended, discount=0.9, decay=0.9)
    if name == "reward":
        with pytest.raises(ValueError, match=message):
            discounted_returns(numbers, 0.9)


@pytest.mark.usefixtures("as_a_user")
def test_what_returns_need() -> None:
    with pytest.raises(ValueError, match=r"^needed rewards of shape \(\*draws, steps\), got \(\) float32; time is"):
        discounted_returns(torch.tensor(1.0), 0.9)
    with pytest.raises(ValueError, match=r"^needed last values of shape \(2,\), got \(2, 3\) float32; nothing is"):
        discounted_returns(torch.zeros(2, 3), 0.9, last=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"^needed finite last values, got nan at \(1,\)"):
        discounted_returns(torch.zeros(2, 3), 0.9, last=torch.tensor([0.0, math.nan]))


@pytest.mark.usefixtures("as_a_user")
def test_the_end_is_a_truth_value() -> None:
    with pytest.raises(TypeError, match=r"^needed ended as bool, got \(2, 3\) float32; pass terminated \| truncated$"):
        generalized_advantage(**OF_THREE, ended=torch.zeros(2, 3), discount=0.9, decay=0.9)
    one = torch.tensor(0.0)
    with pytest.raises(ValueError, match=r"^needed ended of shape \(\*draws, steps\), got \(\) bool"):
        generalized_advantage(one, one, one, ended=one.bool(), discount=0.9, decay=0.9)
