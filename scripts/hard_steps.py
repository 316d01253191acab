"""Can a network of hard steps be trained, and by what? Surrogate derivatives and policy gradients on digits.

    python scripts/hard_steps.py

The runs are those of ``rlgrad compare --task steps``. The page is written from their records alone, which are kept
until then: after a Ctrl-C the script makes only what is missing. A folder given as --records keeps them for good.
"""

import argparse
import sys
from pathlib import Path
from textwrap import fill

from tqdm import tqdm

from rlgrad.files import check_writable, replacing
from rlgrad.report.tables import sentence, summary, to_markdown
from rlgrad.study.comparison import run
from rlgrad.study.records import Record, scores
from rlgrad.study.statistics import Verdict, verdict
from rlgrad.study.steps import METHODS, TEMPERATURE, Steps

ROOT = Path(__file__).resolve().parents[1]
DOCS, KEPT = ROOT / "docs", ROOT / "comparison" / "hard_steps"
UNIT = "surrogate-arctan"  # whose time is the unit

INTRODUCTION = """# Networks of hard steps

Can networks whose hidden units are hard steps be trained, and by what? Test accuracy on scikit-learn's handwritten
digits (1797 rows, ten classes; a stratified quarter is held out, split anew for each seed), mean and interval over the
seeds, written by

    {command}

`rlgrad compare --task steps` makes the same runs. Every method of a seed has the same rows, initial weights and
batches, and the same budget ({budget}): Adam, and the last weights count. One
rate for all, tuned for none. The methods, by what their hidden units are and how these learn:

- `relu`, `sigmoid`: units that are not hard, by plain back-propagation; the references.
- `surrogate-arctan` and the like: unit steps whose derivative is replaced on the way back by the rule of that name in
  `rlgrad.steps.RULES`, which is biased. `surrogate-straight_through_clipped` is `straight_through(clip=1.0)`.
- `counterfactual`, `score_function`, `arm`, `disarm`, `muprop`, `rebar`, `relax`: unit steps with a policy gradient, by
  `ExpectedLoss` and the estimator of that name. In training the units are drawn, at a temperature that falls from
  {first:g} to {last:g}; for the network of drawn units the gradient is unbiased. `counterfactual` asks for each unit
  what the loss had been, had it gone the other way; `score_function` (which leaves one out), `arm` and `disarm` draw
  each layer four times, the others once.
- `frozen`: unit steps with their true derivative, zero. The last layer learns alone: what a dead gradient can do.

The units of all but `relu` and `sigmoid` are hard and deterministic when they are judged.

An interval in a table stands by itself, and is Student's: it is not cut at 1, though no accuracy is higher. The
sentences above the table allow for all comparisons at once. Both allow for the rows that the seeds share (Nadeau and
Bengio 2003). *Time* is that of training alone, on one thread, relative to `{unit}`, on a machine that did other
things as well.
"""


def main() -> None:
    """Make the missing runs and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=-1, help="processes of one thread; -1 for one a core")
    parser.add_argument("--records", type=Path, help="folder that keeps the records")
    parser.add_argument("--out", type=Path, default=DOCS / "hard_steps.md")
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    path = (arguments.records or KEPT) / "records.jsonl"
    for file in (arguments.out, path):
        check_writable(file)
    page = introduction(arguments.seeds)
    for hidden in (1, 2):
        setting = Steps(hidden=hidden)
        page += section(setting, make(setting, seeds, path, workers=arguments.workers))
    with replacing(arguments.out) as file:
        file.write(page.encode())
    if arguments.records is None:
        path.unlink()  # so that the next page is of the software that writes it


def introduction(seeds: int) -> str:
    """What was done, and what the names mean."""
    setting = Steps()
    first, last = TEMPERATURE
    return INTRODUCTION.format(
        command=f"python scripts/hard_steps.py --seeds {seeds}",
        budget=f"epochs {setting.epochs}, lr {setting.lr}, batch size {setting.batch_size}",
        first=first,
        last=last,
        unit=UNIT,
    )


def make(setting: Steps, seeds: range, path: Path, *, workers: int) -> list[Record]:
    """The records of a setting, made where they are missing."""
    missing = setting.missing(path, list(METHODS), seeds)
    runs = run(setting, missing, path, workers=workers)
    for _ in tqdm(runs, total=len(missing), desc=setting.task, file=sys.stderr):
        pass
    return setting.records(path, list(METHODS), seeds)


def section(setting: Steps, records: list[Record]) -> str:
    """One table, the sentence that answers, and the methods that are worse."""
    metric, reference, overlap = setting.metric_name, setting.reference, setting.overlap
    rows = summary(records, reference=reference, overlap=overlap)
    table = to_markdown(rows, metric=metric, reference=reference, overlap=overlap, unit=UNIT)
    judged = verdict(scores(records), reference=reference, overlap=overlap)
    answers = [
        fill(answer, width=120, break_on_hyphens=False)  # a name is not to be torn
        for answer in (sentence(judged, metric=metric), worse(judged))
    ]
    return "\n\n".join((f"\n## {'-'.join(map(str, setting.sizes))}", *answers, f"{table}\n"))


def worse(judged: Verdict) -> str:
    """Which methods lose to the reference by the intervals that hold together, the best first."""
    names = ", ".join(f'"{name}"' for name in judged.worse) or "none"
    return f'Worse than "{judged.reference}" beyond luck, all comparisons at once: {names}.'


if __name__ == "__main__":
    main()
