"""A U-Net, and its folder: what is saved is what is loaded, and nothing in it runs."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlgrad.images.fitting import fit_to, rounded_up
from rlgrad.model import (
    MaskDescription,
    SegmentationModel,
    UNet,
    build_unet,
    check_destination,
    load_segmentation,
    save_segmentation,
    task_of,
)

GREY = MaskDescription(values=(0, 255), mean=(0.3,), deviation=(0.2,), size=(16, 16), threshold=0.25, metric="iou")
COLOUR = MaskDescription(
    values=(0, 1, 2), mean=(0.3, 0.2, 0.1), deviation=(0.2, 0.1, 0.3), size=(16, 16), threshold=0.0, metric="miou"
)
IMAGE = np.random.default_rng(0).random((18, 23, 3)).astype(np.float32)


def a_model(description: MaskDescription = GREY, *, seed: int = 0) -> SegmentationModel:
    return SegmentationModel(description, build_unet(description.channels, description.outputs, seed=seed))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_segmentation(a_model(), tmp_path / "model")
    return tmp_path / "model"


# --- the network ------------------------------------------------------------------------------------------------------


def test_the_network_has_the_size_that_is_said() -> None:
    assert sum(weights.numel() for weights in UNet(1).parameters()) == 82_993


def test_weights_depend_on_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (build_unet(1, 1, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    for first, second in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(one.last.weight, other.last.weight)


def test_an_image_is_judged_the_same_whatever_its_company(generator: torch.Generator) -> None:
    network = build_unet(1, 1, seed=0)
    x = torch.rand(5, 1, 16, 24, generator=generator)
    for mode in (True, False):
        network.train(mode)
        torch.testing.assert_close(network(x), torch.cat([network(each[None]) for each in x]))


def test_every_pixel_sees_its_neighbours_and_every_weight_learns(generator: torch.Generator) -> None:
    network = build_unet(1, 3, seed=0)
    x = torch.rand(1, 1, 32, 32, generator=generator).requires_grad_()
    network(x)[0, 16, 16].sum().backward()
    assert x.grad is not None
    assert (x.grad[0, 0, 10:22, 10:22] != 0).all()
    assert all((weights.grad != 0).any() for weights in network.parameters())


# --- predictions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("description", "channels"), [(GREY, 1), (COLOUR, 3), (COLOUR, 1)])
def test_masks_are_as_large_as_their_images_and_in_the_numbers_of_training(
    description: MaskDescription, channels: int
) -> None:
    model = a_model(description)
    mask = model.predict(IMAGE[..., :channels])
    assert mask.shape == (18, 23)
    assert set(np.unique(mask)) <= set(description.values)
    assert model.logits(IMAGE[..., :channels]).shape == (18, 23, *[3] * (description.outputs > 1))


def test_predictions_are_those_of_the_network_on_normalised_images() -> None:
    model = a_model(COLOUR)
    image = IMAGE[:16, :20]
    x = (image - np.array(COLOUR.mean)) / np.array(COLOUR.deviation)
    with torch.no_grad():
        logits = model.network(torch.tensor(x.transpose(2, 0, 1)[None], dtype=torch.float32))[0]
    np.testing.assert_allclose(model.logits(image), logits, atol=1e-5)
    np.testing.assert_array_equal(model.predict(image), logits.argmax(-1))


def test_what_is_smaller_than_the_images_of_training_is_judged_as_it_was_evaluated() -> None:
    """Padded as ``load_images`` pads, whichever sides are smaller."""
    model = a_model()
    for height, width in ((13, 9), (16, 3), (10, 18)):
        image = IMAGE[:height, :width, :1]
        size = (16, max(16, rounded_up(width)))
        x = (fit_to(image, size, fill=None).transpose(2, 0, 1)[None] - 0.3) / 0.2
        with torch.no_grad():
            logits = model.network(torch.tensor(x, dtype=torch.float32))[0].numpy()
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        there = logits[top : top + height, left : left + width]
        np.testing.assert_allclose(model.logits(image), there, atol=1e-5)


def test_the_threshold_decides() -> None:
    model = a_model()
    logits = model.logits(IMAGE[..., :1])
    middle = float(np.median(logits))
    decided = SegmentationModel(MaskDescription(**{**vars(GREY), "threshold": middle}), model.network)
    np.testing.assert_array_equal(decided.predict(IMAGE[..., :1]), np.where(logits > middle, 255, 0))


def test_colours_that_training_had_not_are_refused() -> None:
    with pytest.raises(ValueError, match="needed grey images, as those of training, got 3 channels"):
        a_model().predict(IMAGE)


# --- the folder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("description", [GREY, COLOUR])
def test_what_is_saved_is_what_is_loaded(description: MaskDescription, tmp_path: Path) -> None:
    model = a_model(description, seed=3)
    save_segmentation(model, tmp_path / "new" / "model")
    loaded = load_segmentation(tmp_path / "new" / "model")
    assert loaded.description == description
    image = IMAGE[..., : description.channels]
    np.testing.assert_array_equal(loaded.logits(image), model.logits(image))
    assert task_of(tmp_path / "new" / "model") == "segmentation"


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_the_sums_are_those_of_coreutils(saved: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=saved, capture_output=True, text=True, check=True)
    assert done.stdout.count(": OK") == 2


def test_a_model_is_overwritten_only_if_asked(saved: Path) -> None:
    with pytest.raises(FileExistsError, match="pass --overwrite"):
        save_segmentation(a_model(seed=1), saved)
    save_segmentation(a_model(seed=1), saved, overwrite=True)
    image = IMAGE[..., :1]
    np.testing.assert_array_equal(load_segmentation(saved).logits(image), a_model(seed=1).logits(image))
    check_destination(saved, overwrite=True)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "SHA256SUMS"])
def test_damage_is_found(name: str, saved: Path) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="as it was saved"):
        load_segmentation(saved)
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_segmentation(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"values": [0]},
        {"values": [0, "a"]},
        {"values": [0, 70000]},
        {"mean": [0.1, 0.2], "deviation": [1.0, 1.0]},
        {"mean": [0.1], "deviation": [0.0]},
        {"deviation": [1.0, 1.0, 1.0]},
        {"threshold": "high"},
        {"threshold": None},
        {"widths": [8, 16]},
        {"widths": [8, 16, 10**9]},
        {"task": "table"},
        {"format": 2},
        {"other": 1},
        {"mean": 3},
    ],
)
def test_a_description_that_cannot_be_is_refused(change: dict[str, Any], saved: Path) -> None:
    path = saved / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    sums = saved / "SHA256SUMS"
    lines = [line for line in sums.read_text().splitlines() if "model.json" not in line]
    digest = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True).stdout.split()[0]
    sums.write_text("\n".join([f"{digest}  model.json", *lines]) + "\n")
    with pytest.raises(ValueError, match=r"needed a description of a model, got .*model\.json"):
        load_segmentation(saved)


def test_what_is_no_model_is_not_of_images(tmp_path: Path) -> None:
    assert task_of(tmp_path) == "table"
    (tmp_path / "model.json").write_text("[]")
    assert task_of(tmp_path) == "table"


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    model = a_model()
    with torch.no_grad():
        model.network.last.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="needed finite weights"):
        save_segmentation(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())
