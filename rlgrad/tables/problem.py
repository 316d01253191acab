"""A table as a problem to learn: checked, cut in three and encoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32

from rlgrad.tables.columns import check_finite
from rlgrad.tables.encoding import encode, fit_preprocessor
from rlgrad.tables.names import listed
from rlgrad.tables.parts import duplicate_groups, split
from rlgrad.tables.reading import read_table, with_names
from rlgrad.tables.target import Target, Targets, columns_of, targets

if TYPE_CHECKING:
    import sklearn.compose


class Part(NamedTuple):
    """Rows as a model takes them: the encoded features, and whether each is of the positive class, of each label."""

    x: Float32[np.ndarray, "rows columns"]
    y: Bool[np.ndarray, "rows"] | Bool[np.ndarray, "rows labels"]


@dataclass(frozen=True)
class Parts:
    """A problem cut in three, and the transformer, fitted on the train part, that encoded it."""

    train: Part
    validation: Part
    test: Part
    transformer: "sklearn.compose.ColumnTransformer"


@dataclass(frozen=True)
class Problem:
    """A checked table: what is known of each row, and what is to be predicted.

    Attributes:
        name: what people call it.
        fingerprint: SHA-256 of the data, to tell whether two results are of the same.
        features: all columns but those of the target.
        target: the class of each row, of one label or of several.
    """

    name: str
    fingerprint: str
    features: pd.DataFrame
    target: Target | Targets

    def split(self, *, seed: int, test: float = 0.25, validation: float = 0.2) -> Parts:
        """Cut the rows by :func:`rlgrad.tables.split`, equal ones together, and encode each part."""
        groups, y = duplicate_groups(self.features), self.target.y
        rows = split(self.target, groups, seed=seed, test=test, validation=validation)
        transformer = fit_preprocessor(self.features.iloc[rows.train])
        train, held_out, tested = (
            Part(encode(transformer, self.features.iloc[of_part]), y[of_part]) for of_part in rows
        )
        return Parts(train, held_out, tested, transformer)


def load_problem(
    source: str | Path | pd.DataFrame,
    target: str | Sequence[str],
    *,
    positive: str | None = None,
    header: bool = True,
    name: str | None = None,
) -> Problem:
    """Read and check a table.

    Args:
        source: a file, read by :func:`read_table`, or a table.
        target: the column to predict, taken by :func:`binary_target`; or several, each of two labels, as names or as
            one text with commas between them. A text that is the name of one column means that one.
        positive: the label of the positive class, where it is not the last in sort order; of several columns one for
            all, or one for each with commas between.
        header: whether the first line of a CSV file names the columns.
        name: what to call the problem; by default the file's name without its suffixes, or "table".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the data are not fit for learning; the message says where and why.

    Example:
        >>> parts = load_problem(digits_table(), "is_8").split(seed=0)
        >>> parts.train.x.shape, parts.validation.x.shape, parts.test.x.shape
        ((1077, 64), (270, 64), (450, 64))
    """
    if isinstance(source, pd.DataFrame):
        table = with_names(source)
        data, default_name = table.to_csv(index=False).encode(), "table"
    else:
        table = read_table(source, header=header)
        data, default_name = Path(source).read_bytes(), Path(source).name.partition(".")[0]
    columns = columns_of(table, target)
    labels = targets(table, columns, positive=positive)
    features = table.drop(columns=columns)
    if features.empty:
        pronoun = "it" if len(columns) == 1 else "them"
        raise ValueError(f"needed columns beside {listed(columns)} to predict {pronoun} from, got none; add one")
    check_finite(features)
    return Problem(name or default_name, sha256(data).hexdigest(), features, labels)


def digits_table(digit: int = 8) -> pd.DataFrame:
    """Return scikit-learn's handwritten digits, one against the others: a problem that needs no file.

    Args:
        digit: the one whose rows are 1 in the target column, ``is_8`` or its like.

    Returns:
        1797 rows: the columns ``pixel_0`` to ``pixel_63``, from 0 (white) to 16, and the target.

    Raises:
        ValueError: ``digit`` is not one of 0 to 9.
    """
    from sklearn.datasets import load_digits

    if digit not in range(10):
        raise ValueError(f"needed a digit from 0 to 9, got {digit}; choose one of them")
    digits = load_digits()
    table = pd.DataFrame(digits.data, columns=[f"pixel_{at}" for at in range(digits.data.shape[1])])
    return table.assign(**{f"is_{digit}": (digits.target == digit).astype(int)})
