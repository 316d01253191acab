"""The task "segmentation": a small U-Net on images with masks, by the metrics and methods of ``study.masks``."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlgrad.files import replacing
from rlgrad.images import PADDED, ImagePart, ImageParts, ImageProblem
from rlgrad.metrics import CountMetric, Counts
from rlgrad.model import MaskDescription, SegmentationModel, build_unet
from rlgrad.model.unet import WIDTHS
from rlgrad.study.comparison import OVERLAP, TEST_SHARE, VALIDATION_SHARE, Setting
from rlgrad.study.masks import (
    BUDGET,
    CLASS_METRICS,
    METHODS,
    METRICS,
    REFERENCE,
    PixelMetric,
    methods_of,
    metric_named,
)
from rlgrad.study.methods import Budget
from rlgrad.study.records import Json, versions
from rlgrad.surrogates import best_threshold
from rlgrad.train import Evaluation, evaluate, fit

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_AT_ONCE = 16  # images that are judged together
_SHOWN = 4  # test images whose decisions are kept for a picture
_PICTURED_SEED = 0


@dataclass(frozen=True)
class Segmentation(Setting):
    """The setting of a folder of images.

    Args:
        problem: images and masks.
        metric: what is trained for and judged by, as ``metric_named`` gives it.
        budget: what every method may spend.
        pictures: a folder to keep the decisions on a few test images in, of the first seed; None for none.
    """

    problem: ImageProblem
    metric: PixelMetric
    budget: Budget = BUDGET
    pictures: Path | None = None

    reference: ClassVar[str] = REFERENCE
    overlap: ClassVar[float] = OVERLAP

    @property
    def methods(self) -> list[str]:
        """Names of what can train on it."""
        return methods_of(self.metric)

    @property
    def task(self) -> str:
        """Names of the images and of the network."""
        return f"{self.problem.name}, U-Net"

    @property
    def metric_name(self) -> str:
        """Name of the metric."""
        return self.metric.name

    @property
    def arguments(self) -> dict[str, Json]:
        """Images, size, network, parts and budget."""
        return {
            "data": self.problem.fingerprint[:16],
            "size": list(self.problem.size),
            "widths": list(WIDTHS),
            "test_share": TEST_SHARE,
            "validation_share": VALIDATION_SHARE,
            **asdict(self.budget),
        }

    def result(self, method: str, seed: int) -> dict[str, Any]:
        """The metric on each part, by the method's own threshold and, where a pixel is yes or no, by the tuned one."""
        trained = train(self, method, seed)
        if self.pictures is not None and seed == _PICTURED_SEED:
            _write_shown(trained.shown, self.picture(method))
        binary = self.problem.binary
        return {
            **trained.model.description.scores,
            "threshold": trained.model.description.threshold if binary else math.nan,
            "test_tuned": trained.test_tuned,
            "counts": {name: _named(each.counts) for name, each in trained.results.items() if each.counts is not None},
            "epochs": trained.epochs,
            "seconds": trained.seconds,
        }

    def picture(self, method: str) -> Path:
        """Where the decisions of a method on a few test images are kept."""
        assert self.pictures is not None
        return self.pictures / f"{self.key(method, _PICTURED_SEED).setting}-{method}.npz"

    def shown(self, methods: Sequence[str]) -> dict[str, "Shown"]:
        """What is kept of these methods, where it is."""
        return {method: _read_shown(self.picture(method)) for method in methods if self.picture(method).is_file()}


class Shown(NamedTuple):
    """A few test images, their truth, and what was decided; ``PADDED`` where there is no pixel."""

    images: np.ndarray
    truth: np.ndarray
    decision: np.ndarray


@dataclass(frozen=True)
class Trained:
    """A model, what it is judged to be worth, and by which decisions.

    Args:
        model: network and description, ready to be saved.
        results: its evaluation on train, validation and test.
        test_tuned: test metric of the same weights with the threshold tuned on the validation images; NaN for classes.
        others: the other metrics of the kind, on the test images.
        epochs: passes over the training images.
        seconds: that these took.
        shown: the decisions on a few test images.
    """

    model: SegmentationModel
    results: dict[str, Evaluation]
    test_tuned: float
    others: dict[str, float]
    epochs: int
    seconds: float
    shown: Shown


def train(setting: Segmentation, method: str, seed: int, *, progress: bool = False) -> Trained:
    """Split, train by a method, and evaluate.

    Args:
        setting: images, metric and budget.
        method: a name in ``setting.methods``.
        seed: of the split, the initial weights, the order and flips of the images, and the draws.
        progress: show a progress bar.

    Raises:
        FloatingPointError: the training diverged.
        ValueError: too few images for three parts, or a number of the budget is out of range.
    """
    problem, metric, budget = setting.problem, setting.metric, setting.budget
    parts = problem.split(seed=seed, test=TEST_SHARE, validation=VALIDATION_SHARE)
    data = {name: _in_batches(getattr(parts, name)) for name in ("train", "validation", "test")}
    recipe = METHODS[method](metric, budget, torch.Generator().manual_seed(seed))
    network = build_unet(problem.x.shape[1], 1 if problem.binary else len(problem.values), seed=seed)
    flipped = Flipped(parts.train, budget.batch_size, seed)
    history = fit(
        network,
        recipe.stages,
        flipped,
        data["validation"],
        metric,
        threshold=recipe.threshold,
        fabric=_cpu(),
        seed=seed,
        progress=progress,
    )
    threshold = history.best.threshold
    assert not isinstance(threshold, tuple)  # no method for masks has several
    results = {name: evaluate(network, part, metric, threshold=threshold) for name, part in data.items()}
    scores = {name: result.value for name, result in results.items()}
    model = SegmentationModel(_described(setting, parts, threshold, scores), network)
    return Trained(
        model=model,
        results=results,
        test_tuned=_test_tuned(model, metric, data) if problem.binary else math.nan,
        others=_others(model, metric, data["test"]),
        epochs=len(history.epochs),
        seconds=history.epochs[-1].seconds,
        shown=_shown(model, parts.test),
    )


