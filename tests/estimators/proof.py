"""The machinery of proof: an estimator under every outcome of chance, and the truth, without a line of the library.

Every outcome of chance stands side by side in a batch axis of its own (rows of a batch are scored apart), together with
its probability: an expectation is then a finite sum, free of chance.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef
from torch import Tensor

from rlgrad.estimators import Estimator
from rlgrad.metrics import CountMetric, Downstream, Metric, OpaqueMetric, Score, Scorer, f1, mcc
from rlgrad.policies import Bernoulli, Categorical, Policy

Array = NDArray[np.float64]
Judge = Callable[[tuple[int, ...], tuple[int, ...]], float]  # (target, decision) of one row
TOLERANCE = 1e-8

LOGITS = torch.tensor([0.9, 0.6, 0.4, 0.2], dtype=torch.float64).logit()
TARGET = torch.tensor([1, 0, 1, 0])
# Two rows; nothing is to be found in the second, where f1 and the profit are 0/0 if nothing is claimed.
ROWS = torch.tensor([[0.3, -1.2], [-0.5, 0.8]], dtype=torch.float64)
TARGETS = torch.tensor([[1, 0], [0, 0]])
CLASSES = torch.tensor([[0.3, -1.0, 0.5], [1.2, 0.1, -0.4]], dtype=torch.float64)
MASKED = torch.tensor([[[0.3, -math.inf, 0.5], [1.2, 0.1, -0.4]], [[0.0, 0.7, -0.2], [-math.inf, 0.9, 0.0]]]).double()


# Scores, and what they are in scikit-learn and NumPy

profit = CountMetric(lambda tp, fp, fn, tn: (10 * tp - 3 * fp) / torch.sqrt(tp + fp), undefined=-0.5, name="profit")
METRICS = {metric.name: metric for metric in (CountMetric(f1.formula, undefined=1.0, name="f1"), mcc, profit)}


def profit_by_hand(target: tuple[int, ...], decision: tuple[int, ...]) -> float:
    (_, fp), (_, tp) = confusion_matrix(target, decision, labels=[0, 1])
    return -0.5 if tp + fp == 0 else float(10 * tp - 3 * fp) / math.sqrt(tp + fp)


def hits_by_hand(target: tuple[int, ...], decision: tuple[int, ...]) -> float:
    return sum(1.0 + d for t, d in zip(target, decision, strict=True) if t == d) ** 2


JUDGES: dict[str, Judge] = {
    "f1": lambda target, decision: float(f1_score(target, decision, zero_division=1.0)),
    "mcc": lambda target, decision: float(matthews_corrcoef(target, decision)),
    "profit": profit_by_hand,
    "hits": hits_by_hand,
}


def black_box(name: str) -> OpaqueMetric:
    judge = JUDGES[name]
    known: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}  # asked again and again

    def function(decision: Tensor, target: Tensor) -> float:
        key = (tuple(target.tolist()), tuple(map(int, decision.tolist())))
        if key not in known:
            known[key] = judge(*key)
        return known[key]

    return OpaqueMetric(function, name=name)


# A small network behind the decisions: tanh(b A + c) v + the first by the last, with w as the sum's scale.
_MIX = np.array([[0.7, -1.1], [0.4, 0.9], [-0.6, 1.3], [1.0, -0.2], [0.3, 0.5], [-0.8, 0.6]])
_SHIFT, _OUT = np.array([0.2, -0.3]), np.array([1.5, -0.7])


def network(classes: int | None = None, *, scale: Tensor | float = 1.0) -> Downstream:
    """A score that is not linear in the decisions, with a weight of its own."""
    mix, shift, out = (torch.from_numpy(array) for array in (_MIX, _SHIFT, _OUT))

    def function(decision: Tensor) -> Tensor:
        flat = decision if classes is None else decision.flatten(-2)
        return torch.tanh(scale * (flat @ mix[: flat.shape[-1]]) + shift) @ out + flat[..., 0] * flat[..., -1]

    return Downstream(function, classes=classes, dtype=torch.float64)


def network_by_hand(classes: int | None = None, *, scale: float = 1.0) -> Judge:
    def judge(target: tuple[int, ...], decision: tuple[int, ...]) -> float:
        flat = np.array(decision, float) if classes is None else np.eye(classes)[list(decision)].ravel()
        return float(np.tanh(scale * (flat @ _MIX[: len(flat)]) + _SHIFT) @ _OUT + flat[0] * flat[-1])

    return judge


@dataclass(frozen=True)
class Problem:
    """Logits, and what is wanted of their decisions: as the library hears of it, and as a judge does."""

    logits: Tensor
    target: Tensor
    judge: Judge
    score: Callable[[Tensor], Score]  # for a target, which has further axes before its own

    @property
    def yes_no(self) -> bool:
        return self.logits.ndim == self.target.ndim

    @property
    def outcomes(self) -> list[tuple[int, ...]]:
        """Of one row, counted up."""
        classes = 2 if self.yes_no else self.logits.shape[-1]
        return list(product(range(classes), repeat=self.target.shape[-1]))


def of_metric(metric: Metric, logits: Tensor = LOGITS, target: Tensor = TARGET) -> Problem:
    return Problem(logits, target, JUDGES[metric.name], lambda target: Scorer(metric, target))


def of_network(logits: Tensor, *, classes: int | None = None) -> Problem:
    target = torch.zeros(logits.shape if classes is None else logits.shape[:-1], dtype=torch.long)
    return Problem(logits, target, network_by_hand(classes), lambda target: network(classes))


YES_NO = {
    **{name: of_metric(metric) for name, metric in METRICS.items()},
    "profit, rows": of_metric(profit, ROWS, TARGETS),
    "black box": of_metric(black_box("hits"), LOGITS[:3], TARGET[:3]),
    "black box, rows": of_metric(black_box("profit"), ROWS, TARGETS),
    "network": of_network(LOGITS[:3]),
    "network, rows": of_network(ROWS),
}
OF_CLASSES = {
    "black box, classes": of_metric(black_box("hits"), CLASSES, torch.tensor([2, 0])),
    "black box, masked, rows": of_metric(black_box("hits"), MASKED, torch.tensor([[2, 0], [1, 1]])),
    "network, classes": of_network(CLASSES, classes=3),
    "network, masked, rows": of_network(MASKED, classes=3),
}
PROBLEMS = YES_NO | OF_CLASSES


# The truth


def exact_row(judge: Judge, logits: Array, target: tuple[int, ...]) -> tuple[float, Array]:
    """E[metric] and its gradient in the logits of one row, decisions being independent yes or no."""
    p = 1 / (1 + np.exp(-logits))
    outcomes = np.array(list(product([0, 1], repeat=len(p))))
    scores = np.array([judge(target, tuple(outcome)) for outcome in outcomes.tolist()])

    def expected(p: Array) -> float:
        return float(scores @ np.prod(np.where(outcomes, p, 1 - p), axis=1))

    units = np.eye(len(p))
    slopes = [expected(np.where(unit, 1.0, p)) - expected(np.where(unit, 0.0, p)) for unit in units]
    return expected(p), np.array(slopes) * p * (1 - p)


def exact_row_of_classes(judge: Judge, logits: Array, target: tuple[int, ...]) -> tuple[float, Array]:
    """The same for choices among classes, by central differences."""
    outcomes = list(product(range(logits.shape[1]), repeat=len(logits)))
    scores = np.array([judge(target, outcome) for outcome in outcomes])

    def expected(z: Array) -> float:
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        return float(
            sum(s * math.prod(p[i, c] for i, c in enumerate(o)) for s, o in zip(scores, outcomes, strict=True))
        )

    step = 1e-5
    gradient = np.zeros_like(logits)
    for at in np.ndindex(logits.shape):
        shift = np.zeros_like(logits)
        shift[at] = step
        gradient[at] = (expected(logits + shift) - expected(logits - shift)) / (2 * step)
    return expected(logits), gradient


def exactly(problem: Problem) -> tuple[Array, Array]:
    """E[metric] of each row, and its gradient."""
    logits, target = problem.logits, problem.target
    row = exact_row if problem.yes_no else exact_row_of_classes
    rows = logits.reshape(-1, *logits.shape[target.ndim - 1 :]).numpy()
    with warnings.catch_warnings():  # scikit-learn warns of 0/0 and of absent classes
        warnings.simplefilter("ignore")
        parts = [
            row(problem.judge, z, tuple(y))
            for z, y in zip(rows, target.reshape(-1, target.shape[-1]).tolist(), strict=True)
        ]
    values, gradients = zip(*parts, strict=True)
    return np.array(values).reshape(target.shape[:-1]), np.array(gradients).reshape(logits.shape)


def rows_of(problem: Problem) -> list[Array]:
    """The probability of each outcome in each row, in NumPy."""
    logits = problem.logits.numpy()
    items = problem.target.shape[-1]
    if problem.yes_no:
        p = 1 / (1 + np.exp(-logits.reshape(-1, items)))
        each = np.stack([1 - p, p], -1)
    else:
        weight = np.exp(logits.reshape(-1, items, logits.shape[-1]))
        each = weight / weight.sum(-1, keepdims=True)
    return [np.array([math.prod(row[i, c] for i, c in enumerate(o)) for o in problem.outcomes]) for row in each]


# What is shown in place of chance


class _Listed:
    """Shows the decisions of a list, from the first on, in place of random ones."""

    def __init__(self, logits: Tensor, decision: Tensor) -> None:
        super().__init__(logits)  # type: ignore[call-arg]
        self.decision = decision
        self.shown = 0

    def sample(self, draws: int, *, generator: torch.Generator | None = None) -> Tensor:
        self.shown += draws
        return self.decision[self.shown - draws : self.shown]


class ListedBernoulli(_Listed, Bernoulli):
    pass


class ListedCategorical(_Listed, Categorical):
    pass


class WithNoise(Bernoulli):
    """A Bernoulli policy whose noise is given."""

    def __init__(self, logits: Tensor, noise: Tensor) -> None:
        super().__init__(logits)
        self.noise = noise

    def uniform(self, draws: int, *, generator: torch.Generator | None = None) -> Tensor:
        assert len(self.noise) == draws
        return self.noise


# The expectation of an estimator


@dataclass(frozen=True)
class Estimates:
    """Under each outcome of chance: its probability, the estimate ``*batch`` and its gradient, of the logits' shape."""

    probability: Tensor
    value: Tensor
    gradient: Tensor

    @property
    def mean(self) -> tuple[Array, Array]:
        assert self.probability.sum().item() == pytest.approx(1.0, abs=1e-10)
        return (
            torch.tensordot(self.probability, self.value, 1).numpy(),
            torch.tensordot(self.probability, self.gradient, 1).numpy(),
        )

    @property
    def variance(self) -> Array:
        """Of the gradient, entry by entry."""
        _, mean = self.mean
        apart = self.gradient - torch.from_numpy(np.asarray(mean))
        return torch.tensordot(self.probability, apart.square(), 1).numpy()


