import csv
import gzip
from pathlib import Path

import pandas as pd
import pytest

from rlgrad.tables import read_table

ROWS = "a,b,class\n1,x,0\n2.5,,1\n"


def written(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    opened = gzip.open if name.endswith(".gz") else open
    with opened(path, "wt", encoding=encoding, newline="") as file:
        file.write(text)
    return path


@pytest.mark.parametrize("name", ["data.csv", "data.csv.gz", "DATA.CSV", "v1.2.csv"])
def test_csv(tmp_path: Path, name: str) -> None:
    table = read_table(written(tmp_path, name, ROWS))
    assert list(table.columns) == ["a", "b", "class"]
    assert table["a"].tolist() == [1.0, 2.5]
    assert table["b"].isna().tolist() == [False, True]


@pytest.mark.parametrize("name", ["data.tsv", "data.tsv.gz"])
def test_tsv_keeps_its_empty_fields(tmp_path: Path, name: str) -> None:
    table = read_table(str(written(tmp_path, name, "a\tb\n1\t\n\t2\n")))
    assert table["a"].isna().tolist() == [False, True]
    assert table["b"].isna().tolist() == [True, False]


@pytest.mark.parametrize("suffix", [".parquet", ".pq"])
def test_parquet_gives_the_table_that_was_written(tmp_path: Path, suffix: str) -> None:
    table = pd.DataFrame({"a": [1.5, None], "b": ["x", None], "n": [1, 2]})
    table.to_parquet(tmp_path / f"data{suffix}")
    pd.testing.assert_frame_equal(read_table(tmp_path / f"data{suffix}"), table)


def test_parquet_index_is_replaced_by_row_numbers(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1, 2]}, index=[7, 9]).to_parquet(tmp_path / "data.pq")
    assert read_table(tmp_path / "data.pq").index.tolist() == [0, 1]


def test_without_a_header_columns_are_named_by_position(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "data.csv", "1.5,'-1'\n2.5,'1'\n"), header=False)
    assert list(table.columns) == ["0", "1"]
    assert table["0"].tolist() == [1.5, 2.5]


def test_byte_order_mark_spaces_blank_lines_and_unnamed_columns(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "data.csv", '\ufeff, b \n\n1, "x, y"\n  \n2, z\n'))
    assert list(table.columns) == ["0", "b"]
    assert table["b"].tolist() == ["x, y", "z"]


def test_byte_order_mark_without_a_header(tmp_path: Path) -> None:
    assert read_table(written(tmp_path, "data.csv", "\ufeff1,2\n"), header=False)["0"].tolist() == [1]


def test_question_mark_is_missing(tmp_path: Path) -> None:
    assert read_table(written(tmp_path, "data.csv", "a,b\n1,x\n?,y\n"))["a"].dtype == float


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got the empty file"),
        ("\n \n", "got the empty file"),
        ("a,b\n", "needed rows of data, got none"),
        ("a,b\n1,2\n3\n", "needed 2 fields on each line .* got 1 on line 3"),
        ("a,b\n1,2\n3,4,5\n", "got 3 on line 3"),
        ("a,b\n0,1,2\n1,1,2\n", "got 3 on line 2"),  # pandas would take the first column for an index
        ("a,b\n1,2,\n", "got 3 on line 2"),
        ('a,b\n1,"x\n3,4\n', "needed CSV .* EOF inside string"),
        ("a,b, a\n1,2,3\n", "got 2 columns 'a'; rename them$"),
        ("7,0.5,7\n1,2,3\n", "got 2 columns '7'; rename them .*--no-header"),
        ("a\n" + "x" * 200_000 + "\n", "needed CSV .* field larger"),
    ],
)
def test_what_is_wrong_with_a_csv_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_table(written(tmp_path, "data.csv", text))


