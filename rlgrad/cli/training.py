"""``rlgrad train`` and ``rlgrad predict``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from rlgrad.cli.arguments import (
    METRICS,
    OF_LABELS,
    SEGMENTATION_METRICS,
    BadInput,
    Budget,
    MethodName,
    Network,
    Task,
    comparison_of,
    left_to_the_task,
    methods_named,
    metric_named,
    possible_methods,
    problem_of,
    refuse_foreign,
    segmentation_of,
)
from rlgrad.files import replacing

if TYPE_CHECKING:
    from rlgrad.metrics import Counts
    from rlgrad.study.comparison import Trained
    from rlgrad.tables import Target


# The options that not every task takes.
_OPTIONS: dict[Task, tuple[str, ...]] = {
    "table": ("target", "model", "positive", "no_header"),
    "segmentation": ("size",),
}


@dataclass
class Train:
    """Train a model on a table, or on a folder of images with masks, directly on a metric, and save it as a folder.

    A quarter of the rows or images is held out for the test that is printed; a fifth of the others chooses the best
    epoch. Equal rows, and equal images, stay together.
    """

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE|FOLDER")]
    """CSV, TSV, ARFF or Parquet file of numbers and text, whose values may be missing. With --task segmentation a
    folder of images/ and masks/: PNG files of equal names, masks of 0 and one other number, or of classes 0, 1, 2,
    ..."""
    out: Path
    """Folder to save the model in."""
    task: Literal["table", "segmentation"] = "table"
    """Rows of a table, or masks of images by a small U-Net."""
    target: str | None = None
    """Column to predict, which holds two labels, or several with commas between; a table needs it."""
    metric: Annotated[
        str | None,
        left_to_the_task(
            "NAME",
            "f1, with several target columns instance_f1; of images iou, or miou where there are classes",
            f"What counts in the end: of a table one of {METRICS}, {OF_LABELS}; of images one of "
            f"{SEGMENTATION_METRICS}, where the first three are of masks of yes and no.",
        ),
    ] = None
    model: Annotated[Network | None, left_to_the_task("{linear,mlp}", "linear")] = None
    """For a table: a linear model, or a network with two hidden layers of 64 units."""
    method: MethodName = "ce+exact"
    size: Annotated[tuple[int, ...], left_to_the_task("INT ...", "the commonest, rounded up")] = ()
    """With --task segmentation: height and width of the images in training, or one number for both, multiples of 4.
    Larger ones are cut at the centre; smaller ones are padded, and padding is not scored."""
    positive: str | None = None
    """Label of the positive class; by default the last of the two in sort order. Of several columns one for all, or one
    for each with commas between."""
    no_header: bool = False
    """The file has no line of names: its columns are 0, 1, 2, ..."""
    overwrite: bool = False
    """Replace the model that is in the folder."""
    seed: int = 0
    """Of the split, the initial weights, the shuffles and the draws."""
    budget: tyro.conf.OmitArgPrefixes[Budget] = field(default_factory=Budget)

    def run(self) -> int:
        """Train, print the held-out metric and, of a table, the confusion counts; save."""
        refuse_foreign(self, self.task, _OPTIONS)
        from rlgrad.model import check_destination

        check_destination(self.out, overwrite=self.overwrite)
        if self.task == "segmentation":
            self._masks()
        else:
            self._table()
        print(f"model saved in {self.out}")
        return 0

    def _masks(self) -> None:
        from rlgrad.cli.segmenting import train_masks

        (method,) = methods_named((self.method,), self.task)
        setting = segmentation_of(self.data, self.size, self.metric, None, self.budget.given)
        possible_methods([method], setting, named=True)
        train_masks(setting, method, self.out, seed=self.seed, overwrite=self.overwrite)

    def _table(self) -> None:
        network = self.model or "linear"
        problem = problem_of(self.data, self.target, self.positive, self.no_header)
        labels = problem.target.labels
        metric = metric_named(self.metric, labels=len(labels))
        (method,) = methods_named((self.method,), labels=len(labels))
        comparison = comparison_of(problem, network, metric, self.budget)
        from rlgrad.model import save_model
        from rlgrad.study.comparison import train

        trained = train(comparison, method, self.seed, progress=True)
        save_model(trained.model, self.out, overwrite=self.overwrite)
        scores = ", ".join(f"{part} {result.value:.4f}" for part, result in trained.results.items())
        what = f"positive class {labels[0].classes[1]!r}" if len(labels) == 1 else f"{len(labels)} labels"
        print(f"{problem.name}: {len(problem.features)} rows, {what}")
        print(f"{metric.name} of {method}, {network}: {scores} (best of {trained.epochs} epochs by validation)")
        print("held-out test rows:")
        print(_confusion(trained.confusion, labels[0].classes) if len(labels) == 1 else _of_labels(trained, labels))


@dataclass
class Predict:
    """Predict the rows of a table, or the masks of images, with a model that ``rlgrad train`` saved."""

    model: tyro.conf.Positional[Path]
    """Folder of the model."""
    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE|IMAGES")]
    """CSV, TSV, ARFF or Parquet file with the columns of training; others are ignored. For a model of masks a folder of
    PNG images of any size, or one."""
    out: Path
    """CSV file to write: probability and predicted label for each row, in order; for each target column, if several. Of
    images a folder: a PNG mask for each, as large, of the same name, in the numbers that the masks of training hold."""
    no_header: bool = False
    """The file has no line of names: its columns are 0, 1, 2, ..."""
    overwrite: bool = False
    """Replace the file or the folder of masks if it exists."""

    def run(self) -> int:
        """Read, predict, write under another name and rename."""
        from rlgrad.model import check_is_model, task_of

        check_is_model(self.model)
        if task_of(self.model) == "table":
            self._table()
            return 0
        from rlgrad.cli.segmenting import predict_masks

        if self.no_header:
            raise BadInput("needed options of a model of masks, got --no-header of tables; leave that out")
        predict_masks(self.model, self.data, self.out, overwrite=self.overwrite)
        return 0

    def _table(self) -> None:
        if self.out.suffix.lower() != ".csv":
            raise BadInput(f"needed a .csv file for the predictions, got {self.out}; name it so")
        if self.out.is_dir() or self.out.resolve() == self.data.resolve():
            raise BadInput(f"needed a file of its own for the predictions, got {self.out}; name another")
        if self.out.exists() and not self.overwrite:
            raise FileExistsError(f"needed a new file to write, got {self.out}, which exists; pass --overwrite")
        from rlgrad.model import load_model
        from rlgrad.tables import read_table

        model = load_model(self.model)
        predictions = model.predict(read_table(self.data, header=not self.no_header))
        with replacing(self.out) as file:
            predictions.to_csv(file, index=False)
        labels = model.description.labels
        claimed = [
            int((predictions[name] == label.classes[1]).sum())
            for label, name in zip(labels, predictions.columns[1::2], strict=True)
        ]
        if len(labels) == 1:
            said = f"{claimed[0]} of them predicted {labels[0].classes[1]!r}"
        else:
            said = "predicted " + ", ".join(
                f"{label.column}={label.classes[1]} for {count}" for label, count in zip(labels, claimed, strict=True)
            )
        print(f"{len(predictions)} rows, {said}, written to {self.out}")


def _confusion(counts: "Counts", classes: tuple[str, str]) -> str:
    tp, fp, fn, tn = (str(int(count)) for count in counts)
    negative, positive = classes
    cells = [
        ["", f"predicted {positive}", f"predicted {negative}"],
        [f"true {positive}", tp, fn],
        [f"true {negative}", fp, tn],
    ]
    widths = [max(map(len, column)) + 2 for column in zip(*cells, strict=True)]
    return "\n".join("".join(map(str.rjust, row, widths)) for row in cells)


def _of_labels(trained: "Trained", labels: "tuple[Target, ...]") -> str:
    """The counts of each label, and its F1, whatever metric it was trained for."""
    from rlgrad.metrics import f1
    from rlgrad.text import aligned

    rows = [
        [label.column, label.classes[1], *(str(int(count)) for count in counts), f"{float(score):.3f}"]
        for label, *counts, score in zip(labels, *trained.confusion, f1.of_counts(*trained.confusion), strict=True)
    ]
    return aligned([["label", "positive", "tp", "fp", "fn", "tn", "f1"], *rows])
