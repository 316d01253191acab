"""Does a policy gradient help where there is no surrogate? Blobs that touch, judged by panoptic quality.

    python scripts/touching.py --seeds 5

A U-Net is trained on cross-entropy and then, from there, on the panoptic quality of drawn masks; beside it go as many
more epochs of cross-entropy, and thresholds tuned for what counts. Writes docs/touching.md and its picture.
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import torch
from joblib import Parallel, delayed
from torch import Tensor, nn
from tqdm import tqdm

from rlgrad import MetricLoss, Stage, evaluate, fit
from rlgrad.estimators import Estimator, blockwise, score_function, tiles
from rlgrad.files import replacing
from rlgrad.images import generated
from rlgrad.metrics import OpaqueMetric
from rlgrad.metrics.images import object_count_error, panoptic_quality
from rlgrad.model import build_unet
from rlgrad.report.tables import sentence, summary, to_markdown
from rlgrad.study.records import Record, append, latest, missing, read, run_key, scores
from rlgrad.study.statistics import verdict
from rlgrad.surrogates import bce

DOCS = Path(__file__).parents[1] / "docs"
PARTS = {"train": 100, "validation": 40, "test": 60}
SIZE = 64
FIRST, SECOND = 30, 20  # epochs of cross-entropy, and of what follows
LR, FINE = 5e-3, 5e-4
SHARP = 3.0  # logits are multiplied by it for the draws: what is nearly sure is not drawn wrong all over the image
METRICS = {
    "panoptic_quality": panoptic_quality(instances=True).apart(),
    "object_count_error": object_count_error(instances=True),
}
REFERENCE = "ce-tuned"


class Method(NamedTuple):
    """What follows cross-entropy, and how the masks are decided."""

    estimator: Callable[[], Estimator] | None
    second: bool = True
    tuned: bool = False


METHODS = {
    "ce": Method(None, second=False),
    "ce-tuned": Method(None, second=False, tuned=True),
    "ce+ce-tuned": Method(None, tuned=True),
    "ce+score_function": Method(lambda: score_function(draws=8)),
    "ce+blockwise": Method(lambda: blockwise(draws=4, blocks=tiles(SIZE, SIZE, 16))),
}


def data(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Images at mean 0 and deviation 1, and the number of the blob that each pixel belongs to; new ones each seed."""
    made = generated("blobs", n=sum(PARTS.values()), size=SIZE, seed=seed)
    x, y = torch.from_numpy(made.images).movedim(-1, 1), torch.from_numpy(made.instances).long()
    known = x[: PARTS["train"]]
    parts = zip(
        ((x - known.mean()) / known.std()).split(list(PARTS.values())), y.split(list(PARTS.values())), strict=True
    )
    return dict(zip(PARTS, parts, strict=True))


class Turned:
    """Training batches, each a random eighth of the symmetries of a square; anew at every pass."""

    def __init__(self, x: Tensor, y: Tensor, seed: int) -> None:
        self.x, self.y, self.generator = x, y, torch.Generator().manual_seed(seed)

    def __iter__(self):  # type: ignore[no-untyped-def]
        for rows in torch.randperm(len(self.x), generator=self.generator).split(10):
            turns, flip = torch.randint(0, 4, (2,), generator=self.generator).tolist()
            x, y = self.x[rows].rot90(turns, (2, 3)), self.y[rows].rot90(turns, (1, 2))
            yield (x.flip(3), y.flip(2)) if flip % 2 else (x.contiguous(), y.contiguous())


def cross_entropy(logits: Tensor, instances: Tensor) -> Tensor:
    """Of the pixels: blob or none."""
    return bce(logits, instances > 0)


class Trained(NamedTuple):
    """A network with the weights that are best on the validation images; epochs and seconds of all its training."""

    network: nn.Module
    epochs: int = 0
    seconds: float = 0.0

    def further(self, stage: Stage, metric: OpaqueMetric, seed: int) -> "Trained":
        """A copy that has learnt from one stage more."""
        parts, network = data(seed), copy.deepcopy(self.network)
        history = fit(network, stage, Turned(*parts["train"], seed), parts["validation"], metric, progress=False)
        last = history.epochs[-1]
        return Trained(network, self.epochs + last.epoch, self.seconds + last.seconds)


