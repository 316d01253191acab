"""Formulas of a confusion matrix: against scikit-learn on random cases, and every single change by scoring it anew."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, cohen_kappa_score, confusion_matrix, matthews_corrcoef
from torch import Tensor

from rlgrad.metrics import (
    ConfusionMetric,
    class_accuracy,
    class_kappa,
    class_mcc,
    expected_confusion,
    f1,
    hard_confusion,
    macro,
    weighted,
)

K = 4
BY_SCIKIT_LEARN = {
    class_accuracy(K): accuracy_score,
    class_mcc(K): matthews_corrcoef,
    class_kappa(K): cohen_kappa_score,
}


def cases(seed: int = 0, *, draws: int = 3, items: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    random = np.random.default_rng(seed)
    decision = torch.from_numpy(random.integers(0, K, (draws, 2, items)))
    target = torch.from_numpy(random.integers(0, K, (2, items)))
    return decision, target, torch.from_numpy(random.uniform(0.1, 3, (2, items)))


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_those_of_scikit_learn(seed: int) -> None:
    decision, target, weight = cases(seed)
    plain, by_weight = hard_confusion(decision, target, K), hard_confusion(decision, target, K, weight)
    assert plain.dtype == torch.int64
    for draw in range(3):
        for row in range(2):
            y, d, w = target[row].numpy(), decision[draw, row].numpy(), weight[row].numpy()
            assert np.array_equal(plain[draw, row], confusion_matrix(y, d, labels=range(K)))
            want = confusion_matrix(y, d, labels=range(K), sample_weight=w)
            np.testing.assert_allclose(by_weight[draw, row].numpy(), want, rtol=1e-12)


def test_expected_counts_are_the_mean_of_the_counts() -> None:
    _, target, weight = cases(items=3)
    probs = torch.softmax(torch.randn(2, 3, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64), -1)
    outcomes = torch.cartesian_prod(*[torch.arange(K)] * 3)
    chance = probs[:, torch.arange(3), outcomes].prod(-1)  # rows, outcomes
    counts = hard_confusion(outcomes[:, None].expand(-1, 2, -1), target, K, weight)
    mean = torch.einsum("ro,ortc->rtc", chance, counts)
    torch.testing.assert_close(expected_confusion(probs, target, weight), mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("metric", "judge"), BY_SCIKIT_LEARN.items(), ids=lambda value: getattr(value, "name", ""))
@pytest.mark.parametrize("seed", range(5))
def test_formulas_agree_with_scikit_learn(metric, judge, seed: int) -> None:
    decision, target, weight = cases(seed)
    for draw in range(3):
        for row in range(2):
            y, d, w = target[row].numpy(), decision[draw, row].numpy(), weight[row].numpy()
            assert float(metric(decision, target)[draw, row]) == pytest.approx(judge(y, d), abs=1e-12)
            got = metric(decision, target, weight)[draw, row]
            assert float(got) == pytest.approx(judge(y, d, sample_weight=w), abs=1e-12)


@pytest.mark.parametrize("items", [5, 18])  # fewer than the cells of the matrix, and more
@pytest.mark.parametrize("name", ["class_mcc", "class_kappa", "macro_f1", "macro_f1 skip", "weighted_f1"])
def test_a_gain_is_what_scoring_anew_gives(name: str, items: int) -> None:
    metrics = {
        "class_mcc": class_mcc(K),
        "class_kappa": class_kappa(K),
        "macro_f1": macro(f1, classes=K),
        "macro_f1 skip": macro(f1, classes=K, absent="skip"),
        "weighted_f1": weighted(f1, classes=K),
    }
    metric = metrics[name].ignoring(-1)
    decision, target, weight = cases(items=items)
    target[0, 2] = -1
    for weights in (None, weight):
        gain = metric.gain(decision, *metric.split(target, weights))
        now = metric(decision, target, weights)
        for item in range(items):
            for other in range(K):
                changed = decision.clone()
                changed[..., item] = other
                added = metric(changed, target, weights) - now
                torch.testing.assert_close(gain[..., item, other], added, rtol=0, atol=1e-12)
        assert gain[:, 0, 2].eq(0).all()


def test_many_classes_cost_what_the_items_do() -> None:
    """The moves between all cells of 100 classes would be 10^10 numbers."""
    decision, target = torch.arange(30)[None] + 60, torch.arange(30) + 61
    gain = class_accuracy(100).gain(decision, target)
    assert torch.equal(gain, torch.nn.functional.one_hot(target, 100)[None].double() / 30)


def test_gains_of_items_that_weigh_differently_are_found_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    decision, target, weight = cases(items=7)
    at_once = class_mcc(K).gain(decision, target, weight)
    monkeypatch.setattr("rlgrad.metrics.confusion._AT_ONCE", 1)
    assert torch.equal(class_mcc(K).gain(decision, target, weight), at_once)
    assert class_mcc(K).gain(decision[..., :0], target[..., :0], weight[..., :0]).shape == (3, 2, 0, K)


def test_an_offset_is_more_items() -> None:
    decision, target, _ = cases()
    metric = class_mcc(K)
    first = metric.offset(hard_confusion(decision[0, 0, :7], target[0, :7], K))
    assert first(decision[0, 0, 7:], target[0, 7:]) == metric(decision[0, 0], target[0])
    assert metric.rest is None


def test_ignored_items_count_for_nothing() -> None:
    decision, target, _ = cases()
    gone = target.clone()
    gone[:, 4:] = 255
    want = class_kappa(K)(decision[..., :4], target[:, :4])
    assert torch.equal(class_kappa(K).ignoring(255)(decision, gone), want)
    assert class_mcc(K).ignoring(255)(decision, torch.full_like(target, 255)).eq(0).all()  # undefined, and finite


def test_items_over_two_axes_are_one_list() -> None:
    decision, target, _ = cases()
    metric = class_mcc(K)
    flat = metric(decision.flatten(1), target.flatten())
    assert torch.equal(metric.over(2)(decision, target), flat)
    assert metric.item_axes == 1


def test_the_root_of_nothing_has_no_gradient() -> None:
    confusion = torch.zeros(K, K, dtype=torch.float64, requires_grad=True)
    value = class_mcc(K).of_confusion(confusion)
    value.backward()
    assert value == 0
    assert confusion.grad.eq(0).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ConfusionMetric(3, classes=2, undefined=0.0), TypeError, r"needed a formula\(confusion\), got 3"),
        (lambda: ConfusionMetric(len, classes=1, undefined=0.0), ValueError, "at least 2 classes, got 1"),
        (lambda: ConfusionMetric(len, classes=True, undefined=0.0), TypeError, "number of classes, got True"),
        (lambda: class_mcc(3)(torch.tensor([0, 3]), torch.tensor([0, 1])), ValueError, "from 0 to 2, got 3 at"),
        (
            lambda: class_mcc(3)(torch.tensor([0, 1]), torch.tensor([0, -100])),
            ValueError,
            "got -100 at .* ignore_index",
        ),
        (
            lambda: class_mcc(3)(torch.tensor([0, 1]), torch.tensor([0.0, 1.0])),
            TypeError,
            "class numbers, got .*float32",
        ),
        (
            lambda: class_mcc(3)(torch.tensor([True, False]), torch.tensor([0, 1])),
            TypeError,
            "class numbers, got .*bool",
        ),
        (lambda: class_mcc(3)(torch.tensor([0, 1]), torch.tensor([[0], [1]])), ValueError, "nothing is broadcast"),
        (
            lambda: ConfusionMetric(lambda c: c.sum(), classes=2, undefined=0.0, name="sum")(
                torch.tensor([[0, 1]]), torch.tensor([[0, 1]])
            ),
            TypeError,
            r"needed sum to return one value for each matrix, shape \(1,\)",
        ),
        (
            lambda: class_mcc(3)(torch.tensor([0]), torch.tensor([1]), torch.tensor([-1.0])),
            ValueError,
            "weights of at least 0",
        ),
    ],
)
@pytest.mark.usefixtures("as_a_user")
def test_bad_input_is_named(call, error, message: str) -> None:
    with pytest.raises(error, match=message):
        call()
