"""Metrics by name: of one label those of the catalogue, of several scikit-learn's averages."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, hamming_loss, jaccard_score

from rlgrad import MetricLoss
from rlgrad.metrics import CATALOGUE, metric_named, metric_names

DECISION, TARGET = np.random.default_rng(0).random((2, 40, 5)) < 0.4
EMPTY = np.zeros((1, 5), dtype=bool)  # a row without labels, of which nothing is claimed
DECISION, TARGET = np.concatenate([DECISION, EMPTY]), np.concatenate([TARGET, EMPTY])


def averaged(score: Callable[..., float], average: str) -> float:
    return score(TARGET, DECISION, average=average, zero_division=1.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("instance_f1", averaged(f1_score, "samples")),
        ("macro_f1", averaged(f1_score, "macro")),
        ("micro_f1", averaged(f1_score, "micro")),
        ("weighted_f1", averaged(f1_score, "weighted")),
        ("instance_iou", averaged(jaccard_score, "samples")),
        ("macro_iou", averaged(jaccard_score, "macro")),
        ("instance_accuracy", 1 - hamming_loss(TARGET, DECISION)),
        ("subset_accuracy", accuracy_score(TARGET, DECISION)),
    ],
)
def test_values_are_those_of_scikit_learn(name: str, expected: float) -> None:
    metric = metric_named(name, labels=5)
    assert metric.name == name
    found = metric(torch.from_numpy(DECISION), torch.from_numpy(TARGET)).mean()
    assert float(found) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", metric_names(labels=3))
def test_every_name_can_be_trained_for(name: str) -> None:
    logits = torch.zeros(6, 3, requires_grad=True)
    target = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 1]])
    loss = MetricLoss(metric_named(name, labels=3))(logits, target)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.any()


def test_the_expected_subset_accuracy_is_the_probability_that_all_is_right() -> None:
    logits, target = torch.tensor([[0.3, -1.0, 2.0]]), torch.tensor([[1, 0, 1]])
    loss = MetricLoss(metric_named("subset_accuracy", labels=3))(logits, target)
    p = torch.sigmoid(torch.where(target > 0, logits, -logits)).prod()
    assert float(1 - loss) == pytest.approx(float(p), abs=1e-6)


def test_names_of_one_label_are_the_catalogue_which_is_left_as_it_was() -> None:
    assert metric_names() == list(CATALOGUE)
    metric_named("instance_f1", labels=2)
    assert metric_named("f1") is CATALOGUE["f1"]
    assert CATALOGUE["f1"].name == "f1"


@pytest.mark.parametrize(
    ("name", "labels", "reason"),
    [
        ("f1", 6, "needed a metric of 6 labels, got 'f1', which is of one; there are instance_f1, macro_f1, micro_f1"),
        ("macro_f1", None, "needed a metric of one label, got 'macro_f1', which is of several; name several"),
        ("macro_f3", 6, "needed a metric that exists, got 'macro_f3'; did you mean macro_f"),
        ("macro", 6, "needed a metric that exists, got 'macro'; "),
        ("f11", None, "needed a metric that exists, got 'f11'; did you mean f1"),
        ("zzz", None, "needed a metric that exists, got 'zzz'; there are f1, "),
    ],
)
def test_a_name_of_the_wrong_kind(name: str, labels: int | None, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        metric_named(name, labels=labels)
