"""The command line on tables: what it promises to a user who has one, and perhaps a mistake in it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from importlib.metadata import entry_points
from math import ceil, sqrt
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, get_args

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student_t
from torch import Generator, Tensor

from rlgrad import cli
from rlgrad.cli import arguments, main
from rlgrad.metrics import CATALOGUE, CountMetric
from rlgrad.model import NETWORKS
from rlgrad.study.comparison import OVERLAP
from rlgrad.study.methods import METHODS, Budget, Method, Recipe, stage
from rlgrad.study.records import Record, read
from rlgrad.surrogates import bce
from rlgrad.tables import load_problem, split

ROWS = 120
COMMANDS = {"train": cli.Train, "predict": cli.Predict, "compare": cli.Compare, "audit": cli.Audit, "probe": cli.Probe}


def made(seed: int = 0, **labels: Any) -> pd.DataFrame:
    """Numbers and text, some of either missing, and two labels that depend on both; no two rows are equal."""
    rng = np.random.default_rng(seed)
    size, weight = rng.normal(size=(2, ROWS)).round(3)
    colour = rng.choice(["red", "green", "blue"], ROWS)
    spam = size + (colour == "red") + rng.normal(scale=0.5, size=ROWS) > 0.8
    table = pd.DataFrame({"size": size, "colour": colour, "weight": weight, "spam": np.where(spam, "yes", "no")})
    table.loc[::9, "size"] = np.nan
    table.loc[::7, "colour"] = None
    return table.assign(**labels)


def written(folder: Path, table: pd.DataFrame, name: str = "mail.csv", **options: Any) -> Path:
    table.to_csv(folder / name, index=False, **options)
    return folder / name


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command leaves behind is then all that is there, and relative paths keep the commands short."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("table"), made())


@pytest.fixture(scope="module")
def model(csv: Path) -> Path:
    folder = csv.parent / "model"
    assert train(csv, "--out", folder) == 0
    return folder


def train(*arguments: object) -> int:
    """Later arguments win over these defaults."""
    return main(["train", "--target=spam", "--epochs=2", *map(str, arguments)])


def predict(*arguments: object) -> pd.DataFrame:
    """The predictions file, with labels as text whatever they look like."""
    assert main(["predict", *map(str, arguments), "--out", "predictions.csv", "--overwrite"]) == 0
    return pd.read_csv("predictions.csv", dtype={"prediction": str})


def compare(*arguments: object) -> int:
    """Later arguments win over these defaults."""
    defaults = ["--target=spam", "--epochs=2", "--seeds=2", "--workers=1"]
    return main(["compare", *defaults, *map(str, arguments)])


THREE = ["--methods", "ce", "ce-tuned", "soft"]
LINES = Path("comparison") / "records.jsonl"


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LINES.read_text().splitlines()]


def started(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """A process of its own, as a terminal would start it."""
    command = [sys.executable, "-m", "rlgrad.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finished(*arguments: object) -> tuple[int, str, str]:
    process = started(*arguments)
    out, error = process.communicate(timeout=120)
    return process.returncode, out, error


# --- help -------------------------------------------------------------------------------------------------------------

HELP = """
import sys
from rlgrad.cli import main
for arguments in (["--help"], *([command, "--help"] for command in ("train", "predict", "compare", "audit", "probe"))):
    try:
        main(arguments)
    except SystemExit as end:
        assert not end.code, end.code
