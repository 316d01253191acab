"""``rlgrad compare``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rlgrad.cli.arguments import (
    METRICS,
    OF_LABELS,
    SEGMENTATION_METRICS,
    BadInput,
    Budget,
    MethodNames,
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
from rlgrad.files import check_writable

if TYPE_CHECKING:
    from rlgrad.study.comparison import Comparison, Setting
    from rlgrad.study.segmentation import Segmentation

# The options that not every task takes.
_OPTIONS: dict[Task, tuple[str, ...]] = {
    "table": ("data", "target", "metric", "model", "positive", "no_header", "patience"),
    "steps": ("hidden",),
    "segmentation": ("data", "metric", "size", "patience"),
}


_MetricName = Annotated[
    str | None,
    left_to_the_task(
        "NAME",
        "f1, with several target columns instance_f1; of images iou, or miou where there are classes",
        f"What counts in the end: of a table one of {METRICS}, {OF_LABELS}; of images one of {SEGMENTATION_METRICS}, "
        "where the first three are of masks of yes and no.",
    ),
]


@dataclass
class Compare:
    """Compare methods of training on the same splits and seeds, and say who won and whether it is luck.

    Every run is a line of OUT/records.jsonl; started again, the command makes only the runs that are missing there.
    Without a table it runs on scikit-learn's handwritten digits, the 8 against the others. With --task steps it trains
    networks whose hidden units are hard steps to tell the ten digits apart, by surrogate derivatives and by policy
    gradients, and takes no table. With --task segmentation it trains a small U-Net on a folder of images with masks, or
    on generated images without a folder, and draws the predictions of each method in OUT/predictions.png.
    """

    data: Annotated[Path | None, tyro.conf.Positional, left_to_the_task("TABLE|FOLDER", "built-in data")] = None
    """CSV, TSV, ARFF or Parquet file of numbers and text, whose values may be missing. With --task segmentation a
    folder of images/ and masks/: PNG files of equal names, masks of 0 and one other number, or of classes 0, 1, 2,
    ..."""
    task: Task = "table"
    """A metric on a table, networks of hard steps, or masks of images."""
    target: str | None = None
    """Column to predict, which holds two labels; or several, with commas between."""
    metric: _MetricName = None
    model: Annotated[Network | None, left_to_the_task("{linear,mlp}", "linear")] = None
    """For a table: a linear model, or a network with two hidden layers of 64 units."""
    hidden: Annotated[tuple[int, ...], left_to_the_task("INT ...", "1 2")] = ()
    """With --task steps: how many hidden layers of 128 units; each number makes a table of results."""
    size: Annotated[tuple[int, ...], left_to_the_task("INT ...", "the commonest, rounded up")] = ()
    """With --task segmentation: height and width of all images, or one number for both, multiples of 4. Larger images
    are cut at the centre; smaller ones are padded, and padding is not scored."""
    methods: MethodNames = ()
    seeds: int = 5
    """How many: seeds 0, 1, ... each split the rows anew."""
    out: Path = Path("comparison")
    """Folder of the records."""
    positive: str | None = None
    """Label of the positive class; by default the last of the two in sort order. Of several columns one for all, or one
    for each with commas between."""
    no_header: bool = False
    """The file has no line of names: its columns are 0, 1, 2, ..."""
    workers: int = -1
    """Processes, of one thread each; -1 for one a processor core."""
    epochs: Annotated[int | None, left_to_the_task("INT", "100, with --task steps 60, of images 20")] = None
    """Passes over the training rows or images, for steps all, else at most; half of them on each stage where a method
    has two."""
    lr: Annotated[float | None, left_to_the_task("FLOAT", "0.01, with --task steps 0.003")] = None
    """Learning rate of Adam."""
    patience: Annotated[int | None, left_to_the_task("INT", "20")] = None
    """Not for steps: end a stage after this many epochs without a better validation metric."""
    batch_size: Annotated[int | None, left_to_the_task("INT", "256, with --task steps 64, of images 8")] = None
    """Rows or images a batch."""

    def run(self) -> int:
        """Make the missing runs of each setting, then print its table and its sentence."""
        self._check()
        settings: list[Setting] = []
        labels = 1
        if self.task == "table":
            comparison = self._comparison()
            settings, labels = [comparison], len(comparison.problem.target.labels)
        methods = methods_named(self.methods, self.task, labels=labels)
        seeds, path = range(self.seeds), self.out / "records.jsonl"
        if self.task == "segmentation":
            return self._segmentation(methods, seeds, path)
        settings = settings or self._steps()
        check_writable(path)
        failed = False
        for number, setting in enumerate(settings):
            print(end="\n" if number else "")
            _make_runs(setting, methods, seeds, path, self.workers)
            failed |= _print_result(setting, methods, seeds, path)
        print(f"records: {path}")
        return int(failed)

    def _segmentation(self, methods: list[str], seeds: range, path: Path) -> int:
        budget = self._given("epochs", "lr", "patience", "batch_size")
        setting = segmentation_of(self.data, self.size, self.metric, self.out / "pictures", budget)
        methods = possible_methods(methods, setting, named=bool(self.methods))
        check_writable(path)
        print(f"{setting.problem.name}: {setting.problem.summary}")
        _make_runs(setting, methods, seeds, path, self.workers)
        failed = _print_result(setting, methods, seeds, path)
        _draw(setting, methods, self.out / "predictions.png")
        print(f"records: {path}")
        return int(failed)

    def _check(self) -> None:
        refuse_foreign(self, self.task, _OPTIONS)
        if self.seeds < 1:
            raise BadInput(f"needed at least one seed, got --seeds {self.seeds}; five tell more about luck")
        if self.workers == 0:
            raise BadInput("needed a number of workers, got --workers 0; -1 takes one for each processor core")

    def _comparison(self) -> "Comparison":
        budget = Budget(**self._given("epochs", "lr", "patience", "batch_size"))
        problem = problem_of(self.data, self.target, self.positive, self.no_header)
        metric = metric_named(self.metric, labels=len(problem.target.labels))
        comparison = comparison_of(problem, self.model or "linear", metric, budget)
        problem.split(seed=0)  # what is wrong with the table would be wrong in every run
        return comparison

    def _steps(self) -> list["Setting"]:
        from rlgrad.study.steps import Steps

        budget = self._given("epochs", "lr", "batch_size")
        return [Steps(hidden=hidden, **budget) for hidden in dict.fromkeys(self.hidden or (1, 2))]

    def _given(self, *names: str) -> dict[str, Any]:
        """What is not left to the default of the task."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def _draw(setting: "Segmentation", methods: list[str], path: Path) -> None:
    """Draw what the methods decided on a few test images, as far as it was kept."""
    from rlgrad.report.images import predictions

    shown = setting.shown(methods)
    if shown:
        images, truth, _ = next(iter(shown.values()))
        decisions = {method: each.decision for method, each in shown.items()}
        title = f"{setting.task}: test images of seed 0, trained for {setting.metric_name}"
        predictions(images, truth, decisions, path, title=title)
        print(f"predictions: {path}")


