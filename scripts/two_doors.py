"""One trainer, two doors: does the agent on rlgrad/BatchClassification-v0 reach what ``fit`` reaches on the same rows?

    python scripts/two_doors.py --out docs/two_doors.md

Both train a linear model on the F1 of batches by the score-function estimator with leave-one-out, the one by playing
episodes of an environment, the other by a loss in a training loop; cross-entropy with a tuned threshold stands beside
them. Records stay in --records, and a second start makes only what is missing.
"""

import argparse
import copy
import math
import time
from pathlib import Path
from textwrap import fill
from typing import Any

import gymnasium as gym
import torch
from joblib import Parallel, delayed
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from tqdm import tqdm

from rlgrad import MetricLoss, Stage, evaluate, fit
from rlgrad.agent import Reinforce
from rlgrad.estimators import score_function
from rlgrad.files import replacing
from rlgrad.metrics import f1
from rlgrad.report.tables import sentence, summary, to_markdown
from rlgrad.study.records import Record, append, latest, missing, read, run_key, scores
from rlgrad.study.statistics import verdict
from rlgrad.surrogates import bce
from rlgrad_envs.data import load_data

METHODS = ["agent", "agent, same start", "fit", "ce-tuned"]
REFERENCE = "fit"
BATCH, DRAWS, EPOCHS, LR = 64, 16, 60, 0.01
SETTING: dict[str, Any] = {
    "task": "digits, is it an 8, linear",
    "metric": "f1",
    "arguments": {"batch": BATCH, "draws": DRAWS, "epochs": EPOCHS, "lr": LR},
}

PAGE = """# One trainer, two doors

Written by `python scripts/two_doors.py --seeds {seeds}`.

The same rows, the same metric, the same estimator, once as a loss in a training loop and once as an environment that an
agent plays:

```python
fit(model, Stage(MetricLoss(f1, score_function(draws=16, credit=leave_one_out))), train, validation, f1)

envs = gym.make_vec("rlgrad_envs:rlgrad/BatchClassification-v0", num_envs=16, data=train, metric="f1", batch_size=64)
Reinforce(envs, model, credit="leave_one_out", same_start=True).update()
```

`fit` draws {draws} decisions for each batch of {batch} rows; so does `agent, same start`, whose {draws} parallel
episodes begin with the same batch. `agent` gives each episode a batch of its own: as many different rows as {draws}
batches have, for one gradient step, whose leave-one-out compares the F1 of one batch with those of others. A linear
model on scikit-learn's digits (is it an 8?), {epochs} passes of {steps} batches for all, Adam at {lr:g}; the weights of
the pass that was best on the validation rows are tested, decided at 1/2. `ce-tuned` is cross-entropy with the
threshold tuned on the validation rows. Half of the rows are for learning, a quarter each for choosing and for the
test.

{answer}

{table}
"""


def data(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The digits in three parts, split by the seed."""
    digits = load_data("digits", None)
    rows = range(len(digits))
    train, rest = train_test_split(rows, test_size=0.5, stratify=digits.target, random_state=seed)
    validation, test = train_test_split(rest, test_size=0.5, stratify=digits.target[rest], random_state=seed)
    parts = {"train": train, "validation": validation, "test": test}
    return {name: (torch.tensor(digits.features[at]), torch.tensor(digits.target[at])) for name, at in parts.items()}


def linear(seed: int, columns: int) -> nn.Module:
    """A linear model of rows, as the last axis but one: the same weights for each method."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(columns, 1), nn.Flatten(-2))


def play(model: nn.Module, parts: dict[str, tuple[Tensor, Tensor]], *, same_start: bool, seed: int) -> None:
    """Let an agent learn as many steps as ``fit`` makes, and keep the best pass by validation, as ``fit`` does."""
    x, y = parts["train"]
    envs = gym.make_vec(
        "rlgrad_envs:rlgrad/BatchClassification-v0",
        num_envs=DRAWS,
        data=(x.numpy(), y.numpy()),
        metric="f1",
        batch_size=BATCH,
    )
    agent = Reinforce(
        envs, model, "leave_one_out", episodes=DRAWS, same_start=same_start, lr=LR, normalise=False, seed=seed,
        max_grad_norm=math.inf,
    )  # fmt: skip
    best, weights = -math.inf, copy.deepcopy(model.state_dict())
    for _ in range(EPOCHS):
        for _ in range(math.ceil(len(x) / BATCH)):
            agent.update()
        value = evaluate(model, parts["validation"], f1).value
        if value > best:
            best, weights = value, copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    envs.close()


def run(method: str, seed: int) -> Record:
    """Train and judge once."""
    torch.set_num_threads(1)
    parts = data(seed)
    model = linear(seed, parts["train"][0].shape[1])
    start, threshold = time.perf_counter(), 0.0
    if method.startswith("agent"):
        play(model, parts, same_start=method.endswith("same start"), seed=seed)
    else:
        tuned = method == "ce-tuned"
        draws = torch.Generator().manual_seed(seed)
        criterion: Any = bce if tuned else MetricLoss(f1, score_function(draws=DRAWS), generator=draws)
        history = fit(
            model, Stage(criterion, epochs=EPOCHS, lr=LR, patience=EPOCHS), parts["train"], parts["validation"], f1,
            threshold="tuned" if tuned else 0.0, batch_size=BATCH, seed=seed, progress=False,
        )  # fmt: skip
        threshold = history.best.threshold  # type: ignore[assignment]
    seconds = time.perf_counter() - start
    found: dict[str, Any] = {name: evaluate(model, part, f1, threshold=threshold).value for name, part in parts.items()}
    told: dict[str, Any] = {"threshold": threshold, "test_tuned": found["test"], "epochs": EPOCHS, "seconds": seconds}
    return Record(**SETTING, method=method, seed=seed, **found, **told)


def main() -> None:
    """Make the missing runs and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=-1, help="processes of one thread; -1 for one a core")
    parser.add_argument("--records", type=Path, default=Path("comparison/two_doors.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/two_doors.md"))
    arguments = parser.parse_args()
    jobs = {
        run_key(**SETTING, method=method, seed=seed): (method, seed)
        for seed in range(arguments.seeds)
        for method in METHODS
    }
    wanted = missing(jobs, read(arguments.records))
    parallel = Parallel(n_jobs=arguments.workers, return_as="generator_unordered")
    for record in tqdm(parallel(delayed(run)(*jobs[key]) for key in wanted), total=len(wanted), unit="run"):
        append(arguments.records, record)
    found = latest(read(arguments.records))
    records = [found[key] for key in jobs]
    page = PAGE.format(
        seeds=arguments.seeds, draws=DRAWS, batch=BATCH, epochs=EPOCHS, lr=LR,
        steps=math.ceil(len(data(0)["train"][0]) / BATCH),
        answer=fill(sentence(verdict(scores(records), reference=REFERENCE), metric="f1"), width=120),
        table=to_markdown(summary(records, reference=REFERENCE), metric="f1", reference=REFERENCE),
    )  # fmt: skip
    with replacing(arguments.out) as file:
        file.write(page.encode())


if __name__ == "__main__":
    main()