print("imported:", *sorted({"torch", "pandas", "sklearn", "numpy", "scipy"} & set(sys.modules)))
"""


def test_help_answers_without_the_imports_that_take_seconds() -> None:
    said = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "imported:"
    assert said.stderr == ""


def helped(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--help"])
    assert not end.value.code
    out, error = capsys.readouterr()
    assert error == ""
    return re.sub(r"[\s│]+", " ", out)  # boxes and line breaks fall anywhere


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    said = helped([], capsys)
    assert all(f"• {name} " in said for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_explains_each_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = helped([command], capsys)
    names = {each.name for each in fields(COMMANDS[command])} - {"budget"}
    if "budget" in {each.name for each in fields(COMMANDS[command])}:
        names |= {each.name for each in fields(Budget)}
    if command == "predict":
        names -= {"model"}  # by position, as the table is
    for name in names - {"table", "data", "what"}:
        assert re.search(rf" --{name.replace('_', '-')}( [^ ]+( \.\.\.)?)? [A-Z]", said), name


@pytest.mark.parametrize("command", ["train", "compare"])
def test_help_lists_the_metrics_and_methods_there_are(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = helped([command], capsys)
    assert ", ".join(CATALOGUE) in said
    assert ", ".join(METHODS) in said


def test_names_and_defaults_that_help_repeats_are_those_of_the_library() -> None:
    assert arguments.METRICS.split(", ") == list(CATALOGUE)
    assert arguments.METHODS.split(", ") == list(METHODS)
    assert list(get_args(arguments.Network)) == list(NETWORKS)
    assert arguments.Budget().given == {}


def test_the_installed_command_is_this_one() -> None:
    (script,) = entry_points(group="console_scripts", name="rlgrad")
    assert script.load() is main


# --- train and predict ------------------------------------------------------------------------------------------------


def test_what_a_process_of_its_own_trains_is_loaded_by_another(csv: Path) -> None:
    status, out, error = finished("train", csv, "--target", "spam", "--out", "new/model", "--epochs", "2")
    assert (status, error) == (0, "")
    assert "model saved in new/model" in out
    assert len(predict("new/model", csv)) == ROWS
    assert sorted(path.name for path in Path().iterdir()) == ["new", "predictions.csv"]


def printed(out: str) -> tuple[float, np.ndarray]:
    """The test metric, and the confusion counts with true labels down and predicted ones across."""
    metric = re.search(r"test (\d\.\d+)", out)
    counts = re.findall(r"true \w+ +(\d+) +(\d+)", out)
    assert metric is not None
    return float(metric[1]), np.array(counts, dtype=int)


def test_the_printed_metric_and_counts_are_those_of_the_held_out_rows(
    csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(csv, "--out", "model", "--seed", 3) == 0
    f1, counts = printed(capsys.readouterr().out)
    (tp, fn), (fp, _) = counts
    assert counts.sum() == sum(ceil(0.25 * size) for size in made()["spam"].value_counts())
    assert f1 == round(2 * tp / (2 * tp + fp + fn), 4)
    # The saved model decides the same, on rows that are found here by another way.
    rows = split(load_problem(csv, "spam").target, np.arange(ROWS), seed=3).test
    seen = pd.crosstab(made()["spam"].iloc[rows], predict("model", csv)["prediction"].iloc[rows])
    labels = ["yes", "no"]
    assert seen.reindex(index=labels, columns=labels, fill_value=0).to_numpy().tolist() == counts.tolist()


def test_confusion_says_which_label_is_which(csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(csv, "--out", "model") == 0
    table = capsys.readouterr().out.splitlines()[-4:-1]
    assert [line.split()[:2] for line in table] == [["predicted", "yes"], ["true", "yes"], ["true", "no"]]
    assert table[0].split() == ["predicted", "yes", "predicted", "no"]
    assert len({len(line) for line in table}) == 1


@pytest.mark.parametrize("method", ["ce+exact", "ce-tuned"])
def test_predictions_are_one_row_a_row_by_the_threshold_of_the_model(csv: Path, method: str) -> None:
    assert train(csv, "--out", "model", "--method", method) == 0
    threshold = json.loads(Path("model/model.json").read_text())["labels"][0]["threshold"]
    assert (threshold == 0) == (method != "ce-tuned")
    found = predict("model", csv)
    assert list(found) == ["probability", "prediction"]
    assert len(found) == ROWS
    assert found["probability"].between(0, 1).all()
    above = found["probability"] > 1 / (1 + np.exp(-threshold))
    assert found["prediction"].tolist() == np.where(above, "yes", "no").tolist()
    assert 0 < above.sum() < ROWS


SAME: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "shuffled columns": lambda table: table[["weight", "spam", "size", "colour"]],
    "no target": lambda table: table.drop(columns="spam"),
    "extra columns": lambda table: table.assign(note="x", when=pd.Timestamp("2020-01-01"), size_2=np.inf),
    "spaces around text": lambda table: table.assign(colour=" " + table["colour"] + " "),
}


@pytest.mark.parametrize("change", SAME)
def test_predictions_do_not_depend_on(change: str, model: Path) -> None:
    table = written(Path(), SAME[change](made()))
    pd.testing.assert_frame_equal(predict(model, table), predict(model, written(Path(), made())))


@pytest.mark.parametrize("change", [{"colour": "violet"}, {"colour": None}, {"size": None}, {"weight": None}])
def test_values_unseen_or_missing_are_predicted(change: dict[str, Any], model: Path) -> None:
    found = predict(model, written(Path(), made(**change)))
    assert len(found) == ROWS
    assert found["probability"].between(0, 1).all()


def test_predictions_keep_the_order_of_the_rows(model: Path) -> None:
    found = predict(model, written(Path(), made()))
    backwards = predict(model, written(Path(), made()[::-1]))
    pd.testing.assert_frame_equal(backwards[::-1].reset_index(drop=True), found)


def test_parquet_is_as_good_as_csv(csv: Path, model: Path) -> None:
    made().to_parquet("mail.parquet")
    pd.testing.assert_frame_equal(predict(model, "mail.parquet"), predict(model, csv))
    assert train("mail.parquet", "--out", "model") == 0
    assert weights("model") == weights(model)


def weights(folder: Path | str) -> bytes:
    return (Path(folder) / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("options", [["--method=ce"], ["--method=ce+score_function", "--model=mlp"]])
def test_a_seed_gives_the_same_weights_bit_by_bit_and_another_others(csv: Path, options: list[str]) -> None:
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        assert train(csv, *options, "--out", name, "--seed", seed) == 0
    assert weights("first") == weights("again") != weights("other")


def test_without_header(capsys: pytest.CaptureFixture[str]) -> None:
    table = written(Path(), made(), header=False)
    arguments = [str(table), "--target=3", "--epochs=2", "--out=model"]
    assert main(["train", *arguments]) == 2  # the first row is no header, and there is no column 3 then
    assert "needed a column '3'" in capsys.readouterr().err
    assert main(["train", *arguments, "--no-header"]) == 0
    assert f"{ROWS} rows" in capsys.readouterr().out
    assert len(predict("model", table, "--no-header")) == ROWS


@pytest.mark.parametrize("positive", ["no", "yes"])
def test_positive_chooses_whose_probability_it_is(positive: str, csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(csv, "--out", "model", "--positive", positive, "--method", "ce", "--lr", 0.1, "--epochs", 40) == 0
    assert f"positive class {positive!r}" in capsys.readouterr().out
    found = predict("model", csv)
    claimed = found["prediction"] == positive
    assert found["probability"][claimed].min() > 0.5 >= found["probability"][~claimed].max()
    assert f"{claimed.sum()} of them predicted {positive!r}" in capsys.readouterr().out
    assert (found["prediction"] == made()["spam"]).mean() > 0.7  # labels are not swapped


def test_labels_that_are_numbers_come_back_as_such() -> None:
    table = written(Path(), made(spam=(made()["spam"] == "yes").astype(int)))
    assert train(table, "--out", "model") == 0
    assert set(predict("model", table)["prediction"]) <= {"0", "1"}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_each_method_trains(method: str, network: str, csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(csv, "--out", "model", "--method", method, "--model", network, "--metric", "mcc") == 0
    assert f"mcc of {method}, {network}: train" in capsys.readouterr().out
    assert len(predict("model", csv)) == ROWS


def test_overwrite_replaces_a_model_and_predictions(csv: Path, model: Path) -> None:
    for seed in (0, 1):
        assert train(csv, "--out", "model", "--seed", seed, "--overwrite") == 0
        predict("model", csv)
    assert weights("model") != weights(model)
    assert sorted(path.name for path in Path().iterdir()) == ["model", "predictions.csv"]


def test_training_that_diverges_has_a_status_of_its_own_and_saves_nothing(
    csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(csv, "--out", "model", "--model", "mlp", "--lr", 1e30, "--batch-size", 8) == 1
    error = capsys.readouterr().err
    assert error.startswith("rlgrad: error: needed finite numbers, got ")
    assert "lower lr" in error
    assert list(Path().iterdir()) == []


# --- compare ----------------------------------------------------------------------------------------------------------


def test_compare_in_processes_of_its_own_and_again_and_in_this_one(
    csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ["ce", "ce-tuned", "ce+score_function"]
    arguments = [*map(str, ["compare", csv, "--target=spam", "--epochs=2", "--seeds=2", "--methods", *methods])]
    status, out, error = finished(*arguments, "--workers=2")
    assert (status, error) == (0, "")
    assert out.startswith(f"mail, linear: 6 runs to make, 0 already in {LINES}\n")
    assert {(line["method"], line["seed"]) for line in lines()} == {(m, s) for m in methods for s in (0, 1)}
    before = LINES.read_bytes()
    assert main([*arguments, "--workers=2"]) == 0
    again, error = capsys.readouterr()
    assert error == ""
    assert again.startswith("mail, linear: 0 runs to make, 6 already in ")
    assert again.splitlines()[1:] == out.splitlines()[1:]
    assert LINES.read_bytes() == before
    assert main([*arguments, "--workers=1", "--out=here"]) == 0
    in_processes, in_one = (
        {(run.method, run.seed): replace(run, seconds=0.0) for run in read(path)}
        for path in (LINES, Path("here/records.jsonl"))
    )
    assert in_processes == in_one


def test_a_record_has_every_field(csv: Path) -> None:
    assert compare(csv, *THREE) == 0
    assert len(lines()) == 6
    for line in lines():
        assert set(line) == {each.name for each in fields(Record)}
        assert (line["task"], line["metric"], line["epochs"], line["error"]) == ("mail, linear", "f1", 2, None)
        setting = {"target": "spam", "positive": "yes", "network": "linear", "lr": 0.01, "epochs": 2}
        assert line["arguments"].items() >= setting.items()
        for part, counts in line["counts"].items():
            value = 2 * counts["tp"] / (2 * counts["tp"] + counts["fp"] + counts["fn"])
            assert line[part] == pytest.approx(value, abs=1e-6)
        assert sum(sum(counts.values()) for counts in line["counts"].values()) == ROWS
        assert line["seconds"] > 0


@pytest.mark.parametrize(
    ("further", "runs"), [(["--seeds", 4], 6), (["--methods", "soft", "exact", "ce"], 2), (["--methods", "ce"], 0)]
)
def test_only_what_is_missing_is_made(further: list[object], runs: int, csv: Path) -> None:
    assert compare(csv, *THREE) == 0
    before = LINES.read_bytes()
    assert compare(csv, *THREE, *further) == 0
    assert LINES.read_bytes().startswith(before)
    assert len(lines()) == 6 + runs


def test_a_torn_last_line_costs_that_run_alone(csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(csv, *THREE) == 0
    whole, numbers = LINES.read_bytes(), capsys.readouterr().out.splitlines()[-2]
    LINES.write_bytes(whole[:-200])
    assert compare(csv, *THREE) == 0
    out = capsys.readouterr().out
    assert "1 runs to make, 5 already in" in out
    assert numbers in out
    assert len(lines()) == 6
    assert LINES.read_bytes().startswith(whole[: whole[:-1].rindex(b"\n")])


OTHER_SETTINGS: dict[str, list[object]] = {
    "metric": ["--metric", "mcc"],
    "network": ["--model", "mlp"],
    "budget": ["--lr", 0.1],
    "positive class": ["--positive", "no"],
}


@pytest.mark.parametrize("other", OTHER_SETTINGS)
def test_another_setting_in_the_same_folder_is_kept_apart(
    other: str, csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ([], OTHER_SETTINGS[other]):
        assert compare(csv, *THREE, *options) == 0
        assert "6 runs to make, 0 already in" in capsys.readouterr().out
    for options in ([], OTHER_SETTINGS[other]):
        assert compare(csv, *THREE, *options) == 0
        assert "0 runs to make, 6 already in" in capsys.readouterr().out
    assert len(lines()) == 12


def test_a_file_that_was_changed_is_another_problem(capsys: pytest.CaptureFixture[str]) -> None:
    for weight in (0.0, 1.0):
        table = made()
        table.loc[5, "weight"] = weight
        assert compare(written(Path(), table), *THREE) == 0
        assert "6 runs to make, 0 already in" in capsys.readouterr().out


def broken(*_: object) -> NoReturn:
    raise RuntimeError("out of luck")


@pytest.mark.parametrize("failing", ["soft", "ce-tuned"])
def test_a_run_that_fails_is_recorded_with_its_traceback_and_tried_again_next_time(
    failing: str, csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(METHODS, failing, broken)
        assert compare(csv, *THREE) == 1
    out, error = capsys.readouterr()
    assert error.count(f"{failing}, seed 0 failed: RuntimeError: out of luck\n") == 1
    assert f"left out, because they failed: {failing} 2 of 2." in out
    assert out.endswith(f"records: {LINES}\n")
    failed = [line for line in lines() if line["error"] is not None]
    assert [(line["method"], line["seed"]) for line in failed] == [(failing, 0), (failing, 1)]
    assert all("Traceback" in line["error"] and "in broken" in line["error"] for line in failed)
    assert len(lines()) == 6  # the others went on
    assert compare(csv, *THREE) == 0
    out = capsys.readouterr().out
    assert "2 runs to make, 4 already in" in out
    assert "failed" not in out
    assert len(lines()) == 8


def test_a_method_that_fails_for_one_seed_is_compared_by_the_others(
    csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unlucky(metric: CountMetric, budget: Budget, generator: Generator) -> Recipe:
        return broken() if generator.initial_seed() == 1 else METHODS["ce"](metric, budget, generator)

    monkeypatch.setitem(METHODS, "soft", unlucky)
    assert compare(csv, "--methods", "ce-tuned", "soft", "--seeds", 3) == 1
    out = capsys.readouterr().out
    assert "soft 1 of 3." in out
    assert "2 paired seeds" in out


def test_all_runs_failing_is_told_by_the_table_and_status_1(
    csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in THREE[1:]:
        monkeypatch.setitem(METHODS, name, broken)
    assert compare(csv, *THREE) == 1
    out, error = capsys.readouterr()
    assert error.count("out of luck") == error.count("\n") == 6
    assert out.endswith(f"records: {LINES}\n")


def judged(best: str) -> tuple[float, float, float]:
    """Mean difference of a method to ce-tuned with its interval, which holds for two comparisons at once."""
    tests = pd.DataFrame(lines()).pivot_table(index="seed", columns="method", values="test")
    gaps = (tests[best] - tests["ce-tuned"]).to_numpy()
    quantile = student_t.ppf(1 - 0.05 / 2 / 2, df=len(gaps) - 1)
    half = quantile * sqrt(gaps.var(ddof=1) * (1 / len(gaps) + OVERLAP))
    return gaps.mean(), gaps.mean() - half, gaps.mean() + half


def opposite(logits: Tensor, target: Tensor) -> Tensor:
    return bce(logits, 1 - target.float())


def learning_the_opposite(metric: CountMetric, budget: Budget, generator: Generator) -> Recipe:
    return Recipe([stage(opposite, budget)])


def learning_the_opposite_once(metric: CountMetric, budget: Budget, generator: Generator) -> Recipe:
    return Recipe([stage(opposite if generator.initial_seed() == 0 else bce, budget)])


@pytest.mark.parametrize(
    ("sabotaged", "verdict"),
    [
        ({}, "within luck"),
        ({"ce-tuned": learning_the_opposite_once}, "within luck"),  # which the others beat in the mean
        ({"ce-tuned": learning_the_opposite}, 'beat "ce-tuned" on test f1'),
        ({"ce": learning_the_opposite, "soft": learning_the_opposite}, '"ce-tuned" beat each of the 2 other methods'),
    ],
)
def test_the_sentence_agrees_with_the_records(
    sabotaged: dict[str, Method],
    verdict: str,
    csv: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, method in sabotaged.items():
        monkeypatch.setitem(METHODS, name, method)
    # Many large steps, so that what is learnt is learnt in the first epoch.
    assert compare(csv, *THREE, "--lr", 0.1, "--epochs", 3, "--batch-size", 6, "--seeds", 4) == 0
    said = capsys.readouterr().out.splitlines()[-2]
    found = re.search(r'"(\S+)" minus "ce-tuned" is (\S+) \(95% interval (\S+) to (\S+), 4 paired seeds', said)
    assert found is not None
    best, *numbers = found.groups()
    mean, low, high = judged(best)
    assert [float(number) for number in numbers] == pytest.approx([mean, low, high], abs=6e-5)
    assert verdict in said
    assert mean > 0 or "ce-tuned" not in sabotaged
    others = [judged(name) for name in ("ce", "soft")]
    assert (f'"{best}" beat "ce-tuned"' in said) == (low > 0) == any(other[1] > 0 for other in others)
    assert ("within luck" in said) == (low <= 0 <= high)
    assert ('"ce-tuned" beat each' in said) == all(other[2] < 0 for other in others)


def test_the_table_holds_the_means_of_the_records(csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(csv, *THREE, "--epochs", 10) == 0
    out = capsys.readouterr().out
    for method, tests in pd.DataFrame(lines()).groupby("method")["test"]:
        assert re.search(rf"^{re.escape(method)} +2 +{tests.mean():.3f} \[", out, flags=re.MULTILINE), method


def test_one_method_is_a_table_without_a_verdict(csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(csv, "--methods", "soft") == 0
    out = capsys.readouterr().out
    assert re.search(r"^soft +2 ", out, flags=re.MULTILINE)
    assert "seeds)" not in out


def test_methods_named_twice_run_once(csv: Path) -> None:
    assert compare(csv, "--methods", "ce", "soft", "ce") == 0
    assert len(lines()) == 4


def test_without_a_table_the_digits_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--epochs=2", "--seeds=1", "--workers=1", "--methods", "ce", "ce-tuned"]) == 0
    assert "digits, linear: 2 runs to make" in capsys.readouterr().out
    assert {sum(line["counts"]["test"].values()) for line in lines()} == {450}


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is a signal to a process group")
def test_ctrl_c_keeps_what_is_done_and_the_rest_is_made_afterwards(
    csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*THREE, "--seeds", 3, "--epochs", 80, "--patience", 80]
    process = started("compare", csv, "--target=spam", "--workers", 2, *arguments, start_new_session=True)
    deadline = time.monotonic() + 60
    while not LINES.exists() or LINES.read_bytes().count(b"\n") < 1:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    # Beside what the processes of the pool say, if they were just starting.
    assert "rlgrad: interrupted; the same command goes on with the runs that are missing\n" in error
    done, before = len(read(LINES)), LINES.read_bytes()
    assert 1 <= done < 9
    assert compare(csv, *arguments) == 0
    assert f"{9 - done} runs to make, {done} already in" in capsys.readouterr().out
    assert LINES.read_bytes().startswith(before)
    assert len({(line["method"], line["seed"]) for line in lines()}) == len(lines()) == 9


# --- bad input --------------------------------------------------------------------------------------------------------


# Later arguments win over these, by which a mistake that is not noticed costs no time.
QUICK = {
    "train": ["--epochs=2"],
    "compare": ["--epochs=2", "--workers=1", "--seeds=1", "--methods", "ce", "ce-tuned"],
}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said of a mistake, having checked that it is one line and that nothing was written."""
    before = sorted(Path().rglob("*"))
    status = main(arguments)
    out, error = capsys.readouterr()
    assert (status, out) == (2, ""), error
    assert error.startswith("rlgrad: error: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert sorted(Path().rglob("*")) == before
    return error.removeprefix("rlgrad: error: ").rstrip("\n")


def test_a_mistake_is_one_line_in_a_process_of_its_own() -> None:
    status, out, error = finished("train", "nowhere.csv", "--target", "spam", "--out", "model")
    assert (status, out) == (2, "")
    assert error == "rlgrad: error: needed a file, got nowhere.csv, which does not exist; check the path\n"
    assert list(Path().iterdir()) == []


def changed(row: int, **values: Any) -> pd.DataFrame:
    table = made().astype(object)
    table.loc[row, list(values)] = list(values.values())
    return table


FEW = np.where(np.arange(ROWS) < 2, "yes", "no")
BAD_TABLES: dict[str, tuple[pd.DataFrame | bytes, str]] = {
    "one class": (made(spam="no"), r"needed two classes in column 'spam', got 1 \('no: 120 rows'\)"),
    "three classes": (made(spam=made()["colour"].fillna("red")), r"needed two classes in column 'spam', got 3 \('red"),
    "target missing": (changed(4, spam=None), "needed a label .* 'spam', got 1 missing, the first in row 5; remove"),
    "infinite": (changed(4, weight=np.inf), "needed finite numbers, .* in column 'weight', got inf in row 5; correct"),
    "too few of a class": (made(spam=FEW), "needed distinct rows of class 'yes' for each part, got 2 in all; add rows"),
    "nothing but the target": (made()[["spam"]], "needed columns beside 'spam' to predict it from"),
    "empty": (b"", "needed a table, got the empty file bad.csv; check"),
    "blank": (b"\n\n", "needed a table, got the empty file bad.csv; check"),
    "header only": (b"size,spam\n", "needed rows of data, got none in bad.csv; check"),
    "same names": (b"a,a,spam\n1,2,yes\n3,4,no\n", "needed a name of its own for each column, got 2 columns 'a'"),
    "torn line": (b"a,spam\n1,yes\n2\n", "needed 2 fields on each line of bad.csv, .* got 1 on line 3; correct"),
    "binary": (bytes(range(256)) * 9, "needed UTF-8 text in bad.csv, got other bytes .*; save it as UTF-8"),
    "zeros": (b"\0" * 999, "bad.csv"),
}


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize("mistake", BAD_TABLES)
def test_a_bad_table_is_refused(mistake: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = BAD_TABLES[mistake]
    if isinstance(content, bytes):
        Path("bad.csv").write_bytes(content)
    else:
        written(Path(), content, "bad.csv")
    said = refused([command, "bad.csv", "--target=spam", "--out=new", *QUICK[command]], capsys)
    assert re.search(message, said), said


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.csv", "needed a file, got none.csv, which does not exist; check the path"),
        ("folder.csv", "needed a file, got the folder folder.csv; name a file in it"),
        ("mail.xlsx", r"needed a file .csv, .*, .parquet, .pq, got mail.xlsx; convert it"),
        ("mail.parquet", "needed a Parquet file, got mail.parquet .*; write it anew"),
        ("mail.csv.gz", "needed a whole gzip file, got mail.csv.gz .*; compress it anew"),
    ],
)
def test_a_path_that_is_no_table_is_refused(
    name: str, message: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder.csv").mkdir()
    for other in ("mail.xlsx", "mail.parquet", "mail.csv.gz"):
        Path(other).write_text("size,spam\n1,yes\n2,no\n")
    said = refused([command, name, "--target=spam", "--out=new", *QUICK[command]], capsys)
    assert re.fullmatch(message, said), said


WRONG_OPTIONS = [
    ("--target=spma", "needed a column 'spma', got a table with the similar 'spam'; correct the name"),
    ("--metric=f11", r"needed a metric that exists, got 'f11'; did you mean f1\b.*\?"),
    ("--metric=zzz", "needed a metric that exists, got 'zzz'; there are f1, .*fowlkes_mallows"),
    ("--positive=maybe", "needed 'no', 'yes' as the positive class of column 'spam', got 'maybe'; name one of the two"),
    ("--epochs=0", r"needed .*epochs of at least \d, got 0.*"),
    ("--epochs=-3", r"needed .*epochs of at least \d, got -3.*"),
    ("--lr=nan", "needed a positive finite .*lr, got nan.*"),
    ("--lr=inf", "needed a positive finite .*lr, got inf.*"),
    ("--lr=-1", "needed a positive finite .*lr, got -1.0.*"),
    ("--lr=0", "needed a positive finite .*lr, got 0.0.*"),
    ("--batch-size=0", "needed .*batch.size of at least 1, got 0.*"),
    ("--patience=0", "needed .*patience of at least 1, got 0.*"),
]
FOR_TRAIN = [
    ("--method=ce-tund", r"needed a method that exists, got 'ce-tund'; did you mean ce-tuned\b.*\?"),
    ("--method=zzz", "needed a method that exists, got 'zzz'; there are ce, .*"),
    ("--seed=-1", r"needed a seed from 0 to 2\*\*32 - 1, got -1; choose another"),
    (f"--seed={2**32}", rf"needed a seed from 0 to 2\*\*32 - 1, got {2**32}; choose another"),
    (f"--seed={2**65}", rf"needed a seed from 0 to 2\*\*32 - 1, got {2**65}; choose another"),
]
FOR_COMPARE = [
    ("--methods=ce-tund", r"needed a method that exists, got 'ce-tund'; did you mean ce-tuned\b.*\?"),
    ("--seeds=0", "needed at least one seed, got --seeds 0; .*"),
    ("--seeds=-2", "needed at least one seed, got --seeds -2; .*"),
    ("--workers=0", "needed a number of workers, got --workers 0; .*"),
]


@pytest.mark.parametrize(
    ("command", "option", "message"),
    [
        *(pytest.param("train", *wrong, id=f"train {wrong[0]}") for wrong in WRONG_OPTIONS + FOR_TRAIN),
        *(pytest.param("compare", *wrong, id=f"compare {wrong[0]}") for wrong in WRONG_OPTIONS + FOR_COMPARE),
    ],
)
@pytest.mark.usefixtures("as_a_user")
def test_an_option_that_cannot_be_is_refused_before_a_run_is_started(
    command: str, option: str, message: str, csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused([command, str(csv), "--target=spam", "--out=new", *QUICK[command], option], capsys)
    assert re.fullmatch(message, said), said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mail.csv"], "needed a column to predict, got none; pass --target with one of 'size', 'colour', .*, 'spam'"),
        (["--target=spam"], "needed a table to take the target from, got none; name a file first"),
        (["--no-header"], "needed a table to take the target from, got none; name a file first"),
    ],
)
def test_compare_needs_a_table_and_a_target_or_neither(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    written(Path(), made())
    said = refused(["compare", *arguments, *QUICK["compare"]], capsys)
    assert re.fullmatch(message, said), said


def test_train_needs_a_target(csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["train", str(csv), "--out=new"], capsys)
    assert said.startswith("needed a column to predict, got none; pass --target with one of 'size', 'colour', ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["trian", "mail.csv"],
        ["train", "mail.csv", "--target=spam"],
        ["train", "mail.csv", "--target=spam", "--out=new", "--epochs=many"],
        ["train", "mail.csv", "--target=spam", "--out=new", "--model=cnn"],
        ["train", "mail.csv", "--target=spam", "--out=new", "--epoch", "3"],
        ["predict", "model"],
    ],
)
def test_arguments_that_do_not_parse_end_with_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("extra", [[], ["--overwrite"]])
def test_a_model_is_not_written_over_what_is_no_model(
    extra: list[str], csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("thesis").mkdir()
    Path("thesis/chapter.txt").write_text("years of work")
    said = refused(["train", str(csv), "--target=spam", "--out=thesis", "--epochs=2", *extra], capsys)
    assert re.search("got thesis,? (which exists; pass --overwrite|with other files; name another folder)$", said)


@pytest.mark.parametrize("extra", [[], ["--overwrite"]])
def test_a_model_is_not_written_over_a_file(extra: list[str], csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("notes.txt").write_text("years of work")
    said = refused(["train", str(csv), "--target=spam", "--out=notes.txt", "--epochs=2", *extra], capsys)
    assert said.startswith("needed a")
    assert "notes.txt" in said
    assert Path("notes.txt").read_text() == "years of work"


def test_nothing_is_left_where_the_table_was_bad(csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["train", str(csv), "--target=spma", "--out=new/folder/model"], capsys)
    refused(["compare", str(csv), "--target=spma", "--out=new/folder/comparison"], capsys)
    assert not Path("new").exists()


def test_records_are_not_written_under_a_file(csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("notes.txt").write_text("years of work")
    said = refused(["compare", str(csv), "--target=spam", "--out=notes.txt"], capsys)
    assert said == "needed a folder to write records.jsonl in, got the file notes.txt; name another"


def test_predictions_are_not_written_over_a_file(model: Path, csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("notes.csv").write_text("years of work")
    said = refused(["predict", str(model), str(csv), "--out=notes.csv"], capsys)
    assert said == "needed a new file to write, got notes.csv, which exists; pass --overwrite"
    assert Path("notes.csv").read_text() == "years of work"


def test_predictions_are_not_written_over_a_folder(model: Path, csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("folder").mkdir()
    assert "folder" in refused(["predict", str(model), str(csv), "--out=folder", "--overwrite"], capsys)


def test_a_full_disk_costs_neither_the_old_predictions_nor_leaves_new_ones(
    model: Path, csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(table: pd.DataFrame, file: BinaryIO, **options: Any) -> None:
        file.write(b"probability,predi")
        raise OSError(28, "No space left on device")

    Path("old.csv").write_text("years of work")
    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    assert "No space left" in refused(["predict", str(model), str(csv), "--out=old.csv", "--overwrite"], capsys)
    assert Path("old.csv").read_text() == "years of work"
    assert [path.name for path in Path().iterdir()] == ["old.csv"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (made().drop(columns="size"), "needed a column 'size', got a table with 'colour', 'weight', 'spam'; .*"),
        (made().rename(columns={"colour": "color"}), "needed a column 'colour', got a .* the similar 'color'; .*"),
        (changed(3, size="big"), "needed numbers in column 'size', got 'big' in row 4; correct it or leave it empty"),
        (changed(3, size=-np.inf), "needed finite numbers, .* in column 'size', got -inf in row 4; correct .*"),
        (made().head(0), "needed rows of data, got none in rows.csv; .*"),
    ],
)
def test_rows_that_the_model_cannot_take_are_refused(
    table: pd.DataFrame, message: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(Path(), table, "rows.csv")
    said = refused(["predict", str(model), "rows.csv", "--out=new/predictions.csv"], capsys)
    assert re.fullmatch(message, said), said


@pytest.mark.parametrize("name", ["nowhere", "folder", "file"])
def test_what_is_no_model_is_refused(name: str, csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("folder").mkdir()
    Path("file").touch()
    said = refused(["predict", name, str(csv), "--out=new.csv"], capsys)
    assert said == f"needed a folder written by rlgrad train, got {name}, which has no SHA256SUMS"


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "preprocessing.skops"])
def test_a_damaged_model_is_refused(name: str, csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(csv, "--out", "model") == 0
    capsys.readouterr()
    content = bytearray(Path("model", name).read_bytes())
    content[len(content) // 2] ^= 1
    Path("model", name).write_bytes(content)
    said = refused(["predict", "model", str(csv), "--out=new.csv"], capsys)
    assert said == f"needed model/{name} as it was saved, got other content; restore the folder"


def test_a_records_file_that_is_something_else_is_left_alone(csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LINES.parent.mkdir()
    LINES.write_text("years of work\nof another kind\n")
    said = refused(["compare", str(csv), "--target=spam", *QUICK["compare"]], capsys)
    assert f"{LINES}, line 1: " in said
    assert LINES.read_text() == "years of work\nof another kind\n"
