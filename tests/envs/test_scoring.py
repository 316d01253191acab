from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, cohen_kappa_score, confusion_matrix, f1_score, jaccard_score
from sklearn.metrics import matthews_corrcoef as mcc_score

from rlgrad.metrics import class_mcc, f1, iou, macro, metric_names, ndcg
from rlgrad_envs.scoring import confusion, metric_for, score, score_counts

RNG = np.random.default_rng(0)
TRUE, DECIDED = RNG.integers(3, size=(5, 40)), RNG.integers(3, size=(5, 40))


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        (None, lambda t, d: f1_score(t, d, average="macro")),
        ("macro_f1", lambda t, d: f1_score(t, d, average="macro")),
        ("micro_f1", lambda t, d: f1_score(t, d, average="micro")),
        ("weighted_iou", lambda t, d: jaccard_score(t, d, average="weighted")),
        ("accuracy", accuracy_score),
        ("mcc", mcc_score),
        ("cohen_kappa", cohen_kappa_score),
    ],
)
def test_names_of_several_classes_mean_what_scikit_learn_computes(name: str | None, reference: Any) -> None:
    metric = metric_for(name, classes=3)
    expected = [reference(true, decided) for true, decided in zip(TRUE, DECIDED, strict=True)]
    np.testing.assert_allclose(score(metric, DECIDED, TRUE), expected)
    np.testing.assert_allclose(score_counts(metric, confusion(TRUE, DECIDED, 3)), expected)


@pytest.mark.parametrize("name", metric_names())
def test_counts_give_every_metric_of_the_catalogue_that_decisions_give(name: str) -> None:
    metric = metric_for(name, classes=2)
    true, decided = TRUE % 2, DECIDED % 2
    given = score(metric, decided.astype(bool), true)
    np.testing.assert_allclose(score_counts(metric, confusion(true, decided, 2)), given, rtol=1e-12)


def test_two_classes_may_have_a_metric_of_their_confusion_matrix() -> None:
    given = score(metric_for(class_mcc(2), classes=2), (DECIDED % 2).astype(bool), TRUE % 2)
    np.testing.assert_allclose(given[0], mcc_score(TRUE[0] % 2, DECIDED[0] % 2))


def test_confusions_are_those_of_scikit_learn() -> None:
    for counted, true, decided in zip(confusion(TRUE, DECIDED, 3), TRUE, DECIDED, strict=True):
        np.testing.assert_array_equal(counted, confusion_matrix(true, decided))


def test_what_counts_do_not_tell_is_not_guessed_from_them() -> None:
    counts = confusion(TRUE, DECIDED, 3)
    assert score_counts(metric_for(lambda decision, target: 0.0, classes=3), counts) is None
    assert score_counts(macro(f1, classes=3).ignoring(0), counts) is None


@pytest.mark.parametrize(
    ("metric", "classes", "error", "message"),
    [
        ("f2x", 2, ValueError, "needed a metric that exists, got 'f2x'"),
        ("macro_f1", 2, ValueError, "macro_f1"),
        ("f1", 3, ValueError, "needed a metric of 3 classes, got 'f1'; there are .*_f1"),
        ("nonsense", 3, ValueError, "there are accuracy, mcc, cohen_kappa, macro_f1 and others"),
        (iou, 3, ValueError, r"needed a metric of 3 classes, got CountMetric.*macro\(\.\.\., classes=3\)"),
        (macro(f1, classes=4), 3, ValueError, "needed a metric of 3 classes, got ConfusionMetric"),
        (macro(f1, labels=4), 2, TypeError, "needed a metric of choices among 2 classes, got LabelMetric"),
        (ndcg(3), 2, TypeError, "needed a metric of choices among 2 classes"),
        (torch.zeros(3), 2, TypeError, "needed a metric"),
        (3, 2, TypeError, "needed a function"),
    ],
)
def test_a_metric_of_something_else_is_refused(
    metric: Any, classes: int, error: type[Exception], message: str, as_a_user: None
) -> None:
    with pytest.raises(error, match=message):
        metric_for(metric, classes=classes)
