"""Does training on F1 beat cross-entropy with a tuned threshold on tables? Every method, linear and MLP.

    python scripts/f1_tables.py mammography.csv:6 phoneme.csv:5 --no-header --out docs/results.md

Each table is FILE:TARGET. The runs are those of ``rlgrad compare``; records stay in --records, and a second start makes
only what is missing. The page is written from the records alone.
"""

import argparse
import sys
from pathlib import Path
from textwrap import fill

from tqdm import tqdm

from rlgrad.metrics import CATALOGUE
from rlgrad.model import NETWORKS
from rlgrad.report.tables import sentence, summary, to_markdown
from rlgrad.study.comparison import OVERLAP, Comparison, run
from rlgrad.study.methods import METHODS, REFERENCE, Budget
from rlgrad.study.records import Record, scores
from rlgrad.study.statistics import verdict
from rlgrad.tables import Problem, load_problem

SOURCES = {
    "mammography": "Microcalcifications of Woods et al. (1993), as OpenML distributes them.",
    "phoneme": "Nasal against oral vowels of the ELENA project, as KEEL distributes them.",
}
INTRODUCTION = """# Results

Test {metric} of every method on the same splits, initial weights and batches, over {seeds} seeds, written from the
records of the runs by

    {command}

`ce` is cross-entropy decided at probability 1/2, `ce-tuned` the same with the threshold tuned on the validation rows;
`ce+exact` and the like start from the cross-entropy solution, with half of the epochs each. All others decide at 1/2.

Every method has the same budget ({budget}) and keeps the epoch that is best on
the validation rows by the metric under its own decision rule. That helps plain `ce` too: it may stop early, where its
F1 at 1/2 is higher than after convergence. The distinct rows are split into 60% train, 15% validation and 25% test,
equal rows together; the learning rate is one for all and tuned for none. Seconds are of a shared machine.

An interval in a table stands by itself; the sentence above it allows for all comparisons at once. Both allow for the
rows that the seeds share (Nadeau and Bengio 2003), so five seeds can show large effects only.
"""


def main() -> None:
    """Make the missing runs and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", metavar="FILE:TARGET")
    parser.add_argument("--no-header", action="store_true", help="the files have no line of names")
    parser.add_argument("--metric", default="f1", choices=list(CATALOGUE))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--records", type=Path, default=Path("comparison/records.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/results.md"))
    arguments = parser.parse_args()
    names = " ".join(Path(table.rpartition(":")[0]).name + ":" + table.rpartition(":")[2] for table in arguments.tables)
    header = " --no-header" if arguments.no_header else ""
    command = f"python scripts/f1_tables.py {names}{header} --metric {arguments.metric} --seeds {arguments.seeds}"
    budget = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in vars(Budget()).items())
    page = INTRODUCTION.format(metric=arguments.metric, seeds=arguments.seeds, command=command, budget=budget)
    for table in arguments.tables:
        path, _, target = table.rpartition(":")
        problem = load_problem(path, target, header=not arguments.no_header)
        for network in NETWORKS:
            comparison = Comparison(problem, network, CATALOGUE[arguments.metric], Budget())
            page += section(comparison, make(comparison, arguments.seeds, arguments.records))
    arguments.out.write_text(page, encoding="utf-8")


def make(comparison: Comparison, seeds: int, path: Path) -> list[Record]:
    """The records of a setting, made where they are missing."""
    missing = comparison.missing(path, list(METHODS), range(seeds))
    for _ in tqdm(run(comparison, missing, path), total=len(missing), desc=comparison.task, file=sys.stderr):
        pass
    return comparison.records(path, list(METHODS), range(seeds))


def section(comparison: Comparison, records: list[Record]) -> str:
    """One table and the sentence that answers."""
    metric = comparison.metric.name
    rows = summary(records, reference=REFERENCE, overlap=OVERLAP)
    table = to_markdown(rows, metric=metric, reference=REFERENCE, overlap=OVERLAP)
    answer = sentence(verdict(scores(records), reference=REFERENCE, overlap=OVERLAP), metric=metric)
    return f"\n## {comparison.task}\n\n{about(comparison.problem)}\n\n{fill(answer, width=120)}\n\n{table}\n"


def about(problem: Problem) -> str:
    """Rows, columns, positives, and where the table comes from."""
    y, distinct = problem.target.y, len(problem.features.drop_duplicates())
    rows = f"{len(y)} rows ({distinct} distinct), {problem.features.shape[1]} columns"
    origin = f"{SOURCES.get(problem.name, '')} SHA-256 of the file: {problem.fingerprint[:16]}..."
    return f"{rows}, {y.sum()} positive ({y.mean():.1%}). {origin.lstrip()}"


if __name__ == "__main__":
    main()
