"""Scores of whole images against MONAI, torchmetrics, and searches pixel by pixel."""

import math
import pickle
from itertools import product

import numpy as np
import pytest
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from scipy import ndimage
from scipy.spatial.distance import cdist
from torch import Tensor
from torchmetrics.functional.detection import panoptic_quality as torchmetrics_quality

from rlgrad import MetricLoss
from rlgrad.estimators import enumeration, score_function
from rlgrad.metrics import OpaqueMetric, SummedMetric
from rlgrad.metrics.images import (
    boundary,
    boundary_counts,
    boundary_f1,
    hausdorff95,
    hausdorff_distance,
    object_count_error,
    object_counts,
    panoptic_counts,
    panoptic_quality,
    recognition_quality,
    segmentation_quality,
    surface_dice,
    surface_distances,
)
from rlgrad.policies import Bernoulli

Pixel = tuple[int, ...]
of_monai = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # its own affair


def images(count: int, *, size: int = 24) -> np.ndarray:
    """Masks with blobs of all sizes, and bare noise among them."""
    rng = np.random.default_rng(0)
    smooth = [ndimage.gaussian_filter(rng.standard_normal((size, size)), rng.choice([0, 1, 3])) for _ in range(count)]
    return np.array([values > rng.choice([0.0, 0.1]) for values in smooth])


IMAGES = images(40)
PAIRS = [(claimed, np.logical_or(true, claimed) if i % 2 else true) for i, (claimed, true) in enumerate(
    zip(IMAGES[:20], IMAGES[20:], strict=True)
)]  # fmt: skip
EMPTY = np.zeros_like(IMAGES[0])
NEAR = [step for step in product([-1, 0, 1], repeat=2) if any(step)]


def flood(mask: np.ndarray, connectivity: int) -> list[set[Pixel]]:
    """Components by filling from each pixel that is left."""
    steps = [step for step in NEAR if sum(map(abs, step)) <= connectivity]
    left, found = set(map(tuple, np.argwhere(mask > 0).tolist())), []
    while left:
        component, edge = set(), [left.pop()]
        while edge:
            component.add(pixel := edge.pop())
            around = {(pixel[0] + dy, pixel[1] + dx) for dy, dx in steps} & left
            left -= around
            edge += around
        found.append(component)
    return found


def quality_by_hand(claimed: list[set[Pixel]], true: list[set[Pixel]]) -> tuple[float, int, int, int]:
    overlaps = [len(one & other) / len(one | other) for one in claimed for other in true]
    matches = [overlap for overlap in overlaps if overlap > 0.5]
    return sum(matches), len(matches), len(claimed) - len(matches), len(true) - len(matches)


def outline_by_hand(mask: np.ndarray) -> list[Pixel]:
    padded = np.pad(mask, 1)
    return [(y, x) for y, x in np.argwhere(mask > 0).tolist()
            if any(padded[y + 1 + dy, x + 1 + dx] == 0 for dy, dx in NEAR if dy * dx == 0)]  # fmt: skip


# Objects


@pytest.mark.parametrize("connectivity", [1, 2])
def test_objects_are_matched_as_by_comparing_every_two(connectivity: int) -> None:
    matches = 0
    for claimed, true in PAIRS:
        counts = panoptic_counts(claimed, true, connectivity=connectivity)
        objects = flood(claimed, connectivity), flood(true, connectivity)
        expected = quality_by_hand(*objects)
        assert counts[1:] == expected[1:]
        assert counts[0] == pytest.approx(expected[0], rel=1e-12)
        assert object_counts(claimed, true, connectivity=connectivity) == tuple(map(len, objects))
        matches += counts[1]
    assert matches > 20


