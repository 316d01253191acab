"""Tables into float32 arrays, by scikit-learn transformers that are saved and loaded without pickle."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float32

from rlgrad.files import replacing
from rlgrad.tables.columns import check_finite, kind, numbers, texts
from rlgrad.tables.names import check_columns, check_file

if TYPE_CHECKING:  # scikit-learn and skops take seconds to import, so the functions that need them do it
    import sklearn.compose

_CATEGORIES = 50  # columns that one column of text may become; without a limit, one of names would become thousands

# What a preprocessor holds beyond the types that skops trusts by itself: the dtype that SimpleImputer
# remembers, which skops stores as an empty array.
_TRUSTED = ["numpy.dtype"]


def fit_preprocessor(features: pd.DataFrame) -> "sklearn.compose.ColumnTransformer":
    """Fit what turns each row into numbers; fit it on the rows of training alone, then :func:`encode`.

    Numbers are scaled to mean 0 and variance 1; a missing one becomes the median, and a further column says
    so. Text and true/false become a column of 0 and 1 for each category; missing is a category, and the
    rarest of more than 50 share one. A category that training did not hold counts as rare if any was, else
    as none.

    Raises:
        ValueError: a column is of dates, or of anything else that is neither numbers nor text.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    kinds = {name: kind(features[name]) for name in features.columns}
    numeric = [name for name in kinds if kinds[name] == "numeric"]
    text = [name for name in kinds if kinds[name] == "text"]
    impute = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    one_hot = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=_CATEGORIES, sparse_output=False)
    transformer = ColumnTransformer(
        [("numeric", make_pipeline(impute, StandardScaler()), numeric), ("text", one_hot, text)]
    )
    return transformer.fit(_uniform(features, numeric, text))


def encode(
    transformer: "sklearn.compose.ColumnTransformer", table: pd.DataFrame
) -> Float32[np.ndarray, "rows columns"]:
    """Turn the rows of a table into an array, by the columns of training; further columns are ignored.

    Args:
        transformer: what :func:`fit_preprocessor` returned.
        table: the rows, perhaps none.

    Raises:
        ValueError: a column of training is absent, or no longer one of numbers; a number is infinite, or
            becomes so when it is scaled as those of training were.

    Example:
        >>> train = pd.DataFrame({"size": [1.0, 3.0], "colour": ["red", "blue"]})
        >>> encode(fit_preprocessor(train), train)
        array([[-1.,  0.,  1.],
               [ 1.,  1.,  0.]], dtype=float32)
    """
    columns = {name: list(names) for name, _, names in transformer.transformers_}
    check_columns(table, [*columns["numeric"], *columns["text"]])
    uniform = _uniform(table, columns["numeric"], columns["text"])
    check_finite(uniform[columns["numeric"]])
    encoded_names = transformer.get_feature_names_out()
    if table.empty:  # which scikit-learn refuses
        return np.empty((0, len(encoded_names)), dtype=np.float32)
    with np.errstate(over="ignore"):  # found below, where the value can be named
        x = np.asarray(transformer.transform(uniform)).astype(np.float32)
    overflow = np.argwhere(~np.isfinite(x))
    if overflow.size:
        row, at = overflow[0]
        name = encoded_names[at].removeprefix("numeric__")
        raise ValueError(
            f"needed numbers near those of training in column {name!r}, got {uniform[name].iloc[row]} in "
            f"row {row + 1}; correct it or leave it empty"
        )
    return x


def _uniform(table: pd.DataFrame, numeric: list[str], text: list[str]) -> pd.DataFrame:
    """Return the columns as float64 and as text without gaps: fitting and encoding see the same types."""
    columns = {name: numbers(table[name]) for name in numeric} | {name: texts(table[name]) for name in text}
    return pd.DataFrame(columns)


def save_preprocessor(transformer: "sklearn.compose.ColumnTransformer", path: str | Path) -> None:
    """Write a fitted preprocessor to a file: whole, or not at all.

    Raises:
        OSError: the file cannot be written; an older one of the same name is left as it was.
    """
    import skops.io

    with replacing(path) as file:
        file.write(skops.io.dumps(transformer))


def load_preprocessor(path: str | Path) -> "sklearn.compose.ColumnTransformer":
    """Read a preprocessor that :func:`save_preprocessor` wrote.

    The file is data, not code: it names types of scikit-learn and NumPy, and if it names any other nothing
    is built.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds something else, or names another type.
    """
    import skops.io

    path = Path(path)
    check_file(path)
    data = path.read_bytes()
    try:
        transformer = skops.io.loads(data, trusted=_TRUSTED)
        steps = [name for name, _, _ in transformer.transformers_]
    except Exception as error:  # whatever was wrong: the zip file, its JSON, an array, a type, the object
        reason = " ".join(str(error).split())
        raise ValueError(f"needed a preprocessor saved by rlgrad, got {path} ({reason}); save it anew") from error
    if steps != ["numeric", "text"]:
        raise ValueError(f"needed a preprocessor saved by rlgrad, got {path} with {steps}; save it anew")
    return transformer
