"""What people train on instead: against torch, scikit-learn and MONAI; and the best threshold, against all of them."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.losses.dice import DiceLoss
from monai.losses.focal_loss import FocalLoss
from scipy import stats
from sklearn.metrics import f1_score, log_loss
from torch import Tensor, nn

from rlgrad.metrics import CATALOGUE, CountMetric, OpaqueMetric, f1, iou, mcc
from rlgrad.surrogates import Criterion, bce, best_threshold, focal, lovasz, soft, weighted_bce

LOGITS = 2 * torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGET = torch.rand(3, 6, generator=torch.Generator().manual_seed(1)) < 0.4

profit = CountMetric(lambda tp, fp, fn, tn: (10 * tp - 3 * fp) / torch.sqrt(tp + fp), undefined=-0.5, name="profit")
METRICS = [*CATALOGUE.values(), profit]
CRITERIA: list[Criterion] = [
    bce,
    weighted_bce(),
    weighted_bce(3.0),
    focal(),
    focal(0.0),
    focal(2.0, 0.25),
    focal(0.5, 1.0),
]
CRITERIA += [soft(metric) for metric in METRICS] + [lovasz(iou), lovasz(f1), lovasz(mcc)]


def name(criterion: object) -> str:
    return str(getattr(criterion, "__name__", criterion))


def step(criterion: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient."""
    leaf = logits.detach().clone().requires_grad_()
    loss = criterion(leaf, target)
    assert loss.shape == ()
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def assert_same(ours: Criterion, theirs: Callable[[Tensor, Tensor], Tensor], target: Tensor = TARGET) -> None:
    """Two criteria agree in value and gradient."""
    torch.testing.assert_close(step(ours, LOGITS, target), step(theirs, LOGITS, target), rtol=1e-9, atol=1e-12)


# Second implementations


def test_bce() -> None:
    assert_same(bce, lambda z, y: nn.functional.binary_cross_entropy_with_logits(z, y.double()))


@pytest.mark.parametrize("weight", [0.1, 1.0, 3.0, "balanced"])
def test_weighted_bce_is_the_weighted_mean_of_scikit_learn(weight: float | str) -> None:
    target, p = TARGET.flatten().numpy(), torch.sigmoid(LOGITS).flatten().numpy()
    of_positives = (~target).sum() / target.sum() if weight == "balanced" else weight
    expected = log_loss(target, p, sample_weight=np.where(target, of_positives, 1.0))
    assert weighted_bce(weight)(LOGITS, TARGET).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("truth", [False, True])
def test_a_batch_without_a_class_is_left_unweighted(truth: bool) -> None:
    assert_same(weighted_bce(), bce, torch.full_like(TARGET, truth))


@pytest.mark.usefixtures("as_a_user")
def test_a_weight_may_be_an_integer() -> None:
    assert_same(weighted_bce(3), weighted_bce(3.0))


@pytest.mark.parametrize("alpha", [None, 0.25, 0.9])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_is_that_of_monai(gamma: float, alpha: float | None) -> None:
    judge = FocalLoss(gamma=gamma, alpha=alpha)  # of (batch, channel, pixel), in float32
    loss, gradient = step(focal(gamma, alpha), LOGITS, TARGET)
    expected, slope = step(lambda z, y: judge(z[:, None], y.double()[:, None]), LOGITS, TARGET)
    torch.testing.assert_close(loss.float(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("metric", "jaccard"), [(f1, False), (iou, True)])
def test_soft_f1_and_iou_are_the_losses_of_monai_row_by_row(metric: CountMetric, jaccard: bool) -> None:
    judge = DiceLoss(sigmoid=True, jaccard=jaccard, smooth_nr=0.0, smooth_dr=0.0)
    assert_same(soft(metric), lambda z, y: judge(z[:, None], y.double()[:, None]))


def test_soft_is_the_mean_over_rows() -> None:
    rows = torch.stack([soft(f1)(z, y) for z, y in zip(LOGITS, TARGET, strict=True)])
    torch.testing.assert_close(soft(f1)(LOGITS, TARGET), rows.mean())


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_soft_counts_of_sure_decisions_are_the_metric(metric: CountMetric) -> None:
    sure = LOGITS.sign() * math.inf
    assert soft(metric)(sure, TARGET).item() == pytest.approx(1 - metric(LOGITS > 0, TARGET).mean().item(), abs=1e-12)


def test_golden_soft_f1() -> None:
    logits = torch.tensor([0.9, 0.6, 0.4, 0.2], dtype=torch.float64).logit()
    assert soft(f1)(logits, torch.tensor([1, 0, 1, 0])).item() == pytest.approx(1 - 0.63414634, abs=5e-9)


def test_lovasz_iou_is_the_formula_of_the_paper() -> None:
    """Berman et al.: the gradient of the Jaccard loss in the sorted errors, from intersections and unions."""
    for logits, target in zip(LOGITS.numpy(), TARGET.numpy().astype(int), strict=True):
        errors = np.maximum(0, 1 - logits * (2 * target - 1))
        order = np.argsort(-errors, kind="stable")
        found = target[order]
        union = target.sum() + np.cumsum(1 - found)
        jaccard = np.where(union > 0, 1 - (target.sum() - np.cumsum(found)) / np.maximum(union, 1), 0.0)
        expected = errors[order] @ np.diff(jaccard, prepend=0.0)
        assert lovasz(iou)(torch.tensor(logits), torch.tensor(target)).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", [f1, mcc, iou, profit], ids=name)
def test_lovasz_interpolates_the_metric_between_sets_of_wrong_decisions(metric: CountMetric) -> None:
    """At errors of 0 and 1, margins 1 and 0, it is the loss of the decisions that are wrong there."""
    target = torch.tensor([1, 0, 1, 0, 0])
    for wrong in torch.cartesian_prod(*[torch.tensor([False, True])] * 5):
        logits = torch.where(wrong, 0.0, 2.0 * target - 1)
        decision = target.bool() ^ wrong
        assert lovasz(metric)(logits, target).item() == pytest.approx(1 - metric(decision, target).item(), abs=1e-6)


def test_lovasz_is_the_mean_over_rows() -> None:
    rows = [lovasz(iou)(logits, target) for logits, target in zip(LOGITS, TARGET, strict=True)]
    assert lovasz(iou)(LOGITS, TARGET).item() == pytest.approx(torch.stack(rows).mean().item())


# Any input


@pytest.mark.parametrize("criterion", CRITERIA, ids=name)
def test_the_gradient_is_that_of_the_value(criterion: Criterion) -> None:
    leaf = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: criterion(z, TARGET), leaf)


