"""What a metric scores jointly: which trailing axes are its items, which of these count, and how much."""

import copy
from typing import TypeVar

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from rlgrad.checks import describe, values_visible

Metric = TypeVar("Metric", bound="JointItems")


class JointItems:
    """The two settings that every metric has, as copies: metrics are shared constants and are never changed.

    Attributes:
        item_axes: how many trailing axes of the target are scored jointly: 1 for a list of decisions, 2 for each image
            of ``batch H W`` by itself, 3 for all images of a batch together.
        ignore_index: items with this target count for nothing and have no gradient; None where all count.
    """

    item_axes: int = 1
    ignore_index: int | None = None

    def over(self: Metric, axes: int) -> Metric:
        """The same metric of the last ``axes`` axes jointly.

        Raises:
            ValueError: fewer than one.
        """
        if axes < 1:
            raise ValueError(f"needed at least one axis of items, got {axes}; 1 is the last axis alone")
        return _with(self, "item_axes", axes)

    def ignoring(self: Metric, value: int | None) -> Metric:
        """The same metric without the items whose target is ``value``."""
        return _with(self, "ignore_index", value)

    def split(
        self, target: Shaped[Tensor, "..."], weight: Shaped[Tensor, "..."] | None = None
    ) -> tuple[Shaped[Tensor, "*batch items"], Shaped[Tensor, "*batch items"] | None]:
        """A target of ``*batch *items`` as one axis of items, 0 where ignored, and their weights (None for all 1)."""
        target, weight = split_ignored(target, self.ignore_index, weight)
        return flat_items(target, self.item_axes), None if weight is None else flat_items(weight, self.item_axes)


def _with(metric: Metric, name: str, value: int | None) -> Metric:
    changed = copy.copy(metric)
    setattr(changed, name, value)
    return changed


def flat_items(values: Shaped[Tensor, "..."], axes: int) -> Shaped[Tensor, "*batch items"]:
    """The trailing axes as one, in their order.

    Raises:
        ValueError: there are fewer axes.

    Example:
        >>> flat_items(torch.zeros(4, 2, 3), 2).shape
        torch.Size([4, 6])
    """
    if values.ndim < axes:
        raise ValueError(f"needed {axes} axes of items, got {describe(values)}; see the metric's item_axes")
    return values.flatten(-axes) if axes > 1 else values


def split_ignored(
    target: Shaped[Tensor, "*shape"], ignore_index: int | None, weight: Shaped[Tensor, "*shape"] | None = None
) -> tuple[Shaped[Tensor, "*shape"], Shaped[Tensor, "*shape"] | None]:
    """A target with 0 where it is ignored, and what each item weighs: a mask, weights that are zero there, or None.

    Raises:
        TypeError: weights that are no tensor.
        ValueError: weights of another shape, negative or not finite.
    """
    if weight is not None:
        _check_weight(weight, target)
    if ignore_index is None:
        return target, weight
    keep: Bool[Tensor, "*shape"] = target != ignore_index
    return target.masked_fill(~keep, 0), keep if weight is None else weight * keep


def _check_weight(weight: Tensor, target: Tensor) -> None:
    if not isinstance(weight, Tensor):
        raise TypeError(f"needed a tensor of weights, got {type(weight).__name__}; torch.as_tensor makes one")
    if weight.shape != target.shape:
        raise ValueError(
            f"needed a weight for each item of the target {describe(target)}, got {describe(weight)}; "
            "nothing is broadcast"
        )
    if values_visible() and not (torch.isfinite(weight) & (weight >= 0)).all():
        raise ValueError("needed finite weights of at least 0, got another; leave an item out by the weight 0")
