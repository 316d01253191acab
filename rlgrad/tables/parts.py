"""Rows cut into train, validation and test, with equal rows kept together."""

from math import ceil
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from rlgrad.tables.target import Target, Targets


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
    target: Target | Targets,
    groups: Int[np.ndarray, "rows"],
    *,
    seed: int,
    test: float = 0.25,
    validation: float = 0.2,
) -> Split:
    """Cut the rows into train, validation and test, each with the same share of either class.

    A group goes to one part as a whole: a row of the test part that is also in the train part would be
    remembered, not predicted. So the shares are shares of groups, a group counts for the class of most of its
    rows (positive on a tie), and validation and test are rounded up within each class.

    The classes of several labels cannot all be cut exactly, since a row has one of each. They are dealt out one after
    the other, the rarest first, each group to the part that lacks most of that class (iterative stratification).

    Args:
        target: the class of each row, of one label or of several.
        groups: the group of each row: :func:`duplicate_groups`, or the caller's own (patients, sites, ...).
        seed: the same seed gives the same parts.
        test: share of the test part; 0 for none.
        validation: share of the validation part in what the test part leaves.

    Raises:
        ValueError: a class has too few groups for one in each part; an argument is out of range.

    Source: Sechidis, Tsoumakas, Vlahavas, On the stratification of multi-label data (2011), for several labels.

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
    positive = [2 * np.bincount(groups, weights=label.y) >= sizes for label in target.labels]
    if isinstance(target, Target):
        parts = _cut_each_class(target, positive[0], seed, test, validation)
    else:
        parts = _cut_all_labels(target, np.stack(positive), seed, test, validation)
    return Split(*(np.flatnonzero(np.isin(groups, part)) for part in parts))


def _cut_each_class(
    target: Target, positive: Bool[np.ndarray, "groups"], seed: int, test: float, validation: float
) -> Split:
    cuts = [
        _cut(np.flatnonzero(positive == side), f"class {label!r}", seed, test, validation)
        for side, label in enumerate(target.classes)
    ]
    return Split(*(np.concatenate(both) for both in zip(*cuts, strict=True)))


def _cut(members: Int[np.ndarray, "groups"], what: str, seed: int, test: float, validation: float) -> Split:
    """Cut the groups of one class at random."""
    from sklearn.model_selection import train_test_split

    _, validated, tested = _sizes(len(members), what, test, validation)
    seen, held = train_test_split(members, test_size=tested, random_state=seed) if test else (members, members[:0])
    train, chosen = train_test_split(seen, test_size=validated, random_state=seed)
    return Split(train, chosen, held)


def _sizes(members: int, what: str, test: float, validation: float) -> tuple[int, int, int]:
    """How many groups of a class go to train, validation and test."""
    tested = ceil(test * members)
    validated = ceil(validation * (members - tested))
    if validated == 0 or tested + validated >= members:
        raise ValueError(
            f"needed distinct rows of {what} for each part, got {members} in all; add rows of "
            "that class, or ask for smaller parts"
        )
    return members - tested - validated, validated, tested


def _cut_all_labels(
    target: Targets, positive: Bool[np.ndarray, "labels groups"], seed: int, test: float, validation: float
) -> Split:
    """Deal the groups out, the rarest class first, each group to the part that lacks most of the class."""
    of_class = np.concatenate([~positive, positive])
    names = [f"class {label.classes[side]!r} of {label.column!r}" for side in (0, 1) for label in target.labels]
    lacking = np.array([_sizes(int(n), name, test, validation) for n, name in zip(of_class.sum(1), names, strict=True)])
    part = np.full(of_class.shape[1], -1)
    order = np.random.default_rng(seed).permutation(len(part))
    while (open_groups := part < 0).any():
        left = (of_class & open_groups).sum(1)
        rarest = np.where(left > 0, left, len(part) + 1).argmin()
        for group in order[(of_class[rarest] & open_groups)[order]]:
            # What the parts lack adds up to what is left, so a part that is to have none is never chosen.
            part[group] = lacking[rarest].argmax()
            lacking[of_class[:, group], part[group]] -= 1
    parts = Split(*(np.flatnonzero(part == at) for at in range(3)))
    for members, name in zip(of_class, names, strict=True):
        if not all(members[of_part].any() for of_part in parts[: 3 if test else 2]):
            raise ValueError(
                f"needed distinct rows of {name} in each part, got {members.sum()} in all, whose other labels leave "
                "them together; add rows of that class, or try another seed"
            )
    return parts
