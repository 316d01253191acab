"""The bias test: as many false alarms as it says, and eyes for what is biased."""

import math

import pytest
import torch
from scipy.stats import ttest_1samp
from torch import Tensor

from rlgrad.auditing.bias import LEVEL, Rarity, Truth, bias_test, fluctuation
from rlgrad.credit import none
from rlgrad.estimators import counterfactual, score_function, straight_through


def fair(numbers: int) -> Rarity:
    return Rarity(torch.full((1, numbers, 1), 0.25, dtype=torch.float64))


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def skewed(items: int, *, least: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    span = math.log10(0.5 / least)
    p = least * 10 ** (span * torch.rand(items, generator=generator, dtype=torch.float64))
    return torch.logit(p), (torch.rand(items, generator=generator) < 0.3).long()


def rarity(logits: Tensor) -> Rarity:
    p = torch.sigmoid(logits.double())
    return Rarity((p * (1 - p)).reshape(1, -1, 1))


# Without noise, rounding alone is forgiven.


@pytest.mark.parametrize(("off", "p_value"), [(0.0, 1.0), (1e-7, 1.0), (1e-5, 0.0)])
def test_estimates_that_never_vary_are_compared(off: float, p_value: float) -> None:
    truth = torch.tensor([1.0, 0.0], dtype=torch.float64)
    sample = (truth + off).expand(5, -1)
    assert bias_test(sample, Truth(truth), fair(2), draws=0, slack=1e-6) == p_value


def test_a_sampling_estimator_that_gave_nothing_but_zero_is_not_judged() -> None:
    truth = Truth(torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert math.isnan(bias_test(torch.zeros(500, 2).double(), truth, fair(2), draws=1, slack=1e-6))


@pytest.mark.parametrize(("estimates", "judged"), [(500, True), (50, False)])
def test_a_sampling_estimator_that_is_always_wrong_had_occasions_to_vary(estimates: int, judged: bool) -> None:
    truth = Truth(torch.tensor([1.0, 1.0], dtype=torch.float64))
    p_value = bias_test(torch.full((estimates, 2), 2.0).double(), truth, fair(2), draws=1, slack=1e-6)
    assert p_value == 0 if judged else math.isnan(p_value)


def test_a_run_too_short_for_its_rare_decisions_is_not_judged() -> None:
    logits, _ = skewed(8, least=1e-3)
    sample = normal(20, 8, seed=0)
    assert math.isnan(bias_test(sample, Truth(torch.zeros(8).double()), rarity(logits - 5), draws=1, slack=0.0))


def test_a_fixed_direction_is_judged_against_a_noisy_truth() -> None:
    blocks = 1 + normal(64, 4, seed=0) / 10
    truth = Truth(blocks.mean(0), blocks, draws=256)
    same, other = torch.ones(5, 4).double(), torch.full((5, 4), 1.2).double()
    assert bias_test(same, truth, fair(4), draws=0, slack=1e-6) > LEVEL
    assert bias_test(other, truth, fair(4), draws=0, slack=1e-6) < LEVEL


# False alarms.


def test_false_alarms_are_controlled_over_all_coordinates() -> None:
    p_values = [
        bias_test(normal(60, 300, seed=seed), Truth(torch.zeros(300).double()), fair(300), draws=9, slack=0.0)
        for seed in range(100)
    ]
    assert sum(p < 0.1 for p in p_values) <= 19  # 10 expected at most; 19 is three standard deviations more
    assert min(p_values) < 0.3  # nor is the test asleep


def test_the_error_of_the_truth_is_counted() -> None:
    alarms = blind = 0
    for seed in range(100):
        blocks, sample = normal(40, 20, seed=seed), normal(200, 20, seed=1000 + seed)
        truth = Truth(blocks.mean(0), blocks, draws=100)
        alarms += bias_test(sample, truth, fair(20), draws=1, slack=0.0) < LEVEL
        blind += bias_test(sample, Truth(truth.gradient), fair(20), draws=1, slack=0.0) < LEVEL
    assert alarms <= 5
    assert blind >= 50  # taken for exact, it makes nearly every candidate look biased


def test_a_direction_is_not_tested_on_the_error_of_the_truth_that_it_was_found_in() -> None:
    blocks = normal(64, 2000, seed=0)
    sample = normal(64, 2000, seed=1) / 100
    assert bias_test(sample, Truth(blocks.mean(0), blocks, draws=100), fair(2000), draws=1, slack=0.0) > LEVEL


@pytest.mark.parametrize(
    ("estimator", "draws"),
    [
        (score_function(draws=2), 2),
        (score_function(draws=16), 16),
        (score_function(draws=1, credit=none), 1),
        (counterfactual(), 1),
    ],
)
@pytest.mark.parametrize("items", [4, 64])
def test_unbiased_estimators_of_rare_decisions_pass(at_once, true_f1, estimator, draws, items) -> None:
    logits, target = skewed(items, least=1e-3)
    truth = Truth(true_f1(logits, target))
    samples = [at_once(estimator, logits, target, 300, seed) for seed in range(25)]
    p_values = [bias_test(each, truth, rarity(logits), draws=draws, slack=1e-12) for each in samples]
    assert sum(p < LEVEL for p in p_values) <= 3  # 0.25 expected at most


def test_a_plain_test_of_rare_decisions_cries_wolf(at_once, true_f1) -> None:
    logits, target = skewed(64, least=1e-3)
    truth = true_f1(logits, target).numpy()
    samples = [at_once(score_function(draws=2), logits, target, 300, seed).numpy() for seed in range(20)]
    alarms = 0
    for sample in samples:
        moving = sample.std(0) > 0
        p_values = ttest_1samp(sample[:, moving], truth[moving]).pvalue
        alarms += p_values.min() * moving.sum() < LEVEL
    assert alarms >= 5


def test_events_that_came_up_too_rarely_are_no_alarm() -> None:
    sample = torch.zeros(1000, 1, dtype=torch.float64)
    sample[:28] = 1.0  # of 50 expected: P(28 or fewer, or as far above) = 1e-3, but 3e-5 by a plain t-test
    p_value = bias_test(
        sample[torch.randperm(1000, generator=torch.Generator().manual_seed(0))],
        Truth(torch.tensor([0.05], dtype=torch.float64)),
        fair(1),
        draws=1,
        slack=0.0,
    )
    assert 1e-3 < p_value < LEVEL


# Power.


def test_a_baseline_that_holds_its_own_draw_is_found(at_once, true_f1) -> None:
    def own_mean(reward: Tensor, play: object) -> Tensor:
        return reward - reward.mean(0)

    logits, target = skewed(64, least=0.05)
    sample = at_once(score_function(draws=2, credit=own_mean), logits, target, 1000, 0)
    assert bias_test(sample, Truth(true_f1(logits, target)), rarity(logits), draws=2, slack=1e-12) < 1e-4


def test_straight_through_is_found(at_once, true_f1) -> None:
    logits, target = skewed(6, least=0.05)
    target[3:] = 1
    sample = at_once(straight_through(), logits, target, 2000, 0)
    assert bias_test(sample, Truth(true_f1(logits, target)), rarity(logits), draws=1, slack=1e-12) < 1e-4


@pytest.mark.parametrize("at", [0, 37])
def test_a_single_coordinate_is_found(at: int) -> None:
    sample = normal(200, 100, seed=0)
    sample[:, at] += 0.6
    assert bias_test(sample, Truth(torch.zeros(100).double()), fair(100), draws=1, slack=0.0) < LEVEL


def test_a_small_bias_in_all_coordinates_is_found() -> None:
    numbers = 4000
    sample = normal(100, numbers, seed=0) + 0.05 * normal(numbers, seed=1).sign()
    truth = Truth(torch.zeros(numbers).double())
    assert bias_test(sample, truth, fair(numbers), draws=9, slack=0.0) < LEVEL


# The parts.


def test_events_of_a_projection_lie_between_those_of_its_parts() -> None:
    of_two = Rarity(torch.tensor([[[0.01], [0.01], [0.25]]], dtype=torch.float64))
    alone, both = torch.tensor([[1.0, 0.0, 0.0]]).double(), torch.tensor([[1.0, 1.0, 0.0]]).double()
    assert [bool(of_two.projections(alone, trials)) for trials in (2900, 3100)] == [False, True]
    assert [bool(of_two.projections(both, trials)) for trials in (1450, 1550)] == [False, True]


def test_a_coordinate_needs_company_where_it_may_count_only_in_company() -> None:
    alone = Rarity(torch.tensor([[[0.25], [0.25]]], dtype=torch.float64))
    rare = Rarity(torch.tensor([[[0.25], [0.25], [0.001]]], dtype=torch.float64))
    assert alone.coordinates(500).tolist() == [True, True]
    assert rare.coordinates(500).tolist() == [False, False, False]


def test_rows_are_counted_apart() -> None:
    rare = torch.full((40,), 0.0005, dtype=torch.float64)
    together = Rarity(torch.cat([torch.tensor([0.25]), rare]).double()[None, :, None])
    apart = Rarity(torch.stack([torch.full((40,), 0.25), rare], 1)[..., None])
    assert together.coordinates(30_000)[0]
    assert not apart.coordinates(30_000).any()


def test_fluctuation_is_the_root_of_the_trace_of_the_square() -> None:
    scale = torch.tensor([3.0, 1.0, 0.5]).double()
    expected = scale.pow(4).sum().sqrt()
    assert fluctuation(normal(4000, 3, seed=0) * scale) == pytest.approx(float(expected), rel=0.05)


def test_the_noise_of_a_truth_is_that_of_its_mean() -> None:
    blocks = normal(50, 3, seed=0)
    truth = Truth(blocks.mean(0), blocks, draws=1)
    assert truth.noise == pytest.approx(float(blocks.var(0).sum()) / 50)
    assert truth.squared == pytest.approx(float(blocks.mean(0).square().sum()) - truth.noise)
    assert torch.equal(truth.half(0).gradient, blocks[0::2].mean(0))
