"""A trained segmentation model as a folder: weights and a description, none of them code.

model/model.json             what it is: channels, classes, normalisation, metric, threshold, results, versions
model/weights.safetensors    the U-Net
model/SHA256SUMS             of the two, verified on loading; ``sha256sum -c`` reads it too
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int32

from rlgrad.images.fitting import STRIDE, fit_to, rounded_up
from rlgrad.images.problem import normalised
from rlgrad.model.folder import check_finite, read_weights, replacing_model, verify, where_saved, write_weights
from rlgrad.model.unet import WIDTHS, UNet, build_unet

_TASK, _FORMAT = "segmentation", 1
_FILES = ("model.json", "weights.safetensors")
_LISTS = ("values", "mean", "deviation", "size", "widths")


@dataclass(frozen=True)
class MaskDescription:
    """What a saved model is, as ``model.json`` holds it.

    Args:
        values: the number that stands for each class in masks; two where a pixel is yes or no.
        mean: of each channel of the training images, whose values lie between 0 and 1.
        deviation: of each channel likewise; images are normalised by both.
        size: height and width of the training images, multiples of 4. The model takes images of any size.
        threshold: yes is predicted where the logit is above it; 0 where there are classes.
        metric: name of the metric trained for.
        scores: that metric on each part of the training images.
        widths: channels of the U-Net at each scale.
        versions: of the software that trained it.

    Raises:
        ValueError: one of them cannot be.
    """

    values: tuple[int, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    size: tuple[int, int]
    threshold: float
    metric: str
    scores: dict[str, float] = field(default_factory=dict)
    widths: tuple[int, int, int] = WIDTHS
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no training gives: a description may come from a file."""
        if len(self.values) < 2 or not all(type(value) is int and 0 <= value < 2**16 for value in self.values):
            raise ValueError(f"needed numbers of two classes or more, got {self.values!r}")
        if len(self.mean) not in (1, 3) or len(self.deviation) != len(self.mean):
            raise ValueError(f"needed the mean and deviation of 1 or 3 channels, got {self.mean} and {self.deviation}")
        numbers = (*self.mean, *self.deviation, self.threshold)
        if not all(isinstance(number, float | int) and math.isfinite(number) for number in numbers):
            raise ValueError(f"needed finite numbers, got {numbers}")
        if min(self.deviation) <= 0:
            raise ValueError(f"needed positive deviations, got {self.deviation}")
        if len(self.size) != 2 or not all(type(side) is int and side > 0 and not side % STRIDE for side in self.size):
            raise ValueError(f"needed a height and a width that are multiples of {STRIDE}, got {self.size!r}")
        if len(self.widths) != 3 or not all(type(each) is int and 0 < each <= 1024 for each in self.widths):
            raise ValueError(f"needed three widths, got {self.widths!r}")

    @property
    def channels(self) -> int:
        """Of the images: 1 for grey, 3 for colour."""
        return len(self.mean)

    @property
    def outputs(self) -> int:
        """Of the network: one for yes or no, else one for each class."""
        return 1 if len(self.values) == 2 else len(self.values)


@dataclass(frozen=True)
class SegmentationModel:
    """A network and the normalisation of its inputs."""

    description: MaskDescription
    network: UNet

    def logits(self, image: Float[np.ndarray, "height width channels"]) -> Float[np.ndarray, "height width *classes"]:
        """Logits for each pixel of an image of any size.

        Where it is smaller than the images of training it is mirrored to their size, as they were, so that it is judged
        as in the evaluation; sides beyond that are mirrored to multiples of 4. The logits are cut again.

        Args:
            image: values from 0 to 1, as ``rlgrad.images.read_image`` gives them.

        Raises:
            ValueError: the image has colours and those of training had none.
        """
        height, width, channels = image.shape
        if channels not in (1, self.description.channels):
            raise ValueError(f"needed grey images, as those of training, got {channels} channels; convert them to grey")
        least_height, least_width = self.description.size
        size = max(rounded_up(height), least_height), max(rounded_up(width), least_width)
        fitted = fit_to(np.broadcast_to(image, (height, width, self.description.channels)), size, fill=None)
        mean, deviation = np.array(self.description.mean), np.array(self.description.deviation)
        x = torch.from_numpy(normalised(fitted.transpose(2, 0, 1)[None].astype(np.float32), mean, deviation))
        self.network.eval()
        with torch.no_grad():
            logits = self.network(x)[0]
        return fit_to(logits.numpy(), (height, width), fill=0)

    def predict(self, image: Float[np.ndarray, "height width channels"]) -> Int32[np.ndarray, "height width"]:
        """The mask of an image, in the numbers that the masks of training hold."""
        logits = self.logits(image)
        binary = self.description.outputs == 1
        classes = (logits > self.description.threshold).astype(int) if binary else logits.argmax(-1)
        return np.asarray(np.array(self.description.values, dtype=np.int32)[classes])


def save_segmentation(model: SegmentationModel, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write a model folder, whole or not at all; arguments and errors as for ``save_model``."""
    check_finite(model.network.state_dict(), "the network")
    with replacing_model(folder, _FILES, overwrite=overwrite) as part:
        write_weights(model.network, part / "weights.safetensors")
        content = {"task": _TASK, "format": _FORMAT, **asdict(model.description)}
        (part / "model.json").write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def load_segmentation(folder: str | Path) -> SegmentationModel:
    """Read a model folder that ``save_segmentation`` wrote; all of it is data, and loading runs none of it.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a file is not as it was saved, of another format, or holds a weight that is not finite.
    """
    folder = where_saved(folder)
    verify(folder, _FILES)
    description = _read_description(folder / "model.json")
    network = build_unet(description.channels, description.outputs, description.widths, seed=0)
    read_weights(network, folder / "weights.safetensors")
    return SegmentationModel(description, network)


def _read_description(path: Path) -> MaskDescription:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        task, number = content.pop("task", None), content.pop("format", None)
        if (task, number) != (_TASK, _FORMAT):
            raise ValueError(f"needed {_TASK} of format {_FORMAT}")
        return MaskDescription(**{**content, **{name: tuple(content[name]) for name in _LISTS}})
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"needed a description of a model, got {path} ({error}); train the model anew") from error
