"""Averages over classes and labels: against scikit-learn and torchmetrics, and each rule for absent classes by name."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from rlgrad.metrics import f1, iou, macro, mean_iou, micro, precision, recall, weighted
from rlgrad.metrics.counts import CountMetric

AVERAGES = {"macro": macro, "micro": micro, "weighted": weighted}
JUDGES = {"f1": (f1, f1_score), "iou": (iou, jaccard_score), "precision": (precision, precision_score)}
JUDGES["recall"] = (recall, recall_score)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("name", JUDGES)
def test_classes_agree_with_scikit_learn(name: str, average: str) -> None:
    metric, judge = JUDGES[name]
    for seed in range(5):
        random = np.random.default_rng(seed)
        y, d, w = random.integers(0, 4, 15), random.integers(0, 4, 15), random.uniform(0.1, 2, 15)
        d[y == 3] = 3 - seed % 2  # now and then no class is claimed twice over
        ours = AVERAGES[average](metric, classes=5)  # the class 4 is absent
        rule = dict(labels=range(5), average=average, zero_division=metric.undefined)
        decision, target = torch.from_numpy(d), torch.from_numpy(y)
        assert float(ours(decision, target)) == pytest.approx(judge(y, d, **rule), abs=1e-12)
        by_weight = ours(decision, target, torch.from_numpy(w))
        assert float(by_weight) == pytest.approx(judge(y, d, sample_weight=w, **rule), abs=1e-12)


@pytest.mark.parametrize("average", [*AVERAGES, "samples"])
@pytest.mark.parametrize("name", JUDGES)
def test_labels_agree_with_scikit_learn(name: str, average: str) -> None:
    metric, judge = JUDGES[name]
    random = np.random.default_rng(1)
    y, d = random.random((20, 4)) < 0.4, random.random((20, 4)) < 0.5
    y[:, 3] = d[:, 3] = False  # absent
    decision, target = torch.from_numpy(d), torch.from_numpy(y)
    ours = (
        metric(decision, target).mean()
        if average == "samples"
        else AVERAGES[average](metric, labels=4)(decision, target)
    )
    assert float(ours) == pytest.approx(judge(y, d, average=average, zero_division=metric.undefined), abs=1e-12)


def test_three_conventions_for_an_absent_class() -> None:
    # Class 2 is in neither, class 3 is claimed but not true.
    y, d = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 3])
    per_class = [1 / 2, 1 / 3, 1.0, 0.0]
    assert float(mean_iou(4)(d, y)) == pytest.approx(np.mean(per_class))
    assert float(mean_iou(4)(d, y)) == pytest.approx(
        jaccard_score(y, d, labels=range(4), average="macro", zero_division=1.0)
    )
    skip = float(mean_iou(4, absent="skip")(d, y))
    assert skip == pytest.approx(np.mean([1 / 2, 1 / 3, 0.0])) == pytest.approx(jaccard_score(y, d, average="macro"))
    assert float(mean_iou(4, absent="skip_untrue")(d, y)) == pytest.approx(np.mean([1 / 2, 1 / 3]))
    f1_of = macro(f1, classes=4, absent="skip")
    assert float(f1_of(d, y)) == pytest.approx(f1_score(y, d, average="macro"))


def test_the_rule_for_absent_classes_agrees_with_torchmetrics() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    y, d = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 3])
    assert float(macro(f1, classes=4, absent="skip")(d, y)) == pytest.approx(
        float(functional.multiclass_f1_score(d, y, num_classes=4, average="macro"))
    )
    assert float(mean_iou(4, absent="skip")(d, y)) == pytest.approx(
        float(functional.multiclass_jaccard_index(d, y, num_classes=4, average="macro"))
    )


def test_all_of_one_class() -> None:
    y = torch.zeros(3, dtype=torch.int64)
    for absent in ("undefined", "skip", "skip_untrue"):
        assert mean_iou(3, absent=absent)(y, y) == 1
    nothing = torch.zeros(0, dtype=torch.int64)
    assert mean_iou(3, absent="skip")(nothing, nothing) == 1  # no class is left: undefined


def test_labels_may_be_unknown_for_some_rows() -> None:
    y = torch.tensor([[1, 0], [-1, 1], [1, -1]])
    d = torch.tensor([[True, False], [True, True], [False, True]])
    metric = macro(f1, labels=2).ignoring(-1)
    assert float(metric(d, y)) == pytest.approx((2 / 3 + 1) / 2)
    assert float(weighted(f1, labels=2).ignoring(-1)(d, y)) == pytest.approx((2 * 2 / 3 + 1) / 3)


def test_weights_of_rows_of_labels() -> None:
    random = np.random.default_rng(1)
    y, d, w = random.random((20, 3)) < 0.4, random.random((20, 3)) < 0.5, random.uniform(0.1, 2, 20)
    weight = torch.from_numpy(w)[:, None].expand(20, 3)
    for average, make in AVERAGES.items():
        ours = make(f1, labels=3)(torch.from_numpy(d), torch.from_numpy(y), weight)
        want = f1_score(y, d, average=average, zero_division=1.0, sample_weight=w)
        assert float(ours) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: macro(f1), ValueError, "classes=None and labels=None"),
        (lambda: micro(f1, classes=3, labels=3), ValueError, "classes=3 and labels=3"),
        (lambda: macro(len, classes=3), TypeError, "needed a CountMetric to average"),
        (lambda: macro(f1, classes=3, absent="zero"), ValueError, "undefined, skip, skip_untrue.*got 'zero'"),
        (lambda: macro(f1, labels=3, absent="skip"), ValueError, "undefined for labels"),
        (lambda: macro(f1, labels=0), ValueError, "needed at least 1 label, got 0"),
        (lambda: macro(f1, labels=True), TypeError, "needed a number of labels, got True"),
        (lambda: macro(f1.over(2), labels=3), ValueError, "of one label's rows, got .* over 2 axes; leave over"),
        (lambda: macro(f1, labels=3).over(3), ValueError, r"needed 2 item axes for LabelMetric\(macro_f1, labels=3\)"),
        (
            lambda: macro(f1, labels=3)(torch.ones(4, 2, dtype=torch.bool), torch.ones(4, 2)),
            ValueError,
            r"needed \(rows, 3\) for macro_f1, got \(4, 2\)",
        ),
    ],
)
@pytest.mark.usefixtures("as_a_user")
def test_bad_input_is_named(call, error, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_the_axes_of_a_table_are_what_they_are() -> None:
    metric = weighted(f1, labels=3)
    assert metric.over(2) is metric


def test_a_metric_of_ones_own_is_averaged_too() -> None:
    profit = CountMetric(lambda tp, fp, fn, tn: 3 * tp - fp, undefined=0.0, name="profit")
    y, d = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 2, 2])
    assert float(macro(profit, classes=3)(d, y)) == pytest.approx((3 + 0 + 5) / 3)
    assert macro(profit, classes=3).name == "macro_profit"
