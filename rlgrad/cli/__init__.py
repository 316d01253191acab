"""The command line: parse, call, print.

Only tyro is imported before the arguments are parsed, so that ``--help`` answers at once; torch takes seconds.
"""

import io
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from rlgrad.metrics import CountMetric, Counts
    from rlgrad.study.comparison import Comparison
    from rlgrad.tables import Problem

# The names stand here once more so that --help need not import torch; a test holds them to the dictionaries.
METRICS = (
    "f1, f0.5, f2, precision, recall, specificity, accuracy, balanced_accuracy, iou, mcc, cohen_kappa, g_mean, "
    "youden_j, fowlkes_mallows"
)
METHODS = (
    "ce, ce-tuned, ce-weighted, focal, soft, score_function, counterfactual, exact, ce+soft, ce+score_function, "
    "ce+counterfactual, ce+exact"
)
MetricName = Annotated[str, tyro.conf.arg(metavar="NAME", help=f"What counts in the end, one of {METRICS}.")]
MethodName = Annotated[
    str,
    tyro.conf.arg(
        metavar="NAME",
        help=f"How to train, one of {METHODS}; ce is cross-entropy, and ce+exact starts from its solution.",
    ),
]
MethodNames = Annotated[
    tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help=f"Which methods, of {METHODS}; all by default.")
]
Network = Literal["linear", "mlp"]


class BadInput(ValueError):
    """What the user can mend: told in one line, with exit status 2."""


@dataclass
class Budget:
    """What training may spend, the same for every method."""

    epochs: int = 100
    """Passes over the training rows, at most; half of them on each stage where a method has two."""
    lr: float = 0.01
    """Learning rate of Adam."""
    patience: int = 20
    """End a stage after this many epochs without a better validation metric."""
    batch_size: int = 256
    """Rows a batch."""


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
        metric, (method,) = _metric(self.metric), _methods((self.method,))
        from rlgrad.model import check_destination

        check_destination(self.out, overwrite=self.overwrite)
        problem = _problem(self.table, self.target, self.positive, self.no_header)
        comparison = _comparison(problem, self.model, metric, self.budget)
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
        self.out.parent.mkdir(parents=True, exist_ok=True)
        part = self.out.with_name(f".{self.out.name}.{os.getpid()}.part")
        try:
            predictions.to_csv(part, index=False)
            part.replace(self.out)
        finally:
            part.unlink(missing_ok=True)
        positive = model.description.classes[1]
        claimed = int((predictions["prediction"] == positive).sum())
        print(f"{len(predictions)} rows, {claimed} of them predicted {positive!r}, written to {self.out}")
        return 0


@dataclass
class Compare:
    """Compare methods of training on the same splits and seeds, and say who won and whether it is luck.

    Every run is a line of OUT/records.jsonl; started again, the command makes only the runs that are missing there.
    Without a table it runs on scikit-learn's handwritten digits, the 8 against the others.
    """

    table: tyro.conf.Positional[Path | None] = None
    """CSV, TSV or Parquet file of numbers and text; values may be missing."""
    target: str | None = None
    """Column to predict, which holds two labels."""
    metric: MetricName = "f1"
    model: Network = "linear"
    """A linear model, or a network with two hidden layers of 64 units."""
    methods: MethodNames = ()
    seeds: int = 5
    """How many: seeds 0, 1, ... each split the rows anew."""
    out: Path = Path("comparison")
    """Folder of the records."""
    positive: str | None = None
    """Label of the positive class; by default the last of the two in sort order."""
    no_header: bool = False
    """The file has no line of names: its columns are 0, 1, 2, ..."""
    workers: int = -1
    """Processes, of one thread each; -1 for one a processor core."""
    budget: tyro.conf.OmitArgPrefixes[Budget] = field(default_factory=Budget)

    def run(self) -> int:
        """Make the missing runs, then print the table and the sentence."""
        metric, methods = _metric(self.metric), _methods(self.methods)
        if self.seeds < 1:
            raise BadInput(f"needed at least one seed, got --seeds {self.seeds}; five tell more about luck")
        if self.workers == 0:
            raise BadInput("needed a number of workers, got --workers 0; -1 takes one for each processor core")
        problem = _problem(self.table, self.target, self.positive, self.no_header)
        comparison = _comparison(problem, self.model, metric, self.budget)
        _make_runs(comparison, methods, range(self.seeds), self.out / "records.jsonl", self.workers)
        return _print_result(comparison, methods, range(self.seeds), self.out / "records.jsonl")


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
)


