import numpy as np
import pandas as pd
import pytest

from rlgrad.tables import Split, Target, duplicate_groups, split


def target_of(y: np.ndarray) -> Target:
    return Target("class", ("no", "yes"), y.astype(bool))


def rare(rows: int = 1000, share: float = 0.1) -> Target:
    return target_of(np.random.default_rng(0).random(rows) < share)


def check_partition(parts: Split, rows: int) -> None:
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(rows))
    assert all(np.all(np.diff(part) > 0) for part in parts)


def test_equal_rows_have_one_number() -> None:
    features = pd.DataFrame(
        {
            "number": [1.0, 1.0, np.nan, np.nan, 1.0],
            "text": ["a", "a", None, None, "b"],
            "category": pd.Categorical(["u", "u", None, None, "u"], categories=["u", "v"]),
            "nullable": pd.array([1, 1, None, None, 1], dtype="Int64"),
        }
    )
    assert duplicate_groups(features).tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("seed", range(20))
def test_groups_stay_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target, groups = target_of(rng.random(500) < 0.2), rng.integers(0, 150, size=500)
    parts = split(target, groups, seed=seed)
    check_partition(parts, 500)
    held = [set(groups[part]) for part in parts]
    assert sum(map(len, held)) == len(set(groups))
    assert all(len(set(target.y[part])) == 2 for part in parts)


@pytest.mark.parametrize("seed", range(5))
def test_each_part_has_its_share_of_each_class(seed: int) -> None:
    target = rare()
    parts = split(target, np.arange(1000), seed=seed)
    for label in (False, True):
        count = np.sum(target.y == label)
        for part, share in zip(parts, (0.6, 0.15, 0.25), strict=True):
            assert abs(np.sum(target.y[part] == label) - share * count) < 2


def test_seed_decides() -> None:
    first, same, other = (split(rare(), np.arange(1000), seed=seed).test for seed in (0, 0, 1))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_no_test_part() -> None:
    parts = split(rare(), np.arange(1000), seed=0, test=0.0, validation=0.5)
    check_partition(parts, 1000)
    assert parts.test.size == 0
    assert abs(parts.train.size - 500) < 2


def test_three_rows_of_a_class_are_one_for_each_part() -> None:
    target = target_of(np.arange(753 + 3) < 3)
    for seed in range(10):
        assert [target.y[part].sum() for part in split(target, np.arange(756), seed=seed)] == [1, 1, 1]


def test_group_of_both_classes_counts_as_that_of_most_rows() -> None:
    y = np.array([0, 0, 1] + [1, 0] + [0, 1] * 6)  # the first group is of class no, the second, a tie, of class yes
    groups = np.concatenate([[0] * 3, [1] * 2, np.arange(2, 14)])
    alone = split(target_of(np.array([0, 1] * 7)), np.arange(14), seed=3)
    together = split(target_of(y), groups, seed=3)
    assert [set(groups[part]) for part in together] == [set(part) for part in alone]


def test_inputs_may_be_read_only_and_group_numbers_any() -> None:
    target, groups = rare(), np.arange(1000) * 7 - 3
    target.y.flags.writeable = groups.flags.writeable = False
    check_partition(split(target, groups, seed=0), 1000)


def test_too_few_rows_of_a_class() -> None:
    with pytest.raises(ValueError, match="distinct rows of class 'yes' for each part, got 2 in all"):
        split(target_of(np.arange(100) < 2), np.arange(100), seed=0)


def test_copies_of_a_row_are_one() -> None:
    groups = np.where(np.arange(100) < 10, 0, np.arange(100))
    with pytest.raises(ValueError, match="distinct rows of class 'yes' for each part, got 1 in all"):
        split(target_of(np.arange(100) < 10), groups, seed=0)


def test_parts_too_large() -> None:
    with pytest.raises(ValueError, match="or ask for smaller parts"):
        split(target_of(np.arange(8) < 4), np.arange(8), seed=0, test=0.9)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match=r"needed a seed from 0 to 2\*\*32 - 1, got"):
        split(rare(), np.arange(1000), seed=seed)


@pytest.mark.parametrize(("test", "validation"), [(1.0, 0.2), (-0.1, 0.2), (0.2, 0.0), (0.2, 1.0), (float("nan"), 0.2)])
def test_share_out_of_range(test: float, validation: float) -> None:
    with pytest.raises(ValueError, match="needed 0 <= test < 1 and 0 < validation < 1"):
        split(rare(), np.arange(1000), seed=0, test=test, validation=validation)


def test_groups_of_another_length() -> None:
    with pytest.raises(ValueError, match="needed a group for each of 1000 rows, got 999"):
        split(rare(), np.arange(999), seed=0)
