"""Names of files and of columns: the checks that more than one step makes."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

import pandas as pd


def check_file(path: Path) -> None:
    """Raise unless the path is that of a file.

    Raises:
        FileNotFoundError: there is nothing.
        IsADirectoryError: there is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(f"needed a file, got the folder {path}; name a file in it")
    if not path.exists():
        raise FileNotFoundError(f"needed a file, got {path}, which does not exist; check the path")


def check_unique(names: Sequence[str]) -> None:
    """Raise a ValueError if two columns have one name."""
    repeated = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if repeated is not None:
        raise ValueError(
            f"needed a name of its own for each column, got {names.count(repeated)} columns {repeated!r}; "
            f"rename them{headerless(names)}"
        )


def check_columns(table: pd.DataFrame, wanted: Iterable[str]) -> None:
    """Raise a ValueError, with the names that come close, if the table lacks a column."""
    names = [str(name) for name in table.columns]
    absent = [name for name in wanted if name not in names]
    if absent:
        near = dict.fromkeys(close for name in absent for close in get_close_matches(name, names))
        found = f"the similar {listed(near)}" if near else listed(names)
        raise ValueError(
            f"needed a column {listed(absent)}, got a table with {found}; correct the name{headerless(names)}"
        )


def headerless(names: Iterable[str]) -> str:
    """Return a hint if the column names look like a row of data, else nothing."""
    try:
        numbers = [float(name.strip("' ")) for name in names]
    except ValueError:
        return ""
    if numbers == list(range(len(numbers))):  # the names that a file without a header line is given
        return ""
    return " (every name is a number: if the file has no header line, pass header=False or --no-header)"


def listed(names: Iterable[str], *, most: int = 5) -> str:
    """Return the first few names, quoted, and how many there are beyond them.

    Example:
        >>> listed("abc", most=2)
        "'a', 'b' and 1 more"
    """
    quoted = [repr(name) for name in names]
    return ", ".join(quoted[:most]) + (f" and {len(quoted) - most} more" if len(quoted) > most else "")
