"""The command line on tables of several labels."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from rlgrad.cli import arguments, main
from rlgrad.metrics import metric_named, metric_names
from rlgrad.study.methods import LABEL_METHODS, METHODS
from rlgrad.study.records import read
from rlgrad.tables import duplicate_groups, load_problem, split

ROWS = 150
QUICK = ["--epochs=2"]


def songs() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    tempo, pitch = rng.normal(size=(2, ROWS)).round(3)
    return pd.DataFrame(
        {
            "tempo": tempo,
            "pitch": pitch,
            "sad": np.where(tempo + 0.5 * rng.normal(size=ROWS) < -0.4, "yes", "no"),
            "calm": (tempo + pitch < 0).astype(int),
            "loud, clear": (tempo > 0.3).astype(int),
        }
    )


def arff(table: pd.DataFrame) -> str:
    attributes = ["tempo numeric", "pitch numeric", "sad {yes,no}", "calm {0,1}", "'loud, clear' {0,1}"]
    header = ["@relation songs", *(f"@attribute {each}" for each in attributes), "@data"]
    return "\n".join([*header, table.to_csv(index=False, header=False)])


@pytest.fixture(autouse=True)
def _in_a_folder_of_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    songs().to_csv("songs.csv", index=False)
    Path("songs.arff").write_text(arff(songs()))


def test_train_and_predict(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "songs.arff", "--target", 'sad,calm,"loud, clear"', "--metric=macro_f1", "--out=model"]
    assert main([*command, "--method=ce-tuned-per-label", *QUICK]) == 0
    said = capsys.readouterr().out
    assert "songs: 150 rows, 3 labels" in said
    (score,) = re.findall(r"^macro_f1 of ce-tuned-per-label, linear: .* test (\S+) \(", said, re.M)

    assert main(["predict", "model", "songs.csv", "--out=moods.csv"]) == 0
    found, table = pd.read_csv("moods.csv", dtype=str), songs().astype(str)
    labels = ["sad", "calm", "loud, clear"]
    assert list(found) == [f"{what}_{label}" for label in labels for what in ("probability", "prediction")]
    problem = load_problem("songs.arff", labels)
    rows = split(problem.target, duplicate_groups(problem.features), seed=0).test
    truth = table.iloc[rows][labels].to_numpy() == ["yes", "1", "1"]
    decided = found.iloc[rows][[f"prediction_{label}" for label in labels]].to_numpy() == ["yes", "1", "1"]
    assert float(score) == pytest.approx(f1_score(truth, decided, average="macro"), abs=1e-4)
    for label, true, each in zip(labels, truth.T, decided.T, strict=True):
        counts = [(true & each).sum(), (~true & each).sum(), (true & ~each).sum(), (~true & ~each).sum()]
        (line,) = [line for line in said.splitlines() if line.startswith(label)]
        assert line.split()[-5:-1] == [str(count) for count in counts]
        assert float(line.split()[-1]) == pytest.approx(f1_score(true, each), abs=6e-4)
    said = capsys.readouterr().out
    assert f"sad=yes for {(found['prediction_sad'] == 'yes').sum()}, calm=1 for " in said


def test_compare_all_methods(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", "songs.csv", "--target=sad,calm", "--seeds=2", "--workers=1", *QUICK]
    assert main(command) == 0
    said = capsys.readouterr().out
    records = read("comparison/records.jsonl")
    assert [record.method for record in records[: len(LABEL_METHODS)]] == list(LABEL_METHODS)
    assert {(record.metric, record.error) for record in records} == {("instance_f1", None)}
    assert re.search(r"^method +seeds +test instance_f1 \[95%\] +minus ce-tuned", said, re.M)
    assert main(command) == 0
    assert "0 runs to make, 26 already" in capsys.readouterr().out


def test_the_saved_description_names_labels_classes_and_thresholds() -> None:
    assert main(["train", "songs.csv", "--target=calm,sad", "--positive=0,no", "--out=model", *QUICK]) == 0
    description = json.loads(Path("model/model.json").read_text())
    assert description["metric"] == metric_named("instance_f1", labels=2).name
    assert description["labels"] == [
        {"column": "calm", "classes": ["1", "0"], "threshold": 0.0},
        {"column": "sad", "classes": ["yes", "no"], "threshold": 0.0},
    ]


BAD: list[tuple[list[str], str]] = [
    (["--target=sad,calm,sad"], "needed each target column once, got 'sad' again; .*"),
    (["--target=sad,"], "needed names of target columns, got 'sad,'; .*"),
    (["--target=sad,clam"], "needed a column 'clam', got a table with the similar 'calm'; correct the name"),
    (["--target=sad,tempo"], r"needed two classes in column 'tempo', got \d+ .*"),
    (["--target=sad,calm", "--metric=f1"], "needed a metric of 2 labels, got 'f1', .* instance_f1, macro_f1, .*"),
    (["--target=sad", "--metric=macro_f1"], "needed a metric of one label, got 'macro_f1', which is of several; .*"),
    (["--target=sad,calm", "--metric=macro_f3"], "needed a metric that exists, got 'macro_f3'; did you mean .*"),
    (["--target=sad,calm", "--positive=yes"], "needed '0', '1' as the positive class of column 'calm', got 'yes'; .*"),
    (["--target=sad,calm", "--positive=yes,1,0"], "needed one positive .* or one for each of 2, got 'yes,1,0'; .*"),
]


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_input_is_one_line(
    options: list[str], message: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "songs.csv", "--out=new", *options, *QUICK]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert re.fullmatch(f"rlgrad: error: {message}\n", error), error
    assert not Path("new").exists()


@pytest.mark.parametrize("option", [["train", "--method"], ["compare", "--methods"]])
def test_a_threshold_for_each_label_needs_several(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command, name = option
    assert main([command, "songs.csv", "--target=sad", "--out=new", name, "ce-tuned-per-label"]) == 2
    assert "needed several target columns for ce-tuned-per-label, got one" in capsys.readouterr().err


def test_a_label_that_is_never_positive_or_all_columns_that_are_labels(capsys: pytest.CaptureFixture[str]) -> None:
    songs().assign(sad="no").to_csv("never.csv", index=False)
    assert main(["train", "never.csv", "--target=sad,calm", "--out=new"]) == 2
    assert "needed two classes in column 'sad', got 1 ('no: 150 rows')" in capsys.readouterr().err
    songs()[["sad", "calm"]].to_csv("all.csv", index=False)
    assert main(["compare", "all.csv", "--target=sad,calm", "--out=new"]) == 2
    assert "needed columns beside 'sad', 'calm' to predict them from, got none" in capsys.readouterr().err


def test_too_few_rows_of_a_class_name_the_label(capsys: pytest.CaptureFixture[str]) -> None:
    songs().assign(sad=np.where(np.arange(ROWS) < 2, "yes", "no")).to_csv("few.csv", index=False)
    assert main(["compare", "few.csv", "--target=calm,sad", "--out=new"]) == 2
    assert "needed distinct rows of class 'yes' of 'sad' for each part, got 2 in all" in capsys.readouterr().err


def test_audit_looks_at_one_label(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "songs.csv", "--target=sad,calm"]) == 2
    assert "needed one target column to audit, got --target sad,calm; name one" in capsys.readouterr().err


def test_help_names_what_several_labels_bring() -> None:
    assert {arguments.LABEL_METHOD} == set(LABEL_METHODS) - set(METHODS)
    averages = {name.partition("_")[0] + "_" for name in metric_names(labels=2)} - {"subset_"}
    assert all(average in arguments.OF_LABELS for average in averages)
