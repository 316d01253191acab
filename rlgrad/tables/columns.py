"""Columns, whichever of pandas' many types they have, as one of two kinds: numbers or text."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

# What pandas.api.types.infer_dtype answers for columns that can be encoded, and the kind they are of.
_KINDS = {
    **dict.fromkeys(["integer", "floating", "mixed-integer-float", "decimal"], "numeric"),
    **dict.fromkeys(["string", "boolean", "categorical", "empty"], "text"),
}
_LARGEST = float(np.finfo(np.float32).max)  # models compute in float32, where a larger number is infinite
_MISSING = "missing"  # the category of a missing text


def kind(column: "pd.Series[Any]") -> str:
    """Return "numeric" or "text", the latter also for true/false.

    Raises:
        ValueError: the column is of dates, or of anything else that is neither.
    """
    inferred = pd.api.types.infer_dtype(column, skipna=True)
    if inferred not in _KINDS:
        raise ValueError(
            f"needed numbers, text or true/false in column {column.name!r}, got {inferred} ({column.dtype}); "
            "convert the column or drop it"
        )
    return _KINDS[inferred]


def as_text(value: object) -> str:
    """Return a label as text, the same however a file's reader or writer left it.

    Example:
        >>> as_text(1), as_text(1.0), as_text("1"), as_text(" '1'")
        ('1', '1', '1', '1')
    """
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return str(value).strip(" '")


def texts(column: "pd.Series[Any]") -> Shaped[np.ndarray, "rows"]:
    """Return a column as an array of text without gaps: a missing value is a category of its own."""
    codes, values = pd.factorize(column)  # the code of a missing value is -1: the last of the list
    labels = np.array([*map(as_text, values), _MISSING], dtype=object)
    return np.asarray(labels[codes])


def numbers(column: "pd.Series[Any]") -> Float[np.ndarray, "rows"]:
    """Return a column as numbers, NaN where one is missing.

    Raises:
        ValueError: a value is neither a number nor the text of one.
    """
    if _KINDS.get(pd.api.types.infer_dtype(column, skipna=True)) == "numeric":
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
    values = column.astype(object)
    parsed = np.array([_number(value) for value in values])
    strange = np.flatnonzero(np.isnan(parsed) & values.notna().to_numpy())
    if strange.size:
        raise ValueError(
            f"needed numbers in column {column.name!r}, got {values.iloc[strange[0]]!r} in row "
            f"{strange[0] + 1}; correct it or leave it empty"
        )
    return parsed


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return np.nan


def check_finite(table: pd.DataFrame) -> None:
    """Raise if a number of the table is infinite, or would be in float32. NaN is not: it is a missing value.

    Raises:
        ValueError: names the column, the row and the value; or a column is neither of numbers nor of text.
    """
    for name in table.columns:
        if kind(table[name]) == "numeric":
            values = numbers(table[name])
            infinite = np.flatnonzero(np.abs(values) > _LARGEST)
            if infinite.size:
                raise ValueError(
                    f"needed finite numbers, at most {_LARGEST:.1e} in size, in column {name!r}, got "
                    f"{values[infinite[0]]} in row {infinite[0] + 1}; correct it or leave it empty"
                )
