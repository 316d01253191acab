"""The exact expectation, against the law of the counts by dynamic programming in NumPy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import f1_score
from torch import Tensor

from rlgrad.credit import leave_one_out
from rlgrad.estimators import count_law, counterfactual, exact, score_function
from rlgrad.metrics import CATALOGUE, CountMetric, Scorer, f1
from rlgrad.policies import Bernoulli

Array = NDArray[np.float64]


# The truth: O(items^2), and only the formula is the library's (it is tested by itself)


def law_of_count(p: Array) -> Array:
    """P(count = k), one decision after the other."""
    law = np.ones(1)
    for x in p:
        law = np.append(law, 0.0) * (1 - x) + np.append(0.0, law) * x
    return law


def laws_of_the_others(p: Array) -> Array:
    """Row i: the law of the count without decision i, taken out of the whole from its more stable end."""
    whole, low = law_of_count(p), p <= 0.5
    from_below, from_above = np.zeros((2, len(p), len(p) + 1))
    for k in range(len(p)):
        from_below[:, k] = (whole[k] - p * from_below[:, k - 1]) / np.where(low, 1 - p, 1.0)
        at = len(p) - 1 - k
        from_above[:, at] = (whole[at + 1] - (1 - p) * from_above[:, at + 1]) / np.where(low, 1.0, p)
    return np.where(low[:, None], from_below, from_above)[:, :-1]


class Truth:
    """E[metric] and its gradient in the logits, for decisions of these probabilities."""

    def __init__(self, p: Array, target: NDArray[np.bool_]) -> None:
        self.slope, self.positive = p * (1 - p), target
        self.tp, self.fp = law_of_count(p[target]), law_of_count(p[~target])
        self.other_tp, self.other_fp = laws_of_the_others(p[target]), laws_of_the_others(p[~target])

    def __call__(self, metric: CountMetric) -> tuple[float, Array]:
        tp, fp = np.meshgrid(np.arange(len(self.tp)), np.arange(len(self.fp)), indexing="ij")
        counts = (tp, fp, len(self.tp) - 1 - tp, len(self.fp) - 1 - fp)
        scores = metric.of_counts(*map(torch.from_numpy, counts)).numpy()
        given_tp, given_fp = scores @ self.fp, self.tp @ scores
        gradient = self.slope.copy()
        gradient[self.positive] *= self.other_tp @ np.diff(given_tp)
        gradient[~self.positive] *= self.other_fp @ np.diff(given_fp)
        return float(self.tp @ given_tp), gradient


def test_the_truth_itself() -> None:
    value, gradient = Truth(np.array([0.9, 0.6, 0.4, 0.2]), np.array([True, False, True, False]))(f1)
    assert value == pytest.approx(0.61925333, abs=5e-9)
    assert gradient == pytest.approx(np.array([0.040272, -0.037472, 0.079232, -0.02097067]), abs=5e-9)


def estimate(metric: CountMetric, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = exact()(Bernoulli(leaf), Scorer(metric, target))
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def scored(items: int, positives: float, *, shift: float = -1.0, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    """Logits of a fair model, and targets."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(items, generator=generator) < positives
    return spread * torch.randn(items, generator=generator, dtype=torch.float64) + shift + 2 * target, target


def constant(logit: float, items: int, positives: int) -> tuple[Tensor, Tensor]:
    return torch.full((items,), logit, dtype=torch.float64), torch.arange(items) < positives


CASES = {
    "one positive": constant(0.3, 1, 1),
    "one negative": constant(0.3, 1, 0),
    "few": scored(5, 0.5),
    "some": scored(60, 0.4),
    "many": scored(1000, 0.4),
    "rare": scored(2000, 0.01, shift=-5.0),
    "confident": scored(1000, 0.3, spread=30.0),
    "sure": (40.0 * scored(300, 0.3)[0].sign(), scored(300, 0.3)[1]),
    "coins": constant(0.0, 400, 200),
    "few coins": constant(0.0, 40, 20),
    "equal": constant(-2.0, 1500, 300),
    "no positives": constant(-1.0, 300, 0),
    "no negatives": constant(-1.0, 300, 300),
    "few negatives": scored(500, 0.99),
    "one wide, one narrow": constant(-1.0, 900, 30),
    # p from .026 to .036: some by power sums, some by themselves
    "about the tails": (torch.linspace(-3.6, -3.3, 500, dtype=torch.float64), torch.arange(500) % 3 == 0),
}


