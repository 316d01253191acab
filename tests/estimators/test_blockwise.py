"""Credit to blocks: unbiased for the rows of a summed metric and for tiles, and quieter than one reward for all."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgrad import Bernoulli, Categorical, MetricLoss
from rlgrad.estimators import blockwise, score_function, tiles
from rlgrad.metrics import OpaqueMetric, Scorer, SummedMetric
from tests.estimators.proof import Case, Problem, bias

ROWS = torch.tensor([[0.4, -0.7], [1.1, 0.2]], dtype=torch.float64)
TARGET = torch.tensor([[1, 0], [1, 1]])


def runs(decision: Tensor, target: Tensor) -> tuple[int, int, int]:
    """Right decisions, neighbours that differ, and the length: no sum over single decisions."""
    return int((decision == target).sum()), int(decision[0] != decision[1]), len(target)


SUMMED = SummedMetric(runs, lambda right, turns, length: (right - turns) ** 2 / (1 + turns + length), undefined=0.0)


def by_hand(target, decision) -> float:
    d, t = np.reshape(decision, (-1, 2)), np.reshape(target, (-1, 2))
    right, turns = (d == t).sum(), (d[:, 0] != d[:, 1]).sum()
    return float((right - turns) ** 2 / (1 + turns + d.size))


class Flat:
    """A scorer of rows whose decisions come as one list, as an estimator sees them."""

    def __init__(self, blocks: Tensor | int | None, draws: int = 2) -> None:
        self.estimator = blockwise(draws=draws, blocks=blocks)

    def __call__(self, policy, score, *, generator: torch.Generator | None = None) -> Tensor:
        return self.estimator(policy, score, generator=generator)


@pytest.mark.parametrize("blocks", [None, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 0]), 1, 4], ids=str)
def test_unbiased(blocks) -> None:
    problem = Problem(
        ROWS.flatten(), TARGET.flatten(), by_hand, lambda target: Scorer(SUMMED, target.unflatten(-1, (2, 2)))
    )
    assert not bias(Case(lambda: Flat(blocks), 2), problem)


def test_unbiased_with_three_draws_of_two_rows_of_classes() -> None:
    metric = SummedMetric(
        lambda d, t: (int(d[0] == t[0]), int(d[0] > 0)), lambda right, claimed: right / (1 + claimed), undefined=0.0
    )

    def judge(target, decision) -> float:
        right = sum(a == b for a, b in zip(target, decision, strict=True))
        return right / (1 + sum(b > 0 for b in decision))

    logits = torch.tensor([[0.3, -1.0, 0.5], [1.2, 0.1, -0.4]], dtype=torch.float64)
    problem = Problem(logits, torch.tensor([2, 0]), judge, lambda target: Scorer(metric, target.unsqueeze(-1)))
    assert not bias(Case(lambda: Flat(None, draws=3), 3), problem)


def test_it_is_what_a_summed_metric_is_trained_by() -> None:
    loss = MetricLoss(SUMMED, generator=torch.Generator().manual_seed(0))
    assert isinstance(loss.estimator, blockwise)
    leaf = ROWS.clone().requires_grad_()
    assert loss(leaf, TARGET).ndim == 0
    assert MetricLoss(SUMMED.apart())(leaf, TARGET).ndim == 0


@pytest.mark.parametrize("scope", ["batch", "data"])
def test_a_batch_without_rows_costs_nothing(scope) -> None:
    loss = MetricLoss(SUMMED, scope=scope)
    loss(ROWS, TARGET)
    empty = torch.zeros(0, 2, requires_grad=True)
    value = loss(empty, TARGET[:0])
    value.backward()
    assert value.isfinite()
    assert empty.grad is not None
    loss(ROWS, TARGET)


def noise(estimate, logits: Tensor, score: Scorer) -> float:
    slopes = []
    for seed in range(60):
        leaf = logits.clone().requires_grad_()
        value = estimate(Bernoulli(leaf), score, generator=torch.Generator().manual_seed(seed))
        slopes.append(torch.autograd.grad(value, leaf)[0])
    return float(torch.stack(slopes).var(0).sum())


def test_rows_make_no_noise_for_each_other() -> None:
    target = torch.randint(0, 2, (40, 2), generator=torch.Generator().manual_seed(0))
    metric = SummedMetric(runs, lambda right, turns, length: (right - turns) / length, undefined=0.0)
    score, logits = Scorer(metric, target), torch.zeros(80, dtype=torch.float64)
    assert noise(blockwise(draws=4), logits, score) < 0.1 * noise(score_function(draws=4), logits, score)


def test_nobody_is_asked_where_draws_agree() -> None:
    asked = []

    def total(decision: Tensor, target: Tensor) -> float:
        asked.append(1)
        return float(decision.sum())

    score = Scorer(OpaqueMetric(total), torch.zeros(8))
    sure = torch.full((8,), 50.0, requires_grad=True)
    value = blockwise(draws=3, blocks=2)(Bernoulli(sure), score)
    assert len(asked) == 3  # one reward a draw
    assert value == 8


def test_tiles_cover_an_image() -> None:
    found = tiles(5, 7, 3).view(5, 7)
    for row, column in product(range(5), range(7)):
        assert found[row, column] == 3 * (row // 3) + column // 3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: blockwise(draws=1), ValueError, "at least 2 draws, got 1"),
        (lambda: blockwise(blocks=0), ValueError, "at least 1 item"),
        (lambda: blockwise(blocks=torch.zeros(3)), TypeError, "see rlgrad.estimators.tiles"),
        (lambda: blockwise(blocks=torch.tensor([True])), TypeError, r"got blocks \(1,\) bool"),
        (lambda: blockwise(blocks=torch.tensor([-1, 0])), ValueError, "needed blocks numbered from 0, got -1"),
        (lambda: tiles(4, 4, 0), ValueError, "at least 1 pixel, got height=4, width=4 and size=0"),
        (lambda: blockwise(blocks="rows"), TypeError, "whole number of items a block, got 'rows'"),
        (
            lambda: blockwise(blocks=torch.arange(3))(Bernoulli(torch.zeros(4)), lambda d: d.sum(-1)),
            ValueError,
            "a block for each of 4 items, got 3",
        ),
        (
            lambda: blockwise()(Categorical(torch.zeros(4, 2)), lambda d: d.sum(-1)),
            ValueError,
            "needed blocks of items to give credit to, got none for <function",
        ),
    ],
)
@pytest.mark.usefixtures("as_a_user")
def test_what_does_not_fit_is_named(call, error, message: str) -> None:
    with pytest.raises(error, match=message):
        call()