def estimates(
    estimator: Estimator, problem: Problem, probability: Tensor, policy: Callable[[Tensor], Policy]
) -> Estimates:
    """The estimator for each outcome of chance, which the policy (or a stub) shows in the first axis of a batch."""
    lists = len(probability)
    leaf = problem.logits.expand(lists, *problem.logits.shape).clone().requires_grad_()
    value = estimator(policy(leaf), problem.score(problem.target.expand(lists, *problem.target.shape)))
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return Estimates(probability, value.detach(), gradient)


@dataclass(frozen=True)
class Case:
    """An estimator, made anew for each use, and how many draws it takes."""

    make: Callable[[], Estimator]
    draws: int


def every_list(problem: Problem, draws: int) -> tuple[Tensor, Tensor]:
    """All lists of draws that are possible, ``draws lists *batch items``, and the probability of each."""
    items = problem.target.numel()
    classes = 2 if problem.yes_no else problem.logits.shape[-1]
    flat = torch.cartesian_prod(*[torch.arange(classes)] * (draws * items)) if draws * items else torch.zeros(1, 0)
    flat = flat.reshape(classes ** (draws * items), draws * items).long()
    logits = problem.logits.reshape(items, -1).numpy()
    with np.errstate(divide="ignore"):
        z = np.concatenate([np.zeros_like(logits), logits], 1) if problem.yes_no else logits
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    chosen = torch.from_numpy(log_p).repeat(draws, 1).expand(len(flat), -1, -1)
    probability = chosen.gather(-1, flat[..., None]).squeeze(-1).sum(-1).exp()
    flat, probability = flat[probability > 0], probability[probability > 0]
    decision = flat.reshape(len(flat), draws, *problem.target.shape).movedim(0, 1)
    return decision.bool() if problem.yes_no else decision, probability