def test_ragged_line_of_a_compressed_file_without_a_header(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needed 2 fields .* got 3 on line 2"):
        read_table(written(tmp_path, "data.csv.gz", "1,2\n3,4,5\n"), header=False)


def test_other_encoding(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needed UTF-8 text in .*data.csv"):
        read_table(written(tmp_path, "data.csv", "größe\n1\n", encoding="latin-1"))


def test_no_gzip_file(tmp_path: Path) -> None:
    (tmp_path / "data.csv.gz").write_text(ROWS)
    with pytest.raises(ValueError, match=r"needed a whole gzip file, got .*data.csv.gz"):
        read_table(tmp_path / "data.csv.gz")


def test_gzip_file_cut_short(tmp_path: Path) -> None:
    path = written(tmp_path, "data.csv.gz", ROWS)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(ValueError, match="needed a whole gzip file"):
        read_table(path)


def test_no_parquet_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needed a Parquet file, got .*data.parquet"):
        read_table(written(tmp_path, "data.parquet", ROWS))


def test_parquet_file_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pd.DataFrame({"a": range(100)}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="needed a Parquet file"):
        read_table(path)


def test_parquet_file_without_rows(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1]}).head(0).to_parquet(tmp_path / "data.parquet")
    with pytest.raises(ValueError, match="needed rows of data"):
        read_table(tmp_path / "data.parquet")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_table(tmp_path / "data.csv")


def test_folder(tmp_path: Path) -> None:
    (tmp_path / "data.csv").mkdir()
    with pytest.raises(IsADirectoryError, match="got the folder"):
        read_table(tmp_path / "data.csv")


@pytest.mark.parametrize("name", ["data.xlsx", "data", "data.gz", ".csv.bak"])
def test_unknown_suffix(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(ROWS)
    with pytest.raises(ValueError, match=r"needed a file \.csv, .* got .*; convert it"):
        read_table(tmp_path / name)


# --- ARFF -------------------------------------------------------------------------------------------------------------

ARFF = """% a comment
@relation songs
@attribute 'mean tempo' numeric
@attribute key {c, d}
@attribute sad {0,1}

@data
1.5,c,0
% another
?,?,1

 -2 , d , 0
"""


@pytest.mark.parametrize("name", ["songs.arff", "songs.arff.gz", "SONGS.ARFF"])
def test_arff_gives_numbers_and_text_with_what_is_missing(tmp_path: Path, name: str) -> None:
    limit = csv.field_size_limit()
    table = read_table(written(tmp_path, name, ARFF))
    assert list(table.columns) == ["mean tempo", "key", "sad"]
    assert table["mean tempo"].fillna(99).tolist() == [1.5, 99, -2]
    assert table["key"].fillna("missing").tolist() == ["c", "missing", "d"]
    assert table["sad"].tolist() == ["0", "1", "0"]
    assert csv.field_size_limit() == limit  # of CSV files to come


def test_arff_may_quote_and_name_what_is_missing_elsewhere(tmp_path: Path) -> None:
    text = "@relation r\n@attribute n REAL\n@attribute c {'a, b',x,NA,'ü s'}\n@DATA\n1,x\n2,'a, b'\n3,NA\n4,'ü s'\n"
    table = read_table(written(tmp_path, "data.arff", text))
    assert table["c"].tolist() == ["x", "a, b", "NA", "ü s"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1,e,0", "needed 'c', 'd' in column 'key' of .*, as its @attribute says, got 'e' in row 4; correct"),
        ("one,c,0", "needed numbers in column 'mean tempo', got 'one' in row 4"),
        ("1,c", "needed 3 fields on each line .*, one for each @attribute, got 2 on line 13; correct"),
        ("1,c,0,7", "needed 3 fields on each line .*, one for each @attribute, got 4 on line 13; correct"),
        ("{0 1, 1 c}", "needed dense ARFF in .*, got a sparse line 13"),
    ],
)
def test_a_line_that_does_not_fit_the_attributes(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_table(written(tmp_path, "data.arff", f"{ARFF}{line}\n"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "got no @data"),
        ("a,b\n1,2\n", "got no @data"),
        ("@data\n1\n", "needed 0 fields on each line"),
        ("@relation r\n@attribute a string\n@data\nx\n", "String attributes not supported"),
        ("@relation r\n@attribute a sometype\n@data\nx\n", "unknown attribute sometype"),
        ("@relation r\n@attribute a real\n@attribute a real\n@data\n1,2\n", "'a' occurs more than once"),
        ("@relation r\n@attribute a date yyyy-MM-dd\n@data\n2020-01-02\n", "got 'a' of type date; convert it"),
        ("@relation r\n@attribute a real\n@data\n", "needed rows of data"),
    ],
)
def test_what_is_no_arff_of_numbers_and_classes(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_table(written(tmp_path, "data.arff", text))


def test_arff_in_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needed UTF-8 text"):
        read_table(written(tmp_path, "data.arff", ARFF.replace("tempo", "über"), encoding="latin-1"))
