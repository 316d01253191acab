"""Metrics of classes and of labels: their gradients against scikit-learn, summed over every outcome."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score, f1_score, jaccard_score, matthews_corrcoef
from torch import Tensor

from rlgrad import Bernoulli, Categorical, MetricLoss
from rlgrad.estimators import counterfactual, enumeration, exact, is_exact, muprop, second_order
from rlgrad.metrics import (
    Scorer,
    class_kappa,
    class_mcc,
    expected_confusion,
    f1,
    hard_confusion,
    iou,
    macro,
    mean_iou,
    micro,
    weighted,
)
from tests.estimators.proof import Case, Problem, bias, exact_row, exactly

K = 3
LOGITS = torch.tensor([[0.3, -1.0, 0.5], [1.2, 0.1, -0.4], [0.0, 0.7, -0.2]], dtype=torch.float64)
TARGET = torch.tensor([2, 0, 0])


def judged(function, **options):
    def judge(target, decision) -> float:
        return float(function(np.array(target), np.array(decision), **options))

    return judge


def averaged(function, average: str, **options):
    return judged(function, average=average, labels=range(K), zero_division=1.0, **options)


METRICS = {
    "macro f1": (macro(f1, classes=K), averaged(f1_score, "macro")),
    "micro f1": (micro(f1, classes=K), averaged(f1_score, "micro")),
    "weighted f1": (weighted(f1, classes=K), averaged(f1_score, "weighted")),
    "mean iou": (mean_iou(K), averaged(jaccard_score, "macro")),
    "micro iou": (micro(iou, classes=K), averaged(jaccard_score, "micro")),
    "frequency-weighted iou": (weighted(iou, classes=K), averaged(jaccard_score, "weighted")),
    "macro f1, skip": (macro(f1, classes=K, absent="skip"), judged(f1_score, average="macro")),
    "mean iou, skip_untrue": (
        mean_iou(K, absent="skip_untrue"),
        lambda y, d: jaccard_score(y, d, labels=sorted(set(y)), average="macro"),
    ),
    "mcc": (class_mcc(K), judged(matthews_corrcoef)),
    "kappa": (class_kappa(K), lambda y, d: np.nan_to_num(cohen_kappa_score(y, d))),
}
EXACT = [name for name, (metric, _) in METRICS.items() if is_exact(metric)]


def problem(name: str, logits: Tensor = LOGITS, target: Tensor = TARGET) -> Problem:
    metric, judge = METRICS[name]
    return Problem(logits, target, judge, lambda target: Scorer(metric, target))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("target", [TARGET, torch.tensor([1, 1, 1])], ids=["two classes", "one class"])
def test_unbiased(name: str, target: Tensor) -> None:
    found = problem(name, target=target)
    assert not bias(Case(lambda: counterfactual(draws=1), 1), found)
    if name in EXACT:
        assert not bias(Case(exact, 0), found)


def test_what_is_exact() -> None:
    assert set(EXACT) == set(METRICS) - {"macro f1, skip", "mcc", "kappa"}


def random_items(items: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(items, K, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, K, (items,), generator=generator)


def gradient(estimate, logits: Tensor, metric, target: Tensor, **options) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = estimate(Categorical(leaf), Scorer(metric, target, **options))
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


@pytest.mark.parametrize("name", ["mcc", "kappa", "macro f1", "micro f1"])
def test_second_order_is_right_to_second_order(name: str) -> None:
    """Its error falls faster than that of the formula of the expected counts, and is small already at 8 items."""
    metric, _ = METRICS[name]
    logits, target = random_items(8)
    true, true_slope = gradient(enumeration(), logits, metric, target)
    value, slope = gradient(second_order(), logits, metric, target)
    first = metric.of_confusion(expected_confusion(torch.softmax(logits, -1), target))
    assert abs(value - true) < 0.2 * abs(first - true) + 1e-12
    assert torch.nn.functional.cosine_similarity(slope.flatten(), true_slope.flatten(), dim=0) > 0.98


def test_second_order_agrees_with_exact_on_many_items() -> None:
    metric = macro(f1, classes=K)
    errors = []
    for items in (50, 200):
        logits, target = random_items(items)
        value, slope = gradient(exact(), logits, metric, target)
        second, second_slope = gradient(second_order(), logits, metric, target)
        errors.append(float(abs(second - value)))
        torch.testing.assert_close(second_slope, slope, rtol=0.05, atol=1e-6)
    assert errors[1] < errors[0] / 8  # of order items^-2


def test_second_order_takes_weights_and_rows() -> None:
    logits, target = random_items(40)
    weight = torch.rand(2, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    policy_logits, rows = logits.view(2, 20, K), target.view(2, 20)
    value, slope = gradient(second_order(), policy_logits, class_mcc(K), rows, weight=weight)
    draws = Categorical(policy_logits).sample(40_000, generator=torch.Generator().manual_seed(2))
    mean = class_mcc(K)(draws, rows, weight).mean(0)
    torch.testing.assert_close(value, mean, rtol=0, atol=0.01)
    assert slope.shape == policy_logits.shape


@pytest.mark.parametrize("name", EXACT)
def test_ignored_items_leave_the_rest_as_it_is(name: str) -> None:
    metric, _ = METRICS[name]
    padded = torch.cat([LOGITS, torch.randn(2, K, dtype=torch.float64)])
    target = torch.cat([TARGET, torch.tensor([-100, -100])])
    value, slope = gradient(exact(), padded, metric.ignoring(-100), target)
    want, want_slope = gradient(exact(), LOGITS, metric, TARGET)
    torch.testing.assert_close(value, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope[:3], want_slope, rtol=1e-12, atol=1e-12)
    assert slope[3:].eq(0).all()


@pytest.mark.parametrize("estimator", ["exact", "score_function", "counterfactual", "disarm", "muprop"])
def test_ignored_logits_have_no_gradient_even_where_they_are_nan(estimator: str) -> None:
    logits = torch.tensor([0.3, float("nan"), -0.2, 1.0], requires_grad=True)
    target = torch.tensor([1, -1, 0, 1])
    loss = MetricLoss(f1.ignoring(-1), estimator, generator=torch.Generator().manual_seed(0))(logits, target)
    (slope,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss)
    assert slope[1] == 0
    assert slope[[0, 2, 3]].ne(0).any()


def test_all_items_ignored_is_a_loss_without_gradient() -> None:
    for metric, shape in ((f1.ignoring(-1), (4,)), (macro(f1, classes=K).ignoring(-1), (4, K))):
        logits = torch.randn(shape, requires_grad=True)
        loss = MetricLoss(metric)(logits, torch.full((4,), -1))
        loss.backward()
        assert loss == 0  # f1 counts nothing to be found and nothing claimed as 1
        assert logits.grad.eq(0).all()


@pytest.mark.parametrize("name", EXACT)
def test_an_offset_is_more_items_that_are_decided(name: str) -> None:
    """E[metric] with items decided for good: their logits are huge, or their counts are an offset."""
    metric, _ = METRICS[name]
    decided, truth = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2])
    sure = torch.nn.functional.one_hot(decided, K).double() * 200
    value, slope = gradient(exact(), torch.cat([LOGITS, sure]), metric, torch.cat([TARGET, truth]))
    rest = hard_confusion(decided, truth, K)
    short, short_slope = gradient(exact(), LOGITS, metric.offset(rest), TARGET)
    torch.testing.assert_close(short, value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(short_slope, slope[:3], rtol=1e-9, atol=1e-9)


def test_weights_of_items_in_the_counterfactual_gradient() -> None:
    logits = torch.tensor([0.4, -0.3, 1.0], dtype=torch.float64)
    y, w = torch.tensor([1, 0, 1]), np.array([0.5, 2.0, 1.5])

    def judge(target, decision) -> float:
        return float(f1_score(target, decision, sample_weight=w, zero_division=1.0))

    weight = torch.from_numpy(w)
    score = lambda target: Scorer(f1, target, weight.expand(target.shape))  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not bias(Case(lambda: counterfactual(draws=1), 1), Problem(logits, y, judge, score))
    with pytest.raises(TypeError, match=r"exact needed items of equal weight.*use counterfactual"):
        exact()(Bernoulli(logits), Scorer(f1, y, weight))


def test_what_is_relaxed_for_classes() -> None:
    """The formula of fractional counts serves the estimators that use its derivative."""
    assert not bias(Case(lambda: muprop(draws=1), 1), problem("macro f1", LOGITS[:2], TARGET[:2]))


# Labels


@pytest.mark.parametrize("average", [macro, micro, weighted])
@pytest.mark.parametrize("estimator", ["exact", "counterfactual"])
def test_labels(average, estimator: str) -> None:
    logits = torch.tensor([[0.3, -1.0], [1.2, 0.1], [0.4, -0.6]], dtype=torch.float64)
    target = torch.tensor([[1, 0], [0, 1], [1, 0]])
    name = average.__name__

    def judge(flat_target, flat_decision) -> float:
        y, d = np.reshape(flat_target, (3, 2)), np.reshape(flat_decision, (3, 2))
        return float(f1_score(y, d, average=name, zero_division=1.0))

    want, want_slope = exact_row(judge, logits.flatten().numpy(), tuple(target.flatten().tolist()))
    leaf = logits.clone().requires_grad_()
    draws = counterfactual(draws=20_000) if estimator == "counterfactual" else estimator
    loss = MetricLoss(average(f1, labels=2), draws, generator=torch.Generator().manual_seed(0))(leaf, target)
    loss.backward()
    tolerance = 1e-9 if estimator == "exact" else 5e-3
    assert 1 - loss.item() == pytest.approx(want, abs=tolerance)
    np.testing.assert_allclose(-leaf.grad.numpy().flatten(), want_slope, atol=tolerance)


@pytest.mark.parametrize("scope", ["batch", "data"])
@pytest.mark.parametrize("estimator", ["auto", "counterfactual"])
def test_a_batch_without_a_single_label_teaches_the_weighted_average_nothing(estimator: str, scope) -> None:
    """Its weights are 0/0 there; NaN must not come back to the network."""
    logits = torch.randn(2, 4, 3, requires_grad=True)
    target = torch.zeros(2, 4, 3)
    loss = MetricLoss(weighted(f1, labels=3), estimator, scope=scope)
    first = (0,) if scope == "data" else (slice(None),)
    value = loss(logits[first], target[first])
    value.backward()
    assert value == 0  # undefined, as in the metric itself
    assert value.dtype == torch.float32
    assert logits.grad is not None
    assert logits.grad.eq(0).all()


def test_a_row_without_a_label_leaves_the_gradient_of_the_others_alone() -> None:
    logits, target = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True), torch.zeros(2, 4, 3)
    target[1, 0, 1] = target[1, 2, 0] = 1
    loss = MetricLoss(weighted(f1, labels=3), reduction="sum")
    (both,) = torch.autograd.grad(loss(logits, target), logits)
    (alone,) = torch.autograd.grad(loss(logits[1], target[1]), logits)
    torch.testing.assert_close(both, alone)
    assert alone.abs().sum() > 0


WEIGHT = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)
WEIGHED = {
    "macro f1": averaged(f1_score, "macro", sample_weight=WEIGHT.numpy()),
    "mcc": judged(matthews_corrcoef, sample_weight=WEIGHT.numpy()),
}


@pytest.mark.parametrize("name", WEIGHED)
def test_weights_of_items_of_classes_in_the_counterfactual_gradient(name: str) -> None:
    def score(target: Tensor) -> Scorer:
        return Scorer(METRICS[name][0], target, WEIGHT.expand(target.shape))

    case = Case(lambda: counterfactual(draws=1), 1)
    assert not bias(case, Problem(LOGITS, TARGET, WEIGHED[name], score))


@pytest.mark.parametrize(
    ("metric", "logits", "target"),
    [
        (f1, LOGITS[:, 0], TARGET > 0),
        (macro(f1, labels=K), LOGITS, TARGET[:, None] == torch.arange(K)),
        (macro(f1, classes=K), LOGITS, TARGET),
    ],
    ids=["counts", "labels", "classes"],
)
def test_weights_may_be_given_to_what_chooses_its_estimator(metric, logits: Tensor, target: Tensor) -> None:
    """Sums of unequal weights have no law; what was asked for by name is not replaced."""
    weight = torch.rand(target.shape, generator=torch.Generator().manual_seed(0)) + 0.5
    losses = [
        MetricLoss(metric, estimator, generator=torch.Generator().manual_seed(0))(logits, target, weight)
        for estimator in ("auto", "counterfactual")
    ]
    assert losses[0] == losses[1]
    MetricLoss(metric)(logits, target, weight > 1)  # a mask leaves counts, which have a law
    with pytest.raises(TypeError, match="exact needed items of equal weight"):
        MetricLoss(metric, "exact")(logits, target, weight)


def test_macro_over_labels_gives_each_label_its_own_reward() -> None:
    """A label that cannot be improved adds no noise to the others."""
    logits = torch.zeros(6, 2)
    logits[:, 1] = 50.0
    logits.requires_grad_()
    target = torch.tensor([[1, 1], [0, 1]]).repeat(3, 1)
    (slope,) = torch.autograd.grad(MetricLoss(macro(f1, labels=2), "score_function")(logits, target), logits)
    assert slope[:, 1].abs().max() < 1e-12


# What is refused


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: exact()(Categorical(LOGITS), Scorer(class_mcc(K), TARGET)),
            TypeError,
            "use counterfactual or second_o",
        ),
        (
            lambda: exact()(Categorical(LOGITS), Scorer(macro(f1, classes=K, absent="skip"), TARGET)),
            TypeError,
            "got ConfusionMetric.*with absent='skip'",
        ),
        (lambda: exact()(Categorical(LOGITS), Scorer(mean_iou(4), TARGET)), ValueError, "needed logits of 4 classes"),
        (lambda: second_order()(Categorical(LOGITS), Scorer(f1, TARGET)), TypeError, "use exact for a CountMetric"),
        (
            lambda: second_order()(Categorical(torch.zeros(2, 33)), Scorer(class_mcc(33), TARGET[:2])),
            ValueError,
            "at most 32 classes, got .*use counterfactual",
        ),
        (lambda: second_order()(Bernoulli(LOGITS), Scorer(class_mcc(K), LOGITS)), TypeError, "needed a Categorical"),
        (lambda: MetricLoss(macro(f1, classes=4))(LOGITS, TARGET), ValueError, "needed logits of 4 classes"),
        (lambda: MetricLoss(macro(f1, classes=K))(LOGITS, TARGET + 0.5), TypeError, "target of class numbers, got"),
        (lambda: MetricLoss(macro(f1, classes=K))(LOGITS, TARGET + 1), ValueError, "from 0 to 2, got 3 at"),
        (lambda: MetricLoss(macro(f1, classes=K))(LOGITS, TARGET - 1), ValueError, "got -1 at .*name an ignore_index"),
        (lambda: MetricLoss(macro(f1, classes=3))(LOGITS, LOGITS), ValueError, "target of shape"),
    ],
)
@pytest.mark.usefixtures("as_a_user")
def test_what_does_not_fit_is_named(call, error, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_the_truth_of_these_tests_is_a_mean() -> None:
    value, slope = exactly(problem("macro f1"))
    assert 0 < float(value) < 1
    np.testing.assert_allclose(slope.sum(-1), 0, atol=1e-9)