def main(args: list[str] | None = None) -> int:
    """Run one command and return its exit status.

    0 when it did what was asked, 1 when training failed, 2 when the input is at fault, 130 when interrupted.
    """
    command = tyro.cli(
        Command,
        prog="rlgrad",
        description="Train on the metric that you are judged by, and find out whether that beats what you do now.",
        args=args,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a label that the terminal cannot show is no error
    try:
        return command.run()
    except (ValueError, OSError) as error:
        return _fail(error, 2)
    except FloatingPointError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        print("rlgrad: interrupted", file=sys.stderr)
        return 130


def _fail(error: Exception, status: int) -> int:
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"rlgrad: error: {text}", file=sys.stderr)
    return status


def _metric(name: str) -> "CountMetric":
    from rlgrad.metrics import CATALOGUE

    _check_name(name, list(CATALOGUE), "a metric")
    return CATALOGUE[name]


def _methods(names: tuple[str, ...]) -> list[str]:
    from rlgrad.study.methods import METHODS as methods

    for name in names:
        _check_name(name, list(methods), "a method")
    return list(dict.fromkeys(names)) or list(methods)


def _check_name(name: str, known: list[str], what: str) -> None:
    if name not in known:
        from difflib import get_close_matches

        close = get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
        raise BadInput(f"needed {what} that exists, got {name!r}; {hint}")


def _problem(table: Path | None, target: str | None, positive: str | None, no_header: bool) -> "Problem":
    from rlgrad.tables import digits_table, load_problem, read_table

    if table is None:
        if target is not None or positive is not None or no_header:
            raise BadInput("needed a table to take the target from, got none; name a file first")
        return load_problem(digits_table(), "is_8", name="digits")
    if target is None:
        names = ", ".join(map(repr, read_table(table, header=not no_header).columns))
        raise BadInput(f"needed a column to predict, got none; pass --target with one of {names}")
    return load_problem(table, target, positive=positive, header=not no_header)


def _comparison(problem: "Problem", network: str, metric: "CountMetric", budget: Budget) -> "Comparison":
    from rlgrad.study.comparison import Comparison
    from rlgrad.study.methods import Budget as StudyBudget

    return Comparison(problem, network, metric, StudyBudget(**vars(budget)))


def _make_runs(comparison: "Comparison", methods: list[str], seeds: range, path: Path, workers: int) -> None:
    from tqdm import tqdm

    from rlgrad.study.comparison import run

    missing = comparison.missing(path, methods, seeds)
    there = len(methods) * len(seeds) - len(missing)
    if missing:
        comparison.problem.split(seed=seeds[0])  # what is wrong with the table would be wrong in every run
    print(f"{comparison.task}: {len(missing)} runs to make, {there} already in {path}", flush=True)
    for record in tqdm(
        run(comparison, missing, path, workers=workers), total=len(missing), unit="run", leave=False, disable=None
    ):
        if record.error is not None:
            tqdm.write(f"{record.method}, seed {record.seed} failed: {record.error.splitlines()[-1]}", file=sys.stderr)


def _print_result(comparison: "Comparison", methods: list[str], seeds: range, path: Path) -> int:
    from rlgrad.report.tables import sentence, summary, to_text
    from rlgrad.study.comparison import OVERLAP
    from rlgrad.study.methods import REFERENCE
    from rlgrad.study.records import scores
    from rlgrad.study.statistics import verdict

    records = comparison.records(path, methods, seeds)
    reference = REFERENCE if REFERENCE in methods else methods[0]
    metric = comparison.metric.name
    rows = summary(records, reference=reference, overlap=OVERLAP)
    print(f"\n{to_text(rows, metric=metric, reference=reference, overlap=OVERLAP)}\n")
    results = scores(records)
    if any(results[name].keys() & results[reference].keys() for name in methods if name != reference):
        print(sentence(verdict(results, reference=reference, overlap=OVERLAP), metric=metric))
    software = {(record.versions["rlgrad"], record.versions["torch"]) for record in records}
    if len(software) > 1:
        print("note: the records were made by several versions of rlgrad or torch; use a new --out to compare by one")
    print(f"records: {path}")
    return 1 if any(record.error is not None for record in records) else 0


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


if __name__ == "__main__":
    sys.exit(main())
