"""Does it matter that small batches know of the rest of the data? A rare class, and four images a batch.

    python scripts/scope.py --out docs/scope.md

The runs are those of ``rlgrad compare --task segmentation --metric corpus_miou --batch-size 4`` on the generated images
with a rare class; records stay in --records, and a second start makes only what is missing.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from textwrap import fill

from tqdm import tqdm

from rlgrad.files import replacing
from rlgrad.images import generated_problem
from rlgrad.report.tables import sentence, summary, to_markdown
from rlgrad.study.comparison import run
from rlgrad.study.masks import BUDGET, metric_named
from rlgrad.study.records import scores
from rlgrad.study.segmentation import Segmentation
from rlgrad.study.statistics import verdict

METHODS = ["ce", "dice", "exact", "exact-data", "ce+exact", "ce+exact-data"]
REFERENCE = {"exact-data": "exact", "ce+exact-data": "ce+exact"}

PAGE = """# The metric of all data from small batches

Written by `python scripts/scope.py --seeds {seeds}`.

{summary}: {foreground}. What counts is the mean over the four classes of the IoU of all test images together. A batch
holds {batch} images, most often without a pixel of the rare class: there its IoU is 1 as long as none is claimed, so
that `exact`, which scores each batch by itself, teaches not to claim it. `exact-data` is the same loss with
`scope="data"`: the batch is scored together with the counts of the rest of the data, kept from the pass before.

```python
criterion = MetricLoss(mean_iou(4).over(3), scope="data")
```

`ce` is cross-entropy and `dice` the soft F1 of each batch; `ce+...` start from the solution of cross-entropy with half
of the epochs each. One budget for all ({budget}); each of {seeds} seeds splits the images anew. Intervals are
Student's, corrected for the images that seeds share.

{sentences}

{table}
"""


def main() -> None:
    """Make the missing runs and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=-1, help="processes of one thread; -1 for one a core")
    parser.add_argument("--records", type=Path, default=Path("comparison/records.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/scope.md"))
    arguments = parser.parse_args()
    problem = generated_problem("rare")
    setting = Segmentation(problem, metric_named("corpus_miou", len(problem.values)), replace(BUDGET, batch_size=4))
    missing = setting.missing(arguments.records, METHODS, range(arguments.seeds))
    runs = run(setting, missing, arguments.records, workers=arguments.workers)
    for _ in tqdm(runs, total=len(missing), desc=setting.task, file=sys.stderr):
        pass
    records = setting.records(arguments.records, METHODS, range(arguments.seeds))
    results, metric, overlap = scores(records), setting.metric.name, setting.overlap
    rows = summary(records, reference="exact", overlap=overlap)
    answers = [
        sentence(verdict({name: results[name] for name in pair}, reference=pair[1], overlap=overlap), metric=metric)
        for pair in REFERENCE.items()
    ]
    shares = [f"{(problem.y == at).mean():.2%} of the pixels are of class {at}" for at in range(len(problem.values))]
    page = PAGE.format(
        seeds=arguments.seeds,
        summary=problem.summary.capitalize(),
        foreground=", ".join(shares),
        batch=setting.budget.batch_size,
        budget=", ".join(f"{name.replace('_', ' ')} {value}" for name, value in vars(setting.budget).items()),
        sentences="\n\n".join(fill(answer, width=120) for answer in answers),
        table=to_markdown(rows, metric=metric, reference="exact", overlap=overlap),
    )
    with replacing(arguments.out) as file:
        file.write(page.encode())


if __name__ == "__main__":
    main()
