"""Does it matter that a small batch knows of the rest of the data? A rare class, F1, and batches of 8 to 128 rows.

    python scripts/scope.py --out docs/scope.md

A linear model is trained on the F1 of each batch by itself, and on the F1 of all training rows from the same batches
(``scope="data"``); beside them is cross-entropy with a tuned threshold. Records stay in --records, and a second start
makes only what is missing.
"""

import argparse
from pathlib import Path
from textwrap import fill
from typing import Any

import torch
from joblib import Parallel, delayed
from sklearn.datasets import make_classification
from torch import Tensor, nn
from tqdm import tqdm

from rlgrad import MetricLoss, Stage, evaluate, fit
from rlgrad.files import replacing
from rlgrad.metrics import f1
from rlgrad.report.tables import sentence, summary, to_markdown
from rlgrad.study.records import Record, append, latest, missing, read, run_key, scores
from rlgrad.study.statistics import verdict
from rlgrad.surrogates import Criterion, bce, best_threshold

BATCHES = (8, 32, 128)
PARTS = {"train": 2000, "validation": 1000, "test": 3000}
SHARE, COLUMNS, APART = 0.02, 10, 0.6  # of the rare class; of the table; between the clusters
BUDGET: dict[str, Any] = {"epochs": 20, "lr": 0.01}
METHODS = ["exact", "exact-data", "ce-tuned"]
REFERENCE = "exact"

PAGE = """# The metric of all data from small batches

Written by `python scripts/scope.py --seeds {seeds}`.

In a batch of 8 rows of which {share:.0%} are positive there is most often nothing to be found: its F1 is 1 as long as
nothing is claimed, so that training on the F1 of each batch teaches to claim nothing. With `scope="data"` a batch is
scored together with the counts of the rest of the data, kept from the pass before, and the mean of the batches'
gradients is the gradient of the F1 of all rows:

```python
criterion = MetricLoss(f1, scope="data")
```

`exact` is `MetricLoss(f1)`, `exact-data` the same with the rest of the data, both decided at 1/2; `ce-tuned` is
cross-entropy with the threshold tuned on the validation rows. A linear model on {columns} columns, scikit-learn's
`make_classification` with four clusters {apart:g} apart, so that no line parts the classes; {train} rows to learn from,
{validation} to choose the epoch by, {test} to test on, others for each of {seeds} seeds. Adam at {lr:g}, {epochs}
epochs, the same for all and tuned for none; the share and the distance were chosen on another seed, to be hard.
Intervals are Student's over seeds; those of the sentences hold for both comparisons at once.
{sections}"""


def data(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Rows of their own for each seed, at mean 0 and deviation 1."""
    x, y = make_classification(
        sum(PARTS.values()),
        COLUMNS,
        n_informative=5,
        weights=[1 - SHARE],
        class_sep=APART,
        flip_y=0.0,
        random_state=seed,
    )
    x, y = torch.from_numpy(x).float(), torch.from_numpy(y)
    known = x[: PARTS["train"]]
    parts = zip(
        ((x - known.mean(0)) / known.std(0)).split(list(PARTS.values())), y.split(list(PARTS.values())), strict=True
    )
    return dict(zip(PARTS, parts, strict=True))


def run(batch_size: int, method: str, seed: int) -> Record:
    """Train and judge once."""
    torch.set_num_threads(1)
    parts = data(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(COLUMNS, 1), nn.Flatten(0))
    tuned = method == "ce-tuned"
    criterion: Criterion = bce if tuned else MetricLoss(f1, scope="data" if method == "exact-data" else "batch")
    stage = Stage(criterion, patience=BUDGET["epochs"], **BUDGET)
    threshold: Any = "tuned" if tuned else 0.0
    history = fit(
        model, stage, parts["train"], parts["validation"], f1, threshold=threshold, batch_size=batch_size, seed=seed,
        progress=False,
    )  # fmt: skip
    threshold = history.best.threshold
    found: dict[str, Any] = {name: evaluate(model, part, f1, threshold=threshold).value for name, part in parts.items()}
    x, y = parts["validation"]
    with torch.no_grad():
        best, _ = best_threshold(f1, model(x), y)
    last = history.epochs[-1]
    told = {"threshold": threshold, "test_tuned": evaluate(model, parts["test"], f1, threshold=best).value}
    told |= {"epochs": last.epoch, "seconds": last.seconds}
    return Record(**setting(batch_size), method=method, seed=seed, **found, **told)


def setting(batch_size: int) -> dict[str, Any]:
    """What all runs with a batch size have in common."""
    return {"task": "a rare class, linear", "metric": "f1", "arguments": {"batch": batch_size, **PARTS, **BUDGET}}


def section(batch_size: int, records: list[Record]) -> str:
    """Table and sentence of a batch size."""
    answer = fill(sentence(verdict(scores(records), reference=REFERENCE), metric="f1"), width=120)
    table = to_markdown(summary(records, reference=REFERENCE), metric="f1", reference=REFERENCE)
    return f"\n## Batches of {batch_size} rows\n\n{answer}\n\n{table}\n"


def main() -> None:
    """Make the missing runs and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=-1, help="processes of one thread; -1 for one a core")
    parser.add_argument("--records", type=Path, default=Path("comparison/scope.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/scope.md"))
    arguments = parser.parse_args()
    jobs = {
        run_key(**setting(batch_size), method=method, seed=seed): (batch_size, method, seed)
        for seed in range(arguments.seeds)
        for batch_size in BATCHES
        for method in METHODS
    }
    wanted = missing(jobs, read(arguments.records))
    parallel = Parallel(n_jobs=arguments.workers, return_as="generator_unordered")
    for record in tqdm(parallel(delayed(run)(*jobs[key]) for key in wanted), total=len(wanted), unit="run"):
        append(arguments.records, record)
    found = latest(read(arguments.records))
    sections = "".join(section(size, [found[key] for key, (of, *_) in jobs.items() if of == size]) for size in BATCHES)
    page = PAGE.format(
        seeds=arguments.seeds, share=SHARE, columns=COLUMNS, apart=APART, sections=sections, **PARTS, **BUDGET
    )
    with replacing(arguments.out) as file:
        file.write(page.encode())


if __name__ == "__main__":
    main()
