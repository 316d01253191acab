"""The target of a table: which rows are of the positive class."""

import csv
from collections.abc import Sequence
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

    @property
    def labels(self) -> "tuple[Target, ...]":
        """Itself: the one label there is."""
        return (self,)


@dataclass(frozen=True)
class Targets:
    """What is to be predicted where that is several labels: for each of them, one class against the other.

    Attributes:
        labels: the target of each column, two at least.

    Raises:
        ValueError: there are fewer than two; two are of one column, or of different rows.
    """

    labels: tuple[Target, ...]

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise ValueError(f"needed at least two labels, got {len(self.labels)}; one is a Target by itself")
        _check_once([label.column for label in self.labels])
        if len({len(label.y) for label in self.labels}) > 1:
            raise ValueError(f"needed labels of the same rows, got {[len(label.y) for label in self.labels]} rows")

    @property
    def y(self) -> Bool[np.ndarray, "rows labels"]:
        """Whether the row is of the positive class of the label."""
        return np.stack([label.y for label in self.labels], axis=1)


def _check_once(columns: Sequence[str]) -> None:
    repeated = [name for name in dict.fromkeys(columns) if columns.count(name) > 1]
    if repeated:
        raise ValueError(f"needed each target column once, got {listed(repeated)} again; name it once")


def columns_of(table: pd.DataFrame, target: str | Sequence[str]) -> list[str]:
    """The names of the target columns, which a text may hold with commas between.

    A text that is itself the name of a column is that one, whatever commas it holds. A name with a comma among
    several is put in double quotes.

    Args:
        table: the data.
        target: one name, several in one text, or several.

    Raises:
        ValueError: a name is empty or there twice, or there is none.

    Example:
        >>> table = pd.DataFrame(columns=["a", "b", "c,d"])
        >>> columns_of(table, "a,b"), columns_of(table, "c,d"), columns_of(table, 'a,"c,d"')
        (['a', 'b'], ['c,d'], ['a', 'c,d'])
    """
    if isinstance(target, str):
        whole = target in table.columns or "," not in target
        names = [target] if whole else [name.strip() for name in next(csv.reader([target], skipinitialspace=True))]
    else:
        names = list(target)
    if not names or not all(names):
        raise ValueError(f"needed names of target columns, got {target!r}; write them with one comma between: a,b,c")
    _check_once(names)
    return names


def targets(table: pd.DataFrame, columns: Sequence[str], *, positive: str | None = None) -> Target | Targets:
    """Take columns of two labels each as the target: a Target of one column, Targets of several.

    Args:
        table: the data.
        columns: their names.
        positive: as in :func:`binary_target`; of several columns one for all, or one for each with commas between.

    Raises:
        ValueError: as :func:`binary_target`; a column is there twice.
    """
    check_columns(table, columns)
    if len(columns) == 1:
        return binary_target(table, columns[0], positive=positive)
    named = [] if positive is None else positive.split(",")
    if 1 < len(named) != len(columns) and positive not in texts(table[columns[0]]):
        raise ValueError(
            f"needed one positive class for all columns, or one for each of {len(columns)}, got {positive!r}; name "
            "them in the order of the columns"
        )
    each = named if len(named) == len(columns) else [positive] * len(columns)
    return Targets(tuple(binary_target(table, name, positive=label) for name, label in zip(columns, each, strict=True)))


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
            raise ValueError(
                f"needed {listed(classes)} as the positive class of column {column!r}, got {positive!r}; name one of "
                "the two"
            )
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
