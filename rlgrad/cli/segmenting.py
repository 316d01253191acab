"""``rlgrad train --task segmentation``, and ``rlgrad predict`` with what it saved."""

from pathlib import Path
from typing import TYPE_CHECKING

from rlgrad.cli.arguments import BadInput

if TYPE_CHECKING:
    import numpy as np

    from rlgrad.study.segmentation import Segmentation


def train_masks(setting: "Segmentation", method: str, out: Path, *, seed: int, overwrite: bool) -> None:
    """Train, save, and print what the model is worth on the held-out images."""
    from rlgrad.model import save_segmentation
    from rlgrad.study.segmentation import train

    trained = train(setting, method, seed, progress=True)
    save_segmentation(trained.model, out, overwrite=overwrite)
    scores = ", ".join(f"{part} {result.value:.4f}" for part, result in trained.results.items())
    others = ", ".join(f"{name} {value:.4f}" for name, value in trained.others.items())
    print(f"{setting.problem.name}: {setting.problem.summary}")
    print(f"{setting.metric_name} of {method}: {scores} (best of {trained.epochs} epochs by validation)")
    print(f"the held-out test images by other metrics: {others}")


def predict_masks(model: Path, images: Path, out: Path, *, overwrite: bool) -> None:
    """Write the mask of each image to a folder, whole or not at all, and print how much of what was found."""
    import numpy as np
    from tqdm import tqdm

    from rlgrad.images import read_image, write_mask
    from rlgrad.model import load_segmentation, replacing_folder

    _check_masks(out, images, overwrite=overwrite)
    files = _files(images)
    segmenter = load_segmentation(model)
    pixels = dict.fromkeys(segmenter.description.values, 0)
    with replacing_folder(out) as part:
        for name, path in tqdm(files.items(), unit="image", leave=False, disable=None):
            mask = segmenter.predict(_named(path, read_image(path), segmenter.description.channels))
            write_mask(mask, part / f"{name}.png")
            for value, count in zip(*np.unique(mask, return_counts=True), strict=True):
                pixels[int(value)] += int(count)
    found = ", ".join(f"{value}: {count / sum(pixels.values()):.1%}" for value, count in pixels.items())
    print(f"{len(files)} masks written to {out}; pixels of {found}")


def _files(images: Path) -> dict[str, Path]:
    """The images of a folder, or one."""
    from rlgrad.images import image_files

    if images.is_file():
        return {images.stem: images}
    if not images.is_dir():
        raise BadInput(f"needed a folder of PNG files, or one, got {images}, which does not exist; check the path")
    if (images / "images").is_dir() and not list(images.glob("*.png")):
        raise BadInput(f"needed a folder of PNG files, got {images}, which holds others; pass {images / 'images'}")
    return image_files(images)


def _named(path: Path, image: "np.ndarray", channels: int) -> "np.ndarray":
    """The image, having checked that the model takes it: the error names the file."""
    if image.shape[-1] not in (1, channels):
        raise BadInput(f"needed grey images, as those of training, got {path} in colour; convert it to grey")
    return image


def _check_masks(out: Path, images: Path, *, overwrite: bool) -> None:
    if out.resolve() in (images.resolve(), images.resolve().parent):
        raise BadInput(f"needed a folder of its own for the masks, got {out}, where the images are; name another")
    if out.exists() and not overwrite:
        raise FileExistsError(f"needed a new folder for the masks, got {out}, which exists; pass --overwrite")
    if out.exists() and not (out.is_dir() and all(path.suffix.lower() == ".png" for path in out.iterdir())):
        raise FileExistsError(f"needed a folder of masks to overwrite, got {out}, which is or holds something else")
