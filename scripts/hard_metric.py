"""Hard units and a hard metric at once: networks of steps trained on F1 and on IoU, with no surrogate anywhere.

    python scripts/hard_metric.py

writes docs/hard_metric.md and docs/hard_metric.svg; a few minutes on two cores. Each method has the same splits,
initial weights, batches, learning rate and number of epochs, and keeps the epoch that is best on the validation rows.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from joblib import Parallel, delayed
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from tqdm import tqdm

from rlgrad import ExpectedLoss, MetricLoss, Stage, evaluate, fit
from rlgrad.files import replacing
from rlgrad.metrics import CountMetric, f1, iou
from rlgrad.steps import Step
from rlgrad.stochastic import policy_gradient
from rlgrad.study.statistics import Interval, interval, verdict
from rlgrad.text import code, markdown
from rlgrad.train import Threshold

DOCS = Path(__file__).resolve().parents[1] / "docs"
WIDTH, EPOCHS, BATCH, RATE = 64, 100, 128, 0.01
TEMPERATURE = (1.0, 0.3)
TEST, VALIDATION = 0.25, 0.2
OVERLAP = TEST / ((1 - TEST) * (1 - VALIDATION))
NOISE, INK, SHIFT = 0.25, 0.5, 3  # of a pixel, from 0 to 1: standard deviation, what is ink, how far it moves
REFERENCE = "arctan, cross-entropy, tuned"
NOTHING_SOFT = "drawn, metric"


class Task(NamedTuple):
    """A metric, and a data set on which to be judged by it."""

    title: str
    metric: CountMetric
    data: Callable[[], tuple[Tensor, Tensor]]
    head: Callable[[], nn.Module]


def eights() -> tuple[Tensor, Tensor]:
    """Digits with pixels from 0 to 1; is it an eight?"""
    x, y = load_digits(return_X_y=True)
    return torch.from_numpy(x / 16).float(), torch.from_numpy(y == 8).float()


def noisy() -> tuple[Tensor, Tensor]:
    """Digits at places of their own (what leaves at one edge enters at the other) and under noise; which is ink?"""
    generator = torch.Generator().manual_seed(0)
    clean = torch.from_numpy(load_digits().images / 16).float()
    moves = torch.randint(-SHIFT, SHIFT + 1, (len(clean), 2), generator=generator).tolist()
    clean = torch.stack([image.roll(move, (0, 1)) for image, move in zip(clean, moves, strict=True)]).flatten(1)
    return clean + NOISE * torch.randn(clean.shape, generator=generator), (clean > INK).float()


TASKS = {
    "f1": Task("F1: eights among the digits", f1, eights, lambda: nn.Sequential(nn.Linear(WIDTH, 1), nn.Flatten(0))),
    "iou": Task("IoU: the ink of each digit", iou, noisy, lambda: nn.Linear(WIDTH, 64)),
}


class Method(NamedTuple):
    """Hidden units, what they are trained on one after the other, and how outputs are decided."""

    unit: Callable[[], nn.Module]
    losses: tuple[str, ...]
    tuned: bool = False


def drawn() -> Step:
    """A step with a policy gradient."""
    return Step(backward=policy_gradient())


arctan = partial(Step, backward="arctan")
METHODS = {
    "relu, cross-entropy, tuned": Method(nn.ReLU, ("cross-entropy",), tuned=True),
    REFERENCE: Method(arctan, ("cross-entropy",), tuned=True),
    "arctan, metric": Method(arctan, ("metric",)),
    "arctan, cross-entropy, then metric": Method(arctan, ("cross-entropy", "metric")),
    "drawn, cross-entropy, tuned": Method(drawn, ("cross-entropy",), tuned=True),
    NOTHING_SOFT: Method(drawn, ("metric",)),
    "drawn, cross-entropy, then metric": Method(drawn, ("cross-entropy", "metric")),
    "frozen, metric": Method(Step, ("metric",)),
}


def split(task: Task, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Train, validation and test."""
    x, y = task.data()
    strata = y if y.ndim == 1 else None
    rest, test = train_test_split(torch.arange(len(x)), test_size=TEST, random_state=seed, stratify=strata)
    strata = None if strata is None else strata[rest]
    train, validation = train_test_split(rest, test_size=VALIDATION, random_state=seed, stratify=strata)
    return [(x[part], y[part]) for part in (train, validation, test)]


