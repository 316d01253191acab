"""Which loss finds nuclei best, judged by the IoU of each image? Losses that people use, and the metric itself.

    python scripts/nuclei.py nuclei256_public.npz --folder nuclei --out docs/nuclei.md

The file holds images (images, height, width) as uint8 and masks of 0 and 1 under the names "image" and "mask". They are
halved in size and written as PNG files to --folder, so that ``rlgrad compare --task segmentation nuclei`` makes the
same runs. Records stay in --records, and a second start makes only what is missing. Page and picture are written from
what is kept there.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from textwrap import fill

import numpy as np
from tqdm import tqdm

from rlgrad.images import load_images, write_folder
from rlgrad.report.images import predictions
from rlgrad.report.tables import sentence, summary, to_markdown
from rlgrad.study.comparison import run
from rlgrad.study.masks import BUDGET, METHODS, METRICS, REFERENCE, metric_named
from rlgrad.study.records import Record, scores
from rlgrad.study.segmentation import Segmentation
from rlgrad.study.statistics import paired_difference, verdict

PICTURED = ["ce", "ce-tuned", "dice", "dice-tuned", "lovasz", "ce_dice", "exact", "ce+exact"]
INTRODUCTION = """# Nuclei

Which loss finds nuclei best? {summary}: fluorescence images of the Data Science Bowl 2018 in half resolution
(SHA-256 of the pixels: {fingerprint}...), {foreground:.1%} of the pixels in a nucleus. Test {metric} of every method on
the same splits, initial weights, batches and flips, over {seeds} seeds, written from the records of the runs by

    {command}

`ce` is cross-entropy, `dice`, `jaccard`, `tversky` (0.3 for a false alarm, 0.7 for a miss), `focal` and `lovasz` are
the usual surrogates, and `ce_dice` is the sum of two. `exact`, `counterfactual` and `score_function` train on the
metric itself by policy gradient. A plus means that one comes after the other, with half of the epochs each:
`ce+exact` starts from the cross-entropy solution. Methods decide at probability 1/2; those that are "-tuned" by one
threshold for all images, the best on the validation images.

The network is a U-Net of {weights} weights. Every method has the same budget ({budget}) and keeps the epoch that is
best on the validation images by the metric under its own decision rule. A quarter of the images is held out to test on
and a fifth of the others to validate on; learning rate and batch size are one for all, chosen by what cross-entropy
reached on the validation images of the first split. Seconds are of one thread on a shared machine.