def numbered(mask: np.ndarray, numbers: list[int]) -> np.ndarray:
    """Objects cut at the middle of the image, so that some touch, numbered from a list."""
    labels, count = ndimage.label(mask)
    labels[:, mask.shape[1] // 2 :] += np.where(labels[:, mask.shape[1] // 2 :] > 0, count, 0)
    return np.append(0, np.resize(numbers, 2 * count) + np.arange(2 * count) // len(numbers) * 1000)[labels]


@pytest.mark.parametrize("numbers", [list(range(1, 500)), [7, 10**12, 3, 500, 123456]], ids=["counted up", "any"])
def test_numbered_objects_may_touch_and_leave_numbers_out(numbers: list[int]) -> None:
    for claimed, mask in PAIRS:
        true = numbered(mask, numbers)
        objects = [set(map(tuple, np.argwhere(true == n).tolist())) for n in np.unique(true[true > 0])]
        counts = panoptic_counts(claimed, true, instances=True)
        expected = quality_by_hand(flood(claimed, 1), objects)
        assert counts[1:] == expected[1:]
        assert counts[0] == pytest.approx(expected[0], rel=1e-12)
        assert object_counts(claimed, true, instances=True) == (len(flood(claimed, 1)), len(objects))


def test_an_image_that_numbered_objects_fill() -> None:
    ones = np.ones((2, 3), dtype=bool)
    assert panoptic_counts(ones, np.array([[1, 1, 1], [10**6] * 3]), instances=True) == (0.0, 0, 1, 2)
    assert panoptic_counts(ones, np.full((2, 3), 10**6), instances=True) == (1.0, 1, 0, 0)
    assert object_counts(EMPTY, EMPTY) == (0, 0)


def test_half_an_overlap_is_no_match() -> None:
    assert panoptic_counts(np.array([[1, 1]]), np.array([[1, 0]])) == (0.0, 0, 1, 1)
    assert panoptic_counts(np.array([[1, 1, 1]]), np.array([[1, 1, 0]])) == (2 / 3, 1, 0, 0)


def test_qualities_of_many_images_are_those_of_torchmetrics() -> None:
    claimed, true = (np.array(side) for side in zip(*PAIRS, strict=True))
    true = np.array([numbered(mask, list(range(1, 500))) for mask in true])
    labels = np.array([ndimage.label(mask)[0] for mask in claimed])
    coloured = [torch.tensor(np.stack([numbers > 0, numbers], -1).astype(np.int64)) for numbers in (labels, true)]
    quality, of_segments, of_objects = torchmetrics_quality(
        *coloured, things={1}, stuffs={0}, return_sq_and_rq=True, return_per_class=True
    )[0]
    row = torch.from_numpy(claimed), torch.from_numpy(true)
    assert float(panoptic_quality(instances=True)(*row)) == pytest.approx(float(quality), rel=1e-6)
    assert float(segmentation_quality(instances=True)(*row)) == pytest.approx(float(of_segments), rel=1e-6)
    assert float(recognition_quality(instances=True)(*row)) == pytest.approx(float(of_objects), rel=1e-6)


def test_nothing_to_find_and_nothing_claimed() -> None:
    nothing = torch.zeros(2, 4, 4, dtype=torch.bool)
    assert panoptic_quality()(nothing, nothing) == recognition_quality()(nothing, nothing) == 1
    assert segmentation_quality()(nothing, nothing) == 0
    something = nothing.clone()
    something[0, 1, 1] = True
    for metric in (panoptic_quality(), segmentation_quality(), recognition_quality()):
        assert metric(something, nothing) == metric(nothing, something) == 0


def test_miscounts_are_worse_the_larger_they_are() -> None:
    claimed, true = (torch.from_numpy(np.array(side)) for side in zip(*PAIRS, strict=True))
    expected = [-abs(len(flood(a, 1)) - len(flood(b, 1))) for a, b in PAIRS]
    assert object_count_error()(claimed, true).tolist() == expected
    assert min(expected) < 0


# Boundaries


def test_the_boundary_is_that_of_every_pixel_by_itself() -> None:
    for mask in IMAGES[:10]:
        assert list(map(tuple, np.argwhere(boundary(mask)).tolist())) == outline_by_hand(mask)


def test_surface_distances_are_the_least_of_all_pairs() -> None:
    for claimed, true in PAIRS:
        between = cdist(outline_by_hand(claimed), outline_by_hand(true))
        for distances, axis in zip(surface_distances(claimed, true), (1, 0), strict=True):
            np.testing.assert_allclose(distances, between.min(axis), rtol=0, atol=1e-12)


@pytest.mark.parametrize("tolerance", [0, 1, math.sqrt(2), 2.0, 3.5])
def test_f1_of_the_boundary_by_its_definition(tolerance: float) -> None:
    for claimed, true in PAIRS:
        near = cdist(outline_by_hand(claimed), outline_by_hand(true)) <= tolerance
        precision, recall = near.any(1).mean(), near.any(0).mean()
        expected = 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)
        found = boundary_f1(tolerance)(torch.from_numpy(claimed), torch.from_numpy(true))
        assert float(found) == pytest.approx(expected, rel=1e-12)


def one_hot(mask: np.ndarray) -> Tensor:
    return torch.from_numpy(mask)[None, None].float()


@of_monai
@pytest.mark.parametrize("tolerance", [1, 2.0])
def test_surface_dice_is_that_of_monai(tolerance: float) -> None:
    for claimed, true in PAIRS:
        expected = compute_surface_dice(one_hot(claimed), one_hot(true), [float(tolerance)], include_background=True)
        found = surface_dice(tolerance)(torch.from_numpy(claimed), torch.from_numpy(true))
        assert float(found) == pytest.approx(float(expected), rel=1e-6)


@of_monai
@pytest.mark.parametrize("percentile", [50, 95, 100])
def test_hausdorff_distance_is_that_of_monai(percentile: int) -> None:
    for claimed, true in PAIRS:
        expected = compute_hausdorff_distance(
            one_hot(claimed), one_hot(true), include_background=True, percentile=percentile
        )
        assert hausdorff_distance(claimed, true, percentile=percentile) == pytest.approx(float(expected), rel=1e-5)
        if percentile == 95:
            assert float(hausdorff95()(torch.from_numpy(claimed), torch.from_numpy(true))) == pytest.approx(
                -float(expected), rel=1e-5
            )


def test_no_boundary_on_one_side_is_worst_and_on_both_is_best() -> None:
    ones, nothing = torch.ones(4, 3, 4, dtype=torch.bool), torch.zeros(4, 3, 4, dtype=torch.bool)
    for metric in (boundary_f1(), surface_dice()):
        assert metric(nothing, nothing).tolist() == [1.0] * 4
        assert metric(nothing, ones).tolist() == metric(ones, nothing).tolist() == [0.0] * 4
    assert hausdorff95()(nothing, nothing).tolist() == [0.0] * 4
    assert hausdorff95()(ones, nothing).tolist() == hausdorff95()(nothing, ones).tolist() == [-5.0] * 4
    assert hausdorff95(empty=9)(nothing, ones).tolist() == [-9.0] * 4


def test_boundaries_too_far_apart_share_nothing() -> None:
    decision, target = torch.zeros(2, 9, 9).bool(), torch.zeros(9, 9)
    decision[0, 0, 0], target[8, 8] = True, 1
    decision[1] = target.bool()
    assert boundary_f1()(decision, target).tolist() == surface_dice()(decision, target).tolist() == [0.0, 1.0]
    assert boundary_counts(decision[0], target) == (0, 1, 0, 1)


# What is asked for


def test_volumes_are_scored_alike() -> None:
    claimed, true = (np.stack([side, EMPTY, side]) for side in PAIRS[3])
    plane = panoptic_counts(*PAIRS[3], connectivity=2)
    assert panoptic_counts(claimed, true, connectivity=2) == pytest.approx([2 * count for count in plane])
    assert boundary_counts(claimed, true)[1] == 2 * PAIRS[3][0].sum()  # each is the boundary of its slice
    metric = SummedMetric(panoptic_counts, lambda iou, tp, fp, fn: tp + fp, undefined=0.0, row_axes=3)
    assert metric(torch.from_numpy(claimed)[None], torch.from_numpy(true)[None]) == 2 * len(flood(claimed[0], 1))


def test_void_counts_for_neither_and_bounds_nothing() -> None:
    target = torch.tensor([[[1, 1, -1, -1, 0, 0, 0], [1, 1, -1, -1, 0, 0, 1]]])
    decision = torch.tensor([[[1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0, 1]]]).bool()
    assert panoptic_quality().ignoring(-1)(decision, target) == 1
    assert panoptic_counts(decision[0], target[0]) == (2.0, 2, 0, 0)
    assert panoptic_counts(decision[0], target[0], instances=True) == (0.8, 1, 1, 0)  # 4 of 5 pixels of object 1
    assert boundary_counts(decision[0], target[0], tolerance=0) == (5, 5, 5, 5)
    assert boundary(target[0]).tolist() == [[True, True] + [False] * 5, [True, True] + [False] * 4 + [True]]
    for metric in (boundary_f1(0), surface_dice(0), hausdorff95(), object_count_error()):
        assert metric.ignoring(-1)(decision, target).tolist() == [float(metric.name in ("boundary_f1", "surface_dice"))]


def test_the_open_middle_of_a_mask_that_void_surrounds_is_no_boundary() -> None:
    middle = np.full((5, 5), -1)
    middle[1:4, 1:4] = 1
    assert not boundary(middle).any()
    middle[2, 2] = 0
    assert boundary(middle).sum() == 4


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float32, torch.bfloat16])
def test_targets_of_any_dtype_and_arrays_that_may_not_be_written(dtype: torch.dtype) -> None:
    claimed, true = PAIRS[0]
    expected = panoptic_counts(claimed, true), boundary_counts(claimed, true)
    target = torch.from_numpy(true).to(dtype)
    locked = claimed.copy()
    locked.flags.writeable = False
    assert (panoptic_counts(locked, target), boundary_counts(locked, target)) == expected
    assert np.array_equal(locked, claimed)
    assert torch.equal(target, torch.from_numpy(true).to(dtype))


