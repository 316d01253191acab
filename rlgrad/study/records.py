"""Records of runs, one JSON line each, in a file that outlives a kill at any instant.

A study is resumed by asking which runs its file still lacks (`missing`). One process writes the file: workers
hand their records to it. The lines are strict JSON, so that any tool can read them.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from io import FileIO
from math import isfinite, isnan, nan
from pathlib import Path
from types import GenericAlias
from typing import Any, NamedTuple, NoReturn, TypeAlias

Json: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None


def versions() -> dict[str, str]:
    """What ran the study: Python, the machine, the packages that decide the numbers (none is imported)."""
    packages = {name: _version(name) for name in ("rlgrad", "torch", "numpy", "scikit-learn")}
    return {"python": platform.python_version(), "machine": platform.machine(), **packages}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run: what was asked, what came out, and what a reader needs to check it.

    Args:
        task: what was learnt, such as "digits, linear".
        method: how, such as "ce tuned".
        seed: of the split, the initial weights and the draws.
        metric: name of the metric; larger is better.
        arguments: everything that defines the run besides task, method, seed and metric, as JSON values.
        train, validation, test: the metric under the method's own decision rule; finite if the run finished, but for a
            validation of NaN where the task has no validation rows: then there are no threshold, test_tuned and counts.
        threshold: of that rule, in logits; NaN where the rule has none.
        test_tuned: the same weights with the threshold tuned on validation; NaN where there is none.
        counts: tp, fp, fn, tn for each of train, validation, test; empty where decisions are not yes or no.
        epochs: passes over the training rows.
        seconds: wall-clock time of training alone, with what judges its epochs.
        versions: of the software and the machine, by default those that run now.
        error: traceback of a failed run, which leaves the numbers out; None for a run that finished.

    Raises:
        TypeError: a field is of another type; a NumPy scalar, say, which JSON cannot hold.
        ValueError: a run that finished has a metric that is not finite.

    Example:
        >>> Record(task="digits", method="ce", seed=0, metric="f1", arguments={}, error="out of memory").test
        nan
    """

    task: str
    method: str
    seed: int
    metric: str
    arguments: dict[str, Json]
    train: float = nan
    validation: float = nan
    test: float = nan
    threshold: float = nan
    test_tuned: float = nan
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    epochs: int = 0
    seconds: float = nan
    versions: dict[str, str] = field(default_factory=versions)
    error: str | None = None

    def __post_init__(self) -> None:
        """Refuse a record that could not be written, or would spoil a mean."""
        for each in fields(self):
            _check_type(each.name, each.type, getattr(self, each.name))
        metrics = (self.train, self.validation, self.test)
        told = (self.validation, self.threshold, self.test_tuned)  # all that validation rows could decide
        untold = not self.counts and all(map(isnan, told))
        needed = (self.train, self.test) if untold else metrics
        if self.error is None and not all(map(isfinite, needed)):
            raise ValueError(f"needed finite train, validation and test, got {metrics}; record the run as failed")


def _check_type(name: str, kind: Any, value: object) -> None:
    kind = kind.__origin__ if isinstance(kind, GenericAlias) else kind
    if not isinstance(value, float | int if kind is float else kind):
        wanted, given = getattr(kind, "__name__", str(kind)), type(value).__name__
        raise TypeError(f"needed {name} of type {wanted}, got {value!r} ({given}); convert it")


class Key(NamedTuple):
    """What makes two runs one: setting (fingerprint of task, metric, arguments), method and seed."""

    setting: str
    method: str
    seed: int


def key(record: Record) -> Key:
    """The key of a run that was made; see `run_key`."""
    names = ("task", "metric", "arguments", "method", "seed")
    return run_key(**{name: getattr(record, name) for name in names})


def run_key(*, task: str, metric: str, arguments: Mapping[str, Json], method: str, seed: int) -> Key:
    """The key of a run, known before it is made.

    Example:
        >>> run_key(task="digits", metric="f1", arguments={"epochs": 5}, method="ce", seed=0)
        Key(setting='185cb2bd9a00', method='ce', seed=0)
    """
    return Key(fingerprint({"task": task, "metric": metric, "arguments": dict(arguments)}), method, seed)


def fingerprint(arguments: Mapping[str, Json]) -> str:
    """Twelve hexadecimal digits of the SHA-256 of the canonical JSON: the order of the keys does not matter.

    Raises:
        TypeError: a value that strict JSON cannot hold (NaN, infinity, an array, a path).

    Example:
        >>> fingerprint({"rate": 0.1, "epochs": 5}) == fingerprint({"epochs": 5, "rate": 0.1})
        True
    """
    return hashlib.sha256(_dumps(dict(arguments), sort_keys=True)).hexdigest()[:12]


