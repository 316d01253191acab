"""Files of tables: CSV and Parquet, read by pandas and checked for what pandas would let pass."""

import csv
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from rlgrad.tables.names import check_file, check_unique

_SEPARATORS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
_PARQUET = (".parquet", ".pq")


def read_table(path: str | Path, *, header: bool = True) -> pd.DataFrame:
    """Read a CSV or Parquet file into a table whose column names are text and unique.

    A line of a CSV file with too few fields is an error, as one with too many is: pandas would fill it with
    missing values. A field that is empty, ``NA``, ``NaN``, ``null`` or ``?`` is a missing value. A column
    without a name, such as the row numbers that pandas writes, is named by its position.

    Args:
        path: a ``.csv`` or ``.tsv`` file in UTF-8, which may be ``.gz``; or a ``.parquet`` or ``.pq`` file.
        header: whether the first line of a CSV file names the columns; if not, the names are "0", "1", ...

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the suffix is another one, or the content is not what the suffix says; two columns have
            one name; there are no rows.
    """
    path = Path(path)
    check_file(path)
    name = path.name.lower()
    separator = next((_SEPARATORS[suffix] for suffix in _SEPARATORS if name.endswith(suffix)), None)
    if separator is not None:
        table = _read_text(path, separator, header)
    elif name.endswith(_PARQUET):
        table = _read_parquet(path)
    else:
        raise ValueError(f"needed a file {', '.join([*_SEPARATORS, *_PARQUET])}, got {path}; convert it")
    if table.empty:
        raise ValueError(f"needed rows of data, got none in {path}; check that the file is complete")
    return table


def with_names(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with text for column names and with its row numbers, from 0, for an index."""
    check_unique([str(name) for name in table.columns])
    return table.rename(columns=str).reset_index(drop=True)


def _read_text(path: Path, separator: str, header: bool) -> pd.DataFrame:
    try:
        names = _column_names(path, separator, header)
        return pd.read_csv(
            path,
            sep=separator,
            header=0 if header else None,
            names=names,
            na_values=["?"],
            skipinitialspace=True,
            low_memory=False,  # or a column's type would be decided block by block
            encoding="utf-8-sig",
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"needed UTF-8 text in {path}, got other bytes ({error}); save it as UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"needed a whole gzip file, got {path} ({error}); compress it anew") from error
    except (csv.Error, pd.errors.ParserError) as error:
        raise ValueError(f"needed CSV in {path}, got: {str(error).strip()}; correct the file") from error


def _column_names(path: Path, separator: str, header: bool) -> list[str]:
    """Return the names of the columns, having seen that each line has a field for each of them."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        lines = _numbered_lines(file, separator)
        _, first = next(lines, (0, []))
        if not first:
            raise ValueError(f"needed a table, got the empty file {path}; check that the file is complete")
        for number, fields in lines:
            if len(fields) != len(first):
                raise ValueError(
                    f"needed {len(first)} fields on each line of {path}, as on the first, got {len(fields)} "
                    f"on line {number}; correct that line"
                )
    names = [(name.strip() if header else "") or str(at) for at, name in enumerate(first)]
    check_unique(names)
    return names


def _numbered_lines(file: Iterator[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the fields of each line that is not blank, as pandas skips those too."""
    reader = csv.reader(file, delimiter=separator, skipinitialspace=True)
    for fields in reader:
        if len(fields) > 1 or "".join(fields).strip():
            yield reader.line_num, fields


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except PermissionError:
        raise
    except (ValueError, OSError) as error:  # Arrow's errors are of both kinds
        raise ValueError(f"needed a Parquet file, got {path} ({error}); write it anew") from error
    return with_names(table)
