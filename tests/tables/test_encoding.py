from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.compose import ColumnTransformer

from rlgrad.tables import encode, fit_preprocessor, load_preprocessor, save_preprocessor

TRAIN = pd.DataFrame(
    {
        "size": [1.0, 2.0, np.nan, 5.0],
        "count": pd.array([1, None, 3, 4], dtype="Int64"),
        "colour": ["red", None, "blue", "red"],
        "grade": pd.Categorical(["a", "b", None, "a"]),
        "ripe": [True, False, True, True],
        "nothing": [np.nan] * 4,
        "no text": pd.Series([None] * 4, dtype=object),
        "constant": [3] * 4,
    }
)


class Sentinel:
    """Creates a file when it is built anew."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["path"]).touch()


def test_numbers_are_scaled_and_their_gaps_filled() -> None:
    x = encode(fit_preprocessor(TRAIN[["size"]]), TRAIN[["size"]])
    filled = np.array([1, 2, 2, 5])
    np.testing.assert_allclose(x[:, 0], (filled - filled.mean()) / filled.std(), rtol=1e-6)
    assert np.ptp(x[:, 1]) > 0  # the column that says which were missing
    assert x[2, 1] == x[:, 1].max()


def test_text_becomes_a_column_for_each_category() -> None:
    features = TRAIN[["colour", "ripe"]]
    transformer = fit_preprocessor(features)
    names = [name.removeprefix("text__") for name in transformer.get_feature_names_out()]
    assert names == ["colour_blue", "colour_missing", "colour_red", "ripe_False", "ripe_True"]
    x = encode(transformer, features)
    assert x.tolist() == [[0, 0, 1, 0, 1], [0, 1, 0, 1, 0], [1, 0, 0, 0, 1], [0, 0, 1, 0, 1]]


def test_gaps_and_constants_are_finite_and_tell_nothing() -> None:
    x = encode(fit_preprocessor(TRAIN), TRAIN)
    assert x.dtype == np.float32
    assert np.isfinite(x).all()
    idle = encode(fit_preprocessor(TRAIN[["nothing", "no text", "constant"]]), TRAIN)
    assert not np.ptp(idle, axis=0).any()


def test_unseen_category_is_none() -> None:
    transformer = fit_preprocessor(TRAIN[["colour"]])
    assert encode(transformer, pd.DataFrame({"colour": ["green"]})).tolist() == [[0, 0, 0]]


def test_rare_and_unseen_categories_share_the_last_of_fifty_columns() -> None:
    names = pd.DataFrame({"name": [f"n{at}" for at in range(60) for _ in range(1 + (at < 49))]})
    transformer = fit_preprocessor(names)
    x = encode(transformer, pd.DataFrame({"name": ["n55", "unseen", "n0"]}))
    assert x.shape == (3, 50)
    assert x[:, -1].tolist() == [1, 1, 0]


def test_types_may_differ_from_those_of_training() -> None:
    train = pd.DataFrame({"n": [1, 2, 4], "t": ["1", "2", "x"]})
    same = pd.DataFrame({"n": ["1", "2", "4"], "t": pd.Series([1.0, 2.0, "x"], dtype=object)})
    transformer = fit_preprocessor(train)
    np.testing.assert_array_equal(encode(transformer, same), encode(transformer, train))


def test_order_index_and_further_columns_do_not_matter() -> None:
    transformer = fit_preprocessor(TRAIN)
    other = TRAIN[TRAIN.columns[::-1]].assign(extra=pd.Timestamp(0)).set_index(pd.Index([5, 5, 7, 8]))
    np.testing.assert_array_equal(encode(transformer, other), encode(transformer, TRAIN))


def test_no_rows() -> None:
    transformer = fit_preprocessor(TRAIN)
    assert encode(transformer, TRAIN.head(0)).shape == (0, encode(transformer, TRAIN).shape[1])


def test_read_only_values() -> None:
    values = np.arange(6.0).reshape(3, 2)
    values.flags.writeable = False
    table = pd.DataFrame(values, columns=["a", "b"], copy=False)
    assert encode(fit_preprocessor(table), table).shape == (3, 2)


def test_column_of_dates() -> None:
    with pytest.raises(ValueError, match=r"in column 'when', got datetime64 .*; convert the column or drop it"):
        fit_preprocessor(pd.DataFrame({"when": pd.to_datetime(["2020-01-01"])}))


def test_absent_columns_are_named() -> None:
    with pytest.raises(ValueError, match="needed a column 'size', 'colour', got a table with the similar 'color'"):
        encode(fit_preprocessor(TRAIN), TRAIN.drop(columns="size").rename(columns={"colour": "color"}))


def test_numbers_that_are_text_now() -> None:
    transformer = fit_preprocessor(TRAIN[["size"]])
    with pytest.raises(ValueError, match="needed numbers in column 'size', got 'big' in row 2"):
        encode(transformer, pd.DataFrame({"size": ["1", "big"]}))


@pytest.mark.parametrize("value", [np.inf, "inf", 1e300])
def test_infinite_number(value: object) -> None:
    transformer = fit_preprocessor(TRAIN[["size"]])
    with pytest.raises(ValueError, match=r"needed finite numbers.* in column 'size', got .* in row 2"):
        encode(transformer, pd.DataFrame({"size": [1, value]}))


def test_number_that_overflows_when_scaled() -> None:
    transformer = fit_preprocessor(pd.DataFrame({"a": [1.0, 2.0], "b": [1e-30, 2e-30]}))
    with pytest.raises(ValueError, match=r"near those of training in column 'b', got 1e\+30 in row 3"):
        encode(transformer, pd.DataFrame({"a": [1.0] * 3, "b": [0, 0, 1e30]}))


@pytest.mark.parametrize("columns", [list(TRAIN.columns), ["size"], ["colour"], ["constant"]], ids=str)
def test_saved_and_loaded_it_encodes_the_same(tmp_path: Path, columns: list[str]) -> None:
    transformer = fit_preprocessor(TRAIN[columns])
    save_preprocessor(transformer, tmp_path / "preprocessor.skops")
    assert [path.name for path in tmp_path.iterdir()] == ["preprocessor.skops"]
    loaded = load_preprocessor(str(tmp_path / "preprocessor.skops"))
    np.testing.assert_array_equal(encode(loaded, TRAIN), encode(transformer, TRAIN))


def test_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "preprocessor.skops"
    path.write_bytes(b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        save_preprocessor(fit_preprocessor(TRAIN), path)
    assert path.read_bytes() == b"old"


def test_untrusted_type_is_refused_and_not_built(tmp_path: Path) -> None:
    path, touched = tmp_path / "preprocessor.skops", tmp_path / "touched"
    transformer = fit_preprocessor(TRAIN)
    transformer.sentinel = Sentinel(touched)
    path.write_bytes(skops.io.dumps(transformer))
    with pytest.raises(ValueError, match=r"saved by rlgrad, got .*Untrusted types found.*Sentinel"):
        load_preprocessor(path)
    assert not touched.exists()
    skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
    assert touched.exists()  # so the file was able to


def test_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "preprocessor.skops"
    save_preprocessor(fit_preprocessor(TRAIN), path)
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for damaged in (b"", b"garbage", whole[:middle], flipped):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"saved by rlgrad, got .*preprocessor\.skops"):
            load_preprocessor(path)


FOREIGN = ColumnTransformer([("other", "passthrough", ["size"])]).fit(TRAIN[["size"]])


@pytest.mark.parametrize("thing", [{"a": 1}, TRAIN["size"].to_numpy(), FOREIGN], ids=["dict", "array", "foreign"])
def test_file_of_something_else(tmp_path: Path, thing: object) -> None:
    (tmp_path / "thing.skops").write_bytes(skops.io.dumps(thing))
    with pytest.raises(ValueError, match="needed a preprocessor saved by rlgrad"):
        load_preprocessor(tmp_path / "thing.skops")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_preprocessor(tmp_path / "preprocessor.skops")
