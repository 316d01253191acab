"""Every metric of the catalogue against scikit-learn."""

import warnings
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    fbeta_score,
    jaccard_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
)

from rlgrad.metrics import CATALOGUE, f1, f_beta, iou, mcc

Rows = NDArray[np.bool_]
Judge = Callable[[Rows, Rows], NDArray[np.float64]]  # (target, decision), one score a row


def every_case(items: int) -> tuple[Rows, Rows]:
    """Every pair of a decision and a target."""
    pairs = np.array(list(product([False, True], repeat=2 * items))).reshape(-1, 2, items)
    return pairs[:, 0], pairs[:, 1]


def random_cases() -> tuple[Rows, Rows]:
    """A thousand rows of 30 items whose rates range from none to all, the corners among them."""
    rng = np.random.default_rng(0)
    decision = rng.random((1000, 30)) < rng.choice([0.0, 0.03, 0.3, 0.5, 0.9, 1.0], (1000, 1))
    target = rng.random((1000, 30)) < rng.choice([0.0, 0.03, 0.3, 0.5, 0.9, 1.0], (1000, 1))
    return decision, target


CASES = {"N=1": every_case(1), "N=2": every_case(2), "N=3": every_case(3), "random": random_cases()}


# scikit-learn scores the columns of a matrix apart, as labels, so there a row of ours is a column: `.T`.
def by_label(score: Callable[..., NDArray[np.float64]], **options: float) -> Judge:
    return lambda y, d: score(y.T, d.T, average=None, **options)


def by_row(score: Callable[..., float], **options: bool) -> Judge:
    return lambda y, d: np.array([score(*row, **options) for row in zip(y, d, strict=True)])


recall_or_nan = by_label(recall_score, zero_division=np.nan)
precision_or_nan = by_label(precision_score, zero_division=np.nan)


def specificity_or_nan(y: Rows, d: Rows) -> NDArray[np.float64]:
    return recall_or_nan(~y, ~d)


def youden_j(y: Rows, d: Rows) -> NDArray[np.float64]:
    adjusted = by_row(balanced_accuracy_score, adjusted=True)(y, d)
    return np.where(y.any(1) & ~y.all(1), adjusted, np.nan)  # no rate of a class that is absent


JUDGES: dict[str, Judge] = {
    "f1": by_label(fbeta_score, beta=1.0, zero_division=1.0),
    "f0.5": by_label(fbeta_score, beta=0.5, zero_division=1.0),
    "f2": by_label(fbeta_score, beta=2.0, zero_division=1.0),
    "precision": by_label(precision_score, zero_division=0.0),
    "recall": by_label(recall_score, zero_division=0.0),
    "specificity": lambda y, d: by_label(recall_score, zero_division=0.0)(~y, ~d),
    "accuracy": by_row(accuracy_score),
    "balanced_accuracy": by_row(balanced_accuracy_score),
    "iou": by_label(jaccard_score, zero_division=1.0),
    "mcc": by_row(matthews_corrcoef),
    "cohen_kappa": by_row(cohen_kappa_score),  # NaN at 0/0
    "g_mean": lambda y, d: np.sqrt(recall_or_nan(y, d) * specificity_or_nan(y, d)),
    "youden_j": youden_j,
    "fowlkes_mallows": lambda y, d: np.sqrt(precision_or_nan(y, d) * recall_or_nan(y, d)),
}


def test_every_metric_has_a_judge() -> None:
    assert JUDGES.keys() == CATALOGUE.keys()
    assert all(metric.name == name for name, metric in CATALOGUE.items())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", CATALOGUE)
def test_agrees_with_scikit_learn(name: str, case: str) -> None:
    decision, target = CASES[case]
    with warnings.catch_warnings():  # scikit-learn warns of 0/0 and of absent classes
        warnings.simplefilter("ignore")
        expected = np.nan_to_num(JUDGES[name](target, decision), nan=0.0)
    actual = CATALOGUE[name](torch.from_numpy(decision), torch.from_numpy(target)).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "at_nothing"), [("f1", 1.0), ("iou", 1.0), ("precision", 0.0), ("mcc", 0.0)])
def test_nothing_to_find_and_nothing_claimed(name: str, at_nothing: float) -> None:
    nothing = torch.zeros(5, dtype=torch.bool)
    assert CATALOGUE[name](nothing, nothing) == at_nothing


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_row_without_items_is_undefined(name: str) -> None:
    empty = torch.zeros(2, 3, 0, dtype=torch.bool)
    expected = torch.full((2, 3), CATALOGUE[name].undefined, dtype=torch.float64)
    assert torch.equal(CATALOGUE[name](empty, empty[0]), expected)


def test_mcc_does_not_overflow() -> None:
    # The product of the four margins is 6e46, beyond float32; that of their roots is not.
    counts = torch.tensor([5e11, 0.0, 0.0, 5e11])
    assert mcc.formula(*counts).item() == pytest.approx(1.0, rel=1e-6)


def test_f_beta_between_precision_and_recall() -> None:
    decision, target = torch.tensor([True, True, True, True]), torch.tensor([1, 0, 0, 1])
    assert f_beta(1e-9)(decision, target).item() == pytest.approx(0.5)  # precision
    assert f_beta(1e9)(decision, target).item() == pytest.approx(1.0)  # recall
    assert f_beta(1.0)(decision, target) == f1(decision, target)


def test_f1_is_a_function_of_iou() -> None:
    decision, target = (torch.from_numpy(rows) for rows in CASES["random"])
    j = iou(decision, target)
    torch.testing.assert_close(f1(decision, target), 2 * j / (1 + j), rtol=1e-12, atol=0)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("beta", [0.0, -1.0, float("inf"), float("nan")])
def test_beta_must_be_positive_and_finite(beta: float) -> None:
    with pytest.raises(ValueError, match=r"^needed a positive finite beta, got "):
        f_beta(beta)
