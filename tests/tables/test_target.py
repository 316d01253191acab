import numpy as np
import pandas as pd
import pytest

from rlgrad.tables import binary_target


def table_of(labels: object, dtype: object = None) -> pd.DataFrame:
    return pd.DataFrame({"class": pd.Series(labels, dtype=dtype)})


@pytest.mark.parametrize(
    ("labels", "dtype", "classes"),
    [
        ([0, 1, 0], None, ("0", "1")),
        ([0.0, 1.0, 0.0], None, ("0", "1")),
        ([-1, 1, -1], "Int64", ("-1", "1")),
        (["'-1'", " '1'", "'-1'"], None, ("-1", "1")),
        (["9", "10", "9"], None, ("9", "10")),  # as text, "10" would come first
        (["no", "yes", "no"], None, ("no", "yes")),
        (["no", "yes", "no"], "category", ("no", "yes")),
        ([False, True, False], None, ("False", "True")),
        ([False, True, False], "boolean", ("False", "True")),
    ],
)
def test_last_label_in_sort_order_is_positive(labels: list[object], dtype: object, classes: tuple[str, str]) -> None:
    target = binary_target(table_of(labels, dtype), "class")
    assert target.classes == classes
    assert target.y.dtype == bool
    assert target.y.tolist() == [False, True, False]


def test_frequency_does_not_matter() -> None:
    assert binary_target(table_of(["a", "b", "b", "b"]), "class").y.tolist() == [False, True, True, True]


@pytest.mark.parametrize(("positive", "classes"), [("no", ("yes", "no")), ("'yes'", ("no", "yes"))])
def test_positive_class_by_name(positive: str, classes: tuple[str, str]) -> None:
    target = binary_target(table_of(["no", "yes", "no"]), "class", positive=positive)
    assert target.classes == classes
    np.testing.assert_array_equal(target.y, np.array(["no", "yes", "no"]) == classes[1])


def test_positive_class_of_numbers_is_named_by_text() -> None:
    assert binary_target(table_of([0.0, 1.0]), "class", positive="0").y.tolist() == [True, False]


def test_positive_class_of_another_name() -> None:
    with pytest.raises(ValueError, match="needed 'no', 'yes' as the positive class of column 'class', got 'maybe'"):
        binary_target(table_of(["no", "yes"]), "class", positive="maybe")


def test_no_such_column_offers_close_names() -> None:
    table = pd.DataFrame({"klass": [0], "size": [1], "weight": [2]})
    with pytest.raises(ValueError, match="needed a column 'class', got a table with the similar 'klass'; correct"):
        binary_target(table, "class")


def test_no_such_column_lists_a_few() -> None:
    table = pd.DataFrame([[0] * 7], columns=list("abcdefg"))
    with pytest.raises(ValueError, match=r"got a table with 'a', 'b', 'c', 'd', 'e' and 2 more; correct the name$"):
        binary_target(table, "class")


def test_header_that_is_data_is_hinted_at() -> None:
    with pytest.raises(ValueError, match=r"every name is a number: .* header=False or --no-header"):
        binary_target(pd.DataFrame([[0, 1]], columns=["0.23", "'-1'"]), "class")


def test_names_by_position_are_no_such_header() -> None:
    with pytest.raises(ValueError, match=r"got a table with '0', '1'; correct the name$"):
        binary_target(pd.DataFrame([[0, 1]], columns=["0", "1"]), "class")


def test_missing_labels() -> None:
    with pytest.raises(ValueError, match="of column 'class', got 2 missing, the first in row 2; remove"):
        binary_target(table_of(["a", None, "b", None]), "class")


def test_one_class() -> None:
    with pytest.raises(ValueError, match=r"needed two classes in column 'class', got 1 \('0: 3 rows'\)"):
        binary_target(table_of([0, 0, 0]), "class")


def test_many_classes_the_most_frequent_first() -> None:
    with pytest.raises(ValueError, match=r"got 7 \('6: 2 rows', '0: 1 rows', .* and 2 more\)"):
        binary_target(table_of([0, 1, 2, 3, 4, 5, 6, 6]), "class")


def test_dates_are_no_labels() -> None:
    with pytest.raises(ValueError, match="in column 'class', got datetime64"):
        binary_target(table_of(pd.to_datetime(["2020-01-01", "2020-01-02"])), "class")
