import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rlgrad.tables import Parts, digits_table, encode, load_problem


def small(rows: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"size": rng.normal(size=rows).round(1), "colour": rng.choice(["red", "blue"], rows)})
    return table.assign(ripe=np.where(table["size"] > 0.5, "yes", "no"))


def test_file_and_table_give_the_same_problem(tmp_path: Path) -> None:
    path = tmp_path / "fruit.v2.csv"
    small().to_csv(path, index=False)
    read, given = load_problem(path, "ripe"), load_problem(small(), "ripe")
    assert (read.name, given.name) == ("fruit", "table")
    assert read.fingerprint == given.fingerprint == sha256(path.read_bytes()).hexdigest()
    assert list(read.features.columns) == ["size", "colour"]
    assert read.target.classes == ("no", "yes")
    np.testing.assert_array_equal(read.target.y, given.target.y)


def test_fingerprint_is_of_the_values() -> None:
    changed = small()
    changed.loc[0, "size"] += 0.1
    assert load_problem(changed, "ripe").fingerprint != load_problem(small(), "ripe").fingerprint


def test_choices_reach_the_steps(tmp_path: Path) -> None:
    small().to_csv(tmp_path / "data.csv", index=False, header=False)
    problem = load_problem(tmp_path / "data.csv", "2", positive="no", header=False, name="fruit")
    assert problem.name == "fruit"
    assert problem.target.classes == ("yes", "no")


def test_columns_may_be_numbers_and_rows_of_any_index() -> None:
    table = pd.DataFrame({0: [1.0, 2.0] * 10, 1: range(20), 2: [0, 1] * 10}, index=range(40, 20, -1))
    assert load_problem(table, "2").split(seed=0).train.x.shape == (10, 2)


def test_parts_are_encoded_by_what_was_fitted_on_train() -> None:
    problem = load_problem(small(), "ripe")
    parts = problem.split(seed=0)
    assert isinstance(parts, Parts)
    assert sum(len(part.y) for part in (parts.train, parts.validation, parts.test)) == 200
    assert all(part.x.dtype == np.float32 and part.y.dtype == bool for part in (parts.train, parts.test))
    np.testing.assert_allclose(parts.train.x[:, 0].mean(), 0, atol=1e-6)
    assert abs(parts.test.x[:, 0].mean()) > 1e-3
    every = encode(parts.transformer, problem.features)
    assert {*map(bytes, parts.test.x)} <= {*map(bytes, every)}


def test_equal_rows_are_in_one_part() -> None:
    parts = load_problem(small(), "ripe").split(seed=0)
    held = [{*map(bytes, part.x)} for part in (parts.train, parts.validation, parts.test)]
    assert len(held[0]) < len(parts.train.x)
    assert sum(map(len, held)) == len(set.union(*held))


def test_no_test_part() -> None:
    test = load_problem(small(), "ripe").split(seed=0, test=0.0).test
    assert test.x.shape == (0, 3)
    assert test.y.shape == (0,)


def test_infinite_number_is_found_before_any_split() -> None:
    with pytest.raises(ValueError, match="in column 'size', got inf in row 3"):
        load_problem(small().replace({"size": {small()["size"][2]: np.inf}}), "ripe")


def test_target_alone() -> None:
    with pytest.raises(ValueError, match="needed columns beside 'ripe'"):
        load_problem(small()[["ripe"]], "ripe")


def test_two_columns_of_one_name() -> None:
    with pytest.raises(ValueError, match="got 2 columns '1'"):
        load_problem(pd.DataFrame([[1, 2]], columns=[1, "1"]), "1")


def test_digits() -> None:
    table = digits_table(3)
    assert table.shape == (1797, 65)
    assert table["is_3"].sum() == 183
    assert load_problem(table, "is_3").target.classes == ("0", "1")


def test_no_such_digit() -> None:
    with pytest.raises(ValueError, match="needed a digit from 0 to 9, got 10"):
        digits_table(10)


def test_import_is_light() -> None:
    heavy = "{'torch', 'sklearn', 'skops', 'scipy', 'pyarrow.parquet'}"
    code = f"import sys, rlgrad.tables; print({heavy} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
