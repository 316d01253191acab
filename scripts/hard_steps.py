"""Can a network of hard steps be trained, and by what? Surrogate derivatives and policy gradients on digits.

    python scripts/hard_steps.py --out docs/hard_steps.md

The runs are those of ``rlgrad compare --task steps``: a folder given as --records keeps them, and a second start makes
only what is missing. The page is written from the records alone.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import fill

from tqdm import tqdm

from rlgrad.files import replacing
from rlgrad.report.tables import sentence, summary, to_markdown
from rlgrad.study.comparison import run
from rlgrad.study.records import Record, scores
from rlgrad.study.statistics import verdict
from rlgrad.study.steps import METHODS, TEMPERATURE, Steps

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
sentence above the table allows for all comparisons at once. Both allow for the rows that the seeds share (Nadeau and
Bengio 2003). *Time* is that of training alone, on one thread, relative to `{unit}`, on a machine that did other
things as well.
"""


def main() -> None:
    """Make the missing runs and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=-1, help="processes of one thread; -1 for one a core")
    parser.add_argument("--records", type=Path, help="folder of the records; a temporary one by default")
    parser.add_argument("--out", type=Path, default=Path("docs/hard_steps.md"))
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    page = introduction(arguments.seeds)
    with TemporaryDirectory() as folder:
        path = (arguments.records or Path(folder)) / "records.jsonl"
        for hidden in (1, 2):
            setting = Steps(hidden=hidden)
            page += section(setting, make(setting, seeds, path, workers=arguments.workers))
    with replacing(arguments.out) as file:
        file.write(page.encode())


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
    """One table and the sentence that answers."""
    metric, reference, overlap = setting.metric_name, setting.reference, setting.overlap
    rows = summary(records, reference=reference, overlap=overlap)
    table = to_markdown(rows, metric=metric, reference=reference, overlap=overlap, unit=UNIT)
    answer = sentence(verdict(scores(records), reference=reference, overlap=overlap), metric=metric)
    return f"\n## {'-'.join(map(str, setting.sizes))}\n\n{fill(answer, width=120)}\n\n{table}\n"


if __name__ == "__main__":
    main()