An interval in the table stands by itself; the sentence above it allows for all comparisons at once. Both allow for the
images that the seeds share (Nadeau and Bengio 2003), so few seeds can show large effects only.
"""


def main() -> None:
    """Write the folder, make the missing runs, write the page and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="nuclei256_public.npz")
    parser.add_argument("--folder", type=Path, default=Path("nuclei"), help="where images/ and masks/ are written")
    parser.add_argument("--metric", default="iou", choices=list(METRICS))
    parser.add_argument("--methods", nargs="+", default=[], choices=list(METHODS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=BUDGET.epochs)
    parser.add_argument("--records", type=Path, default=Path("comparison/records.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/nuclei.md"))
    arguments = parser.parse_args()
    halved(arguments.file, arguments.folder)
    setting = Segmentation(
        load_images(arguments.folder, name="nuclei"),
        metric_named(arguments.metric, 2),
        replace(BUDGET, epochs=arguments.epochs),
        arguments.records.parent / "pictures",
    )
    arguments.methods = arguments.methods or setting.methods
    records = make(setting, arguments.methods, arguments.seeds, arguments.records)
    picture = arguments.out.with_suffix(".png")
    page = introduction(setting, arguments) + section(setting, records, arguments.methods)
    page += f"\n![Test images of the first split and what some methods decided about them]({picture.name})\n"
    arguments.out.write_text(page, encoding="utf-8")
    draw(setting, [name for name in PICTURED if name in arguments.methods] or arguments.methods, picture)


def halved(file: Path, folder: Path) -> None:
    """Write the images with each 2 x 2 pixels averaged, and the masks with what holds for half of them or more."""
    with np.load(file) as data:
        image, mask = quartered(data["image"]) / 255, quartered(data["mask"])
    write_folder(folder, image[..., None], 255 * (mask >= 0.5).astype(np.uint8))


def quartered(values: np.ndarray) -> np.ndarray:
    """The mean of each 2 x 2 pixels."""
    images, height, width = values.shape
    return np.asarray(values.reshape(images, height // 2, 2, width // 2, 2).mean((2, 4)))


def make(setting: Segmentation, methods: list[str], seeds: int, path: Path) -> list[Record]:
    """The records of a setting, made where they are missing."""
    missing = setting.missing(path, methods, range(seeds))
    for record in tqdm(run(setting, missing, path), total=len(missing), desc=setting.task, file=sys.stderr):
        if record.error is not None:
            tqdm.write(f"{record.method}, seed {record.seed}: {record.error.splitlines()[-1]}", file=sys.stderr)
    return setting.records(path, methods, range(seeds))


def introduction(setting: Segmentation, arguments: argparse.Namespace) -> str:
    """What was asked, of what, and how."""
    from rlgrad.model import UNet

    budget = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in vars(setting.budget).items())
    chosen = "" if arguments.methods == setting.methods else f" --methods {' '.join(arguments.methods)}"
    epochs = "" if arguments.epochs == BUDGET.epochs else f" --epochs {arguments.epochs}"
    options = f"--metric {arguments.metric} --seeds {arguments.seeds}{epochs}{chosen}"
    text = INTRODUCTION.format(
        summary=setting.problem.summary,
        fingerprint=setting.problem.fingerprint[:16],
        foreground=(setting.problem.y == 1).mean(),
        metric={"iou": "IoU of each image", "dice": "Dice of each image", "corpus_iou": "IoU of all images together"}[
            arguments.metric
        ],
        seeds=arguments.seeds,
        command=f"python scripts/nuclei.py {arguments.file.name} {options}",
        weights=f"{sum(weights.numel() for weights in UNet(1).parameters()):,}".replace(",", " "),
        budget=budget,
    )
    paragraphs = [part if part.startswith(" ") else fill(part, width=120) for part in text.split("\n\n")]
    return "\n\n".join(paragraphs) + "\n"


def section(setting: Segmentation, records: list[Record], methods: list[str]) -> str:
    """The sentence that answers and the table."""
    metric, reference = setting.metric.name, REFERENCE if REFERENCE in methods else methods[0]
    rows = summary(records, reference=reference, overlap=setting.overlap)
    table = to_markdown(rows, metric=metric, reference=reference, overlap=setting.overlap)
    answer = sentence(verdict(scores(records), reference=reference, overlap=setting.overlap), metric=metric)
    return f"\n{fill(answer, width=120)}\n\n{fill(bar(records, setting.overlap), width=120)}\n\n{table}\n"


def bar(records: list[Record], overlap: float) -> str:
    """What is best of either kind by the validation images, and how far apart the two are on the test images."""
    found = scores(records)
    of_metric = [name for name in found if name.rpartition("+")[2] in ("exact", "counterfactual", "score_function")]
    tuned = [name for name in found if name.endswith("-tuned")]
    if not of_metric or not tuned:
        return ""

    def validation(name: str) -> float:
        values = [record.validation for record in records if record.method == name and record.error is None]
        return sum(values) / len(values)

    ours, theirs = max(of_metric, key=validation), max(tuned, key=validation)
    gap = paired_difference(found[ours], found[theirs], overlap=overlap)
    return (
        f"By the validation images the best that trains on the metric, decided at 1/2, is `{ours}`, and the best "
        f"surrogate with a tuned threshold is `{theirs}`: on the test images `{ours}` minus `{theirs}` is "
        f"{gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]."
    )


def draw(setting: Segmentation, methods: list[str], path: Path) -> None:
    """The picture, of what was kept of the first split."""
    shown = setting.shown(methods)
    if shown:
        images, truth, _ = next(iter(shown.values()))
        predictions(images, truth, {name: each.decision for name, each in shown.items()}, path)


if __name__ == "__main__":
    main()