class Flipped:
    """Shuffled batches of images, each flipped or not, up and down and left and right, anew whenever gone through.

    The order and the flips depend on the seed and on how often it was gone through, so they are the same for every
    method.

    Args:
        part: images and masks.
        batch_size: images a batch, nearly.
        seed: of the order and the flips.
    """

    def __init__(self, part: ImagePart, batch_size: int, seed: int) -> None:
        self.x, self.y = _tensors(part)
        self.batch_size = batch_size
        self.seed = seed
        self.passes = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of images and masks."""
        key = int(np.random.SeedSequence([self.seed, self.passes]).generate_state(1)[0])
        generator = torch.Generator().manual_seed(key)
        self.passes += 1
        order = torch.randperm(len(self.x), generator=generator)
        for rows in order.tensor_split(math.ceil(len(order) / self.batch_size)):
            x, y = self.x[rows], self.y[rows]
            for axis in (-1, -2):
                flip = (torch.rand(len(rows), generator=generator) < 0.5)[:, None, None]
                x = torch.where(flip[:, None], x.flip(axis), x)
                y = torch.where(flip, y.flip(axis), y)
            yield x, y


def _cpu() -> "Fabric":
    from lightning_fabric import Fabric

    return Fabric(accelerator="cpu", devices=1)  # the network is made for it, and its numbers are the same everywhere


def _named(counts: Counts) -> dict[str, int]:
    return {name: int(count) for name, count in counts._asdict().items()}


def _tensors(part: ImagePart) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(part.x), torch.from_numpy(part.y.astype(np.int64))


def _in_batches(part: ImagePart) -> list[tuple[Tensor, Tensor]]:
    x, y = _tensors(part)
    return list(zip(x.split(_AT_ONCE), y.split(_AT_ONCE), strict=True))


def _described(setting: Segmentation, parts: ImageParts, threshold: float, scores: dict[str, float]) -> MaskDescription:
    return MaskDescription(
        values=setting.problem.values,
        mean=tuple(parts.mean.tolist()),
        deviation=tuple(parts.deviation.tolist()),
        size=setting.problem.size,
        threshold=threshold,
        metric=setting.metric.name,
        scores=scores,
        versions=versions(),
    )


def _test_tuned(model: SegmentationModel, metric: PixelMetric, data: dict[str, list[tuple[Tensor, Tensor]]]) -> float:
    assert isinstance(metric, CountMetric)
    x, y = (torch.cat(each) for each in zip(*data["validation"], strict=True))
    threshold, _ = best_threshold(metric, _logits(model, x), y)
    return evaluate(model.network, data["test"], metric, threshold=threshold).value


def _others(model: SegmentationModel, metric: PixelMetric, data: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    values, threshold = len(model.description.values), model.description.threshold
    names = [name for name in (METRICS if values == 2 else CLASS_METRICS) if name != metric.name]
    return {
        name: evaluate(model.network, data, metric_named(name, values), threshold=threshold).value for name in names
    }


def _shown(model: SegmentationModel, part: ImagePart) -> Shown:
    x, y = part.x[:_SHOWN], part.y[:_SHOWN]
    logits = _logits(model, torch.from_numpy(x))
    decision = logits > model.description.threshold if model.description.outputs == 1 else logits.argmax(-1)
    mean, deviation = np.array(model.description.mean), np.array(model.description.deviation)
    light = (x * deviation[:, None, None] + mean[:, None, None]).transpose(0, 2, 3, 1)
    images = (light * 255).round().clip(0, 255).astype(np.uint8)
    return Shown(images, y, np.where(y == PADDED, PADDED, decision.numpy()).astype(np.int16))


def _logits(model: SegmentationModel, x: Tensor) -> Tensor:
    model.network.eval()
    with torch.no_grad():
        return torch.cat([model.network(part) for part in x.split(_AT_ONCE)])


def _write_shown(shown: Shown, path: Path) -> None:
    with replacing(path) as file:
        np.savez_compressed(file, **shown._asdict())


def _read_shown(path: Path) -> Shown:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            return Shown(**{name: found[name] for name in Shown._fields})
    except Exception as error:  # whatever was wrong: the zip file, a name, an array
        raise ValueError(f"needed decisions kept by rlgrad compare, got {path} ({error}); remove it") from error