def trained(task: Task, method: Method, seed: int) -> tuple[nn.Sequential, Threshold]:
    """A network of one hidden layer, trained, and the threshold of its decisions."""
    train, validation, _ = split(task, seed)
    torch.manual_seed(seed)  # of the initial weights, the same for every method
    network = nn.Sequential(nn.Linear(64, WIDTH), method.unit(), task.head())
    epochs = EPOCHS // len(method.losses)
    calls = epochs * -(-len(train[0]) // BATCH)
    criteria = [criterion(task, loss, drawn=method.unit is drawn, calls=calls, seed=seed) for loss in method.losses]
    stages = [Stage(each, epochs=epochs, lr=RATE, patience=epochs) for each in criteria]
    jointly = train[1].ndim == 1  # where an epoch can be judged by its own best threshold
    threshold: Any = "tuned" if method.tuned and jointly else 0.0
    history = fit(
        network,
        stages,
        train,
        validation,
        task.metric,
        threshold=threshold,
        batch_size=BATCH,
        seed=seed,
        progress=False,
    )
    if method.tuned and not jointly:
        return network, tuned(task.metric, network, validation)
    return network, history.best.threshold


def criterion(task: Task, loss: str, *, drawn: bool, calls: int, seed: int) -> Any:
    """1 - E[metric] or cross-entropy, of drawn steps or by back-propagation."""
    if not drawn:
        return MetricLoss(task.metric) if loss == "metric" else nn.BCEWithLogitsLoss()
    of_rows: Any = MetricLoss(task.metric) if loss == "metric" else cross_entropy_of_rows
    generator = torch.Generator().manual_seed(seed)
    return ExpectedLoss(of_rows, temperature=TEMPERATURE, calls=calls, generator=generator)


def cross_entropy_of_rows(logits: Tensor, target: Tensor) -> Tensor:
    """One for each row."""
    losses = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return losses if losses.ndim == 1 else losses.mean(1)


def run(name: str, task: str, seed: int) -> float:
    """Test metric of the network with hard units, and hard decisions."""
    torch.set_num_threads(1)
    network, threshold = trained(TASKS[task], METHODS[name], seed)
    _, _, test = split(TASKS[task], seed)
    return float(evaluate(network, test, TASKS[task].metric, threshold=threshold).value)


def tuned(metric: CountMetric, network: nn.Module, validation: tuple[Tensor, Tensor]) -> float:
    """The threshold that is best on the validation rows: one for all outputs, of two hundred of their quantiles."""
    with torch.no_grad():
        logits = network(validation[0])
    thresholds: list[float] = torch.quantile(logits.flatten(), torch.linspace(0, 1, 200)).tolist()
    return max(
        [0.0, *thresholds], key=lambda threshold: evaluate(network, validation, metric, threshold=threshold).value
    )


def section(name: str, results: dict[str, dict[int, float]]) -> str:
    """The table of a task, and the sentence that answers."""
    task, judged = TASKS[name], verdict(results, reference=REFERENCE, overlap=OVERLAP)
    rows = [["hidden units, loss", f"test {name} [95%]", f"minus {code(REFERENCE)}, all at once [95%]"]]
    for method, found in results.items():
        gap = "reference" if method == REFERENCE else bounds(judged.differences[method], "+")
        rows.append([code(method), bounds(interval(found.values(), overlap=OVERLAP)), gap])
    hard = judged.differences[NOTHING_SOFT]
    answer = "beat the reference" if hard.low > 0 else "fell behind the reference" if hard.high < 0 else "is undecided"
    sentence = f"With nothing soft anywhere, `{NOTHING_SOFT}` {answer}: {bounds(hard, '+')}."
    return f"\n## {task.title}\n\n{markdown(rows)}\n\n{sentence}\n"


def bounds(found: Interval, sign: str = "") -> str:
    """A mean and its interval."""
    return f"{found.mean:{sign}.4f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def draw(path: Path) -> None:
    """Digits under noise, their ink, and what two networks of hard steps find of it."""
    from matplotlib.figure import Figure

    task = TASKS["iou"]
    _, _, (x, y) = split(task, seed=0)
    x, y = x[:8], y[:8]
    names = "arctan, cross-entropy, then metric", NOTHING_SOFT
    found = {name: trained(task, METHODS[name], seed=0)[0](x) > 0 for name in names}
    lines = {"under noise": x, "ink": y, **found}
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.subplots(len(lines), len(x))
    for line, (name, images) in zip(axes, lines.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image.reshape(8, 8).float(), cmap="gray_r", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name.replace(", ", "\n"), rotation=0, ha="right", va="center")
    with replacing(path) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})