METRICS = [
    panoptic_quality(),
    panoptic_quality(connectivity=2, instances=True),
    segmentation_quality(),
    recognition_quality(),
    object_count_error(),
    boundary_f1(),
    surface_dice(1.0),
    hausdorff95(),
]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_draws_and_batches_are_scored_one_by_one(metric: OpaqueMetric | SummedMetric) -> None:
    decision, target = torch.from_numpy(IMAGES[:24]).reshape(2, 3, 4, 24, 24), torch.from_numpy(IMAGES[24:36])
    target = target.reshape(3, 4, 24, 24).long()
    scores = metric(decision, target)
    assert scores.shape == ((2, 3) if isinstance(metric, SummedMetric) else (2, 3, 4))
    for draw, row in product(range(2), range(3)):
        assert torch.equal(scores[draw, row], metric(decision[draw, row], target[row]))
    apart = metric.apart() if isinstance(metric, SummedMetric) else metric
    assert apart(decision, target).shape == (2, 3, 4)
    assert torch.equal(apart(decision[0, 0], target[0]), apart(decision, target)[0, 0])


def test_statistics_can_be_sent_to_workers() -> None:
    counts, score = pickle.loads(pickle.dumps((panoptic_quality().statistic, boundary_f1().function)))
    pair = torch.from_numpy(PAIRS[0][0]), torch.from_numpy(PAIRS[0][1])
    assert counts(*pair) == panoptic_counts(*pair)
    assert score(*pair) == boundary_f1()(*pair)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: panoptic_counts(np.ones((2, 2)), np.ones((2, 2))), TypeError, r"needed a decision.*float64; decide"),
        (lambda: panoptic_counts(np.ones((2, 3), int), np.ones((3, 2))), ValueError, r"shape \(3, 2\), got \(2, 3\)"),
        (lambda: panoptic_counts(np.ones((2, 2), int), np.full((2, 2), 2)), ValueError, "got 2; instances=True"),
        (lambda: panoptic_counts(np.full((2, 2), 2), np.ones((2, 2))), ValueError, "needed a decision of 0 and 1"),
        (lambda: panoptic_counts(np.ones((2, 2), int), np.full((2, 2), 0.5)), ValueError, "whole numbers"),
        (lambda: panoptic_counts(np.ones((2, 2), int), np.full((2, 2), np.nan)), ValueError, "whole numbers"),
        (lambda: panoptic_counts(np.ones((2, 2), int), np.array([["a", "b"]] * 2)), TypeError, "needed a target"),
        (lambda: panoptic_counts(EMPTY, EMPTY, connectivity=3), ValueError, "from 1 to 2, got 3"),
        (lambda: panoptic_quality(connectivity=0), ValueError, "from 1 to 2, got 0"),
        (lambda: object_count_error(connectivity=0), ValueError, "from 1 to 2, got 0"),
        (lambda: boundary_f1(-1), ValueError, "tolerance"),
        (lambda: surface_dice(math.inf), ValueError, "tolerance"),
        (lambda: boundary_counts(EMPTY, EMPTY, tolerance=math.nan), ValueError, "tolerance"),
        (lambda: boundary(np.array([[0, 3]])), ValueError, "needed a mask of 0 and 1"),
        (lambda: hausdorff_distance(EMPTY, EMPTY, percentile=101), ValueError, "from 0 to 100, got 101"),
    ],
)
def test_bad_input_is_refused(call, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_a_positive_void_is_refused_not_taken_for_an_object() -> None:
    target = torch.tensor([[[1, 0, 255, 255]]])
    with pytest.raises(RuntimeError, match="choose a negative ignore_index"):
        boundary_f1().ignoring(255)(target == 1, target)


# Gradients

LOGITS = torch.tensor([[[0.4, -0.3, 0.8]], [[-0.2, 1.1, 0.1]]], dtype=torch.float64)  # two images of 1 by 3
TARGET = torch.tensor([[[1, 1, 0]], [[1, 0, 1]]])


def quality_of(decision: tuple[int, ...]) -> float:
    """Panoptic quality of both images, by hand."""
    sums = np.zeros(4)
    for row, true in zip(np.array(decision).reshape(2, 1, 3), TARGET.numpy(), strict=True):
        sums += quality_by_hand(flood(row, 1), flood(true, 1))
    return float(sums[0] / (sums[1] + sums[2] / 2 + sums[3] / 2))


def expected_by_hand() -> tuple[float, np.ndarray]:
    """E[quality] over all outcomes, and its central differences in the logits."""
    outcomes = np.array(list(product([0, 1], repeat=6)))
    scores = np.array([quality_of(tuple(outcome)) for outcome in outcomes.tolist()])

    def expected(logits: np.ndarray) -> float:
        p = 1 / (1 + np.exp(-logits))
        return float(np.prod(np.where(outcomes == 1, p, 1 - p), 1) @ scores)

    z, step = LOGITS.numpy().ravel(), 1e-5
    return expected(z), np.array([(expected(z + e) - expected(z - e)) / 2 / step for e in step * np.eye(6)])


def test_gradient_of_expected_panoptic_quality() -> None:
    value, gradient = expected_by_hand()
    logits = LOGITS.clone().requires_grad_()
    loss = MetricLoss(panoptic_quality(), enumeration())(logits, TARGET)
    loss.backward()
    assert 1 - loss.item() == pytest.approx(value, abs=1e-12)
    np.testing.assert_allclose(-logits.grad.numpy().ravel(), gradient, rtol=0, atol=1e-9)
    assert abs(gradient).min() > 0.005


class Drawn(Bernoulli):
    """A policy with every pair of outcomes as its two draws, each pair in a row of its own."""

    def sample(self, draws: int, *, generator: torch.Generator | None = None) -> Tensor:
        outcomes = torch.tensor(list(product([False, True], repeat=6)))
        return torch.stack([outcomes.repeat_interleave(64, 0), outcomes.repeat(64, 1)])


def test_the_score_function_estimator_has_that_gradient_in_the_mean() -> None:
    value, gradient = expected_by_hand()
    logits = LOGITS.reshape(6).expand(64**2, 6).clone().requires_grad_()
    policy = Drawn(logits)
    pairs = policy.sample(2)
    # Only the first 64 pairs have different second draws; all scores are looked up there.
    scores = panoptic_quality()(pairs[1, :64].reshape(64, 2, 1, 3), TARGET)
    place = 2 ** torch.arange(5, -1, -1)
    estimate = score_function(draws=2)(policy, lambda decision: scores[(decision * place).sum(-1)])
    expected = (estimate * policy.log_prob(pairs).sum((0, -1)).exp().detach()).sum()
    expected.backward()
    assert expected.item() == pytest.approx(value, abs=1e-12)
    np.testing.assert_allclose(logits.grad.sum(0).numpy(), gradient, rtol=0, atol=1e-9)
