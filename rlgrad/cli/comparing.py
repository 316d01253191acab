"""``rlgrad compare``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rlgrad.cli.arguments import (
    METRICS,
    OF_LABELS,
    BadInput,
    Budget,
    MethodNames,
    Network,
    Task,
    comparison_of,
    methods_named,
    metric_named,
    problem_of,
)
from rlgrad.files import check_writable

if TYPE_CHECKING:
    from rlgrad.study.comparison import Comparison, Setting

_OPTIONS: dict[Task, tuple[str, ...]] = {
    "table": ("table", "target", "metric", "model", "positive", "no_header", "patience"),
    "steps": ("hidden",),
}


def _left_to_the_task(metavar: str, default: str, help: str | None = None) -> Any:
    """An option that is None if left: some tasks refuse it, and others have a default of their own."""
    return tyro.conf.arg(metavar=metavar, help=help, help_behavior_hint=f"(default: {default})")


_MetricName = Annotated[
    str | None,
    _left_to_the_task(
        "NAME",
        "f1, with several target columns instance_f1",
        f"For a table: what counts in the end, one of {METRICS}; {OF_LABELS}.",
    ),
]


@dataclass
class Compare:
    """Compare methods of training on the same splits and seeds, and say who won and whether it is luck.

    Every run is a line of OUT/records.jsonl; started again, the command makes only the runs that are missing there.
    Without a table it runs on scikit-learn's handwritten digits, the 8 against the others. With --task steps it trains
    networks whose hidden units are hard steps to tell the ten digits apart, by surrogate derivatives and by policy
    gradients, and takes no table.
    """

    table: tyro.conf.Positional[Path | None] = None
    """CSV, TSV or Parquet file of numbers and text; values may be missing."""
    task: Task = "table"
    """A metric on a table, or networks of hard steps."""
    target: str | None = None
    """Column to predict, which holds two labels; or several, with commas between."""
    metric: _MetricName = None
    model: Annotated[Network | None, _left_to_the_task("{linear,mlp}", "linear")] = None
    """For a table: a linear model, or a network with two hidden layers of 64 units."""
    hidden: Annotated[tuple[int, ...], _left_to_the_task("INT ...", "1 2")] = ()
    """With --task steps: how many hidden layers of 128 units; each number makes a table of results."""
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
    epochs: Annotated[int | None, _left_to_the_task("INT", "100, with --task steps 60")] = None
    """Passes over the training rows, for a table at most; half of them on each stage where a method has two."""
    lr: Annotated[float | None, _left_to_the_task("FLOAT", "0.01, with --task steps 0.003")] = None
    """Learning rate of Adam."""
    patience: Annotated[int | None, _left_to_the_task("INT", "20")] = None
    """For a table: end a stage after this many epochs without a better validation metric."""
    batch_size: Annotated[int | None, _left_to_the_task("INT", "256, with --task steps 64")] = None
    """Rows a batch."""

    def run(self) -> int:
        """Make the missing runs of each setting, then print its table and its sentence."""
        self._check()
        settings: list[Setting]
        if self.task == "steps":
            settings, methods = self._steps(), methods_named(self.methods, "steps")
        else:
            comparison = self._comparison()
            settings = [comparison]
            methods = methods_named(self.methods, labels=len(comparison.problem.target.labels))
        seeds, path = range(self.seeds), self.out / "records.jsonl"
        check_writable(path)
        failed = False
        for number, setting in enumerate(settings):
            print(end="\n" if number else "")
            _make_runs(setting, methods, seeds, path, self.workers)
            failed |= _print_result(setting, methods, seeds, path)
        print(f"records: {path}")
        return int(failed)

    def _check(self) -> None:
        for task, names in _OPTIONS.items():
            given = [_spelled(name) for name in names if getattr(self, name) != getattr(Compare, name)]
            if task != self.task and given:
                raise BadInput(
                    f"needed options of --task {self.task}, got {', '.join(given)} of --task {task}; "
                    f"leave that out, or pass --task {task}"
                )
        if self.seeds < 1:
            raise BadInput(f"needed at least one seed, got --seeds {self.seeds}; five tell more about luck")
        if self.workers == 0:
            raise BadInput("needed a number of workers, got --workers 0; -1 takes one for each processor core")

    def _comparison(self) -> "Comparison":
        budget = Budget(**self._given("epochs", "lr", "patience", "batch_size"))
        problem = problem_of(self.table, self.target, self.positive, self.no_header)
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


def _spelled(name: str) -> str:
    return "a table file" if name == "table" else f"--{name.replace('_', '-')}"


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
