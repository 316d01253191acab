"""Several target columns: how they are named, what they hold, and rows cut so that each part has all of them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rlgrad.tables import Target, Targets, columns_of, load_problem, split, targets


def songs(rows: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    tempo, pitch = rng.normal(size=(2, rows)).round(3)
    return pd.DataFrame(
        {
            "tempo": tempo,
            "sad": (tempo < -0.3).astype(int),
            "pitch": pitch,
            "calm": np.where(tempo + pitch < 0, "yes", "no"),
            "loud": tempo > 0.5,
        }
    )


def labels_of(y: np.ndarray) -> Targets:
    return Targets(tuple(Target(f"label {at}", ("no", "yes"), column) for at, column in enumerate(y.T.astype(bool))))


# --- names ------------------------------------------------------------------------------------------------------------


def test_several_columns_are_the_target_and_no_features() -> None:
    problem = load_problem(songs(), "calm,sad, loud")
    assert isinstance(problem.target, Targets)
    assert [label.column for label in problem.target.labels] == ["calm", "sad", "loud"]
    assert [label.classes for label in problem.target.labels] == [("no", "yes"), ("0", "1"), ("False", "True")]
    expected = songs().assign(calm=songs()["calm"] == "yes")[["calm", "sad", "loud"]].to_numpy(dtype=bool)
    np.testing.assert_array_equal(problem.target.y, expected)
    assert list(problem.features.columns) == ["tempo", "pitch"]


def test_names_may_be_a_list(tmp_path: Path) -> None:
    songs().to_csv(tmp_path / "songs.csv", index=False)
    assert load_problem(tmp_path / "songs.csv", ["calm", "sad"]).target.y.shape == (200, 2)


def test_one_name_in_a_list_is_a_target_of_one_label() -> None:
    problem = load_problem(songs(), ["calm"])
    assert isinstance(problem.target, Target)
    assert problem.target.y.shape == (200,)


def test_a_column_whose_name_holds_a_comma_wins() -> None:
    table = songs().rename(columns={"calm": "sad,loud"})
    assert load_problem(table, "sad,loud").target.column == "sad,loud"
    assert [label.column for label in load_problem(table, 'sad,"sad,loud"').target.labels] == ["sad", "sad,loud"]


@pytest.mark.parametrize("target", ["", "sad,", ",sad", "sad,,calm", []])
def test_a_name_is_empty(target: str | list[str]) -> None:
    with pytest.raises(ValueError, match="needed names of target columns"):
        columns_of(songs(), target)


@pytest.mark.parametrize("target", ["sad,calm,sad", ["sad", "sad"]])
def test_a_column_twice(target: str | list[str]) -> None:
    with pytest.raises(ValueError, match="needed each target column once, got 'sad' again"):
        load_problem(songs(), target)


def test_no_such_columns() -> None:
    with pytest.raises(ValueError, match="needed a column 'sat', 'calmer', got a table with the similar 'sad', 'calm'"):
        load_problem(songs(), "sat,calmer,loud")


def test_a_header_that_is_data_is_hinted_at() -> None:
    table = pd.DataFrame([[0.5, 1, 0], [0.1, 0, 1]], columns=["0.3", "1", "0"])
    with pytest.raises(ValueError, match=r"needed a column 'sad', 'calm'.*--no-header"):
        load_problem(table, "sad,calm")


def test_columns_by_position_where_there_is_no_header(tmp_path: Path) -> None:
    songs().to_csv(tmp_path / "songs.csv", index=False, header=False)
    problem = load_problem(tmp_path / "songs.csv", "1,3", header=False)
    assert [label.column for label in problem.target.labels] == ["1", "3"]


def test_all_columns_are_targets() -> None:
    with pytest.raises(ValueError, match="needed columns beside 'sad', 'calm', 'loud' to predict them from"):
        load_problem(songs()[["sad", "calm", "loud"]], "sad,calm,loud")


# --- classes ----------------------------------------------------------------------------------------------------------


def test_a_label_that_is_never_positive_is_named() -> None:
    with pytest.raises(ValueError, match=r"needed two classes in column 'sad', got 1 \('0: 200 rows'\)"):
        load_problem(songs().assign(sad=0), "calm,sad")


def test_positive_classes_one_for_each_or_one_for_all() -> None:
    each = targets(songs(), ["calm", "sad"], positive="no,0")
    assert [label.classes for label in each.labels] == [("yes", "no"), ("1", "0")]
    table = songs().assign(sad=np.where(songs()["sad"], "yes", "no"))
    all_the_same = targets(table, ["calm", "sad"], positive="no")
    assert [label.classes for label in all_the_same.labels] == [("yes", "no")] * 2
    with pytest.raises(ValueError, match="needed '0', '1' as the positive class of column 'sad', got 'no'"):
        targets(songs(), ["calm", "sad"], positive="no")


def test_one_label_is_no_several() -> None:
    with pytest.raises(ValueError, match="needed at least two labels, got 1"):
        Targets((Target("sad", ("0", "1"), np.array([True])),))


def test_labels_are_of_the_same_rows() -> None:
    with pytest.raises(ValueError, match=r"needed labels of the same rows, got \[1, 2\]"):
        Targets((Target("a", ("0", "1"), np.array([True])), Target("b", ("0", "1"), np.array([True, False]))))


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_each_part_has_its_share_of_each_class_of_each_label(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.random((1000, 6)) < [0.02, 0.1, 0.3, 0.5, 0.7, 0.97]
    parts = split(labels_of(y), np.arange(1000), seed=seed)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1000))
    for part, share in zip(parts, (0.6, 0.15, 0.25), strict=True):
        assert abs(len(part) - share * 1000) < 5
        assert np.all(abs(y[part].sum(0) - share * y.sum(0)) < 4)


@pytest.mark.parametrize("seed", range(10))
def test_groups_stay_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, groups = rng.random((500, 4)) < 0.3, rng.integers(0, 150, size=500)
    parts = split(labels_of(y), groups, seed=seed)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(500))
    held = [set(groups[part]) for part in parts]
    assert sum(map(len, held)) == len(set(groups))


def test_equal_rows_are_in_one_part() -> None:
    twice = pd.concat([songs(), songs()], ignore_index=True)
    parts = load_problem(twice, "calm,sad,loud").split(seed=0)
    held = [{*map(bytes, part.x)} for part in (parts.train, parts.validation, parts.test)]
    assert sum(map(len, held)) == len(set.union(*held))
    assert parts.train.y.shape == (len(parts.train.x), 3)


def test_the_seed_decides() -> None:
    y = np.random.default_rng(0).random((300, 3)) < 0.3
    first, same, other = (split(labels_of(y), np.arange(300), seed=seed).test for seed in (0, 0, 1))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_three_rows_of_a_class_are_one_for_each_part() -> None:
    y = np.random.default_rng(0).random((300, 3)) < 0.4
    y[:, 1] = np.arange(300) < 3
    for seed in range(10):
        assert [y[part, 1].sum() for part in split(labels_of(y), np.arange(300), seed=seed)] == [1, 1, 1]


@pytest.mark.parametrize("seed", range(10))
def test_no_test_part(seed: int) -> None:
    y = np.random.default_rng(seed).random((300, 8)) < 0.3
    parts = split(labels_of(y), np.arange(300), seed=seed, test=0.0, validation=0.5)
    assert len(parts.test) == 0
    assert abs(len(parts.train) - 150) < 6


@pytest.mark.parametrize(("rare", "word"), [(True, "yes"), (False, "no")])
def test_too_few_rows_of_a_class_name_the_label(rare: bool, word: str) -> None:
    y = np.random.default_rng(0).random((100, 3)) < 0.4
    y[:, 1] = (np.arange(100) < 2) == rare
    with pytest.raises(ValueError, match=f"distinct rows of class '{word}' of 'label 1' for each part, got 2 in all"):
        split(labels_of(y), np.arange(100), seed=0)


def test_labels_that_leave_their_rows_together_are_told() -> None:
    # Any two of four labels share a positive row, and no part can have a positive of each: rows are too few.
    y = np.zeros((60, 6), dtype=bool)
    y[:4] = [[1, 1, 1, 0, 0, 0], [1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 1, 1]]
    y[4:5] = True
    with pytest.raises(ValueError, match=r"class 'yes' of 'label .' in each part, got 3 in all, whose other labels"):
        split(labels_of(y), np.arange(60), seed=0)
