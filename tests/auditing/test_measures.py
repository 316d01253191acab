"""Numbers of the table against closed forms."""

import math

import pytest
import torch
from torch import Tensor

from rlgrad.auditing.bias import Truth
from rlgrad.auditing.measures import WANTED, Space, measure


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def along(first: float, numbers: int = 10) -> Tensor:
    return torch.tensor([first, *[0.0] * (numbers - 1)], dtype=torch.float64)


def of(
    sample: Tensor,
    truth: Truth,
    *,
    rewards: float | None = 1.0,
    rescale: bool = False,
    biased: bool | None = True,
    rounding: float = 0.0,
) -> Space:
    return measure(sample, truth, rewards=rewards, rescale=rescale, biased=biased, rounding=rounding)


def known(number: float | None) -> float:
    assert number is not None
    return number


def test_variance_is_that_of_one_estimate_over_the_squared_truth() -> None:
    space = of(along(2.0) + normal(4000, 10, seed=0), Truth(along(2.0)))
    assert space.variance == pytest.approx(10 / 4, rel=0.03)
    assert known(space.bias) < 0.03


def test_the_noise_of_the_mean_is_no_bias() -> None:
    squares = [known(of(along(1.0) + 3 * normal(50, 10, seed=seed), Truth(along(1.0))).bias) ** 2 for seed in range(50)]
    # The mean's own noise is 9 x 10 / 50 = 1.8; what is left is its positive part, about 0.4 of its spread of 0.8.
    assert sum(squares) / 50 < 0.6


def test_a_bias_is_measured_as_it_is() -> None:
    sample = along(1.0) + 0.5 * along(1.0).roll(3) + normal(20_000, 10, seed=0) / 2
    assert of(sample, Truth(along(1.0))).bias == pytest.approx(0.5, rel=0.03)


def test_the_limit_holds_in_99_of_100() -> None:
    bias = 0.3 * along(1.0).roll(2)
    spaces = [of(along(1.0) + bias + normal(60, 10, seed=seed), Truth(along(1.0))) for seed in range(200)]
    limits = [known(space.bias_limit) for space in spaces]
    assert sum(limit < 0.3 for limit in limits) <= 7
    assert sum(limits) / 200 < 1.0


def test_cosine_of_single_estimates() -> None:
    space = of(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [0.0, 0.0]]).double(), Truth(along(5.0, 2)))
    assert space.cosine == pytest.approx((1 + 0 + math.sqrt(0.5) + 0) / 4)


def test_cosine_to_a_noisy_truth_is_not_diluted() -> None:
    blocks = along(1.0, 1000) + normal(50, 1000, seed=1) / 4  # its error is longer than the truth
    space = of(along(1.0, 1000).expand(5, -1), Truth(blocks.mean(0), blocks))
    assert blocks.mean(0).norm() > 1.4
    assert space.cosine == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("biased", [True, False])
def test_so_many_rewards_have_the_wanted_cosine(biased: bool) -> None:
    truth = Truth(along(1.0))
    rewards = of(along(1.0) + normal(20_000, 10, seed=0), truth, rewards=3.0, biased=biased).rewards
    together = int(known(rewards)) // 3
    assert rewards == 3 * together
    # cos = 1 / sqrt(1 + 10 / n) is 0.9 at n = 42.6
    assert together == pytest.approx(43, abs=4 if biased else 0)
    means = along(1.0) + normal(2000, 10, seed=1) / math.sqrt(together)
    assert of(means, truth).cosine == pytest.approx(WANTED, abs=0.01)


def test_no_number_of_rewards_mends_a_wrong_direction() -> None:
    wrong = along(1.0) + along(1.0).roll(1)
    space = of(wrong + normal(1000, 10, seed=0) / 10, Truth(along(1.0)))
    assert space.rewards == math.inf
    assert space.limit == pytest.approx(math.sqrt(0.5), abs=0.01)


def test_the_noise_of_the_mean_does_not_bend_the_limit() -> None:
    limits = [known(of(along(1.0) + 3 * normal(100, 10, seed=seed), Truth(along(1.0))).limit) for seed in range(41)]
    assert sorted(limits)[20] > 0.9  # with the noise, 10 x 9 / 100, in the length it would be 0.73


def test_the_opposite_direction_never_arrives() -> None:
    space = of(-along(1.0) + normal(1000, 10, seed=0) / 10, Truth(along(1.0)))
    assert space.rewards == math.inf
    assert space.limit == pytest.approx(-1.0, abs=0.01)


def test_a_surrogate_is_scaled_to_fit() -> None:
    sample = (100 * (along(1.0) + along(1.0).roll(1))).expand(5, -1)
    space = of(sample, Truth(along(1.0)), rewards=0.0, rescale=True)
    assert (space.scale, space.rewards) == (0.005, math.inf)
    assert space.bias == pytest.approx(math.sqrt(0.5))
    assert of(-sample, Truth(along(1.0)), rescale=True).bias == 1.0


def test_a_surrogate_in_the_true_direction_needs_no_rewards() -> None:
    space = of(along(7.0).expand(5, -1), Truth(along(1.0)), rewards=0.0, rescale=True)
    assert space.bias == pytest.approx(0.0, abs=1e-7)
    assert (space.rewards, space.cosine) == (0, 1)


def test_what_could_not_be_told_is_unknown() -> None:
    space = of(along(1.0) + normal(100, 10, seed=0), Truth(along(1.0)), biased=None)
    assert (space.bias_limit, space.limit, space.rewards) == (None, None, None)
    assert space.variance == pytest.approx(10, rel=0.2)
    silent = of(torch.zeros(100, 10).double(), Truth(along(1.0)), biased=None)
    assert (silent.bias, silent.variance, silent.limit, silent.rewards) == (None, None, None, None)
    assert of(torch.zeros(100, 10).double(), Truth(along(1.0))).variance == 0  # found to be biased: it is always so


def test_rewards_that_nobody_counted_are_unknown_but_never_is_never() -> None:
    sample = along(1.0) + along(1.0).roll(1) + normal(1000, 10, seed=0) / 10
    assert of(sample, Truth(along(1.0)), rewards=None, biased=False).rewards is None
    assert of(sample, Truth(along(1.0)), rewards=None).rewards == math.inf


def test_rounding_is_zero() -> None:
    sample = along(1.0) * (1 + 1e-15 * normal(100, 10, seed=0))
    space = of(sample, Truth(along(1.0)), biased=False, rounding=1e-8)
    assert (space.bias, space.bias_limit, space.variance) == (0, 0, 0)
    space = of(along(1.0) + 1e-6 * normal(100, 10, seed=0), Truth(along(1.0)), biased=False, rounding=1e-8)
    assert min(known(space.variance), known(space.bias_limit)) > 0
