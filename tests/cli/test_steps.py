"""The command line on networks of hard steps: what is made once is not made again, and what does not belong is said."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlgrad.cli import arguments, main
from rlgrad.study import steps
from rlgrad.study.methods import Budget
from rlgrad.study.steps import METHODS, Steps

COMMAND = ["compare", "--task=steps", "--epochs=2", "--workers=1"]
LINES = Path("comparison") / "records.jsonl"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def finished(*arguments: str) -> tuple[int, str, str]:
    """In a process of its own, as a terminal would start it."""
    command = [sys.executable, "-m", "rlgrad.cli", *arguments]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return found.returncode, found.stdout, found.stderr


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LINES.read_text().splitlines()]


def test_compare_in_processes_of_its_own_and_again(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = [*COMMAND, "--hidden=1", "--seeds=2", "--methods", "frozen", "relu"]
    status, out, error = finished(*chosen)
    assert (status, error) == (0, "")
    assert out.startswith(f"digits, 64-128-10: 4 runs to make, 0 already in {LINES}\n")
    assert [(line["method"], line["seed"], line["epochs"]) for line in lines()] == [
        (method, seed, 2) for seed in (0, 1) for method in ("frozen", "relu")
    ]
    before = LINES.read_bytes()
    assert main(chosen) == 0
    again, error = capsys.readouterr()
    assert error == ""
    assert again.startswith("digits, 64-128-10: 0 runs to make, 4 already in ")
    assert again.splitlines()[1:] == out.splitlines()[1:]
    assert LINES.read_bytes() == before


def test_the_table_is_that_of_the_records_without_what_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--hidden=1", "--seeds=2", "--methods", "frozen", "relu"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^method +seeds +test accuracy \[95%\] +minus relu \[95%\] +seconds$", out, re.MULTILINE)
    assert "tuned" not in out
    assert "n_test/n_train = 0.333" in out
    for method in ("frozen", "relu"):
        tests = [line["test"] for line in lines() if line["method"] == method]
        assert re.search(rf"^{method} +2 +{sum(tests) / 2:.3f} \[", out, re.MULTILINE)
    assert re.search(r'"frozen" minus "relu" is .* 2 paired seeds', out)


def test_each_number_of_hidden_layers_makes_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--seeds=1", "--methods", "relu", "frozen"]) == 0
    out = capsys.readouterr().out
    assert "digits, 64-128-10: 2 runs to make, 0 already in" in out
    assert "run more seeds.\n\ndigits, 64-128-128-10: 2 runs to make, 0 already in" in out
    assert out.count("records: ") == 1
    assert [line["arguments"]["hidden"] for line in lines()] == [1, 1, 2, 2]
    assert main([*COMMAND, "--seeds=1", "--methods", "relu", "--hidden", "2", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("digits, 64-128-128-10: 0 runs to make, 1 already in")
    assert out.count("runs to make") == 1


def test_one_method_is_compared_with_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--hidden=1", "--seeds=2", "--methods=relu"]) == 0
    out = capsys.readouterr().out
    assert "test: mean over seeds" in out
    assert "paired" not in out


def test_the_options_are_those_of_the_runs() -> None:
    options = ["--lr=0.25", "--batch-size=700", "--hidden=1", "--seeds=1", "--methods=sigmoid"]
    assert main([*COMMAND, *options]) == 0
    (line,) = lines()
    assert line["arguments"].items() >= {"lr": 0.25, "batch_size": 700, "epochs": 2, "hidden": 1}.items()


def test_a_training_that_diverges_is_told_and_tried_again_next_time(capsys: pytest.CaptureFixture[str]) -> None:
    hopeless = [*COMMAND, "--hidden", "1", "2", "--seeds=1", "--lr=1e30", "--methods", "relu"]
    for _ in range(2):
        assert main(hopeless) == 1
        out, error = capsys.readouterr()
        assert len(re.findall(r"^relu, seed 0 failed: FloatingPointError: .*; lower lr$", error, re.MULTILINE)) == 2
        assert out.count("1 runs to make") == 2
        assert out.count("left out, because they failed: relu 1 of 1.") == 2


def test_a_failure_with_one_depth_is_the_status_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing_at_one(setting: Steps, method: str, seed: int) -> steps.Trained:
        if setting.hidden == 1:
            raise FloatingPointError("out of luck")
        return trained(setting, method, seed)

    trained = steps.train
    monkeypatch.setattr(steps, "train", failing_at_one)
    assert main([*COMMAND, "--seeds=1", "--methods", "relu"]) == 1
    assert [line["error"] is None for line in lines()] == [False, True]


def test_names_and_defaults_that_help_repeats_are_those_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments.STEP_METHODS.split(", ") == list(METHODS)
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    said = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert arguments.STEP_METHODS in said
    table, of_steps = Budget(), Steps()
    for name in ("epochs", "lr", "batch_size"):
        default = f"(default: {getattr(table, name)}, with --task steps {getattr(of_steps, name)}"
        assert re.search(rf"--{name.replace('_', '-')} [^-]*{re.escape(default)}", said), name
    assert re.search(rf"--patience [^(]*\(default: {table.patience}\)", said)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said of a mistake, having checked that it is one line and that nothing was written."""
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("rlgrad: error: ")
    assert error.count("\n") == 1
    assert list(Path().iterdir()) == []
    return error.removeprefix("rlgrad: error: ").rstrip("\n")


