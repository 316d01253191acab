import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from rlgrad.tables import check_finite
from rlgrad.tables.columns import as_text, kind, numbers, texts

NUMERIC = {
    "float": pd.Series([1.0, np.nan]),
    "half": pd.Series([1.0, np.nan], dtype="float16"),
    "nullable": pd.Series([1, None], dtype="Int64"),
    "arrow": pd.Series([1, None], dtype="int64[pyarrow]"),
    "decimal": pd.Series([Decimal(1), None]),
    "objects": pd.Series([1, None], dtype=object),
}
TEXT = {
    "str": pd.Series(["1", None]),
    "string": pd.Series(["1", None], dtype="string"),
    "objects": pd.Series(["1", None], dtype=object),
    "quoted": pd.Series([" '1'", None]),
    "category": pd.Series(["1", None], dtype="category"),
    "number category": pd.Series([1, None], dtype="category"),
}
NEITHER = {
    "datetime64": pd.to_datetime(pd.Series(["2020-01-01"])),
    "timedelta64": pd.to_timedelta(pd.Series([1])),
    "date": pd.Series([datetime.date(2020, 1, 1)]),
    "complex": pd.Series([1j]),
    "mixed": pd.Series([[1], [2]]),
    "mixed-integer": pd.Series([1, "a"], dtype=object),
    "bytes": pd.Series([b"a"]),
}


@pytest.mark.parametrize("column", NUMERIC.values(), ids=NUMERIC)
def test_numbers_of_any_type(column: pd.Series) -> None:
    assert kind(column) == "numeric"
    np.testing.assert_array_equal(numbers(column), [1.0, np.nan])


@pytest.mark.parametrize("column", TEXT.values(), ids=TEXT)
def test_text_of_any_type(column: pd.Series) -> None:
    assert kind(column) == "text"
    assert texts(column).tolist() == ["1", "missing"]


@pytest.mark.parametrize("dtype", ["boolean", object, "bool[pyarrow]"])
def test_true_and_false_are_text(dtype: object) -> None:
    column = pd.Series([True, False, None], dtype=dtype)
    assert kind(column) == "text"
    assert texts(column).tolist() == ["True", "False", "missing"]


@pytest.mark.parametrize(("name", "column"), NEITHER.items(), ids=NEITHER)
def test_neither_numbers_nor_text(name: str, column: pd.Series) -> None:
    with pytest.raises(ValueError, match=f"in column 'when', got {name} .*; convert the column or drop it"):
        kind(column.rename("when"))


def test_a_label_reads_the_same_whatever_its_type() -> None:
    assert {as_text(value) for value in (1, 1.0, np.float32(1), "1", "'1'", " '1' ")} == {"1"}
    assert as_text(0.1) == "0.1"
    assert as_text(float("inf")) == "inf"


def test_text_of_numbers_is_numbers() -> None:
    np.testing.assert_array_equal(numbers(pd.Series(["1", " 2.5", None])), [1, 2.5, np.nan])


@pytest.mark.parametrize("value", ["oops", "nan", datetime.date(2020, 1, 1)])
def test_first_value_that_is_no_number_is_named(value: object) -> None:
    column = pd.Series(["1", None, value, "worse"], name="size", dtype=object)
    with pytest.raises(ValueError, match=r"needed numbers in column 'size', got .* in row 3"):
        numbers(column)


def test_finite_and_missing_numbers_pass() -> None:
    check_finite(pd.DataFrame({"a": [1.0, np.nan, 3e38], "b": ["x", None, "inf"]}))


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e39])
def test_infinite_number_is_named(value: float) -> None:
    table = pd.DataFrame({"a": [1.0, 2.0], "b": [np.nan, value]}, index=[10, 20])
    message = f"needed finite numbers, at most 3.4e\\+38 in size, in column 'b', got {value} in row 2"
    with pytest.raises(ValueError, match=message.replace("1e+39", r"1e\+39")):
        check_finite(table)
