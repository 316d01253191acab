"""Saved models: what comes back is what was saved, or a clear error; no accident leaves half a model."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import skops.io
import torch
from torch import nn

from rlgrad.model import (
    NETWORKS,
    Description,
    Label,
    TableModel,
    build,
    check_destination,
    load_model,
    save_model,
    table,
)
from rlgrad.model import folder as folder_module
from rlgrad.tables import encode, fit_preprocessor

TABLE = pd.DataFrame(
    {
        "size": np.linspace(-3.0, 3.0, 40),
        "weight": [*np.linspace(5.0, 1.0, 39), np.nan],
        "colour": ["red", "blue", "grün", None] * 10,
    }
)
PREPROCESSING = fit_preprocessor(TABLE)
INPUTS = encode(PREPROCESSING, TABLE).shape[1]
FILES = ["SHA256SUMS", "model.json", "preprocessing.skops", "weights.safetensors"]


def a_model(network: str = "linear", *, seed: int = 0, threshold: float = 0.25) -> TableModel:
    description = Description(
        network=network,
        inputs=INPUTS,
        labels=(Label("Zustand", ("gesund", "kränklich"), threshold),),
        metric="f1",
        scores={"test": 0.1 + 0.2},
        versions={"rlgrad": "0.1.0"},
    )
    return TableModel(description, build(network, INPUTS, seed=seed), PREPROCESSING)


def of_two_labels(network: str = "linear") -> TableModel:
    one = a_model(network)
    labels = (*one.description.labels, Label("Größe", ("klein", "groß"), -0.1))
    return TableModel(replace(one.description, labels=labels), build(network, INPUTS, 2, seed=0), PREPROCESSING)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    save_model(a_model(), folder)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def sign(folder: Path) -> None:
    """Make the sums match what is there, as whoever tampers with a model would."""
    sums = [f"{sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in FILES[1:]]
    (folder / "SHA256SUMS").write_text("".join(sums))


OF_LABEL = ("column", "classes", "threshold")


def describe_anew(folder: Path, **changes: Any) -> None:
    description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    label = description["labels"][0] | {name: changes.pop(name) for name in OF_LABEL if name in changes}
    description |= {"labels": [{name: value for name, value in label.items() if value is not ...}]} | changes
    kept = {name: value for name, value in description.items() if value is not ...}
    (folder / "model.json").write_text(json.dumps(kept), encoding="utf-8")
    sign(folder)


class Touch:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


# Fresh networks


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build(name, 5, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = build(name, 5, seed=3).state_dict(), build(name, 5, seed=4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_networks_give_one_logit_a_row(name: str, rows: int) -> None:
    assert build(name, 5, seed=0)(torch.zeros(rows, 5)).shape == (rows,)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_networks_give_a_logit_for_each_of_several_labels(name: str, rows: int) -> None:
    assert build(name, 5, 3, seed=0)(torch.zeros(rows, 5)).shape == (rows, 3)


# Predictions


@pytest.mark.parametrize("network", NETWORKS)
def test_predictions_follow_logits_and_threshold(network: str) -> None:
    model = a_model(network, threshold=0.0)
    logits = model.logits(TABLE)
    with torch.no_grad():
        expected = model.network(torch.from_numpy(encode(PREPROCESSING, TABLE)))
    np.testing.assert_array_equal(logits, expected.double())
    # At one of the logits, so that it is told whether the threshold itself is in or out.
    threshold = float(np.sort(logits)[20])
    predictions = a_model(network, threshold=threshold).predict(TABLE)
    np.testing.assert_allclose(predictions["probability"], 1 / (1 + np.exp(-logits)), rtol=1e-12)
    assert predictions["prediction"].tolist() == ["kränklich" if z > threshold else "gesund" for z in logits]
    assert (predictions["prediction"] == "kränklich").sum() == 19


@pytest.mark.parametrize("network", NETWORKS)
def test_predictions_of_several_labels(network: str, tmp_path: Path) -> None:
    model = of_two_labels(network)
    save_model(model, tmp_path / "model")
    predictions = load_model(tmp_path / "model").predict(TABLE)
    assert list(predictions) == [
        f"{what}_{of}" for of in ("Zustand", "Größe") for what in ("probability", "prediction")
    ]
    logits = model.logits(TABLE)
    assert logits.shape == (40, 2)
    for at, label in enumerate(model.description.labels):
        np.testing.assert_allclose(predictions[f"probability_{label.column}"], 1 / (1 + np.exp(-logits[:, at])))
        positive = predictions[f"prediction_{label.column}"] == label.classes[1]
        np.testing.assert_array_equal(positive, logits[:, at] > label.threshold)
    assert len(model.predict(TABLE.head(0))) == 0


def test_predictions_are_made_in_evaluation_mode() -> None:
    whole = a_model()
    model = TableModel(whole.description, nn.Sequential(nn.Dropout(0.9), whole.network).train(), PREPROCESSING)
    np.testing.assert_array_equal(model.logits(TABLE), whole.logits(TABLE))


def test_a_table_without_rows_has_no_predictions() -> None:
    predictions = a_model().predict(TABLE.head(0))
    assert predictions.columns.tolist() == ["probability", "prediction"]
    assert len(predictions) == 0


def test_a_column_is_missing() -> None:
    with pytest.raises(ValueError, match="weight"):
        a_model().predict(TABLE.drop(columns="weight"))


# There and back


@pytest.mark.parametrize("as_type", [str, Path])
@pytest.mark.parametrize("network", NETWORKS)
def test_round_trip(tmp_path: Path, network: str, as_type: type) -> None:
    model = a_model(network, threshold=float(np.median(a_model(network).logits(TABLE))))
    save_model(model, as_type(tmp_path / "model"))
    before = torch.get_rng_state()
    loaded = load_model(as_type(tmp_path / "model"))
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.description == model.description
    np.testing.assert_array_equal(loaded.logits(TABLE), model.logits(TABLE))
    pd.testing.assert_frame_equal(loaded.predict(TABLE), model.predict(TABLE))
    assert set(model.predict(TABLE)["prediction"]) == {"gesund", "kränklich"}  # both were put to the test


def test_saving_twice_gives_the_same_model(saved: Path, tmp_path: Path) -> None:
    save_model(load_model(saved), tmp_path / "copy")
    again, first = content(tmp_path / "copy"), content(saved)
    assert again["model.json"] == first["model.json"]
    assert again["weights.safetensors"] == first["weights.safetensors"]


def test_a_model_of_the_first_format_is_still_read(saved: Path) -> None:
    expected = load_model(saved)
    content = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    (label,) = content.pop("labels")
    old = {"format": 1, "target": label["column"], "classes": label["classes"], "threshold": label["threshold"]}
    (saved / "model.json").write_text(json.dumps(content | old), encoding="utf-8")
    sign(saved)
    assert load_model(saved).description == expected.description


def test_a_folder_holds_four_files_and_nothing_is_left_beside_it(saved: Path) -> None:
    assert names(saved) == FILES
    assert names(saved.parent) == ["model"]
    (label,) = json.loads((saved / "model.json").read_text(encoding="utf-8"))["labels"]
    assert label == {"column": "Zustand", "classes": ["gesund", "kränklich"], "threshold": 0.25}
    if os.name == "posix":
        assert saved.stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sha256sum_reads_the_sums(saved: Path) -> None:
    check = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=saved, capture_output=True, text=True, check=True)
    assert check.stdout.count(": OK") == 3


def test_a_model_may_be_moved(saved: Path, tmp_path: Path) -> None:
    saved.rename(tmp_path / "elsewhere")
    np.testing.assert_array_equal(load_model(tmp_path / "elsewhere").logits(TABLE), a_model().logits(TABLE))


def test_relative_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(a_model(), "model")
    save_model(a_model(seed=1), "model", overwrite=True)
    np.testing.assert_array_equal(load_model("model").logits(TABLE), a_model(seed=1).logits(TABLE))


def test_parent_folders_are_made(tmp_path: Path) -> None:
    save_model(a_model(), tmp_path / "some" / "where" / "model")
    assert load_model(tmp_path / "some" / "where" / "model").description == a_model().description


# Damage


@pytest.mark.parametrize("at", [0, 0.3, 0.7])
@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit(saved: Path, name: str, at: float) -> None:
    data = bytearray((saved / name).read_bytes())
    data[int(at * len(data))] ^= 1
    (saved / name).write_bytes(data)
    # Where it is the list of sums that is damaged, the file is named whose sum it is.
    culprit = r"model[/\\](model\.json|preprocessing|weights)" if name == "SHA256SUMS" else name.replace(".", r"\.")
    with pytest.raises(ValueError, match=f"needed .*{culprit}.* as it was saved, got other content; restore"):
        load_model(saved)


@pytest.mark.parametrize("change", ["half", "empty", "longer", "garbage"])
@pytest.mark.parametrize("name", FILES[1:])
def test_a_file_of_other_length(saved: Path, name: str, change: str) -> None:
    data = (saved / name).read_bytes()
    changed = {"half": data[: len(data) // 2], "empty": b"", "longer": data + b"\n", "garbage": b"\xff\xfe\x00"}
    (saved / name).write_bytes(changed[change])
    with pytest.raises(ValueError, match=rf"needed .*{name}.* as it was saved"):
        load_model(saved)


@pytest.mark.parametrize("sums", [b"", b"\xff\xfe\x00", b"0  model.json\n"])
def test_sums_that_are_none(saved: Path, sums: bytes) -> None:
    (saved / "SHA256SUMS").write_bytes(sums)
    with pytest.raises(ValueError, match=r"model\.json as it was saved"):
        load_model(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_model(saved)


@pytest.mark.parametrize("kind", ["nothing", "empty", "file"])
def test_what_is_no_model_folder(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model"
    if kind == "empty":
        path.mkdir()
    elif kind == "file":
        path.write_text("hello")
    with pytest.raises(FileNotFoundError, match=r"needed a folder written by rlgrad train, got .*model"):
        load_model(path)


def test_other_files_in_the_folder_do_no_harm(saved: Path) -> None:
    before = load_model(saved).description
    (saved / "README.md").write_text("mine")
    assert load_model(saved).description == before


# Forgery: the sums match, so what the files hold is all there is to judge by


@pytest.mark.parametrize("write", ["torch", "pickle"])
def test_pickled_weights_are_refused_and_not_run(saved: Path, tmp_path: Path, write: str) -> None:
    sentinel, path = tmp_path / "sentinel", saved / "weights.safetensors"
    if write == "torch":
        torch.save({"0.weight": Touch(sentinel)}, path)
    else:
        path.write_bytes(pickle.dumps(Touch(sentinel)))
    with pytest.raises(ValueError, match=r"weights\.safetensors.* as it was saved"):
        load_model(saved)
    sign(saved)
    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        load_model(saved)
    assert not sentinel.exists()
    data = path.read_bytes()
    torch.load(io.BytesIO(data), weights_only=False) if write == "torch" else pickle.loads(data)
    assert sentinel.exists()  # so the file was able to


def test_an_untrusted_object_in_the_preprocessing_is_refused_and_not_built(saved: Path, tmp_path: Path) -> None:
    sentinel, path = tmp_path / "sentinel", saved / "preprocessing.skops"
    transformer = fit_preprocessor(TABLE)
    transformer.sentinel = Touch(sentinel)
    path.write_bytes(skops.io.dumps(transformer))
    sign(saved)
    with pytest.raises(ValueError, match=r"preprocessing\.skops"):
        load_model(saved)
    path.write_bytes(pickle.dumps(Touch(sentinel)))
    sign(saved)
    with pytest.raises(ValueError, match=r"preprocessing\.skops"):
        load_model(saved)
    assert not sentinel.exists()


LABEL = {"column": "Zustand", "classes": ["gesund", "kränklich"], "threshold": 0.25}
DESCRIPTIONS: dict[str, dict[str, Any]] = {
    "another format": {"format": 3},
    "the first format": {"format": 1},
    "no format": {"format": ...},
    "an unknown field": {"hook": "os.system"},
    "a missing field": {"threshold": ...},
    "an unknown network": {"network": "transformer"},
    "a network that is no name": {"network": ["mlp"]},
    "another network": {"network": "mlp"},
    "other inputs": {"inputs": INPUTS + 1},
    "no inputs": {"inputs": "many"},
    "one class": {"classes": ["gesund"]},
    "no classes": {"classes": ...},
    "a threshold that is no number": {"threshold": "0.5"},
    "a threshold of NaN": {"threshold": float("nan")},
    "a column that is no name": {"column": 3},
    "a further field of a label": {"labels": [{**LABEL, "weight": 1.0}]},
    "no labels": {"labels": []},
    "labels that are none": {"labels": "Zustand"},
    "a label twice": {"labels": [LABEL, LABEL]},
    "another number of labels": {"labels": [LABEL, {**LABEL, "column": "Größe"}]},
}


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_a_forged_description(saved: Path, case: str) -> None:
    describe_anew(saved, **DESCRIPTIONS[case])
    with pytest.raises(ValueError, match=r"needed .*model"):
        load_model(saved)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', "\N{SNOWMAN}"])
def test_a_description_that_is_none(saved: Path, text: str) -> None:
    (saved / "model.json").write_text(text, encoding="utf-8")
    sign(saved)
    with pytest.raises(ValueError, match=r"needed .*model\.json"):
        load_model(saved)


WEIGHTS: dict[str, dict[str, torch.Tensor]] = {
    "none": {},
    "one missing": {"0.weight": torch.zeros(1, INPUTS)},
    "another shape": {"0.weight": torch.zeros(1, INPUTS + 1), "0.bias": torch.zeros(1)},
    "one more": {"0.weight": torch.zeros(1, INPUTS), "0.bias": torch.zeros(1), "2.bias": torch.zeros(1)},
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_of_another_network(saved: Path, case: str) -> None:
    safetensors.torch.save_file(WEIGHTS[case], saved / "weights.safetensors")
    sign(saved)
    with pytest.raises(ValueError, match=r"needed .*weights"):
        load_model(saved)


@pytest.mark.parametrize("data", [b"", b"garbage", b"\xff" * 64], ids=["empty", "text", "a huge header"])
def test_weights_that_are_none(saved: Path, data: bytes) -> None:
    (saved / "weights.safetensors").write_bytes(data)
    sign(saved)
    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        load_model(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(saved: Path, tmp_path: Path, value: float) -> None:
    model, before = a_model(), content(saved)
    with torch.no_grad():
        model.network.get_parameter("0.bias").fill_(value)
    for folder, overwrite in ((tmp_path / "new", False), (saved, True)):
        with pytest.raises(ValueError, match=r"needed finite weights, got others for 0\.bias"):
            save_model(model, folder, overwrite=overwrite)
    assert names(tmp_path) == ["model"]
    assert content(saved) == before
    safetensors.torch.save_file(model.network.state_dict(), saved / "weights.safetensors")
    sign(saved)
    with pytest.raises(ValueError, match=r"needed finite weights, got others for 0\.bias in .*model"):
        load_model(saved)


# Where a model may be saved


@pytest.mark.parametrize("kind", ["model", "empty", "file"])
def test_what_exists_is_not_overwritten_unasked(saved: Path, tmp_path: Path, kind: str) -> None:
    path = {"model": saved, "empty": tmp_path / "empty", "file": tmp_path / "file"}[kind]
    if kind == "empty":
        path.mkdir()
    elif kind == "file":
        path.write_text("mine")
    before, listed = content(tmp_path), names(tmp_path)
    for refused in (lambda: check_destination(path, overwrite=False), lambda: save_model(a_model(seed=1), path)):
        with pytest.raises(FileExistsError, match=r"needed a new folder for the model, got .*, which exists"):
            refused()
    assert (content(tmp_path), names(tmp_path)) == (before, listed)


def test_overwriting_replaces_the_whole_model(saved: Path) -> None:
    before = content(saved)
    save_model(a_model("mlp", seed=1), saved, overwrite=True)
    after = content(saved)
    assert names(saved) == FILES
    assert names(saved.parent) == ["model"]
    assert all(after[name] != before[name] for name in ("SHA256SUMS", "model.json", "weights.safetensors"))
    np.testing.assert_array_equal(load_model(saved).logits(TABLE), a_model("mlp", seed=1).logits(TABLE))


@pytest.mark.parametrize("exists", [False, True])
def test_overwriting_nothing(tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "model").mkdir()
    save_model(a_model(), tmp_path / "model", overwrite=True)
    assert load_model(tmp_path / "model").description == a_model().description


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"thesis.txt": "mine"}, id="other files"),
        pytest.param({"sub/thesis.txt": "mine"}, id="a folder"),
        pytest.param({"model.json": "{}", "thesis.txt": "mine"}, id="another program's model.json"),
    ],
)
def test_a_folder_that_holds_no_model_is_not_overwritten(tmp_path: Path, files: dict[str, str]) -> None:
    folder = tmp_path / "documents"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for refused in (
        lambda: check_destination(folder, overwrite=True),
        lambda: save_model(a_model(), folder, overwrite=True),
    ):
        with pytest.raises(FileExistsError, match=r"needed a model to overwrite, got .*documents"):
            refused()
    assert {name: text.decode() for name, text in content(folder).items()} == files


def test_a_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"needed .* got .*thesis\.txt"):
        save_model(a_model(), tmp_path / "thesis.txt", overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert names(tmp_path) == ["thesis.txt"]


def test_asking_leaves_no_trace(tmp_path: Path) -> None:
    check_destination(tmp_path / "some" / "model", overwrite=False)
    assert names(tmp_path) == []


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        check_destination(tmp_path / "file" / "model", overwrite=False)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_parent_that_is_read_only(tmp_path: Path) -> None:
    parent = tmp_path / "locked"
    parent.mkdir(mode=0o555)
    for refused in (
        lambda: check_destination(parent / "model", overwrite=False),
        lambda: save_model(a_model(), parent / "model"),
    ):
        with pytest.raises(PermissionError):
            refused()
    assert names(parent) == []


# Accidents while saving


def fail(error: type[BaseException]) -> Any:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise error("cut off")

    return failing


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("module", "place"), [(table, "save_preprocessor"), (folder_module, "_sum"), (folder_module, "_synchronise")]
)
def test_an_error_while_saving_leaves_all_as_it_was(
    saved: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    place: str,
    error: type[BaseException],
) -> None:
    before = content(saved)
    monkeypatch.setattr(module, place, fail(error))
    for folder, overwrite in ((tmp_path / "new", False), (saved, True)):
        with pytest.raises(error, match="cut off"):
            save_model(a_model(seed=1), folder, overwrite=overwrite)
    assert names(tmp_path) == ["model"]
    assert content(saved) == before


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("nth", [1, 2])
def test_an_error_while_renaming_leaves_the_old_model(
    saved: Path, monkeypatch: pytest.MonkeyPatch, nth: int, error: type[BaseException]
) -> None:
    before, rename, calls = content(saved), Path.rename, []

    def fails_once(self: Path, target: Path) -> Path:
        calls.append(target)
        return fail(error)() if len(calls) == nth else rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_once)
    with pytest.raises(error, match="cut off"):
        save_model(a_model(seed=1), saved, overwrite=True)
    assert names(saved.parent) == ["model"]
    assert content(saved) == before


KILLS = """
import os, random, signal, sys, time
import torch
from pathlib import Path
from rlgrad.model import load_model, save_model

torch.set_num_threads(1)
folder = Path(sys.argv[1])
model = load_model(folder)
for kill in range(int(sys.argv[2])):
    child = os.fork()
    if not child:
        while True:
            save_model(model, folder, overwrite=True)
    time.sleep(0.02 + 0.1 * random.Random(kill).random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if not folder.exists():  # cut between the two renames
        whole, = folder.parent.glob(f".{folder.name}.*.old")
        load_model(whole)
        whole.rename(folder)
    load_model(folder)
    print("whole")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_moment_leaves_a_whole_model(saved: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", KILLS, str(saved), "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stderr, done.stdout.split()) == ("", ["whole"] * 8)
    # What the kills left behind is no obstacle.
    save_model(a_model(seed=1), saved, overwrite=True)
    np.testing.assert_array_equal(load_model(saved).logits(TABLE), a_model(seed=1).logits(TABLE))