@pytest.mark.parametrize("criterion", CRITERIA, ids=name)
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("truth", [None, 0.0, 1.0])
def test_extreme_logits_and_rows_of_one_class_have_a_finite_gradient(
    criterion: Criterion, scale: float, truth: float | None
) -> None:
    target = TARGET if truth is None else torch.full_like(TARGET, bool(truth))
    for part in step(criterion, scale * LOGITS.float(), target):
        assert torch.isfinite(part).all()


@pytest.mark.parametrize("criterion", CRITERIA, ids=name)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32, torch.bfloat16])
def test_targets_of_any_dtype(criterion: Criterion, dtype: torch.dtype) -> None:
    assert torch.equal(criterion(LOGITS, TARGET.to(dtype)), criterion(LOGITS, TARGET))


@pytest.mark.parametrize("criterion", CRITERIA, ids=name)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(criterion: Criterion, dtype: torch.dtype) -> None:
    logits = LOGITS.to(dtype)
    loss, gradient = step(criterion, logits, TARGET)
    expected, slope = step(criterion, logits.float(), TARGET)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, slope.to(dtype))


@pytest.mark.parametrize("criterion", CRITERIA, ids=name)
def test_a_hundred_thousand_halves_are_summed_right(criterion: Criterion) -> None:
    logits, target = torch.zeros(100_000, dtype=torch.float16), torch.arange(100_000) % 4 == 0
    torch.testing.assert_close(criterion(logits, target), criterion(logits.double(), target).float(), rtol=1e-5, atol=0)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("criterion", [bce, weighted_bce(), focal(), soft(f1), lovasz(iou)], ids=name)
@pytest.mark.parametrize(
    ("logits", "target", "error", "message"),
    [
        (torch.zeros(4, 1), torch.zeros(4), ValueError, "needed a target of shape (4, 1)"),
        (torch.zeros(4), torch.zeros(4, 1), ValueError, "needed a target of shape (4,)"),
        (torch.tensor([0.0, math.nan]), torch.zeros(2), ValueError, "needed logits without NaN"),
        (torch.zeros(2), torch.tensor([0.0, 0.5]), ValueError, "needed a target of 0 and 1, got 0.5 at (1,)"),
        (torch.zeros(2, dtype=torch.long), torch.zeros(2), TypeError, "needed floating-point logits, got (2,) int64"),
    ],
    ids=["column of logits", "column of targets", "nan", "soft label", "integers"],
)
def test_bad_input(criterion: Criterion, logits: Tensor, target: Tensor, error, message: str) -> None:
    with pytest.raises(error) as caught:
        criterion(logits, target)
    assert str(caught.value).startswith(message)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: weighted_bce("even"), ValueError, "needed \"balanced\" or a positive weight, got 'even'"),
        (lambda: weighted_bce(0.0), ValueError, "or a positive weight, got 0.0"),
        (lambda: weighted_bce(-1.0), ValueError, "or a positive weight, got -1.0"),
        (lambda: weighted_bce(math.inf), ValueError, "or a positive weight, got inf"),
        (lambda: weighted_bce(math.nan), ValueError, "or a positive weight, got nan"),
        (lambda: weighted_bce(None), ValueError, "or a positive weight, got None"),
        (lambda: focal(-1.0), ValueError, "needed gamma of at least 0 and finite, got -1.0"),
        (lambda: focal(math.nan), ValueError, "needed gamma of at least 0 and finite, got nan"),
        (lambda: focal(math.inf), ValueError, "needed gamma of at least 0 and finite, got inf"),
        (lambda: focal(alpha=1.5), ValueError, "needed alpha in [0, 1] or None, got 1.5"),
        (lambda: focal(alpha=math.nan), ValueError, "needed alpha in [0, 1] or None, got nan"),
        (lambda: soft(f1_score), TypeError, "needed a CountMetric or a "),
        (lambda: lovasz(f1_score), TypeError, "needed a CountMetric or a "),
        (lambda: soft(OpaqueMetric(f1_score)), TypeError, "LabelMetric, got OpaqueMetric(f1_score)"),
    ],
)
def test_what_cannot_be_made(make: Callable[[], object], error, message: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)


@pytest.mark.parametrize("criterion", CRITERIA, ids=name)
def test_an_empty_batch_is_attached_to_the_graph(criterion: Criterion) -> None:
    """Distributed training needs a gradient from every rank, an empty one too; it is zero."""
    loss, gradient = step(criterion, torch.zeros(0, 4), torch.zeros(0, 4))
    assert loss.item() == 0.0
    assert gradient.shape == (0, 4)
