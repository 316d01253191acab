"""``rlgrad train`` and ``rlgrad predict``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from rlgrad.cli.arguments import (
    BadInput,
    Budget,
    MethodName,
    MetricName,
    Network,
    comparison_of,
    methods_named,
    metric_named,
    problem_of,
)
from rlgrad.files import replacing

if TYPE_CHECKING:
    from rlgrad.metrics import Counts


@dataclass
class Train:
    """Train a model on a table, directly on a metric, and save it as a folder.

    A quarter of the rows is held out for the test that is printed; a fifth of the others chooses the best epoch.
    Equal rows stay together.
    """

    table: tyro.conf.Positional[Path]
    """CSV, TSV or Parquet file of numbers and text; values may be missing."""
    target: str
    """Column to predict, which holds two labels."""
    out: Path
    """Folder to save the model in."""
    metric: MetricName = "f1"
    model: Network = "linear"
    """A linear model, or a network with two hidden layers of 64 units."""
    method: MethodName = "ce+exact"
    positive: str | None = None
    """Label of the positive class; by default the last of the two in sort order."""
    no_header: bool = False
    """The file has no line of names: its columns are 0, 1, 2, ..."""
    overwrite: bool = False
    """Replace the model that is in the folder."""
    seed: int = 0
    """Of the split, the initial weights, the shuffles and the draws."""
    budget: tyro.conf.OmitArgPrefixes[Budget] = field(default_factory=Budget)

    def run(self) -> int:
        """Train, print the held-out metric and the confusion counts, save."""
        metric, (method,) = metric_named(self.metric), methods_named((self.method,))
        from rlgrad.model import check_destination

        check_destination(self.out, overwrite=self.overwrite)
        problem = problem_of(self.table, self.target, self.positive, self.no_header)
        comparison = comparison_of(problem, self.model, metric, self.budget)
        from rlgrad.model import save_model
        from rlgrad.study.comparison import train

        trained = train(comparison, method, self.seed, progress=True)
        save_model(trained.model, self.out, overwrite=self.overwrite)
        scores = ", ".join(f"{part} {result.value:.4f}" for part, result in trained.results.items())
        test = trained.results["test"]
        assert test.counts is not None
        print(f"{problem.name}: {len(problem.features)} rows, positive class {problem.target.classes[1]!r}")
        print(f"{metric.name} of {method}, {self.model}: {scores} (best of {trained.epochs} epochs by validation)")
        print("held-out test rows:")
        print(_confusion(test.counts, problem.target.classes))
        print(f"model saved in {self.out}")
        return 0


@dataclass
class Predict:
    """Predict the rows of a table with a model that ``rlgrad train`` saved."""

    model: tyro.conf.Positional[Path]
    """Folder of the model."""
    table: tyro.conf.Positional[Path]
    """CSV, TSV or Parquet file with the columns of training; others are ignored."""
    out: Path
    """CSV file to write: probability and predicted label for each row, in order."""
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
        positive = model.description.classes[1]
        claimed = int((predictions["prediction"] == positive).sum())
        print(f"{len(predictions)} rows, {claimed} of them predicted {positive!r}, written to {self.out}")
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
