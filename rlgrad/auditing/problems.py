"""Something to audit: a table, a network trained for a little while on cross-entropy, and a batch of its rows."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlgrad.model import NETWORKS, build
from rlgrad.surrogates import bce
from rlgrad.tables import Part, Problem, digits_table, load_problem

_BATCH = 256
_RATE = 0.01


class Subject(NamedTuple):
    """What ``audit`` takes, and a name for it.

    Args:
        name: in words.
        logits: of the rows, with the network's graph.
        target: of the rows.
        weights: of the network.
    """

    name: str
    logits: Float[Tensor, " items"]
    target: Bool[Tensor, " items"]
    weights: list[nn.Parameter]


def builtin(*, seed: int = 0) -> Subject:
    """A problem that needs no file: the eights among scikit-learn's handwritten digits, 256 of them, a linear model.

    Args:
        seed: of the split, the weights, the shuffles and the batch.
    """
    return prepare(load_problem(digits_table(), "is_8", name="digits, 8 against the others"), seed=seed)


def prepare(problem: Problem, *, network: str = "linear", items: int = 256, epochs: int = 5, seed: int = 0) -> Subject:
    """Train a network on a table's training part by cross-entropy, then take a batch of that part.

    A few epochs leave a model in the middle of training, where most gradients are taken.

    Args:
        problem: the table.
        network: a name in ``rlgrad.model.NETWORKS``.
        items: rows of the batch, drawn without replacement; all if there are fewer.
        epochs: passes over the training part; 0 audits fresh weights.
        seed: of the split, the weights, the shuffles and the batch.

    Raises:
        ValueError: there is no such network, or a number is out of range.
    """
    if network not in NETWORKS:
        raise ValueError(f"needed a network of {', '.join(NETWORKS)}, got {network!r}")
    if items < 2 or epochs < 0:
        raise ValueError(f"needed at least 2 items and 0 epochs, got {items=} and {epochs=}")
    rows = problem.split(seed=seed).train
    generator = torch.Generator().manual_seed(seed)
    model = build(network, rows.x.shape[1], seed=seed)
    batch = torch.randperm(len(rows.y), generator=generator)[:items]
    x, y = _train(model, rows, epochs, generator)
    return Subject(f"{problem.name}, {network}", model(x[batch]), y[batch], list(model.parameters()))


def _train(model: nn.Module, rows: Part, epochs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x, y = torch.from_numpy(rows.x), torch.from_numpy(rows.y)
    optimiser = torch.optim.Adam(model.parameters(), lr=_RATE)
    for batch in _batches(len(y), epochs, generator):
        optimiser.zero_grad()
        bce(model(x[batch]), y[batch]).backward()
        optimiser.step()
    return x, y


def _batches(rows: int, epochs: int, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(rows, generator=generator).split(_BATCH)
