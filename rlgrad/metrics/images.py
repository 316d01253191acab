"""Scores of whole images: objects found, counted and outlined, which no single pixel can tell.

The statistics are functions of one image, ``H W`` or a volume, on the processor: tensors or arrays, which they do not
change. A pixel is 1 for foreground, 0 for background, and a negative target pixel is void: it counts for neither. So
``panoptic_quality().ignoring(-1)`` leaves out the pixels marked -1. The metrics score images ``H W``; for volumes give
the statistic to a SummedMetric or an OpaqueMetric with three axes.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rlgrad.metrics.arrays import Numbers, Row, aligned, whole_numbers
from rlgrad.metrics.opaque import OpaqueMetric
from rlgrad.metrics.summed import SummedMetric

Mask = Bool[np.ndarray, "..."]
Distances = Float[np.ndarray, " _"]
Score = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def panoptic_counts(
    decision: Row, target: Row, *, connectivity: int = 1, instances: bool = False
) -> tuple[float, int, int, int]:
    """Objects found, and how well they are covered: (sum of the matches' IoU, tp, fp, fn).

    The objects that a decision claims are its connected components. A claimed object matches a true one if their
    intersection over union is above one half, so that none can have two matches: two disjoint objects cannot both
    cover more than half of a third.

    Args:
        decision: yes or no for each pixel.
        target: yes or no, its components being the objects; or the number of its object for each pixel.
        connectivity: 1 joins pixels that share an edge; 2 also those that share a corner.
        instances: the target numbers the objects, from 1; 0 is background. Touching objects then stay apart.

    Returns:
        The sum of IoU over matches, matches, claimed objects without one, true objects without one.

    Raises:
        TypeError, ValueError: the decision is not yes or no, the target nothing of the kind, their shapes differ, or
            there is no such connectivity.

    Source: Kirillov, He, Girshick, Rother, Dollár, Panoptic segmentation (2019).

    Example:
        >>> panoptic_counts(np.array([[1, 1, 0, 1]]), np.array([[1, 1, 1, 0]]))
        (0.6666666666666666, 1, 1, 0)
    """
    claimed, true = _objects(decision, target, connectivity, instances)
    both, width = (claimed > 0) & (true > 0), int(true.max(initial=0)) + 1
    pairs, overlap = np.unique(claimed[both] * width + true[both], return_counts=True)
    of_claimed, of_true = _areas(claimed), _areas(true)
    union = of_claimed[pairs // width] + of_true[pairs % width] - overlap
    match = 2 * overlap > union
    tp = int(match.sum())
    iou_sum = float((overlap[match] / union[match]).sum())
    return iou_sum, tp, _objects_among(of_claimed) - tp, _objects_among(of_true) - tp


def object_counts(decision: Row, target: Row, *, connectivity: int = 1, instances: bool = False) -> tuple[int, int]:
    """How many objects are claimed, and how many there are; arguments and errors as for ``panoptic_counts``.

    Example:
        >>> object_counts(np.array([[1, 1, 0, 1]]), np.array([[1, 1, 1, 0]]))
        (2, 1)
    """
    claimed, true = map(_areas, _objects(decision, target, connectivity, instances))
    return _objects_among(claimed), _objects_among(true)


def boundary(mask: Row) -> Mask:
    """The foreground pixels that share an edge with background, or lie at the image's edge.

    Void is neither: what the foreground does there is not known, and no boundary is drawn against it.

    Raises:
        TypeError, ValueError: the mask is not of 1, 0 and negative numbers.

    Example:
        >>> boundary(np.ones((3, 3), dtype=bool)).astype(int)
        array([[1, 1, 1],
               [1, 0, 1],
               [1, 1, 1]])
    """
    return _outline(_yes_no(whole_numbers(mask, what="mask"), what="mask"))


def surface_distances(decision: Row, target: Row) -> tuple[Distances, Distances]:
    """How far each boundary pixel lies from the nearest one of the other's boundary, in pixels.

    Args:
        decision: yes or no for each pixel.
        target: yes or no for each pixel.

    Returns:
        Distances of the claimed boundary pixels to the true boundary, and of the true ones to the claimed boundary;
        infinite where there is none.

    Raises:
        TypeError, ValueError: one is not yes or no, or their shapes differ.

    Example:
        >>> surface_distances(np.array([[1, 1, 0, 0]]), np.array([[0, 0, 0, 1]]))
        (array([3., 2.]), array([2.]))
    """
    claimed, true = map(_outline, _masks(decision, target))
    return _distance_to(true)[claimed], _distance_to(claimed)[true]


def boundary_counts(decision: Row, target: Row, *, tolerance: int | float = 2.0) -> tuple[int, int, int, int]:
    """Boundary pixels that lie within a tolerance of the other's boundary, among all.

    Args:
        decision: yes or no for each pixel.
        target: yes or no for each pixel.
        tolerance: the largest distance in pixels that counts as near.

    Returns:
        Claimed boundary pixels near the true boundary, all claimed ones, true ones near the claimed boundary, all
        true ones.

    Raises:
        TypeError, ValueError: as ``surface_distances``; a tolerance that is negative or not finite.

    Example:
        >>> boundary_counts(np.array([[1, 1, 0, 0]]), np.array([[0, 0, 0, 1]]))
        (1, 2, 1, 1)
    """
    _check_tolerance(tolerance)
    from_claimed, from_true = surface_distances(decision, target)
    near_claimed, near_true = (from_claimed <= tolerance).sum(), (from_true <= tolerance).sum()
    return int(near_claimed), len(from_claimed), int(near_true), len(from_true)


def hausdorff_distance(
    decision: Row, target: Row, *, percentile: int | float = 95.0, empty: int | float | None = None
) -> float:
    """The percentile of the surface distances, in pixels: the larger one of the two directions.

    The usual one of the two conventions (MONAI, DeepMind's surface-distance); the other takes the percentile of both
    directions' distances together (MedPy). Percentiles between two distances are interpolated.

    Args:
        decision: yes or no for each pixel.
        target: yes or no for each pixel.
        percentile: 100 for the Hausdorff distance itself, which a single stray pixel decides.
        empty: the distance if one of the two is empty and the other not; by default the image's diagonal, which no
            distance exceeds. If both are empty it is 0.

    Raises:
        TypeError, ValueError: as ``surface_distances``; a percentile that is not between 0 and 100.

    Source: Huttenlocher, Klanderman, Rucklidge, Comparing images using the Hausdorff distance (1993); Maier-Hein et
        al., Metrics reloaded (2024).

    Example:
        >>> hausdorff_distance(np.array([[1, 1, 0, 0]]), np.array([[0, 0, 0, 1]]), percentile=100)
        3.0
    """
    if not 0 <= percentile <= 100:
        raise ValueError(f"needed a percentile from 0 to 100, got {percentile}; 95 is usual")
    distances = surface_distances(decision, target)
    sizes = [len(of_side) for of_side in distances]
    if 0 in sizes:
        return 0.0 if not any(sizes) else math.hypot(*decision.shape) if empty is None else float(empty)
    return float(max(np.percentile(of_side, percentile) for of_side in distances))


def panoptic_quality(*, connectivity: int = 1, instances: bool = False) -> SummedMetric:
    """Panoptic quality of yes/no masks: the matches' IoU, with a share of the objects missed or made up.

    PQ = sum of IoU over matches / (tp + fp / 2 + fn / 2), over all images of a batch, and 1 where there is no object
    and none is claimed. It is ``segmentation_quality`` times ``recognition_quality``; ``.apart()`` scores each image.

    Args:
        connectivity: 1 joins pixels that share an edge; 2 also those that share a corner.
        instances: the target numbers the objects, from 1; see ``panoptic_counts``.

    Raises:
        ValueError: there is no such connectivity.

    Source: Kirillov et al., Panoptic segmentation (2019).

    Example:
        >>> decision = torch.tensor([[[True, True, False, True]]])
        >>> panoptic_quality()(decision, torch.tensor([[[1, 1, 1, 0]]]))
        tensor(0.4444, dtype=torch.float64)
    """
    return _of_objects(_panoptic_quality, "panoptic_quality", 1.0, connectivity, instances)


def segmentation_quality(*, connectivity: int = 1, instances: bool = False) -> SummedMetric:
    """Mean IoU of the matches, SQ = sum of IoU / tp, and 0 where there are none; see ``panoptic_quality``.

    It is for reports: by itself it rewards a model for claiming nothing but what is easy.
    """
    return _of_objects(_segmentation_quality, "segmentation_quality", 0.0, connectivity, instances)


def recognition_quality(*, connectivity: int = 1, instances: bool = False) -> SummedMetric:
    """F1 of objects, RQ = tp / (tp + fp / 2 + fn / 2), and 1 where there are none; see ``panoptic_quality``."""
    return _of_objects(_recognition_quality, "recognition_quality", 1.0, connectivity, instances)


def object_count_error(*, connectivity: int = 1, instances: bool = False) -> OpaqueMetric:
    """Minus the difference between the numbers of objects claimed and true, of each image; see ``object_counts``.

    Example:
        >>> decision = torch.tensor([[True, False, True]])
        >>> object_count_error()(decision, torch.tensor([[1, 1, 0]]))
        tensor(-1., dtype=torch.float64)
    """
    _check_connectivity(connectivity, axes=2)
    counts = partial(object_counts, connectivity=connectivity, instances=instances)
    return OpaqueMetric(lambda d, t: -abs(float(np.subtract(*counts(d, t)))), item_axes=2, name="minus_count_error")


def boundary_f1(tolerance: int | float = 2.0) -> OpaqueMetric:
    """F1 of boundary pixels, of each image: near is found.

    2 precision recall / (precision + recall), with precision the share of the claimed boundary that lies within the
    tolerance of the true one, and recall the share of the true boundary that lies so near to the claimed one. It is 1
    if neither has a boundary and 0 if one has.

    Args:
        tolerance: the largest distance in pixels that counts as near.

    Raises:
        ValueError: the tolerance is negative or not finite.

    Source: Csurka, Larlus, Perronnin, What is a good evaluation measure for semantic segmentation? (2013).

    Example:
        >>> boundary_f1()(torch.tensor([[True, True, False, False]]), torch.tensor([[0, 0, 0, 1]]))
        tensor(0.6667, dtype=torch.float64)
    """
    return _of_boundaries(_boundary_f1, "boundary_f1", tolerance)


def surface_dice(tolerance: int | float = 2.0) -> OpaqueMetric:
    """Share of all boundary pixels, claimed and true, that lie near the other's boundary, of each image.

    Known as normalised surface distance, NSD. It is 1 if neither has a boundary and 0 if one has. Pixels are counted,
    as in MONAI; DeepMind's surface-distance weighs them by the length of boundary in each.

    Args:
        tolerance: the largest distance in pixels that counts as near.

    Raises:
        ValueError: the tolerance is negative or not finite.

    Source: Nikolov et al., Deep learning to achieve clinically applicable segmentation of head and neck anatomy for
        radiotherapy (2018).

    Example:
        >>> surface_dice()(torch.tensor([[True, True, False, False]]), torch.tensor([[0, 0, 0, 1]]))
        tensor(0.6667, dtype=torch.float64)
    """
    return _of_boundaries(_surface_dice, "surface_dice", tolerance)


def hausdorff95(*, empty: int | float | None = None) -> OpaqueMetric:
    """Minus the 95th percentile of surface distances in pixels, of each image; see ``hausdorff_distance``.

    Args:
        empty: the distance if one of the two is empty and the other not; the image's diagonal by default.

    Example:
        >>> hausdorff95()(torch.tensor([[True, True, False, False]]), torch.tensor([[0, 0, 0, 1]]))
        tensor(-2.9500, dtype=torch.float64)
    """
    return OpaqueMetric(lambda d, t: -hausdorff_distance(d, t, empty=empty), item_axes=2, name="minus_hausdorff95")


def _panoptic_quality(iou_sum: Tensor, tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
    return iou_sum / (tp + fp / 2 + fn / 2)


def _segmentation_quality(iou_sum: Tensor, tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
    return iou_sum / tp


def _recognition_quality(iou_sum: Tensor, tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
    return tp / (tp + fp / 2 + fn / 2)


def _boundary_f1(near_claimed: Tensor, claimed: Tensor, near_true: Tensor, true: Tensor) -> Tensor:
    # Precision and recall over a common denominator: a product of counts, so below 1 only at 0/0.
    either = near_claimed * true + near_true * claimed
    return 2 * near_claimed * near_true / torch.where(claimed + true > 0, either.clamp_min(1), 0)


def _surface_dice(near_claimed: Tensor, claimed: Tensor, near_true: Tensor, true: Tensor) -> Tensor:
    return (near_claimed + near_true) / (claimed + true)


def _of_objects(score: Score, name: str, undefined: float, connectivity: int, instances: bool) -> SummedMetric:
    _check_connectivity(connectivity, axes=2)
    statistic = partial(panoptic_counts, connectivity=connectivity, instances=instances)
    return SummedMetric(statistic, score, undefined=undefined, row_axes=2, name=name)


def _of_boundaries(score: Score, name: str, tolerance: int | float) -> OpaqueMetric:
    _check_tolerance(tolerance)
    statistic = partial(boundary_counts, tolerance=tolerance)
    return SummedMetric(statistic, score, undefined=1.0, row_axes=2, name=name).apart()


def _masks(decision: Row, target: Row) -> tuple[Numbers, Numbers]:
    claimed, true = aligned(decision, target)
    claimed[true < 0] = -1
    return _yes_no(claimed, what="decision"), _yes_no(true, what="target")


def _objects(decision: Row, target: Row, connectivity: int, instances: bool) -> tuple[Numbers, Numbers]:
    """The number of its object for each pixel, 0 where there is none."""
    claimed, true = aligned(decision, target)
    claimed[true < 0] = -1
    components = _components(_yes_no(claimed, what="decision"), connectivity)
    if instances:
        return components, _small_numbers(np.maximum(true, 0))
    return components, _components(_yes_no(true, what="target", advice="; instances=True takes numbers"), connectivity)


def _components(mask: Numbers, connectivity: int) -> Numbers:
    from scipy import ndimage

    _check_connectivity(connectivity, axes=mask.ndim)
    structure = None if connectivity == 1 else ndimage.generate_binary_structure(mask.ndim, connectivity)
    objects: Numbers = ndimage.label(mask > 0, structure)[0].astype(np.int64)
    return objects


def _areas(objects: Numbers) -> Int64[np.ndarray, " objects"]:
    return np.bincount(objects.ravel(), minlength=1)


def _objects_among(areas: Int64[np.ndarray, " objects"]) -> int:
    return int(np.count_nonzero(areas[1:]))  # a target may leave numbers out


def _small_numbers(objects: Numbers) -> Numbers:
    """Numbers that are fit to be counted up to: the same, unless they are larger than the image."""
    if objects.max(initial=0) <= objects.size:
        return objects
    _, numbers = np.unique(np.append(0, objects), return_inverse=True)  # with 0, which stays background
    return numbers[1:].reshape(objects.shape)


def _outline(mask: Numbers) -> Mask:
    from scipy import ndimage

    outline: Mask = (mask > 0) & ~ndimage.binary_erosion(mask != 0)
    return outline


def _distance_to(pixels: Mask) -> Float[np.ndarray, "..."]:
    from scipy import ndimage

    if not pixels.any():
        return np.full(pixels.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(~pixels))


def _yes_no(values: Numbers, *, what: str, advice: str = "") -> Numbers:
    if values.max(initial=0) > 1:
        raise ValueError(
            f"needed a {what} of 0 and 1, or negative where ignored, got {int(values.max())}{advice}; "
            "choose a negative ignore_index"
        )
    return values


def _check_tolerance(tolerance: int | float) -> None:
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"needed a tolerance of 0 pixels or more, got {tolerance}; 2 is usual for small images")


def _check_connectivity(connectivity: int, *, axes: int) -> None:
    if connectivity not in range(1, axes + 1):
        raise ValueError(f"needed a connectivity from 1 to {axes}, got {connectivity}; 1 joins pixels at edges alone")