def _dumps(value: dict[str, Json], *, sort_keys: bool = False) -> bytes:
    try:
        return json.dumps(value, sort_keys=sort_keys, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as problem:
        raise TypeError(f"needed strict JSON values, got {value!r} ({problem}); convert them") from problem


def append(path: str | Path, record: Record) -> None:
    """Add one line to the file: a kill or a full disk at any instant costs at most that line.

    The line is one write at the end of the file, then synchronised. A line that an earlier kill tore is cut
    off first, so that no two records grow together. The folder is made if it is not there.

    Raises:
        OSError: the line could not be written whole; what was written of it is ignored by `read`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> record = Record(task="digits", method="ce", seed=0, metric="f1", arguments={}, error="no memory")
        >>> with TemporaryDirectory() as folder:
        ...     append(f"{folder}/runs.jsonl", record)
        ...     [found.error for found in read(f"{folder}/runs.jsonl")]
        ['no memory']
    """
    line = _to_line(record)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+", buffering=0) as file:  # unbuffered: each write() below is one system call
        _mend(file)
        _write(file, line, path)
        os.fsync(file.fileno())


def _mend(file: FileIO) -> None:
    """Cut off a torn last line; close with a newline one that lacks nothing else (a hand-edited file)."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    if file.read(1) in (b"", b"\n"):
        return
    file.seek(0)
    last = file.read().rpartition(b"\n")[2]
    if _is_whole(last):
        file.write(b"\n")
    else:
        file.truncate(size - len(last))


def _write(file: FileIO, line: bytes, path: str | Path) -> None:
    try:
        written = file.write(line)
    except OSError as problem:  # the error of a descriptor does not name the file
        raise OSError(problem.errno, problem.strerror, str(path)) from problem
    if written != len(line):
        raise OSError(f"needed room for {len(line)} bytes in {path}, got {written}; free space and go on")


def _is_whole(line: bytes) -> bool:
    """Whether a last line without a newline lacks nothing else: no proper prefix of a JSON object is one."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def read(path: str | Path) -> list[Record]:
    """Every record of a file, in the order written; a file that is not there holds none.

    A torn last line (what a kill leaves) is ignored; any other bad line is an error, for no kill makes one.

    Raises:
        ValueError: a line is not a record; the message names the file and the line.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    if not _is_whole(lines[-1]):
        lines.pop()
    return [_parse(line, where=f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


# Strict JSON has no literal for these, so they are written as strings that float() reads.
_NOT_FINITE = ("nan", "inf", "-inf")
_FLOATS = frozenset(each.name for each in fields(Record) if each.type is float)


def _to_line(record: Record) -> bytes:
    values = vars(record)
    spelled = {name: str(float(values[name])) for name in _FLOATS if not isfinite(values[name])}
    return _dumps({**values, **spelled}) + b"\n"


def _parse(line: bytes, *, where: str) -> Record:
    try:
        found = json.loads(line, parse_constant=_refuse_constant)
        _check_names(found)
        return Record(**{name: _number(value) if name in _FLOATS else value for name, value in found.items()})
    except (ArithmeticError, TypeError, ValueError) as problem:
        raise ValueError(f"{where}: {problem}") from problem


def _number(value: Any) -> Any:
    return float(value) if type(value) is int or value in _NOT_FINITE else value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"needed strict JSON, got {name}; write it as the string {float(name)!s}")


def _check_names(found: object) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"needed a JSON object, got {type(found).__name__}; remove the line")
    known = {each.name for each in fields(Record)}
    unknown, lacking = sorted(found.keys() - known), sorted(known - {"error"} - found.keys())
    if unknown or lacking:
        raise ValueError(
            f"needed the fields of a Record, got {unknown} too many and {lacking} missing; start a new file"
        )


def latest(records: Iterable[Record]) -> dict[Key, Record]:
    """The last record of every run: a run that was made again replaces what it gave before."""
    return {key(record): record for record in records}


def missing(wanted: Iterable[Key], records: Iterable[Record]) -> list[Key]:
    """Which of the wanted runs are still to be made, in the order wanted.

    A failed run is missing: it is tried again at the next start, since most failures (memory, disk, a bug
    since mended) are not properties of the run. One that fails for good costs one attempt at every start.
    """
    done = {name for name, record in latest(records).items() if record.error is None}
    return [name for name in dict.fromkeys(wanted) if name not in done]


def by_setting(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The latest record of every run, grouped by setting (task, metric and arguments): one table each."""
    groups: dict[str, list[Record]] = {}
    for name, record in latest(records).items():
        groups.setdefault(name.setting, []).append(record)
    return groups


def one_setting(records: Iterable[Record]) -> list[Record]:
    """The latest record of every run, refused unless all have one setting: others are not to be averaged.

    Raises:
        ValueError: no record, or more than one setting.
    """
    groups = by_setting(records)
    if len(groups) != 1:
        found = [(group[0].task, group[0].metric, group[0].arguments) for group in groups.values()]
        raise ValueError(f"needed records of one task, metric and arguments, got {found}; split by_setting()")
    return next(iter(groups.values()))


def scores(records: Iterable[Record]) -> dict[str, dict[int, float]]:
    """Method to seed to test metric, of one setting; a failed run gives its method no score for that seed."""
    table: dict[str, dict[int, float]] = {}
    for record in one_setting(records):
        row = table.setdefault(record.method, {})
        if record.error is None:
            row[record.seed] = record.test
    return table