def distance(actual: Array, expected: Array) -> float:
    """Of one gradient from another, as a part of its length (or of 1e-6: some are all zero)."""
    return float(np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-6))


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_full_law(case: str) -> None:
    logits, target = CASES[case]
    truth = Truth(torch.sigmoid(logits).numpy(), target.numpy())
    for metric in CATALOGUE.values():
        (value, gradient), (expected, slope) = estimate(metric, logits, target), truth(metric)
        assert value.item() == pytest.approx(expected, abs=1e-10), metric
        assert distance(gradient.numpy(), slope) < 1e-9, metric


# Two rules for one law


def of_deviation(kind: str, deviation: float) -> Tensor:
    """Probabilities of a count that has this standard deviation: p (1 - p) sums up to its square."""
    if kind == "coins":
        return torch.full((round(4 * deviation**2),), 0.5, dtype=torch.float64)
    p: Any = 0.5 - math.sqrt(0.25 - deviation**2 / 1500)
    if kind == "spread":  # about the same mean variance, from 1e-4 to 1/2
        p = np.linspace(0.0, 1.0, 1500) ** 2 * 0.5 + 1e-4
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if (middle * p * (1 - middle * p)).sum() < deviation**2 else (low, middle)
        return torch.from_numpy(low * p)
    return torch.full((1500,), 1 - p if kind == "likely" else p, dtype=torch.float64)


KINDS = ["coins", "unlikely", "likely", "spread"]