def first(metric: OpaqueMetric, seed: int) -> Trained:
    """After cross-entropy."""
    stage = Stage(cross_entropy, epochs=FIRST, lr=LR, patience=FIRST)
    return Trained(build_unet(1, 1, seed=seed)).further(stage, metric, seed)


def second(method: Method, before: Trained, metric: OpaqueMetric, seed: int) -> Trained:
    """What the method adds to cross-entropy."""
    if not method.second:
        return before
    criterion: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    if method.estimator is not None:
        loss = MetricLoss(metric, method.estimator(), generator=torch.Generator().manual_seed(seed))
        criterion = lambda z, y: loss(SHARP * z, y)  # noqa: E731
    return before.further(Stage(criterion, epochs=SECOND, lr=FINE, patience=SECOND), metric, seed)


def tuned_threshold(network: nn.Module, validation: tuple[Tensor, Tensor], metric: OpaqueMetric) -> float:
    """The best of 41 thresholds between logits of -5 and 5 by the metric on the validation images."""
    grid: list[float] = [0.0, *torch.linspace(-5, 5, 41).tolist()]
    return max(grid, key=lambda threshold: evaluate(network, validation, metric, threshold=threshold).value)


def run(metric_name: str, seed: int, methods: list[str]) -> list[Record]:
    """Train and judge by each method, all from one network."""
    torch.set_num_threads(1)
    metric = METRICS[metric_name]
    before = first(metric, seed)
    return [judged(name, second(METHODS[name], before, metric, seed), metric_name, seed) for name in methods]


def judged(name: str, trained: Trained, metric_name: str, seed: int) -> Record:
    """The metric of each part, by the method's own threshold and by the tuned one."""
    parts, metric = data(seed), METRICS[metric_name]
    tuned = tuned_threshold(trained.network, parts["validation"], metric)
    threshold = tuned if METHODS[name].tuned else 0.0
    found: dict[str, Any] = {
        part: evaluate(trained.network, parts[part], metric, threshold=threshold).value for part in PARTS
    }
    at_tuned = evaluate(trained.network, parts["test"], metric, threshold=tuned).value
    told: dict[str, Any] = {
        "threshold": threshold,
        "test_tuned": at_tuned,
        "epochs": trained.epochs,
        "seconds": trained.seconds,
    }
    return Record(**setting(metric_name), method=name, seed=seed, **found, **told)


def setting(metric: str) -> dict[str, Any]:
    """What all runs of a metric have in common."""
    budget = {"first": FIRST, "second": SECOND, "lr": LR, "fine": FINE, "sharp": SHARP, **PARTS}
    return {"task": "blobs that touch, U-Net", "metric": metric, "arguments": budget}


def section(metric: str, records: list[Record]) -> str:
    """Table and sentence of a metric."""
    answer = sentence(verdict(scores(records), reference=REFERENCE), metric=metric)
    table = to_markdown(summary(records, reference=REFERENCE), metric=metric, reference=REFERENCE)
    return f"\n## {metric}\n\n{fill(answer, width=120)}\n\n{table}\n"


