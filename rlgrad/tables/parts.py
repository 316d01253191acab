"""Rows cut into train, validation and test, with equal rows kept together."""

from math import ceil
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int

from rlgrad.tables.target import Target


class Split(NamedTuple):
    """The row numbers of each part, from 0, ascending."""

    train: Int[np.ndarray, "train"]
    validation: Int[np.ndarray, "validation"]
    test: Int[np.ndarray, "test"]


def duplicate_groups(features: pd.DataFrame) -> Int[np.ndarray, "rows"]:
    """Number the distinct rows 0, 1, ... as they first appear; equal rows have one number.

    Example:
        >>> duplicate_groups(pd.DataFrame({"a": [5, 6, 5], "b": [None, "x", None]})).tolist()
        [0, 1, 0]
    """
    rows = features.groupby(list(features.columns), dropna=False, observed=True, sort=False)
    return np.asarray(rows.ngroup(), dtype=np.int64)


def split(
    target: Target, groups: Int[np.ndarray, "rows"], *, seed: int, test: float = 0.25, validation: float = 0.2
) -> Split:
    """Cut the rows into train, validation and test, each with the same share of either class.

    A group goes to one part as a whole: a row of the test part that is also in the train part would be
    remembered, not predicted. So the shares are shares of groups, a group counts for the class of most of its
    rows (positive on a tie), and validation and test are rounded up within each class.

    Args:
        target: the class of each row.
        groups: the group of each row: :func:`duplicate_groups`, or the caller's own (patients, sites, ...).
        seed: the same seed gives the same parts.
        test: share of the test part; 0 for none.
        validation: share of the validation part in what the test part leaves.

    Raises:
        ValueError: a class has too few groups for one in each part; an argument is out of range.

    Example:
        >>> target = Target("class", ("0", "1"), np.arange(100) < 40)
        >>> [len(rows) for rows in split(target, np.arange(100), seed=0)]
        [60, 15, 25]
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"needed a seed from 0 to 2**32 - 1, got {seed}; choose another")
    if not (0 <= test < 1 and 0 < validation < 1):
        raise ValueError(f"needed 0 <= test < 1 and 0 < validation < 1, got {test=} and {validation=}; choose others")
    if len(groups) != len(target.y):
        raise ValueError(f"needed a group for each of {len(target.y)} rows, got {len(groups)}; pass one each")
    _, groups, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    positive = 2 * np.bincount(groups, weights=target.y) >= sizes
    cuts = [
        _cut(np.flatnonzero(positive == side), f"class {label!r}", seed, test, validation)
        for side, label in enumerate(target.classes)
    ]
    of_each_part = (np.concatenate(both) for both in zip(*cuts, strict=True))
    return Split(*(np.flatnonzero(np.isin(groups, part)) for part in of_each_part))


def _cut(members: Int[np.ndarray, "groups"], what: str, seed: int, test: float, validation: float) -> Split:
    """Cut the groups of one class at random."""
    from sklearn.model_selection import train_test_split

    tested = ceil(test * len(members))
    validated = ceil(validation * (len(members) - tested))
    if validated == 0 or tested + validated >= len(members):
        raise ValueError(
            f"needed distinct rows of {what} for each part, got {len(members)} in all; add rows of "
            "that class, or ask for smaller parts"
        )
    seen, held = train_test_split(members, test_size=tested, random_state=seed) if test else (members, members[:0])
    train, chosen = train_test_split(seen, test_size=validated, random_state=seed)
    return Split(train, chosen, held)