@pytest.mark.parametrize("fp", KINDS)
@pytest.mark.parametrize("tp", KINDS)
def test_at_the_switch_both_rules_give_one_gradient(tp: str, fp: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of_tp, of_fp = of_deviation(tp, count_law.SWITCH), of_deviation(fp, count_law.SWITCH)
    logits, target = torch.cat([of_tp, of_fp]).logit(), torch.arange(len(of_tp) + len(of_fp)) < len(of_tp)
    for metric in CATALOGUE.values():
        results = []
        for switch in (0.0, math.inf):  # the Gauss rule alone, the law alone
            monkeypatch.setattr(count_law, "SWITCH", switch)
            results.append(estimate(metric, logits, target)[1].numpy())
        assert distance(*results) < (1e-12 if metric.name in ("f1", "iou") else 1e-9), metric


@pytest.mark.parametrize("deviation", [6.0, 8.0, 12.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gauss_rule_has_the_first_six_cumulants(kind: str, deviation: float) -> None:
    p = of_deviation(kind, deviation)
    nodes, weights = count_law.gauss_rule(p[None])
    law = law_of_count(p.numpy())
    z = (np.arange(len(law)) - p.sum().item()) / deviation
    x = ((nodes[0] - p.sum()) / deviation).numpy()
    for power in range(7):
        assert weights[0].numpy() @ x**power == pytest.approx(law @ z**power, rel=1e-9, abs=1e-9), power


def test_the_gauss_rule_stays_inside_the_range_of_the_count() -> None:
    for kind in KINDS:
        p = of_deviation(kind, count_law.SWITCH)
        nodes, _ = count_law.gauss_rule(p[None])
        assert nodes.min() > 0
        assert nodes.max() < len(p)


@pytest.mark.parametrize(
    "p",
    [
        np.full(1, 0.3),
        np.full(2, 0.5),
        np.full(96, 0.5),
        np.full(97, 0.4),
        np.full(98, 0.4),
        np.full(140, 0.5),
        np.full(4000, 0.008),
        np.full(6000, 0.005),
        np.full(6000, 0.995),
        np.concatenate([np.zeros(6000), np.linspace(0.0, 1.0, 150)]),
        np.concatenate([np.zeros(6000), [0.02, 0.04, 0.1, 0.2]]),
        np.concatenate([np.zeros(6000), [0.98, 0.96, 0.9, 0.8]]),
        np.concatenate([np.full(5000, 1e-3), np.full(500, 0.04), np.full(100, 0.97)]),
        np.linspace(0.0, 1.0, 150),
        np.concatenate([np.zeros(500), np.ones(500), np.full(20, 0.5)]),
        np.array([0.0, 1.0]),
        np.ones(300),
        np.zeros(300),
        np.full(600, 1 / 32),
        np.full(600, 31 / 32),
        np.array([1 / 32, np.nextafter(1 / 32, 1), 31 / 32, np.nextafter(31 / 32, 0)] * 20),
    ],
    ids=lambda p: f"{len(p)} of {p.mean():.3g}",
)
def test_the_law_rule_is_the_poisson_binomial_law(p: Array) -> None:
    nodes, weights = count_law.law_rule(torch.from_numpy(p)[None])
    found = np.zeros(len(p) + 1)
    np.add.at(found, nodes[0].long().numpy(), weights[0].numpy())
    assert nodes.min() >= 0
    assert nodes.shape[-1] <= count_law.WINDOW
    judge = stats.binom(len(p), p[0]) if np.ptp(p) == 0 else stats.poisson_binom(p)
    np.testing.assert_allclose(found, judge.pmf(np.arange(len(p) + 1)), rtol=0, atol=1e-11)
    np.testing.assert_allclose(found, law_of_count(p), rtol=0, atol=1e-11)


def test_the_weights_of_the_law_are_differentiable() -> None:
    p = torch.linspace(0.01, 0.99, 12, dtype=torch.float64)[None].requires_grad_()
    assert torch.autograd.gradcheck(lambda p: count_law.law_rule(p)[1], p)


@pytest.mark.parametrize("rule", [count_law.law_rule, count_law.gauss_rule])
def test_items_that_cannot_count_change_nothing(rule) -> None:
    """Nor does the shorter way that many items take: see about 1/32 and 31/32, on both sides of them."""
    p = torch.cat([torch.linspace(1e-4, 0.05, 400), torch.linspace(0.05, 0.95, 60), torch.linspace(0.95, 1.0, 400)])
    results = []
    for others in (0, 3, 6000):
        leaf = p.double().requires_grad_()
        nodes, weights = rule(torch.cat([leaf, torch.zeros(others, dtype=torch.float64)])[None])
        value = (weights * torch.sqrt(1 + nodes)).sum()
        results.append((value.detach(), *torch.autograd.grad(value, leaf)))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-11, atol=1e-13)


# A batch


def test_rows_of_every_kind_agree_with_themselves_alone() -> None:
    """Some rows use the law, some the Gauss rule, some both; a row of a batch must not notice the others."""
    rows = [scored(700, 0.5), scored(700, 0.01, shift=-6.0), constant(0.0, 700, 350), constant(-9.0, 700, 0)]
    rows += [constant(0.0, 700, 700), scored(700, 0.1, shift=-4.0)]
    logits, target = (torch.stack(part) for part in zip(*rows, strict=True))
    wide = torch.sigmoid(logits).mul(1 - torch.sigmoid(logits)).mul(target).sum(-1) >= count_law.SWITCH**2
    assert set(wide.tolist()) == {False, True}
    value, gradient = estimate(f1, logits, target)
    for row, (z, y) in enumerate(rows):
        alone = estimate(f1, z, y)
        torch.testing.assert_close((value[row], gradient[row]), alone, rtol=1e-12, atol=1e-14)
    nested = estimate(f1, logits.reshape(2, 3, 700), target.reshape(2, 3, 700))
    torch.testing.assert_close(nested, (value.reshape(2, 3), gradient.reshape(2, 3, 700)), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 3)])
