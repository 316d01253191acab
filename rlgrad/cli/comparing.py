"""``rlgrad compare``."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from rlgrad.cli.arguments import (
    BadInput,
    Budget,
    MethodNames,
    MetricName,
    Network,
    comparison_of,
    methods_named,
    metric_named,
    problem_of,
)

if TYPE_CHECKING:
    from rlgrad.study.comparison import Comparison


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
        metric, methods = metric_named(self.metric), methods_named(self.methods)
        if self.seeds < 1:
            raise BadInput(f"needed at least one seed, got --seeds {self.seeds}; five tell more about luck")
        if self.workers == 0:
            raise BadInput("needed a number of workers, got --workers 0; -1 takes one for each processor core")
        problem = problem_of(self.table, self.target, self.positive, self.no_header)
        comparison = comparison_of(problem, self.model, metric, self.budget)
        _make_runs(comparison, methods, range(self.seeds), self.out / "records.jsonl", self.workers)
        return _print_result(comparison, methods, range(self.seeds), self.out / "records.jsonl")


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
