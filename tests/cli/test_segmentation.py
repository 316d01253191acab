"""The command line on images: a folder in, a model, masks and a picture out; what does not belong or fit is said."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rlgrad.cli import arguments, main
from rlgrad.images import generated, read_image, read_mask, write_folder, write_mask
from rlgrad.study.masks import BUDGET, CLASS_METRICS, METHODS, METRICS

QUICK = ["--task=segmentation", "--epochs=1"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cells() -> Path:
    made = generated("blobs", n=12, size=16)
    write_folder("cells", made.images, 255 * made.masks)
    return Path("cells")


@pytest.fixture
def streets() -> Path:
    made = generated("rare", n=16, size=32)
    masks = np.minimum(made.masks, 2)  # the rare class would be absent from some split
    write_folder("streets", made.images.repeat(3, axis=-1), masks)
    return Path("streets")


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("comparison/records.jsonl").read_text().splitlines()]


def refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said of a mistake, having checked that it is one line."""
    before = sorted(path for path in Path().rglob("*"))
    assert main(command) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("rlgrad: error: ")
    assert error.count("\n") == 1
    assert sorted(path for path in Path().rglob("*")) == before
    return error.removeprefix("rlgrad: error: ").rstrip()


# --- compare ----------------------------------------------------------------------------------------------------------