def test_without_rows_or_items_the_metric_is_undefined(shape: tuple[int, ...]) -> None:
    value, gradient = estimate(f1, torch.zeros(shape), torch.zeros(shape))
    assert torch.equal(value, torch.ones(shape[:-1]))
    assert gradient.shape == shape


# Dtypes and ends of the number line


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_logits_of_less_precision(dtype: torch.dtype, tolerance: float) -> None:
    logits, target = CASES["rare"]
    value, gradient = estimate(f1, logits.to(dtype), target)
    expected, slope = estimate(f1, logits.to(dtype).double(), target)
    assert value.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    assert gradient.dtype == dtype
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert distance(gradient.double().numpy(), slope.numpy()) < tolerance


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=CATALOGUE)
def test_infinite_logits_are_sure_decisions(metric: CountMetric) -> None:
    logits, target = scored(50, 0.4)
    value, gradient = estimate(metric, logits.sign() * math.inf, target)
    assert value.item() == pytest.approx(metric(logits > 0, target).item(), abs=1e-12)
    assert torch.equal(gradient, torch.zeros(50, dtype=torch.float64))


def test_the_value_of_sure_decisions_is_that_of_scikit_learn() -> None:
    logits, target = scored(2000, 0.3)
    value, _ = estimate(f1, logits.sign() * math.inf, target)
    assert value.item() == pytest.approx(f1_score(target, logits > 0), abs=1e-12)


@pytest.mark.parametrize("extreme", [1e4, math.inf])
def test_some_infinite_logits_leave_the_others_their_gradient(extreme: float) -> None:
    logits, target = scored(40, 0.4)
    logits[:10], logits[10:20] = extreme, -extreme
    _, gradient = estimate(f1, logits, target)
    _, expected = Truth(torch.sigmoid(logits).numpy(), target.numpy())(f1)
    assert distance(gradient.numpy(), expected) < 1e-12


# Formulas of one's own


@pytest.mark.parametrize(
    "formula",
    [
        lambda tp, fp, fn, tn: tp >= 9,
        lambda tp, fp, fn, tn: torch.clamp(5 * tp - fp, min=0.0),
        lambda tp, fp, fn, tn: torch.where(fp > 3, -1.0, tp / (tp + fp)),
        lambda tp, fp, fn, tn: torch.floor(tp / (fp + 1)),
    ],
    ids=["quota", "kink", "jump", "floor"],
)
def test_a_formula_with_jumps_is_exact_under_the_law(formula) -> None:
    metric = CountMetric(formula, undefined=0.25)
    logits, target = scored(60, 0.4)
    value, gradient = estimate(metric, logits, target)
    expected, slope = Truth(torch.sigmoid(logits).numpy(), target.numpy())(metric)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    assert distance(gradient.numpy(), slope) < 1e-11


def test_no_generator_is_touched() -> None:
    before = torch.get_rng_state()
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    exact()(Bernoulli(torch.zeros(4)), Scorer(f1, torch.ones(4)), generator=generator)
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(torch.get_rng_state(), before)


# What it saves


def test_a_reward_that_all_decisions_share_drowns_and_their_own_does_not(generator: torch.Generator) -> None:
    """Mean cosine between one estimate and the exact gradient, over 20 estimates of 256 decisions."""
    logits, target = scored(256, 0.3)
    _, direction = estimate(f1, logits, target)

    def cosine(estimator: counterfactual | score_function) -> float:
        found = []
        for _ in range(20):
            leaf = logits.clone().requires_grad_()
            estimator(Bernoulli(leaf), Scorer(f1, target), generator=generator).backward()
            found.append(torch.cosine_similarity(leaf.grad, direction, dim=0).item())
        return sum(found) / len(found)

    assert cosine(counterfactual(draws=1)) > 0.99
    assert cosine(score_function(draws=2, credit=leave_one_out)) < 0.3
