"""Tuned thresholds: against every way to part the scores."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import f1_score
from torch import Tensor

from rlgrad.metrics import CATALOGUE, CountMetric, OpaqueMetric, f1, iou, macro, micro, weighted
from rlgrad.surrogates import best_threshold, best_thresholds

profit = CountMetric(lambda tp, fp, fn, tn: (10 * tp - 3 * fp) / torch.sqrt(tp + fp), undefined=-0.5, name="profit")
METRICS = [*CATALOGUE.values(), profit]

# The best threshold


def every_threshold(metric: CountMetric, scores: Tensor, target: Tensor) -> float:
    """The best value of the metric over every way to part the scores, each tried by itself."""
    parted = [scores >= score for score in scores.unique()] + [torch.zeros_like(target)]
    return metric(torch.stack(parted), target).max().item()


def tied(seed: int, items: int, *, levels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (items,), generator=generator).to(dtype) / 7 - 1
    return scores, torch.rand(items, generator=generator) < 0.4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_no_threshold_is_better(metric: CountMetric, dtype: torch.dtype) -> None:
    for seed, (items, levels) in enumerate([(1, 3), (2, 2), (5, 3), (12, 4), (12, 40), (30, 8), (30, 1), (40, 1000)]):
        scores, target = tied(seed, items, levels=levels, dtype=dtype)
        for truth in (target, torch.zeros_like(target), torch.ones_like(target)):
            threshold, value = best_threshold(metric, scores, truth)
            assert value == every_threshold(metric, scores, truth)
            assert metric(scores > threshold, truth).item() == value


def extremes(dtype: torch.dtype) -> dict[str, list[float]]:
    """Scores whose midpoint rounds to one of them, or overflows."""
    one, big, tiny = torch.ones((), dtype=dtype), torch.finfo(dtype).max, torch.finfo(dtype).smallest_normal
    next_one = torch.nextafter(one, 2 * one).item()
    below = torch.nextafter(one, 0 * one).item()
    denormal = torch.nextafter(0 * one, one).item()
    return {
        "above one": [next_one, 1.0],
        "below one": [1.0, below],
        "three neighbours": [next_one, 1.0, below],
        "about zero": [denormal, 0.0, -denormal],
        "negative neighbours": [-below, -1.0, -next_one],
        "huge": [big, 0.9 * big],
        "hugely negative": [-0.9 * big, -big],
        "both ends": [big, -big],
        "tiny": [tiny, -tiny],
        "signed zeros": [1.0, 0.0, -0.0, -1.0],
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", extremes(torch.float32))
def test_neighbouring_and_extreme_scores_are_told_apart(name: str, dtype: torch.dtype) -> None:
    """The threshold is a Python float: what it means must survive the comparison with tensors of the scores' dtype."""
    scores = torch.tensor(extremes(dtype)[name], dtype=dtype)
    for bits in range(2 ** len(scores)):
        target = torch.tensor([bool(bits >> k & 1) for k in range(len(scores))])
        for metric in (f1, CATALOGUE["accuracy"], CATALOGUE["recall"]):
            threshold, value = best_threshold(metric, scores, target)
            assert value == every_threshold(metric, scores, target)
            assert metric(scores > threshold, target).item() == value


def test_between_two_scores_the_threshold_lies_halfway() -> None:
    assert best_threshold(f1, torch.tensor([0.75, 0.25]), torch.tensor([1, 0])) == (0.5, 1.0)


def test_among_equals_the_highest_threshold_wins() -> None:
    constant = CountMetric(lambda tp, fp, fn, tn: 0 * tp, undefined=0.0)
    assert best_threshold(constant, torch.tensor([0.75, 0.25]), torch.tensor([1, 0])) == (0.75, 0.0)


def test_constant_scores_are_claimed_all_or_none() -> None:
    scores = torch.full((4,), 0.5)
    threshold, value = best_threshold(f1, scores, torch.tensor([1, 0, 0, 1]))
    assert threshold < 0.5
    assert value == pytest.approx(2 / 3)
    assert best_threshold(CATALOGUE["accuracy"], scores, torch.tensor([1, 0, 0, 0])) == (0.5, 0.75)


def test_the_order_of_the_items_does_not_matter() -> None:
    scores, target = tied(0, 30, levels=8, dtype=torch.float64)
    expected = best_threshold(f1, scores, target)
    for seed in range(5):
        order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
        assert best_threshold(f1, scores[order], target[order]) == expected


def test_scores_may_carry_a_gradient() -> None:
    assert best_threshold(f1, torch.tensor([0.75, 0.25], requires_grad=True), torch.tensor([1, 0])) == (0.5, 1.0)


