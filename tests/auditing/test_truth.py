"""The true gradient by each of its ways, against the others."""

import time

import pytest
import torch
from scipy.stats import binom
from torch import Tensor

from rlgrad import Bernoulli, Categorical, CountMetric
from rlgrad.auditing.candidates import Batch
from rlgrad.auditing.truth import Found, find_truth, rarity_of
from rlgrad.metrics import OpaqueMetric, f1

LOGITS = torch.logit(torch.tensor([0.9, 0.6, 0.4, 0.2], dtype=torch.float64))
TARGET = torch.tensor([1, 0, 1, 0])
GOLDEN = torch.tensor([0.040272, -0.037472, 0.079232, -0.02097067], dtype=torch.float64)


def correct(decision: Tensor, target: Tensor) -> Tensor:
    return (decision == target.bool()).double().mean(-1)


def found(batch: Batch, *, seconds: float = 1.0) -> Found:
    return find_truth(batch, seconds=seconds, seed=0)


def test_few_outcomes_are_listed() -> None:
    result = found(Batch(LOGITS, TARGET, f1, Bernoulli))
    assert result.how == "every outcome, listed"
    assert result.truth.blocks is None
    assert torch.allclose(result.truth.gradient, GOLDEN, atol=1e-7)


def test_the_objective_is_the_mean_over_rows() -> None:
    rows = Batch(LOGITS.expand(3, -1), TARGET.expand(3, -1), f1, Bernoulli)
    assert torch.allclose(found(rows).truth.gradient, GOLDEN.repeat(3) / 3, atol=1e-7)


def test_classes_are_listed_too() -> None:
    logits = torch.tensor([[0.5, -0.5, 0.0], [1.0, 0.0, -1.0]], dtype=torch.float64)
    metric = OpaqueMetric(lambda decision, target: (decision == target).double().mean(-1), batched=True)
    target = torch.tensor([2, 0])
    probs = torch.softmax(logits, -1)
    right = torch.nn.functional.one_hot(target, 3)
    expected = probs * (right - probs.gather(-1, target[:, None])) / 2
    result = found(Batch(logits, target, metric, Categorical))
    assert torch.allclose(result.truth.gradient, expected.flatten(), atol=1e-12)


def test_many_outcomes_of_counts_take_their_law() -> None:
    logits = torch.linspace(-3, 3, 40)
    assert found(Batch(logits, logits > 1, f1, Bernoulli)).how == "the law of counts"


def test_a_smooth_formula_of_wide_counts_is_confirmed() -> None:
    logits = torch.zeros(400)
    result = found(Batch(logits, torch.arange(400) < 200, f1, Bernoulli))
    assert result.how.startswith("the law of counts, confirmed to 0.")
    assert result.truth.blocks is None


def test_a_formula_with_a_jump_is_taken_from_a_long_run() -> None:
    quota = CountMetric(lambda tp, fp, fn, tn: (tp >= 103).double(), undefined=0.0, name="quota")
    logits = torch.zeros(400)
    result = found(Batch(logits, torch.arange(400) < 200, quota, Bernoulli))
    assert "a jump" in result.how
    assert result.truth.blocks is not None
    # P(tp >= 103) rises with each p by P(102 of the 199 others), and the logit moves p by a quarter.
    rise = float(binom.pmf(102, 199, 0.5)) / 4
    expected = torch.where(torch.arange(400) < 200, rise, 0.0)
    means = result.truth.blocks[:, :200].mean(1)
    assert float(means.mean()) == pytest.approx(rise, abs=5 * float(means.std()) / len(means) ** 0.5)
    assert float((result.truth.gradient - expected).norm()) < 5 * result.truth.noise**0.5


def test_a_long_run_of_a_black_box_comes_within_its_error() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, generator=generator)
    target = torch.rand(20, generator=generator) < 0.5
    result = found(Batch(logits, target, OpaqueMetric(correct, batched=True), Bernoulli), seconds=0.3)
    p = torch.sigmoid(logits.double())
    expected = p * (1 - p) * (2 * target.double() - 1) / 20
    assert result.how.startswith("a long run of ")
    error = float((result.truth.gradient - expected).square().sum())
    assert error <= 3 * result.truth.noise + 1e-20


def test_a_slow_black_box_is_not_listed() -> None:
    def slow(decision: Tensor, target: Tensor) -> Tensor:
        time.sleep(0.0005)
        return (decision == target.bool()).double().mean()

    batch = Batch(torch.linspace(-1, 1, 12), torch.arange(12) % 2, OpaqueMetric(slow), Bernoulli)
    assert found(batch, seconds=0.5).how.startswith("a long run")


def test_spreads_are_those_of_the_decisions() -> None:
    assert torch.allclose(
        rarity_of(Batch(LOGITS, TARGET, f1, Bernoulli)).spread[0, :, 0],
        torch.tensor([0.09, 0.24, 0.24, 0.16], dtype=torch.float64),
    )
    classes = Batch(torch.zeros(2, 5, 3), torch.zeros(2, 5).long(), OpaqueMetric(correct), Categorical)
    assert rarity_of(classes).spread.shape == (2, 5, 3)