def _make_runs(setting: "Setting", methods: list[str], seeds: range, path: Path, workers: int) -> None:
    from tqdm import tqdm

    from rlgrad.study.comparison import run

    missing = setting.missing(path, methods, seeds)
    there = len(methods) * len(seeds) - len(missing)
    print(f"{setting.task}: {len(missing)} runs to make, {there} already in {path}", flush=True)
    runs = run(setting, missing, path, workers=workers)
    try:
        for record in tqdm(runs, total=len(missing), unit="run", leave=False, disable=None):
            if record.error is not None:
                reason = record.error.splitlines()[-1]
                tqdm.write(f"{record.method}, seed {record.seed} failed: {reason}", file=sys.stderr)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on with the runs that are missing") from None


def _print_result(setting: "Setting", methods: list[str], seeds: range, path: Path) -> bool:
    """Print the table and the sentence of a setting, and tell whether a run has failed."""
    from rlgrad.report.tables import sentence, summary, to_text
    from rlgrad.study.records import scores
    from rlgrad.study.statistics import verdict

    records = setting.records(path, methods, seeds)
    reference = setting.reference if setting.reference in methods else methods[0]
    metric, overlap = setting.metric_name, setting.overlap
    rows = summary(records, reference=reference, overlap=overlap)
    print(f"\n{to_text(rows, metric=metric, reference=reference, overlap=overlap)}\n")
    results = scores(records)
    if any(results[name].keys() & results[reference].keys() for name in methods if name != reference):
        print(sentence(verdict(results, reference=reference, overlap=overlap), metric=metric))
    software = {(record.versions["rlgrad"], record.versions["torch"]) for record in records}
    if len(software) > 1:
        print("note: the records were made by several versions of rlgrad or torch; use a new --out to compare by one")
    return any(record.error is not None for record in records)