def test_golden_gaussians() -> None:
    """Lipton 2014: 10% from N(1, 1), the rest from N(0, 1); the best threshold lies where the posterior is F*/2."""
    share = (np.arange(100_000) + 0.5) / 100_000
    quantiles = torch.from_numpy(stats.norm.ppf(share))
    scores = torch.cat([quantiles + 1, *[quantiles] * 9])
    threshold, value = best_threshold(f1, scores, torch.arange(1_000_000) < 100_000)
    # Either rate is off by at most half a step, 5e-6; so is F1, about. Near its maximum F1 falls by .1 t^2.
    assert value == pytest.approx(0.343330, abs=1e-5)
    assert threshold == pytest.approx(1.1234, abs=0.01)
    posterior = 1 / (1 + 9 * math.exp(0.5 - threshold))
    assert posterior == pytest.approx(value / 2, abs=2e-3)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("metric", "scores", "target", "error", "message"),
    [
        (f1_score, torch.zeros(2), torch.zeros(2), TypeError, "LabelMetric, got <function f1_score"),
        (OpaqueMetric(f1_score), torch.zeros(2), torch.zeros(2), TypeError, "LabelMetric, got OpaqueMetric"),
        (f1, torch.zeros(2, dtype=torch.long), torch.zeros(2), TypeError, "needed floating-point"),
        (f1, torch.zeros(2), torch.zeros(3), ValueError, "nothing is broadcast"),
        (f1, torch.zeros(2, 1), torch.zeros(2, 1), ValueError, "needed rows of several items, got (2, 1)"),
        (f1, torch.zeros(0), torch.zeros(0), ValueError, "needed scores of a decision that counts, got (0,)"),
        (f1, torch.zeros(0, 3), torch.zeros(0, 3), ValueError, "needed scores of a decision that counts, got (0, 3)"),
        (f1.ignoring(9), torch.zeros(2), torch.full((2,), 9), ValueError, "needed scores of a decision that counts"),
        (macro(f1, labels=2), torch.zeros(3, 4, 2), torch.zeros(3, 4, 2), ValueError, "needed a table (rows, labels)"),
        (macro(f1, labels=3), torch.zeros(4, 2), torch.zeros(4, 2), ValueError, "needed (rows, 3) for macro_f1"),
        (f1, torch.tensor([0.0, math.inf]), torch.zeros(2), ValueError, "needed finite scores"),
        (f1, torch.tensor([0.0, math.nan]), torch.zeros(2), ValueError, "without NaN, got 1 of 2"),
        (f1, torch.zeros(2), torch.tensor([0, 2]), ValueError, "needed a target of 0 and 1, got 2 at (1,)"),
    ],
)
def test_bad_scores(metric, scores: Tensor, target: Tensor, error, message: str) -> None:
    with pytest.raises(error) as caught:
        best_threshold(metric, scores, target)
    assert message in str(caught.value)


# Rows scored apart, images, labels, ignored items


def every_common_threshold(metric, scores: Tensor, target: Tensor) -> float:
    """The best mean over rows, every threshold that parts the scores tried by itself."""
    cuts = [*(score - 1e-9 for score in scores.double().unique()), math.inf]
    values = metric(torch.stack([scores.double() > float(cut) for cut in cuts]), target)
    return values.reshape(len(cuts), -1).mean(1).max().item()


def table(seed: int, *shape: int, levels: int = 1000) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, shape, generator=generator).double() / 7 - levels / 20
    return scores, torch.rand(shape, generator=generator) < torch.sigmoid(scores / 20) * 0.6


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_no_common_threshold_of_rows_is_better(metric: CountMetric) -> None:
    for seed, (shape, levels) in enumerate([((4, 5), 1000), ((3, 7), 4), ((1, 6), 5), ((6, 2), 30), ((2, 3, 4), 6)]):
        scores, target = table(seed, *shape, levels=levels)
        threshold, value = best_threshold(metric, scores, target)
        assert value == metric(scores > threshold, target).mean().item()
        assert value == pytest.approx(every_common_threshold(metric, scores, target), abs=1e-12)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_no_common_threshold_of_images_is_better(axes: int) -> None:
    for seed in range(5):
        scores, target = table(seed, 3, 4, 5)
        threshold, value = best_threshold(iou.over(axes), scores, target)
        assert value == iou.over(axes)(scores > threshold, target).mean().item()
        assert value == pytest.approx(every_common_threshold(iou.over(axes), scores, target), abs=1e-12)


def test_images_by_themselves_want_another_threshold_than_all_together() -> None:
    """Else the tests of axes would show nothing."""
    images = [table(seed, 3, 4, 5) for seed in range(10)]
    assert any(len({best_threshold(iou.over(axes), *image)[0] for axes in (1, 2, 3)}) == 3 for image in images)


def test_among_common_thresholds_that_are_equal_the_highest_wins() -> None:
    constant = CountMetric(lambda tp, fp, fn, tn: 0 * tp + 0.1, undefined=0.0)
    scores, target = table(0, 7, 9)
    threshold, value = best_threshold(constant, scores, target)
    assert threshold == scores.max().item()
    assert value == pytest.approx(0.1)


