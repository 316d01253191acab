"""One row's decision and target as NumPy arrays of whole numbers, for statistics that look at them one by one."""

import numpy as np
from jaxtyping import Int64, Shaped
from torch import Tensor

Row = Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."]
Numbers = Int64[np.ndarray, "..."]


def whole_numbers(values: Row, *, what: str) -> Numbers:
    """The values in int64; the array is the caller's own.

    Args:
        values: bool or integer; a target may be whole numbers in floating point.
        what: the word for the message, ``target`` or ``decision``.

    Raises:
        TypeError: decisions in floating point: scores or probabilities are never rounded by guess.
        ValueError: a target that is not whole.

    Example:
        >>> whole_numbers(np.array([1.0, 0.0, -1.0]), what="target")
        array([ 1,  0, -1])
    """
    array = _as_array(values)
    if array.dtype.kind in "biu":
        return array.astype(np.int64)
    if what == "decision" or array.dtype.kind != "f":
        raise TypeError(f"needed a {what} of bool or integers, got {_describe(array)}; decide first, as by logits > 0")
    if not (np.isfinite(array) & (array == np.rint(array))).all():
        raise ValueError(
            f"needed a {what} of whole numbers, got {_describe(array)} with others; map it to whole numbers"
        )
    return array.astype(np.int64)


def aligned(decision: Row, target: Row) -> tuple[Numbers, Numbers]:
    """Both as whole numbers, place by place.

    Raises:
        TypeError, ValueError: as ``whole_numbers``; shapes differ.
    """
    numbers, true = whole_numbers(decision, what="decision"), whole_numbers(target, what="target")
    if numbers.shape != true.shape:
        raise ValueError(
            f"needed a decision of the target's shape {true.shape}, got {numbers.shape}; this scores one row, "
            "a metric takes draws and batches"
        )
    return numbers, true


def _as_array(values: Row) -> Shaped[np.ndarray, "..."]:
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.double() if values.is_floating_point() else values).numpy()  # NumPy has no bfloat16


def _describe(array: Shaped[np.ndarray, "..."]) -> str:
    return f"{array.shape} {array.dtype}"
