"""Files of tables: CSV, Parquet and ARFF, read by pandas and SciPy and checked for what these would let pass."""

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from rlgrad.tables.columns import numbers
from rlgrad.tables.names import check_file, check_unique, listed

_SEPARATORS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
_PARQUET = (".parquet", ".pq")
_ARFF = (".arff", ".arff.gz")


def read_table(path: str | Path, *, header: bool = True) -> pd.DataFrame:
    """Read a CSV, Parquet or ARFF file into a table whose column names are text and unique.

    A line of a CSV file with too few fields is an error, as one with too many is: pandas would fill it with
    missing values. A field that is empty, ``NA``, ``NaN``, ``null`` or ``?`` is a missing value. A column
    without a name, such as the row numbers that pandas writes, is named by its position. The nominal attributes
    of an ARFF file are text, whatever their values look like.

    Args:
        path: a ``.csv``, ``.tsv`` or ``.arff`` file in UTF-8, which may be ``.gz``; or a ``.parquet`` or ``.pq``
            file.
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
    elif name.endswith(_ARFF):
        table = _read_arff(path)
    else:
        raise ValueError(f"needed a file {', '.join([*_SEPARATORS, *_ARFF, *_PARQUET])}, got {path}; convert it")
    if table.empty:
        raise ValueError(f"needed rows of data, got none in {path}; check that the file is complete")
    return table


def with_names(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with text for column names and with its row numbers, from 0, for an index."""
    check_unique([str(name) for name in table.columns])
    return table.rename(columns=str).reset_index(drop=True)


def _read_text(path: Path, separator: str, header: bool) -> pd.DataFrame:
    with _told(path, "CSV"):
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


@contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    """Turn what is wrong with a file of text into a ValueError that names the file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"needed UTF-8 text in {path}, got other bytes ({error}); save it as UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"needed a whole gzip file, got {path} ({error}); compress it anew") from error
    except (csv.Error, pd.errors.ParserError) as error:
        raise ValueError(f"needed {what} in {path}, got: {str(error).strip()}; correct the file") from error


def _column_names(path: Path, separator: str, header: bool) -> list[str]:
    """Return the names of the columns, having seen that each line has a field for each of them."""
    with _opened(path) as file:
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


def _opened(path: Path) -> io.TextIOWrapper:
    opened: Callable[..., io.TextIOWrapper] = gzip.open if path.suffix.lower() == ".gz" else open
    return opened(path, "rt", encoding="utf-8-sig", newline="")


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


def _read_arff(path: Path) -> pd.DataFrame:
    """Read the header by SciPy, and the data as those of a CSV file: SciPy would drop fields beyond the last."""
    with _told(path, "ARFF"), _opened(path) as file:
        lines = file.read().splitlines()
        start = next((at for at, line in enumerate(lines, start=1) if line.strip().lower().startswith("@data")), 0)
        attributes = _arff_attributes(lines[:start], path)
        rows = [*_arff_rows(lines, start, path, fields=len(attributes))]
    table = pd.DataFrame(rows, columns=list(attributes), dtype=object)
    for name, classes in attributes.items():
        column = table[name].where(table[name] != "?")
        table[name] = numbers(column) if classes is None else column
        strange = np.flatnonzero(column.notna() & ~column.isin(classes)) if classes is not None else np.array([])
        if strange.size:
            raise ValueError(
                f"needed {listed(classes or ())} in column {name!r} of {path}, as its @attribute says, got "
                f"{column[strange[0]]!r} in row {strange[0] + 1}; correct one of the two"
            )
    return with_names(table)


def _arff_attributes(header: list[str], path: Path) -> dict[str, tuple[str, ...] | None]:
    """Return the names of the columns, each with its classes, or None for numbers."""
    from scipy.io import arff  # imported here: it takes a while

    if not header:
        raise ValueError(f"needed ARFF in {path}, got no @data; check that the file is complete")
    limit = csv.field_size_limit()
    try:
        _, meta = arff.loadarff(io.StringIO("\n".join(header) + "\n"))
    except (ValueError, LookupError, NotImplementedError, StopIteration, arff.ArffError) as error:
        raise ValueError(f"needed the header of an ARFF file in {path}, got: {error}; correct the file") from error
    finally:
        csv.field_size_limit(limit)  # which SciPy lifts for the whole process
    kinds = dict(zip(meta.names(), meta.types(), strict=True))
    if others := [f"{name!r} of type {kind}" for name, kind in kinds.items() if kind not in ("numeric", "nominal")]:
        raise ValueError(f"needed numeric and nominal attributes in {path}, got {others[0]}; convert it, or drop it")
    return {name: meta[name][1] for name in meta.names()}


def _arff_rows(lines: list[str], start: int, path: Path, *, fields: int) -> Iterator[list[str]]:
    """Yield the fields of each line of data, having seen that they are as many as the attributes."""
    for number, line in enumerate(lines[start:], start=start + 1):
        if not line.strip() or line.lstrip().startswith("%"):
            continue
        if line.lstrip().startswith("{"):
            raise ValueError(f"needed dense ARFF in {path}, got a sparse line {number}; write all values, with commas")
        found = next(csv.reader([line], quotechar="'", escapechar="\\", skipinitialspace=True))
        if len(found) != fields:
            raise ValueError(
                f"needed {fields} fields on each line of {path}, one for each @attribute, got {len(found)} on line "
                f"{number}; correct that line"
            )
        yield [field.strip() for field in found]
