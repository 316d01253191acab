"""``rlgrad train`` and ``rlgrad predict``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from rlgrad.cli.arguments import (
    BadInput,
    Budget,
    MethodName,
    Network,
    TableMetricName,
    comparison_of,
    methods_named,
    metric_named,
    problem_of,
)
from rlgrad.files import replacing

if TYPE_CHECKING:
    from rlgrad.metrics import Counts
    from rlgrad.study.comparison import Trained
    from rlgrad.tables import Target


@dataclass
class Train:
    """Train a model on a table, directly on a metric, and save it as a folder.

    A quarter of the rows is held out for the test that is printed; a fifth of the others chooses the best epoch.
    Equal rows stay together.
    """

    table: tyro.conf.Positional[Path]
    """CSV, TSV, ARFF or Parquet file of numbers and text; values may be missing."""
    target: str
    """Column to predict, which holds two labels; or several, with commas between."""
    out: Path
    """Folder to save the model in."""
    metric: TableMetricName = None
    model: Network = "linear"
    """A linear model, or a network with two hidden layers of 64 units."""
    method: MethodName = "ce+exact"
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
        """Train, print the held-out metric and the confusion counts, save."""
        from rlgrad.model import check_destination

        check_destination(self.out, overwrite=self.overwrite)
        problem = problem_of(self.table, self.target, self.positive, self.no_header)
        labels = problem.target.labels
        metric = metric_named(self.metric, labels=len(labels))
        (method,) = methods_named((self.method,), labels=len(labels))
        comparison = comparison_of(problem, self.model, metric, self.budget)
        from rlgrad.model import save_model
        from rlgrad.study.comparison import train

        trained = train(comparison, method, self.seed, progress=True)
        save_model(trained.model, self.out, overwrite=self.overwrite)
        scores = ", ".join(f"{part} {result.value:.4f}" for part, result in trained.results.items())
        what = f"positive class {labels[0].classes[1]!r}" if len(labels) == 1 else f"{len(labels)} labels"
        print(f"{problem.name}: {len(problem.features)} rows, {what}")
        print(f"{metric.name} of {method}, {self.model}: {scores} (best of {trained.epochs} epochs by validation)")
        print("held-out test rows:")
        print(_confusion(trained.confusion, labels[0].classes) if len(labels) == 1 else _of_labels(trained, labels))
        print(f"model saved in {self.out}")
        return 0


@dataclass
class Predict:
    """Predict the rows of a table with a model that ``rlgrad train`` saved."""

    model: tyro.conf.Positional[Path]
    """Folder of the model."""
    table: tyro.conf.Positional[Path]
    """CSV, TSV, ARFF or Parquet file with the columns of training; others are ignored."""
    out: Path
    """CSV file to write: probability and predicted label for each row, in order; for each target column, if several."""
    no_header: bool = False
    """The file has no line of names: its columns are 0, 1, 2, ..."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def run(self) -> int:
        """Read, predict, write under another name and rename."""
        if self.out.suffix.lower() != ".csv":
            raise BadInput(f"needed a .csv file for the predictions, got {self.out}; name it so")
        if self.out.is_dir() or self.out.resolve() == self.table.resolve():
            raise BadInput(f"needed a file of its own for the predictions, got {self.out}; name another")
        if self.out.exists() and not self.overwrite:
            raise FileExistsError(f"needed a new file to write, got {self.out}, which exists; pass --overwrite")
        from rlgrad.model import load_model
        from rlgrad.tables import read_table

        model = load_model(self.model)
        predictions = model.predict(read_table(self.table, header=not self.no_header))
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
        return 0


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
