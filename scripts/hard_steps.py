"""Can a network of hard steps be trained, and by what? Surrogate derivatives and policy gradients on digits.

    python scripts/hard_steps.py --out docs/hard_steps.md

Networks 64-128-10 and 64-128-128-10 on scikit-learn's digits: every hidden unit is a unit step at test time. Each
method has the same splits, initial weights, batches, optimizer and number of epochs, and no rate was tuned for any.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from joblib import Parallel, delayed
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from tqdm import tqdm

from rlgrad.estimators import REBAR, Estimator, counterfactual, disarm, muprop, score_function
from rlgrad.files import replacing
from rlgrad.steps import RULES, Step
from rlgrad.stochastic import ExpectedLoss, policy_gradient
from rlgrad.study.statistics import interval
from rlgrad.text import code, markdown

EPOCHS, BATCH, RATE, WIDTH = 60, 64, 0.003, 128
TEMPERATURE = (1.0, 0.3)
OVERLAP = 1 / 3  # a quarter of the rows tests, three quarters train
BASE = "arctan"  # whose time is the unit

INTRODUCTION = """# Networks of hard steps

Test accuracy on scikit-learn's digits (1797 rows; a stratified quarter is held out, split anew for each seed), {seeds}
seeds, of networks whose hidden units are unit steps, written by

    {command}

Adam at {rate}, batches of {batch}, {epochs} epochs, the last weights; one rate for all and tuned for none.
`relu units` and `sigmoid units` are references whose units are not hard. `frozen` trains the last layer
alone: what a dead gradient can do. Surrogate derivatives are named as in `rlgrad.steps.RULES`.
The policy gradients are those of
`ExpectedLoss`: units are drawn in training, at a temperature that falls from {first:g} to {last:g}, and hard at
test time; they are unbiased for the network of drawn units. `what if` asks for each unit what the loss had
been, had it gone the other way (`counterfactual`); a number is that of the draws of each layer. Intervals are
Student's, with the correction of Nadeau and Bengio (2003) for the rows that splits share. *Time* is that of
training relative to `{base}`, on one thread each, of a machine that did other things as well.
"""


class Data(NamedTuple):
    """A split."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def data(seed: int) -> Data:
    """Digits with pixels from 0 to 1."""
    x, y = load_digits(return_X_y=True)
    parts = train_test_split(x / 16, y, test_size=0.25, stratify=y, random_state=seed)
    train_x, test_x, train_y, test_y = map(torch.from_numpy, parts)
    return Data(train_x.float(), train_y, test_x.float(), test_y)


def network(unit: Callable[[], nn.Module], hidden: int) -> nn.Sequential:
    """64 pixels, hidden layers of 128 units, ten classes."""
    sizes = [64, *[WIDTH] * hidden]
    layers = [(nn.Linear(inputs, outputs), unit()) for inputs, outputs in pairwise(sizes)]
    return nn.Sequential(*(part for pair in layers for part in pair), nn.Linear(WIDTH, 10))


class Method(NamedTuple):
    """A unit, and an estimator where it is drawn."""

    unit: Callable[[], nn.Module]
    estimator: Callable[[], Estimator] | None = None


def drawn(estimator: Callable[[], Estimator]) -> Method:
    """Units with a policy gradient."""
    return Method(partial(Step, backward=policy_gradient()), estimator)


METHODS: dict[str, Method] = {
    "relu units": Method(nn.ReLU),
    "sigmoid units": Method(nn.Sigmoid),
    **{name: Method(partial(Step, backward=name)) for name in RULES},
    "what if": drawn(counterfactual),
    "leave-one-out, 4": drawn(partial(score_function, 4)),
    "disarm, 4": drawn(partial(disarm, 4)),
    "muprop, 1": drawn(partial(muprop, 1)),
    "rebar, 1": drawn(partial(REBAR, 1)),
    "frozen": Method(Step),
}
POLICY_GRADIENTS = [name for name, method in METHODS.items() if method.estimator is not None]


def run(name: str, hidden: int, seed: int) -> tuple[float, float]:
    """Test accuracy, and seconds of training."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)  # of the initial weights, the same for every method
    method, rows = METHODS[name], data(seed)
    model = network(method.unit, hidden)
    loss, parameters = _loss(method, rows, seed)
    optimizer = torch.optim.Adam([*model.parameters(), *parameters], lr=RATE)
    start = time.perf_counter()
    for batch in _batches(len(rows.y), seed):
        optimizer.zero_grad()
        loss(model, rows.x[batch], rows.y[batch]).backward()
        optimizer.step()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        return float((model(rows.test_x).argmax(1) == rows.test_y).float().mean()), seconds


Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def _loss(method: Method, rows: Data, seed: int) -> tuple[Loss, list[nn.Parameter]]:
    if method.estimator is None:
        return lambda model, x, y: nn.functional.cross_entropy(model(x), y), []
    calls = EPOCHS * -(-len(rows.y) // BATCH)
    generator = torch.Generator().manual_seed(seed)
    row_loss = nn.CrossEntropyLoss(reduction="none")
    criterion = ExpectedLoss(row_loss, method.estimator(), temperature=TEMPERATURE, calls=calls, generator=generator)
    return criterion, list(criterion.parameters())


def _batches(rows: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        yield from torch.randperm(rows, generator=generator).split(BATCH)


def section(hidden: int, seeds: int, results: dict[tuple[str, int, int], tuple[float, float]]) -> str:
    """One table."""
    total = {name: sum(results[name, hidden, seed][1] for seed in range(seeds)) for name in METHODS}
    rows = [["method", "gradient", "accuracy [95%]", "time"]]
    for name in METHODS:
        found = interval([results[name, hidden, seed][0] for seed in range(seeds)], overlap=OVERLAP)
        kind = {"relu units": "true", "sigmoid units": "true", "frozen": "none"}.get(
            name, "policy gradient" if name in POLICY_GRADIENTS else "surrogate"
        )
        cell = f"{found.mean:.4f} [{found.low:.3f}, {found.high:.3f}]"
        rows.append([code(name), kind, cell, f"{total[name] / total[BASE]:.1f}"])
    shape = "-".join(map(str, [64, *[WIDTH] * hidden, 10]))
    return f"\n## {shape}\n\n{markdown(rows, left=2)}\n"


def main() -> None:
    """Train everything, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=-1, help="processes of one thread; -1 for one a core")
    parser.add_argument("--out", type=Path, default=Path("docs/hard_steps.md"))
    arguments = parser.parse_args()
    jobs = [(name, hidden, seed) for hidden in (1, 2) for seed in range(arguments.seeds) for name in METHODS]
    done = Parallel(n_jobs=arguments.workers, return_as="generator")(delayed(run)(*job) for job in jobs)
    results = dict(zip(jobs, tqdm(done, total=len(jobs), unit="run"), strict=True))
    command = f"python scripts/hard_steps.py --seeds {arguments.seeds}"
    first, last = TEMPERATURE
    page = INTRODUCTION.format(
        seeds=arguments.seeds,
        command=command,
        rate=RATE,
        batch=BATCH,
        epochs=EPOCHS,
        first=first,
        last=last,
        base=BASE,
    )
    page += "".join(section(hidden, arguments.seeds, results) for hidden in (1, 2))
    with replacing(arguments.out) as file:
        file.write(page.encode())


if __name__ == "__main__":
    main()