def draw(path: Path) -> None:
    """Test images of the first seed: image, blobs, and the components of two networks' masks, each in a colour."""
    import numpy as np
    from matplotlib.figure import Figure
    from scipy.ndimage import label

    metric = METRICS["panoptic_quality"]
    x, y = data(0)["test"]
    shown = y.flatten(1).amax(1).argsort(descending=True)[:6]
    lines: dict[str, list[Any]] = {"image": list(x[shown, 0].numpy()), "blobs": list(y[shown].numpy())}
    before = first(metric, seed=0)
    for name in ("ce", "ce+score_function"):
        network = second(METHODS[name], before, metric, seed=0).network.eval()
        with torch.no_grad():
            lines[name] = [label(mask)[0] for mask in (network(x[shown]) > 0).numpy()]
    figure = Figure(figsize=(9, 6.2), layout="constrained")
    axes = figure.subplots(len(lines), len(shown))
    for line, (name, images) in zip(axes, lines.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            colours = np.where(image > 0, image % 19 + 1, 0) if name != "image" else image
            axis.imshow(colours, cmap="gray" if name == "image" else "tab20c_r", interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)


PAGE = """# Blobs that touch: a metric without a surrogate

Written by `python scripts/touching.py --seeds {seeds}`.

Masks of bright blobs, many of which touch, are judged by their connected components: where the masks of two blobs meet,
they are one component, and neither blob is found. `panoptic_quality` is the mean over images of the sum of the IoUs of
found blobs, over their number plus half of the components and half of the blobs that have no match;
`object_count_error` is minus the difference between the numbers of components and of blobs. No loss of single pixels
knows of either: a pixel of the seam between two blobs is blob, says cross-entropy. Both are functions of NumPy and
SciPy, called for each drawn mask:

```python
loss = MetricLoss(panoptic_quality(instances=True).apart(), score_function(draws=8))
fit(network, [Stage(cross_entropy), Stage(lambda z, y: loss({sharp:g} * z, y))], train, validation, metric)
```

`ce` is a U-Net trained on cross-entropy for {first} epochs, `ce-tuned` the same decided at the threshold that is best
on the validation images for the metric in question, `ce+ce-tuned` has {second} more epochs of cross-entropy. `ce+...`
have {second} epochs on the metric itself, by leave-one-out of 8 draws, or with credit to tiles of 16 x 16 pixels by 4
draws (`blockwise`), and decide at 1/2. Each seed makes {train} training, {validation} validation and {test} test images
of {size} x {size} of its own; every stage keeps its best epoch by the validation images, at 1/2. Adam at {lr:g}, then
{fine:g}. Logits are multiplied by {sharp:g} for the draws: pixels that are nearly sure are then not drawn wrong all
over the image, where each would be a component. Rates, epochs and that factor come from a few trials on other data:
blobs at other distances, and one seed beyond those reported. Intervals are Student's over seeds; those of the sentences
hold for all comparisons at once.
{sections}
## What they find

![Images, blobs, and the components of two masks](touching.png)

Test images of the first seed; each component has a colour of its own.
"""


def main() -> None:
    """Make the runs that are missing, and write the page and its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=-1, help="processes of one thread; -1 for one a core")
    parser.add_argument("--records", type=Path, default=Path("comparison/touching.jsonl"))
    parser.add_argument("--out", type=Path, default=DOCS / "touching.md")
    arguments = parser.parse_args()
    keys = {
        run_key(**setting(metric), method=method, seed=seed): (metric, seed)
        for seed in range(arguments.seeds)
        for metric in METRICS
        for method in METHODS
    }
    jobs: dict[tuple[str, int], list[str]] = {}
    for key in missing(keys, read(arguments.records)):
        jobs.setdefault(keys[key], []).append(key.method)
    parallel = Parallel(n_jobs=arguments.workers, return_as="generator_unordered")
    made = parallel(delayed(run)(*job, methods) for job, methods in jobs.items())
    for records in tqdm(made, total=len(jobs), unit="network"):
        for record in records:
            append(arguments.records, record)
    found = latest(read(arguments.records))
    sections = "".join(
        section(metric, [found[key] for key, (of, _) in keys.items() if of == metric]) for metric in METRICS
    )
    numbers = dict(first=FIRST, second=SECOND, lr=LR, fine=FINE, sharp=SHARP, size=SIZE, **PARTS)
    draw(arguments.out.with_suffix(".png"))
    with replacing(arguments.out) as file:
        file.write(PAGE.format(seeds=arguments.seeds, sections=sections, **numbers).encode())


if __name__ == "__main__":
    main()
