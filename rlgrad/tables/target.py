"""The target of a table: which rows are of the positive class."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Shaped

from rlgrad.tables.columns import as_text, kind, texts
from rlgrad.tables.names import check_columns, listed


@dataclass(frozen=True)
class Target:
    """What is to be predicted: one class against the other.

    Attributes:
        column: the name of the column.
        classes: the label of the negative and that of the positive class, as text.
        y: whether the row is of the positive class.
    """

    column: str
    classes: tuple[str, str]
    y: Bool[np.ndarray, "rows"]


def binary_target(table: pd.DataFrame, column: str, *, positive: str | None = None) -> Target:
    """Take a column of two labels as the target.

    The positive class is the last of the two in sort order, as in scikit-learn; it is never guessed from how
    frequent it is. Labels that are numbers sort as numbers. Spaces and single quotes around a label do not
    belong to it.

    Args:
        table: the data.
        column: the name of the column.
        positive: the label of the positive class, where it is not the last.

    Raises:
        ValueError: there is no such column; a label is missing; the labels are not two; ``positive`` is
            none of them.

    Example:
        >>> target = binary_target(pd.DataFrame({"class": ["'-1'", "'1'", "'-1'"]}), "class")
        >>> target.classes, target.y.tolist()
        (('-1', '1'), [False, True, False])
    """
    check_columns(table, [column])
    labels = _labels(table, column)
    classes = _two_classes(labels, column)
    if positive is not None:
        positive = as_text(positive)
        if positive not in classes:
            raise ValueError(f"needed {listed(classes)} as the positive class, got {positive!r}; name one of the two")
        classes = (classes[0] if positive == classes[1] else classes[1], positive)
    return Target(column, classes, labels == classes[1])


def _labels(table: pd.DataFrame, column: str) -> Shaped[np.ndarray, "rows"]:
    missing = np.flatnonzero(table[column].isna())
    if missing.size:
        raise ValueError(
            f"needed a label in each row of column {column!r}, got {missing.size} missing, the first in "
            f"row {missing[0] + 1}; remove these rows"
        )
    kind(table[column])  # dates and lists are no labels
    return texts(table[column])


def _two_classes(labels: Shaped[np.ndarray, "rows"], column: str) -> tuple[str, str]:
    """Return the two labels in sort order."""
    values, counts = np.unique(labels, return_counts=True)
    if len(values) != 2:
        frequent = [f"{values[at]}: {counts[at]} rows" for at in np.argsort(-counts, kind="stable")]
        raise ValueError(
            f"needed two classes in column {column!r}, got {len(values)} ({listed(frequent)}); "
            "name another column, or make it one class against the others"
        )
    try:
        first, last = sorted(values.tolist(), key=float)
    except ValueError:
        first, last = values.tolist()
    return first, last
