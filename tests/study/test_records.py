"""Records: what is written is read back, whatever instant a kill or a full disk chooses."""

import json
import os
import subprocess
import sys
import time
from dataclasses import fields, replace
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlgrad.study import records
from rlgrad.study.records import Record, append, by_setting, fingerprint, key, missing, read, run_key, scores

COUNTS = {part: {"tp": 3, "fp": 1, "fn": 2, "tn": 9} for part in ("train", "validation", "test")}


def made(**changes: Any) -> Record:
    """A run that finished."""
    run = Record(
        task="digits, linear",
        method="ce tuned",
        seed=0,
        metric="f1",
        arguments={"epochs": 5, "rates": [0.1, 0.01], "split": {"test": 0.2, "by": None}},
        train=0.9,
        validation=0.8,
        test=0.7,
        threshold=-0.3,
        test_tuned=0.7,
        counts=COUNTS,
        epochs=5,
        seconds=1.5,
    )
    return replace(run, **changes)


def lost(**changes: Any) -> Record:
    """A run that failed."""
    return Record(
        **{
            "task": "t",
            "method": "ce",
            "seed": 0,
            "metric": "f1",
            "arguments": {},
            "error": "Traceback\n",
            **changes,
        }
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "runs.jsonl"


def seeds(path: Path) -> list[int]:
    return [record.seed for record in read(path)]


def test_every_field_comes_back(path: Path) -> None:
    run = made(task='quotes " and é and \u2028', error=None)
    append(path, run)
    assert read(path) == [run]


@pytest.mark.parametrize("threshold", [inf, -inf, nan])
def test_numbers_that_are_not_finite_come_back_from_strict_json(path: Path, threshold: float) -> None:
    append(path, made(threshold=threshold))

    def refuse(name: str) -> None:
        pytest.fail(f"{name} is not JSON")

    json.loads(path.read_text(), parse_constant=refuse)
    found = read(path)[0].threshold
    assert found == threshold or (isnan(found) and isnan(threshold))


def test_a_failed_run_has_its_traceback_and_no_numbers(path: Path) -> None:
    append(path, lost())
    found = read(path)[0]
    assert found.error == "Traceback\n"
    assert all(isnan(value) for value in (found.train, found.validation, found.test, found.test_tuned))


def test_text_that_says_nan_stays_text(path: Path) -> None:
    append(path, made(task="nan"))
    assert read(path)[0].task == "nan"


def test_whole_numbers_come_back_as_floats(path: Path) -> None:
    append(path, made())
    path.write_text(path.read_text().replace('"seconds":1.5', '"seconds":2'))
    assert isinstance(read(path)[0].seconds, float)


@pytest.mark.parametrize("metric", [nan, inf])
@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_a_finished_run_needs_finite_metrics(name: str, metric: float) -> None:
    with pytest.raises(ValueError, match=r"needed finite train, validation and test, got .*; record the run"):
        made(**{name: metric})


def test_a_task_without_validation_rows_has_none_to_tune_on_either(path: Path) -> None:
    untold: dict[str, Any] = {"validation": nan, "threshold": nan, "test_tuned": nan, "counts": {}}
    append(path, made(**untold))
    (found,) = read(path)
    assert isnan(found.validation)
    assert replace(found, validation=0.8, threshold=-0.3, test_tuned=0.7, counts=COUNTS) == made()
    for name, value in [("validation", inf), ("test", nan), ("train", inf)]:
        with pytest.raises(ValueError, match="needed finite train, validation and test"):
            made(**{**untold, name: value})


@pytest.mark.parametrize("told", [{"threshold": -0.3}, {"test_tuned": 0.7}, {"counts": COUNTS}])
def test_a_run_that_had_validation_rows_needs_their_metric(told: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needed finite train, validation and test"):
        made(**{"validation": nan, "threshold": nan, "test_tuned": nan, "counts": {}, **told})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": np.int64(3)}, r"needed seed of type int, got .*\(int64\); convert it"),
        ({"test": np.float32(0.5)}, r"needed test of type float, got .*\(float32\)"),
        ({"counts": None}, r"needed counts of type dict, got None \(NoneType\)"),
        ({"error": 3}, r"needed error of type str \| None, got 3"),
    ],
)
@pytest.mark.usefixtures("as_a_user")
def test_a_type_that_json_would_refuse_is_refused_at_once(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        made(**change)


@pytest.mark.parametrize("value", [nan, inf, np.float32(1), {1, 2}, Path("data")])
@pytest.mark.usefixtures("as_a_user")
def test_arguments_must_be_json(path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match=r"needed strict JSON values, got .*; convert them"):
        fingerprint({"rate": value})
    with pytest.raises(TypeError, match="needed strict JSON values"):
        append(path, made(arguments={"rate": value}))
    assert not path.exists()


def test_fingerprint_is_of_the_values_not_of_their_order() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    different: list[dict[str, Any]] = [
        {},
        {"a": 1},
        {"a": 2},
        {"a": "1"},
        {"a": True},
        {"a": None},
        {"b": 1},
        {"a": [1]},
    ]
    assert len({fingerprint(arguments) for arguments in different}) == len(different)


@pytest.mark.parametrize("change", [{"task": "x"}, {"metric": "x"}, {"arguments": {}}, {"method": "x"}, {"seed": 1}])
def test_key_tells_runs_apart(change: dict[str, Any]) -> None:
    assert key(made(**change)) != key(made())


def test_key_ignores_what_came_out(path: Path) -> None:
    run = made()
    append(path, run)
    asked = {name: getattr(run, name) for name in ("task", "metric", "arguments", "method", "seed")}
    assert key(made(test=0.1, seconds=9.0, versions={})) == key(run) == key(read(path)[0]) == run_key(**asked)


def test_a_missing_and_an_empty_file_hold_nothing(path: Path) -> None:
    assert read(path) == []
    path.parent.mkdir(parents=True)
    path.touch()
    assert read(path) == []
    append(path, made())
    assert seeds(path) == [0]


def test_a_line_torn_anywhere_is_ignored_and_the_next_record_does_not_glue_onto_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # hundreds of waits for the disk
    append(path, made(seed=0))
    first = path.read_bytes()
    append(path, made(seed=1))
    second = path.read_bytes()[len(first) :]
    for length in range(len(second) - 1):  # the last of them lacks the closing brace
        path.write_bytes(first + second[:length])
        assert seeds(path) == [0]
        append(path, made(seed=2))
        assert seeds(path) == [0, 2]
        assert path.read_bytes().startswith(first)


def test_a_torn_first_line_is_cut_off(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"task": "dig')
    assert read(path) == []
    append(path, made())
    assert seeds(path) == [0]


def test_a_last_line_that_lacks_its_newline_alone_is_kept(path: Path) -> None:
    append(path, made(seed=0))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert seeds(path) == [0]
    append(path, made(seed=1))
    assert seeds(path) == [0, 1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"task": "dig\n', "Unterminated string"),
        (b"\n", "Expecting value"),
        (b"\xff\n", "decode"),
        (b"[]\n", "needed a JSON object, got list; remove the line"),
        (
            b"{}\n",
            r"needed the fields of a Record, got \[\] too many and \['arguments', .*missing; start a new",
        ),
    ],
)
@pytest.mark.parametrize("where", [0, 1])
def test_a_bad_line_that_no_kill_explains_is_named(path: Path, line: bytes, message: str, where: int) -> None:
    append(path, made())
    good = path.read_bytes()
    path.write_bytes(line + good if where == 0 else good + line)
    with pytest.raises(ValueError, match=rf"runs\.jsonl, line {where + 1}: .*{message}"):
        read(path)


def altered(**changes: Any) -> bytes:
    values = {each.name: getattr(made(), each.name) for each in fields(Record)}
    return json.dumps({**values, **changes}).encode() + b"\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (altered(colour=1), r"got \['colour'\] too many and \[\] missing"),
        (altered(seed="0"), r"needed seed of type int, got '0' \(str\)"),
        (altered(test="0.7"), r"needed test of type float, got '0\.7' \(str\)"),
        (altered(test=nan), "needed strict JSON, got NaN; write it as the string nan"),
        (altered(test="nan"), "needed finite train, validation and test"),
        (altered(test=10**400), "int too large"),
    ],
)
@pytest.mark.usefixtures("as_a_user")
def test_a_field_that_is_wrong_is_named(path: Path, line: bytes, message: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(altered() + line + altered())
    with pytest.raises(ValueError, match=rf"runs\.jsonl, line 2: .*{message}"):
        read(path)


def test_each_line_is_one_write_that_is_synchronised(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(path, made(seed=0))
    synchronised = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synchronised.append(os.fstat(descriptor).st_size))
    append(path, made(seed=1))
    assert synchronised == [path.stat().st_size]


# Children run the file of the module by itself: none of them waits for the rest of the package.
LOAD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("records", sys.argv[1])
records = importlib.util.module_from_spec(spec)
spec.loader.exec_module(records)
"""
FULL_DISK = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
run = records.Record(task="t", method="ce", seed=1, metric="f1", arguments={}, error="x")
try:
    records.append(sys.argv[2], run)
except OSError as problem:
    print(problem)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files by POSIX means")
@pytest.mark.parametrize(("room", "message"), [(0, "File too large"), (10, "needed room for")])
def test_a_full_disk_is_an_error_that_names_the_file_and_costs_one_line(path: Path, room: int, message: str) -> None:
    append(path, made(seed=0))
    arguments = [str(records.__file__), str(path), str(path.stat().st_size + room)]
    said = subprocess.run(
        [sys.executable, "-c", LOAD + FULL_DISK, *arguments], capture_output=True, text=True, check=True
    )
    assert message in said.stdout
    assert str(path) in said.stdout
    assert seeds(path) == [0]
    append(path, made(seed=2))
    assert seeds(path) == [0, 2]


# Long lines, so that kills tear some of them.
ENDLESS = """
import itertools
for seed in itertools.count(int(sys.argv[3])):
    run = records.Record(task="t", method="ce", seed=seed, metric="f1", arguments={}, error="x" * 500_000)
    records.append(sys.argv[2], run)
"""


def kill_while_writing(path: Path, start: int, delay: float) -> None:
    """Let a child append runs from seed `start` on, and kill it `delay` seconds after its first."""
    before = path.stat().st_size if path.exists() else 0
    child = subprocess.Popen([sys.executable, "-c", LOAD + ENDLESS, str(records.__file__), str(path), str(start)])
    deadline = time.monotonic() + 60
    while not path.exists() or path.stat().st_size <= before:
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(delay)
    child.kill()
    child.wait()


def test_a_kill_at_any_instant_costs_at_most_the_line_being_written(path: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        kill_while_writing(path, start=len(read(path)), delay=rng.uniform(0, 0.03))
        found = seeds(path)
        assert found == list(range(len(found)))
        append(path, lost(seed=len(found)))
        assert seeds(path) == list(range(len(found) + 1))


def test_missing_are_the_runs_not_made_and_those_that_failed_last() -> None:
    wanted = [key(lost(seed=seed)) for seed in (3, 2, 1, 0, 3)]
    finished = [replace(made(), task="t", method="ce", arguments={}, seed=seed) for seed in range(3)]
    assert missing(wanted, []) == wanted[:4]
    assert missing(wanted, finished) == wanted[:1]
    assert missing(wanted, [lost(seed=1), *finished]) == wanted[:1]
    assert missing(wanted, [*finished, lost(seed=1)]) == [wanted[0], wanted[2]]


def test_scores_are_of_the_last_record_of_each_run_that_finished() -> None:
    runs = [
        made(seed=0, test=0.1),
        made(seed=0, test=0.2),
        made(seed=1, test=0.3),
        made(method="soft", test=0.4),
    ]
    failed = replace(made(method="focal"), error="Traceback")
    assert scores([*runs, failed]) == {"ce tuned": {0: 0.2, 1: 0.3}, "soft": {0: 0.4}, "focal": {}}


def test_settings_are_kept_apart() -> None:
    short, long = made(arguments={"epochs": 5}), made(arguments={"epochs": 50})
    assert list(by_setting([short, long, short]).values()) == [[short], [long]]
    for several in ([], [short, long]):
        with pytest.raises(ValueError, match=r"needed records of one task, metric and arguments, got .*; split"):
            scores(several)


def test_versions_name_the_packages_without_importing_them() -> None:
    found = records.versions()
    assert set(found) == {"python", "machine", "rlgrad", "torch", "numpy", "scikit-learn"}
    assert found["numpy"] == np.__version__
    assert records._version("no-such-package") == "not installed"