PAGE = """# Hard units and a hard metric at once

Written by `python scripts/hard_metric.py --seeds {seeds}`.

Every hidden unit is a unit step at test time (but for `relu`), every output is decided, and what counts is a metric of
the decisions: three places where the gradient is zero. `arctan` sends a surrogate derivative back through the steps;
`drawn` is `ExpectedLoss`, the policy gradient of drawn steps; `frozen` leaves the hidden layer as it was drawn first.
`cross-entropy` is a surrogate of the metric, decided at a threshold tuned on the validation rows; `metric` is
`MetricLoss`, one minus the expected metric of drawn decisions, decided at 1/2; `then` gives half of the epochs to each.
So `{nothing_soft}` has no surrogate anywhere:

```python
network = nn.Sequential(nn.Linear(64, {width}), Step(backward=policy_gradient()), nn.Linear({width}, 64))
criterion = ExpectedLoss(MetricLoss(iou), temperature={temperature}, calls=epochs * batches)
fit(network, Stage(criterion, epochs={epochs}, lr={rate}), train, validation, iou)
```

F1 is that of a whole batch of {batch} rows, whose decisions are scored together; IoU that of each image, 64 decisions,
and the mean of images. Scikit-learn's 1797 digits, 8 x 8 pixels, one hidden layer of {width} units, Adam at {rate},
{epochs} epochs of which the one best on the validation rows counts, {seeds} seeds, each with a split of its own (60%
train, 15% validation, 25% test). An epoch is judged at the threshold of its decisions; for F1 that is the tuned one
where it is tuned, for IoU it is tuned after training alone. No rate was tuned. Intervals are Student's, corrected for
the rows that seeds share; those of the differences hold for all methods at once.
{sections}
## What they find

![Noisy digits, their ink, and what two networks find](hard_metric.svg)

Each image is moved by up to {shift} pixels in either direction, around the edges, and has noise of standard deviation
{noise}; ink is from {ink} of full black on. In the last two lines, of the first seed, units and decisions are hard.
"""


def main() -> None:
    """Train everything, and write the page and its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=-1, help="processes of one thread; -1 for one a core")
    parser.add_argument("--out", type=Path, default=DOCS / "hard_metric.md")
    arguments = parser.parse_args()
    jobs = [(name, task, seed) for task in TASKS for seed in range(arguments.seeds) for name in METHODS]
    made = Parallel(n_jobs=arguments.workers, return_as="generator")(delayed(run)(*job) for job in jobs)
    results = dict(zip(jobs, tqdm(made, total=len(jobs), unit="run"), strict=True))
    sections = "".join(
        section(task, {name: {seed: results[name, task, seed] for seed in range(arguments.seeds)} for name in METHODS})
        for task in TASKS
    )
    page = PAGE.format(
        seeds=arguments.seeds,
        width=WIDTH,
        temperature=TEMPERATURE,
        epochs=EPOCHS,
        rate=RATE,
        batch=BATCH,
        noise=NOISE,
        ink=INK,
        shift=SHIFT,
        nothing_soft=NOTHING_SOFT,
        sections=sections,
    )
    draw(arguments.out.with_suffix(".svg"))
    with replacing(arguments.out) as file:
        file.write(page.encode())


if __name__ == "__main__":
    main()
