from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from rlgrad_envs.data import BUILT_IN, Data, Passes, load_data

X = np.arange(12.0).reshape(6, 2)
LABELS = ["no", "yes", "no", "yes", "no", "no"]


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_sets_are_scaled_and_have_a_name_for_each_class(name: str) -> None:
    data = load_data(name, None)
    assert data.features.dtype == np.float32
    assert data.target.dtype == np.int64
    assert abs(data.features.mean(0)).max() < 1e-5
    assert np.isin(data.features.std(0).round(4), [0, 1]).all()
    assert set(data.target) == set(range(len(data.classes)))
    assert load_data(name, None) is data


def test_built_in_targets_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits, load_wine

    np.testing.assert_array_equal(load_data("digits", None).target, load_digits().target == 8)
    np.testing.assert_array_equal(load_data("ten_digits", None).target, load_digits().target)
    np.testing.assert_array_equal(load_data("wine", None).target, load_wine().target)


@pytest.mark.parametrize("kind", ["arrays", "lists", "tensors"])
def test_arrays_are_taken_as_they_are_and_copied(kind: str) -> None:
    x, y = X.copy(), np.array([0, 1, 0, 1, 1, 0])
    given: Any = {"arrays": (x, y), "lists": (x.tolist(), y.tolist()), "tensors": (torch.tensor(x), torch.tensor(y))}
    data = load_data(given[kind], None)
    x[...] = -1
    np.testing.assert_array_equal(data.features, X)
    np.testing.assert_array_equal(data.target, y)
    assert data.classes == ("0", "1")
    with pytest.raises(ValueError, match="read-only"):
        data.features[0] = 0


@pytest.mark.parametrize(
    ("labels", "classes", "target"),
    [
        (LABELS, ("no", "yes"), [0, 1, 0, 1, 0, 0]),
        ([10, 9, 10, 9, 9, 10], ("9", "10"), [1, 0, 1, 0, 0, 1]),
        ([-1.0, 1.0, -1.0, 1.0, 1.0, 1.0], ("-1.0", "1.0"), [0, 1, 0, 1, 1, 1]),
        ([True, False] * 3, ("False", "True"), [1, 0, 1, 0, 1, 0]),
    ],
)
def test_labels_are_numbered_in_sort_order(labels: list[Any], classes: tuple[str, ...], target: list[int]) -> None:
    data = load_data((X, labels), None)
    assert (data.classes, data.target.tolist()) == (classes, target)


def test_lists_are_as_good_as_arrays() -> None:
    arrays, lists = load_data((X, LABELS), None), load_data([X.tolist(), list(LABELS)], None)
    np.testing.assert_array_equal(arrays.features, lists.features)
    np.testing.assert_array_equal(arrays.target, lists.target)
    assert arrays.classes == lists.classes


def test_a_file_is_read_by_the_tables_of_rlgrad(tmp_path: Path) -> None:
    table = pd.DataFrame({"size": [1.0, 2, 3, 4, np.nan, 6], "colour": list("rgbrgb"), "good": LABELS})
    table.to_csv(tmp_path / "table.csv", index=False)
    read, held = load_data(tmp_path / "table.csv", "good"), load_data(table, "good")
    np.testing.assert_array_equal(read.features, held.features)
    assert read.features.shape == (6, 5)  # size, whether it is missing, and three colours
    assert read.classes == ("no", "yes")
    assert load_data(str(tmp_path / "table.csv"), "colour").classes == ("b", "g", "r")


@pytest.mark.parametrize(
    ("data", "target", "error", "message"),
    [
        ((np.where(X == 5, np.nan, X), LABELS), None, ValueError, "needed finite features, got nan in row 2, column 1"),
        ((np.where(X == 5, 1e60, X), LABELS), None, ValueError, r"finite features, got 1e\+60 in row 2"),
        ((X, [0, 1, np.nan, 1, 0, 1]), None, ValueError, "needed a label for each row, got NaN"),
        ((X, ["a", "b", np.nan, "b", "a", "b"]), None, ValueError, "needed a label for each row, got NaN"),
        ((X, ["a", "b", None, "b", "a", "b"]), None, ValueError, "needed a label for each row, got NaN"),
        ((X, LABELS[:5]), None, ValueError, r"needed a label for each of 6 rows, got \(5,\)"),
        ((X[:, 0], LABELS), None, ValueError, r"needed numbers \(rows, columns\) for features, got \(6,\)"),
        ((X.astype(str), LABELS), None, ValueError, "needed numbers"),
        ((X, [1] * 6), None, ValueError, r"needed two classes or more.*got 1 different labels in 6 rows \('1'\)"),
        ((X, X[:, 0]), None, ValueError, "a number to predict is no class"),
        ((X, LABELS), "good", ValueError, "needed no target beside arrays, got target='good'"),
        ("digits", "good", ValueError, "needed no target for a built-in set"),
        ("digit", None, ValueError, r"needed the target's column for the file digit \(built-in sets: digits, ten_dig"),
        ("digit", "good", FileNotFoundError, "digit, which does not exist"),
        (7, None, TypeError, r"needed data=\(features, labels\), a table, a file or a name, got int"),
        (pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), "c", ValueError, "needed a column 'c'"),
        (pd.DataFrame({"b": ["x", "y"] * 2}), "b", ValueError, "needed columns beside 'b'"),
        (pd.DataFrame({"a": [1, 2, 3, 4], "b": ["x", "y", None, "x"]}), "b", ValueError, "got a missing one"),
        (pd.DataFrame({"a": [1, np.inf, 3, 4], "b": ["x", "y"] * 2}), "b", ValueError, "inf in row 2"),
    ],
)
def test_bad_data_are_refused(
    data: Any, target: str | None, error: type[Exception], message: str, as_a_user: None
) -> None:
    with pytest.raises(error, match=message):
        load_data(data, target)


def test_bounds_hold_all_numbers_and_leave_room() -> None:
    assert load_data((X, LABELS), None).bounds == (0.0, 11.0)
    constant = Data(np.ones((2, 2), dtype=np.float32), np.array([0, 1]), ("0", "1"))
    assert constant.bounds == (1.0, 2.0)


def test_passes_depend_on_their_generator_alone() -> None:
    together, alone = Passes(3, 10, 4), Passes(1, 10, 4)
    rngs = [np.random.default_rng(seed) for seed in range(3)]
    own = np.random.default_rng(1)
    drawn = []
    for which in ([0, 1, 2], [0, 1], [1], [0, 1, 2], [1]):
        rows = together.draw(np.array(which), [rngs[at] for at in which])
        assert rows.shape == (len(which), 4)
        np.testing.assert_array_equal(rows[which.index(1)], alone.draw(np.array([0]), [own])[0])
        drawn.append(rows[which.index(1)])
    assert len(set(np.concatenate(drawn[:2]))) == 8
    np.testing.assert_array_equal(together.draw(np.array([0]), [np.random.default_rng(1)])[0], drawn[0])