def test_compare_makes_what_is_missing_and_draws_it(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", *QUICK, str(cells), "--seeds=2", "--workers=1", "--methods", "ce-tuned", "exact"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.startswith("cells: 12 grey images of 16 x 16 (as they were), yes or no a pixel\ncells, U-Net: 4 runs to")
    assert re.search(r"^method +seeds +test iou \[95%\] +minus ce-tuned \[95%\] +tuned +seconds$", out, re.MULTILINE)
    assert {(line["method"], line["seed"]) for line in lines()} == {
        (m, s) for m in ("ce-tuned", "exact") for s in (0, 1)
    }
    assert all(line["error"] is None for line in lines())
    assert all(sum(line["counts"]["test"].values()) == 3 * 16 * 16 for line in lines())
    picture = Path("comparison/predictions.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"predictions: {picture}" in out
    picture.unlink()
    assert main(command) == 0
    assert "0 runs to make, 4 already in" in capsys.readouterr().out
    assert picture.exists()


def test_compare_without_a_folder_generates_images(capsys: pytest.CaptureFixture[str]) -> None:
    one = ["--seeds=1", "--workers=1", "--methods", "ce"]
    assert main(["compare", *QUICK, *one]) == 0
    assert capsys.readouterr().out.startswith("generated blobs: 160 grey images of 64 x 64 (as they were), yes or no")
    assert main(["compare", *QUICK, "--metric=miou", *one]) == 0
    assert capsys.readouterr().out.startswith("generated rare: 160 grey images of 64 x 64 (as they were), 4 classes a")
    assert [line["metric"] for line in lines()] == ["iou", "miou"]


def test_compare_classes_in_colour(streets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--seeds=1", "--workers=1", "--methods", "ce", "lovasz", "counterfactual"]
    assert main(["compare", *QUICK, str(streets), "--size", "16", "24", *chosen]) == 0
    out = capsys.readouterr().out
    assert out.startswith("streets: 16 colour images of 16 x 24 (16 cropped, 0 padded), 3 classes a pixel")
    assert "tuned" not in out
    assert all(line["counts"] == {} and line["threshold"] == "nan" for line in lines())


def test_the_options_are_those_of_the_runs(cells: Path) -> None:
    options = [
        "--lr=0.25",
        "--batch-size=7",
        "--patience=3",
        "--metric=dice",
        "--seeds=1",
        "--workers=1",
        "--methods=ce",
    ]
    assert main(["compare", *QUICK, str(cells), *options]) == 0
    (line,) = lines()
    assert line["metric"] == "dice"
    assert line["arguments"].items() >= {"lr": 0.25, "batch_size": 7, "patience": 3, "epochs": 1}.items()


# --- train and predict ------------------------------------------------------------------------------------------------


def test_train_and_predict_in_a_process_of_its_own(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *QUICK, str(cells), "--out=model", "--method=ce_dice-tuned"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "cells: 12 grey images of 16 x 16 (as they were), yes or no a pixel\niou of ce_dice-tuned: train "
    )
    assert re.search(
        r"^the held-out test images by other metrics: corpus_iou 0\.\d{4}, dice 0\.\d{4}$", out, re.MULTILINE
    )
    assert out.endswith("model saved in model\n")
    Image.fromarray(np.zeros((21, 35), dtype=np.uint8)).save("cells/images/odd.png")
    command = [sys.executable, "-m", "rlgrad.cli", "predict", "model", "cells/images", "--out=masks"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"13 masks written to masks; pixels of 0: [\d.]+%, 255: [\d.]+%\n", done.stdout)
    for path in Path("cells/images").iterdir():
        mask = read_mask(Path("masks") / path.name)
        assert mask.shape == read_image(path).shape[:2]
        assert set(np.unique(mask)) <= {0, 255}


def test_train_and_predict_classes(streets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *QUICK, str(streets), "--out=model", "--method=exact", "--size=16"]) == 0
    assert "miou of exact: train " in capsys.readouterr().out
    assert main(["predict", "model", str(streets / "images" / "0003.png"), "--out=masks"]) == 0
    assert [path.name for path in Path("masks").iterdir()] == ["0003.png"]
    assert read_mask("masks/0003.png").shape == (32, 32)
    Path("grey").mkdir()
    Image.fromarray(np.zeros((9, 9), dtype=np.uint8)).save("grey/a.png")  # grey is a colour
    assert main(["predict", "model", "grey", "--out=masks", "--overwrite"]) == 0
    assert [path.name for path in Path("masks").iterdir()] == ["a.png"]


@pytest.fixture
def model(cells: Path) -> str:
    assert main(["train", *QUICK, str(cells), "--out=model", "--method=ce"]) == 0
    return "model"


def test_masks_are_written_whole_or_not_at_all(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    Path("cells/images/0007.png").write_bytes(b"\x89PNG no more")
    assert "cells/images/0007.png" in refused(["predict", model, "cells/images", "--out=masks"], capsys)
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save("cells/images/0007.png")
    said = refused(["predict", model, "cells/images", "--out=masks"], capsys)
    assert said == "needed grey images, as those of training, got cells/images/0007.png in colour; convert it to grey"


def test_nothing_but_masks_is_overwritten(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    predict = ["predict", model, "cells/images"]
    assert "a folder of its own" in refused([*predict, "--out=cells/images", "--overwrite"], capsys)
    assert "a folder of its own" in refused([*predict, "--out=cells", "--overwrite"], capsys)
    Path("masks").mkdir()
    assert "pass --overwrite" in refused([*predict, "--out=masks"], capsys)
    Path("masks/notes.txt").write_text("mine")
    assert "holds something else" in refused([*predict, "--out=masks", "--overwrite"], capsys)
    assert "pass cells/images" in refused(["predict", model, "cells", "--out=new"], capsys)
    assert "--no-header" in refused([*predict, "--out=new", "--no-header"], capsys)


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--target=spam"], "--target"),
        (["--model=mlp", "--positive=a", "--no-header"], "--model, --positive, --no-header"),
    ],
)
@pytest.mark.parametrize("command", [["compare"], ["train", "--out=model"]])
def test_options_of_a_table_are_refused(
    command: list[str], options: list[str], named: str, cells: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused([*command, *QUICK, str(cells), *options], capsys)
    assert said == (
        f"needed options of --task segmentation, got {named} of --task table; leave that out, or pass --task table"
    )


@pytest.mark.parametrize("command", [["compare"], ["train", "x.csv", "--out=model", "--target=y"]])
def test_a_size_of_tables_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "got --size of --task segmentation" in refused([*command, "--size=16"], capsys)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--metric=miou"], "needed a metric of masks of yes and no, got 'miou'; there are iou, corpus_iou, dice"),
        (["--metric=f1"], "needed a metric of masks of yes and no, got 'f1'; there are iou, corpus_iou, dice"),
        (["--methods=soft"], "needed a method that exists, got 'soft'; "),
        (["--size=15"], "needed a height and width that are multiples of 4, got (15, 15); round them up"),
        (["--size", "8", "8", "8"], "needed a height and a width, or one number for both, got --size 8 8 8"),
        (["--lr=0"], "needed a positive finite lr"),
    ],
)
def test_mistakes_in_the_options(
    options: list[str], said: str, cells: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(["compare", *QUICK, str(cells), *options], capsys).startswith(said)


def test_methods_of_yes_and_no_are_refused_for_classes(streets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["compare", *QUICK, str(streets), "--methods", "focal", "ce"], capsys)
    assert said.startswith(
        "needed methods that can train for miou of masks of 3 classes, got focal; there are ce, dice,"
    )
    said = refused(["train", *QUICK, str(streets), "--out=model", "--method=dice-tuned"], capsys)
    assert said.startswith("needed methods that can train for miou of masks of 3 classes, got dice-tuned")


def test_a_folder_that_is_none_and_a_size_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert "got nowhere, which is none" in refused(["compare", *QUICK, "nowhere"], capsys)
    assert "got nowhere, which is none" in refused(["train", *QUICK, "nowhere", "--out=model"], capsys)
    assert "needed a folder of images to bring to a size" in refused(["compare", *QUICK, "--size=16"], capsys)


def test_a_folder_where_a_file_is_needed_and_the_reverse(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mail.csv").write_text("a,b\n1,2\n")
    for command in ("train", "compare"):
        said = refused([command, "cells", "--target=a", "--out=new"], capsys)
        assert said == "needed a table, got the folder of images cells; pass --task segmentation"
        said = refused([command, *QUICK, "mail.csv", "--out=new"], capsys)
        assert said == "needed a folder of images/ and masks/, got mail.csv, which is none; check the path"
        said = refused([command, *QUICK, "cells/images", "--out=new"], capsys)
        assert said == "needed a folder of images/ and masks/, got cells/images, which holds neither; name theirs"
    said = refused(["predict", "nowhere", "cells/images", "--out=new"], capsys)
    assert said == "needed a folder written by rlgrad train, got nowhere, which has no SHA256SUMS"


def test_a_lonely_image_is_named(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("cells/masks/0003.png").unlink()
    assert "'images/0003.png'" in refused(["compare", *QUICK, "cells"], capsys)
    write_mask(np.zeros((2, 2), dtype=np.uint8), "cells/masks/0003.png")
    assert "'0003: 16 x 16 and 2 x 2'" in refused(["compare", *QUICK, "cells"], capsys)


def test_names_and_defaults_that_help_repeats_are_those_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments.SEGMENTATION_METHODS.split(", ") == list(METHODS)
    assert f"{', '.join(METRICS)}; {', '.join(CLASS_METRICS)}" == arguments.SEGMENTATION_METRICS
    for command in ("train", "compare"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        said = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
        assert arguments.SEGMENTATION_METHODS in said
        assert arguments.SEGMENTATION_METRICS in said
        for name in ("epochs", "batch_size"):
            assert f"of images {getattr(BUDGET, name)})" in said, name
