"""Does training on instance F1 beat cross-entropy with tuned thresholds on songs and their moods? Linear and MLP.

    python scripts/emotions.py ../shared/data/ml_emotions --out docs/emotions.md

The folder holds ``emotions-train.arff`` and ``emotions-test.arff``, of which one table is made: every seed splits its
rows anew. Records stay in --records, and a second start makes only what is missing. The page is written from the
records alone. With --choose it prints instead by which validation scores batch size and learning rate were chosen.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean
from textwrap import fill

import pandas as pd
from tqdm import tqdm

from rlgrad.metrics import metric_named
from rlgrad.model import NETWORKS
from rlgrad.report.tables import sentence, summary, to_markdown
from rlgrad.study.comparison import OVERLAP, Comparison, run, run_one
from rlgrad.study.methods import LABEL_METHODS, REFERENCE, Budget, TableMetric
from rlgrad.study.records import Record, scores
from rlgrad.study.statistics import verdict
from rlgrad.tables import Problem, load_problem, read_table

FILES = "emotions-train.arff", "emotions-test.arff"
MOODS = "amazed-suprised,happy-pleased,relaxing-calm,quiet-still,sad-lonely,angry-aggresive"
BUDGET = Budget(epochs=100, lr=0.01, patience=20, batch_size=32)
INTRODUCTION = """# Several labels: the moods of songs

Test {metric} of every method on the same splits, initial weights and batches, over {seeds} seeds, written from the
records of the runs by

    {command}

The data are the emotions of Trohidis, Tsoumakas, Kalliris and Vlahavas (2008), as Mulan distributes them:
{about}
The two files of the official split are one table here, cut anew by each seed into 60% train, 15% validation and 25%
test with about the same share of each class of each mood in all parts.

Instance F1 is the mean over songs of the F1 of a song's moods, so each song is scored by itself; the reward of a draw
is that of one row and six decisions.

`ce` is cross-entropy decided at probability 1/2; `ce-tuned` is the same with one threshold for all moods tuned on the
validation rows, `ce-tuned-per-label` with one for each. `ce+exact` and the like start from the cross-entropy solution,
with half of the epochs each. All others decide at 1/2. `score_function` draws 16 times, with the mean of the other
draws for a baseline; `exact` sums over the law of the counts and does not draw.

Every method has the same budget ({budget})
and keeps the epoch that is best on the validation rows by the metric under its own decision rule. That helps plain `ce`
too. Seconds are of a shared machine.

{choice}

An interval in a table stands by itself; the sentence above it allows for all comparisons at once. Both allow for the
rows that the seeds share (Nadeau and Bengio 2003), so five seeds can show large effects only.
"""
GRID = [(batch_size, lr) for batch_size in (32, 256) for lr in (0.003, 0.01)]
CHOOSERS, OTHER_SEEDS = ("ce-tuned", "soft", "exact"), (100, 101)
CHOICE = """Batch size and learning rate are one choice for all methods and both networks: of batches of 32 or 256 and
rates of 0.003 or 0.01 those with the highest mean *validation* score of `ce-tuned`, `soft` and `exact` on two other
seeds, which split the same songs; `--choose` prints those scores."""


def main() -> None:
    """Make the missing runs and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help=f"of {' and '.join(FILES)}")
    parser.add_argument("--metric", default="instance_f1")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--records", type=Path, default=Path("comparison/records.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/emotions.md"))
    parser.add_argument("--choose", action="store_true", help="print the validation scores of the grid, and stop")
    arguments = parser.parse_args()
    problem = load(arguments.folder)
    metric = metric_named(arguments.metric, labels=len(problem.target.labels))
    if arguments.choose:
        return choose(problem, metric)
    page = INTRODUCTION.format(
        metric=metric.name,
        seeds=arguments.seeds,
        command=f"python scripts/emotions.py ml_emotions --metric {metric.name} --seeds {arguments.seeds}",
        about=about(problem),
        budget=", ".join(f"{name.replace('_', ' ')} {value}" for name, value in vars(BUDGET).items()),
        choice=CHOICE,
    )
    for network in NETWORKS:
        comparison = Comparison(problem, network, metric, BUDGET)
        page += section(comparison, make(comparison, arguments.seeds, arguments.records))
    arguments.out.write_text(page, encoding="utf-8")


def load(folder: Path) -> Problem:
    """The rows of both files as one problem."""
    table = pd.concat([read_table(folder / name) for name in FILES], ignore_index=True)
    return load_problem(table, MOODS, name="emotions")


def choose(problem: Problem, metric: TableMetric) -> None:
    """Print the mean validation score of each batch size and learning rate; the test rows are not looked at."""
    for batch_size, lr in GRID:
        budget = replace(BUDGET, batch_size=batch_size, lr=lr)
        settings = [Comparison(problem, network, metric, budget) for network in NETWORKS]
        runs = [run_one(each, method, seed) for each in settings for method in CHOOSERS for seed in OTHER_SEEDS]
        print(f"batch size {batch_size}, lr {lr}: {mean(record.validation for record in runs):.4f}", flush=True)


def make(comparison: Comparison, seeds: int, path: Path) -> list[Record]:
    """The records of a setting, made where they are missing."""
    missing = comparison.missing(path, list(LABEL_METHODS), range(seeds))
    for _ in tqdm(run(comparison, missing, path), total=len(missing), desc=comparison.task, file=sys.stderr):
        pass
    return comparison.records(path, list(LABEL_METHODS), range(seeds))


def section(comparison: Comparison, records: list[Record]) -> str:
    """One table and the sentence that answers."""
    metric = comparison.metric.name
    rows = summary(records, reference=REFERENCE, overlap=OVERLAP)
    table = to_markdown(rows, metric=metric, reference=REFERENCE, overlap=OVERLAP)
    answer = sentence(verdict(scores(records), reference=REFERENCE, overlap=OVERLAP), metric=metric)
    return f"\n## {comparison.task}\n\n{fill(answer, width=120)}\n\n{table}\n"


def about(problem: Problem) -> str:
    """Rows, columns, how many moods a song has, and of which data."""
    y, columns = problem.target.y, problem.features.shape[1]
    songs = f"{len(y)} songs, {columns} columns, {y.shape[1]} moods, {y.sum(1).mean():.2f} of them a song"
    return f"{songs}. SHA-256 of the table as CSV: {problem.fingerprint[:16]}..."


if __name__ == "__main__":
    main()