@pytest.mark.parametrize("shape", [(12,), (4, 6), (3, 4, 2)])
def test_ignored_items_leave(shape: tuple[int, ...]) -> None:
    """Even where their scores are not a number; rows of one axis are then as if they were not there."""
    for seed in range(6):
        scores, target = table(seed, *shape, levels=9)
        ignored = torch.rand(shape, generator=torch.Generator().manual_seed(seed + 99)) < 0.3
        truth = target.long().masked_fill(ignored, 255)
        metric = f1.over(len(shape[1:]) or 1).ignoring(255)
        threshold, value = best_threshold(metric, scores.masked_fill(ignored, math.nan), truth)
        assert value == metric(scores > threshold, truth).mean().item()
        assert value == pytest.approx(every_common_threshold(metric, scores, truth), abs=1e-12)
        if len(shape) == 1:
            assert best_threshold(f1, scores[~ignored], target[~ignored]) == (threshold, value)


AVERAGES = [macro(f1, labels=3), weighted(f1, labels=3), micro(f1, labels=3)]


@pytest.mark.parametrize("metric", AVERAGES, ids=str)
def test_no_common_threshold_of_labels_is_better(metric) -> None:
    for seed in range(8):
        scores, target = table(seed, 6, 3, levels=12)
        threshold, value = best_threshold(metric, scores, target)
        assert value == metric(scores > threshold, target).item()
        assert value == pytest.approx(every_common_threshold(metric, scores, target), abs=1e-12)


@pytest.mark.parametrize("metric", AVERAGES[:2], ids=str)
def test_thresholds_of_independent_labels_are_the_best_of_all(metric) -> None:
    for seed in range(3):
        scores, target = table(seed, 5, 3, levels=8)
        thresholds, value = best_thresholds(metric, scores, target)
        assert value == metric(scores > thresholds, target).item()
        cuts = [[*(scores[:, label].unique() - 1e-9), math.inf] for label in range(3)]
        every = torch.cartesian_prod(*map(torch.tensor, cuts))
        assert value == pytest.approx(metric(scores > every[:, None], target).max().item(), abs=1e-12)


@pytest.mark.parametrize("metric", [f1, iou, f1.over(2), f1.ignoring(2), f1.over(2).ignoring(2), AVERAGES[2]], ids=repr)
def test_thresholds_of_other_averages_climb_to_where_no_label_can_do_better(metric) -> None:
    rose = 0
    for seed in range(12):
        scores, target = table(seed, 6, 3, levels=12)
        if metric.ignore_index is not None:
            target = target.long()
            target[torch.rand(6, 3, generator=torch.Generator().manual_seed(seed)) < 0.2] = 2
        _, alone = best_threshold(metric, scores, target)
        thresholds, value = best_thresholds(metric, scores, target)
        assert value == metric(scores > thresholds, target).mean().item()
        assert value >= alone
        rose += value > alone
        for label in range(3):
            cuts = [*(scores[:, label].unique() - 1e-9), math.inf]
            changed = [thresholds.index_fill(0, torch.tensor(label), float(cut)) for cut in cuts]
            values = metric(torch.stack([scores > each for each in changed]), target).reshape(len(cuts), -1).mean(1)
            assert values.max().item() <= value + 1e-12
        again, _ = best_thresholds(metric, scores, target)
        assert torch.equal(again, thresholds)
    assert rose > 6  # it was worth it


@pytest.mark.parametrize("metric", [f1.ignoring(2), f1.over(2).ignoring(2), macro(f1, labels=3).ignoring(2)], ids=repr)
def test_a_label_that_no_one_knows_has_the_single_threshold(metric) -> None:
    scores, target = table(0, 6, 3)
    target = target.long()
    target[:, 1] = 2
    thresholds, _ = best_thresholds(metric, scores, target)
    assert thresholds[1] == best_threshold(metric, scores, target)[0]


def test_thresholds_have_the_dtype_of_the_scores() -> None:
    scores, target = table(0, 20, 2, levels=6)
    thresholds, value = best_thresholds(macro(f1, labels=2), scores.half(), target)
    assert thresholds.dtype == torch.float16
    assert value == macro(f1, labels=2)(scores.half() > thresholds, target).item()


@pytest.mark.usefixtures("as_a_user")
def test_scores_that_are_no_table() -> None:
    with pytest.raises(ValueError, match=r"needed scores of shape \(rows, labels\), got \(4,\)"):
        best_thresholds(f1, torch.zeros(4), torch.zeros(4))


@pytest.mark.usefixtures("as_a_user")
def test_the_metric_comes_first() -> None:
    with pytest.raises(TypeError, match=r"got \(3,\) float32; the metric comes first"):
        best_threshold(torch.zeros(3), torch.zeros(3), f1)