def every_estimate(case: Case, problem: Problem) -> Estimates:
    """The estimator under every list of draws."""
    decision, probability = every_list(problem, case.draws)
    made: list[ListedBernoulli | ListedCategorical] = []

    def policy(leaf: Tensor) -> Policy:
        made.append((ListedBernoulli if problem.yes_no else ListedCategorical)(leaf, decision))
        return made[-1]

    found = estimates(case.make(), problem, probability, policy)
    assert made[0].shown == case.draws
    return found


@dataclass(frozen=True)
class Bias:
    """How far an estimator's expectation lies from the truth, at most, in its value and in its gradient."""

    value: float
    gradient: float

    def __bool__(self) -> bool:
        return not max(self.value, self.gradient) <= TOLERANCE


def distance(found: Estimates, problem: Problem) -> Bias:
    away = [np.abs(got - true).max() for got, true in zip(found.mean, exactly(problem), strict=True)]
    return Bias(float(away[0]), float(away[1]))


def bias(case: Case, problem: Problem) -> Bias:
    return distance(every_estimate(case, problem), problem)


def product_lists(rows: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """All combinations of what may happen in each row, which rows decide apart.

    Args:
        rows: for each, probabilities ``lists`` and what happens, ``lists ...``.

    Returns:
        The probability of each combination, and what happens, ``combinations rows ...``.
    """
    at = torch.cartesian_prod(*[torch.arange(len(p)) for p, _ in rows]).reshape(-1, len(rows))
    probability = torch.stack([p[at[:, row]] for row, (p, _) in enumerate(rows)]).prod(0)
    return probability, torch.stack([shown[at[:, row]] for row, (_, shown) in enumerate(rows)], 1)
