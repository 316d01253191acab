"""The rows that an environment is played with: arrays, a table, a file, or a set that comes with scikit-learn."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int, Int64, Shaped

from rlgrad.tables import check_finite, digits_table, encode, fit_preprocessor, read_table
from rlgrad.tables.columns import texts
from rlgrad.tables.names import check_columns, listed

DataArgument: TypeAlias = str | Path | pd.DataFrame | tuple[Any, Any] | list[Any]

BUILT_IN = ("digits", "ten_digits", "breast_cancer", "iris", "wine")


@dataclass(frozen=True)
class Data:
    """Rows and the class of each, which are read only.

    ``torch.tensor`` of both is what ``rlgrad.fit`` and other learners take.

    Attributes:
        features: what is known of each row, finite.
        target: number of its class, an index of ``classes``.
        classes: names, in sort order; of two the last is the positive one.
    """

    features: Float32[np.ndarray, "rows columns"]
    target: Int64[np.ndarray, " rows"]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        self.features.flags.writeable = self.target.flags.writeable = False

    def __len__(self) -> int:
        return len(self.target)

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest number among the features, or one more, where all are equal."""
        low, high = float(self.features.min()), float(self.features.max())
        return low, high if low < high else low + 1


def load_data(data: DataArgument, target: str | None) -> Data:
    """The rows that an argument ``data`` means.

    Args:
        data: two arrays, features ``(rows, columns)`` and a label for each row, the features taken as they are; a
            table or a file, read by ``rlgrad.tables``: numbers are scaled to mean 0 and variance 1, a missing one
            becomes the median and a further column says so, text becomes columns of 0 and 1; or the name of a set of
            scikit-learn, scaled likewise: "digits" (is it an 8?), "ten_digits", "breast_cancer", "iris", "wine".
        target: the column to predict, of a table or file; None for the others.

    Raises:
        TypeError: the data are none of these.
        ValueError: numbers are not finite, a label is missing, or there are not two classes at least.
        FileNotFoundError: there is no such file.

    Example:
        >>> data = load_data("digits", None)
        >>> data.features.shape, data.target.sum(), data.classes
        ((1797, 64), np.int64(174), ('0', '1'))
    """
    check_target(data, target)
    if isinstance(data, str) and data in BUILT_IN:
        return _built_in(data)
    if isinstance(data, str | Path | pd.DataFrame):
        return _of_table(data if isinstance(data, pd.DataFrame) else read_table(data), str(target))
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError(f"needed data=(features, labels), a table, a file or a name, got {type(data).__name__}")
    features, labels = data
    # NumPy turns a missing label in a list of texts into the text "nan".
    return _of_arrays(np.asarray(features), np.asarray(labels, dtype=object if isinstance(labels, list) else None))


def check_target(data: object, target: object) -> None:
    """A table or a file has a target's column; arrays and a built-in set have none.

    Raises:
        ValueError: it is missing, or there is one too many.
    """
    named = isinstance(data, str | Path) and data not in BUILT_IN
    if named or isinstance(data, pd.DataFrame):
        hint = f" for the file {data} (built-in sets: {', '.join(BUILT_IN)})" if named else ""
        if target is None:
            raise ValueError(f"needed the target's column{hint}, got target=None; name it by target=")
    elif target is not None:
        beside = "for a built-in set" if isinstance(data, str) else "beside arrays"
        raise ValueError(f"needed no target {beside}, got target={target!r}; leave it out")


@lru_cache
def _built_in(name: str) -> Data:
    from sklearn import datasets

    if name == "digits":
        return _of_table(digits_table(), "is_8")
    loaded = getattr(datasets, f"load_{name.removeprefix('ten_')}")()
    table = pd.DataFrame(loaded.data).rename(columns=str)
    return _of_table(table.assign(target=loaded.target_names[loaded.target]), "target")


def _of_table(table: pd.DataFrame, target: str) -> Data:
    check_columns(table, [target])
    if table[target].isna().any():
        raise ValueError(f"needed a label in each row of column {target!r}, got a missing one; remove these rows")
    features = table.drop(columns=target)
    if features.empty:
        raise ValueError(f"needed columns beside {target!r} to predict it from, got none; add one")
    check_finite(features)
    return _of_labels(encode(fit_preprocessor(features), features), texts(table[target]))


def _of_arrays(features: Shaped[np.ndarray, "..."], labels: Shaped[np.ndarray, "..."]) -> Data:
    if features.ndim != 2 or features.dtype.kind not in "biuf" or not features.size:
        raise ValueError(f"needed numbers (rows, columns) for features, got {features.shape} {features.dtype}")
    if labels.shape != (len(features),):
        raise ValueError(f"needed a label for each of {len(features)} rows, got {labels.shape}; reshape the labels")
    with np.errstate(over="ignore"):  # found at once
        x = features.astype(np.float32)
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise ValueError(f"needed finite features, got {features[row, column]} in row {row}, column {column}")
    if pd.isna(labels).any() or (labels.dtype.kind == "f" and np.isinf(labels).any()):
        raise ValueError("needed a label for each row, got NaN, infinity or none; remove these rows")
    return _of_labels(x, labels.astype(str) if labels.dtype == object else labels)


def _of_labels(features: Float32[np.ndarray, "rows columns"], labels: Shaped[np.ndarray, " rows"]) -> Data:
    values, target = np.unique(labels, return_inverse=True)
    names = [str(value) for value in values]
    if len(values) < 2 or 2 * len(values) > max(len(labels), 4):
        raise ValueError(
            f"needed two classes or more, each of some rows, got {len(values)} different labels in {len(labels)} rows "
            f"({listed(names)}); a number to predict is no class"
        )
    order = _sorted(names)
    rank = np.argsort(order).astype(np.int64)
    return Data(features, rank[target], tuple(names[at] for at in order))


def _sorted(names: Sequence[str]) -> Int64[np.ndarray, " classes"]:
    """Where each name in sort order is; names that are numbers sort as numbers."""
    try:
        keys = np.array([float(name) for name in names])
    except ValueError:
        keys = np.array(names)
    return np.argsort(keys, kind="stable").astype(np.int64)


class Passes:
    """Rows drawn without replacement, pass after pass, for each of n episodes from its own generator.

    Each goes through all rows in a random order, so many at a time, and then through another order; the rows that are
    too few for a draw are left out of the pass. A new generator begins a new pass.

    Args:
        n: how many episodes.
        rows: how many rows there are.
        size: how many are drawn at a time, from 1 to ``rows``.
    """

    def __init__(self, n: int, rows: int, size: int) -> None:
        self.rows, self.size = rows, size
        self.order = np.zeros((n, rows), dtype=np.int32)
        self.at = np.zeros(n, dtype=np.int64)
        self.rngs: list[np.random.Generator | None] = [None] * n

    def draw(
        self, which: Int[np.ndarray, " some"], rngs: Sequence[np.random.Generator]
    ) -> Int[np.ndarray, "some size"]:
        """The next rows of some episodes, each of which draws from its generator where its pass is over."""
        for episode, rng in zip(which, rngs, strict=True):
            if self.rngs[episode] is not rng or self.at[episode] + self.size > self.rows:
                self.order[episode] = rng.permutation(self.rows)
                self.at[episode] = 0
                self.rngs[episode] = rng
        drawn: Int[np.ndarray, "some size"] = self.order[which[:, None], self.at[which][:, None] + np.arange(self.size)]
        self.at[which] += self.size
        return drawn