@pytest.mark.parametrize(
    ("foreign", "named"),
    [
        (["mail.csv"], "a table or a folder of images"),
        (["--target=spam"], "--target"),
        (["--metric=f1"], "--metric"),
        (["--model=linear"], "--model"),
        (["--positive=yes"], "--positive"),
        (["--no-header"], "--no-header"),
        (["--patience=20"], "--patience"),
        (["--patience=0"], "--patience"),
        (["mail.csv", "--target=spam", "--no-header"], "a table or a folder of images, --target, --no-header"),
    ],
)
def test_options_of_a_table_are_refused(foreign: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused([*COMMAND, *foreign, "--seeds=1", "--methods=relu"], capsys)
    assert said == (
        f"needed options of --task steps, got {named} of --task table; leave that out, or pass --task table"
    )


def test_hidden_layers_of_a_table_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["compare", "--hidden=1", "--epochs=2", "--seeds=1", "--workers=1", "--methods=ce"], capsys)
    assert said == "needed options of --task table, got --hidden of --task steps; leave that out, or pass --task steps"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--methods=surrogate-atan", r"needed a method that exists, got 'surrogate-atan'; did you mean surrogate-.*\?"),
        ("--methods=ce", "needed a method that exists, got 'ce'; there are relu, .*, frozen"),
        ("--hidden=0", "needed hidden of at least 1, got 0"),
        ("--epochs=0", "needed epochs of at least 1, got 0"),
        ("--batch-size=0", "needed batch_size of at least 1, got 0"),
        ("--lr=nan", "needed a positive finite lr, got nan; .*"),
        ("--seeds=0", "needed at least one seed, got --seeds 0; .*"),
        ("--workers=0", "needed a number of workers, got --workers 0; .*"),
    ],
)
def test_what_cannot_be_is_refused_before_a_run_is_started(
    option: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused([*COMMAND, "--seeds=1", "--methods=relu", option], capsys)
    assert re.fullmatch(message, said), said


def test_a_folder_that_cannot_be_is_refused_before_a_run_is_started(capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(__file__)
    said = refused([*COMMAND, f"--out={file}"], capsys)
    assert said == f"needed a folder to write records.jsonl in, got the file {file}; name another"
    said = refused([*COMMAND, f"--out={file / 'new'}"], capsys)
    assert said.startswith(f"needed a folder to write records.jsonl in, got {file / 'new'} (")


def test_a_mistake_is_one_line_in_a_process_of_its_own() -> None:
    status, out, error = finished(*COMMAND, "mail.csv")
    assert (status, out) == (2, "")
    assert error.startswith(
        "rlgrad: error: needed options of --task steps, got a table or a folder of images of --task table;"
    )
    assert error.count("\n") == 1
