"""What people train on instead: against torch, scikit-learn, MONAI and kornia."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from kornia.losses import lovasz_hinge_loss, lovasz_softmax_loss, tversky_loss
from monai.losses.dice import DiceCELoss, DiceLoss
from monai.losses.focal_loss import FocalLoss
from monai.losses.tversky import TverskyLoss
from sklearn.metrics import f1_score, log_loss
from torch import Tensor, nn

from rlgrad.metrics import (
    CATALOGUE,
    CountMetric,
    Metric,
    OpaqueMetric,
    class_mcc,
    f1,
    iou,
    macro,
    mcc,
    mean_iou,
    micro,
    tversky_index,
    weighted,
)
from rlgrad.surrogates import (
    Criterion,
    bce,
    bce_dice,
    cross_entropy,
    dice,
    focal,
    jaccard,
    lovasz,
    lovasz_softmax,
    soft,
    tversky,
    weighted_bce,
)

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
CRITERIA += [tversky(0.3, 0.7), bce_dice(), bce_dice(0.5, iou)]


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


# Images and classes: of (batch, H, W), classes last; the judges want them second

IMAGES = 2 * torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
MASKS = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(3)) < 0.4
MAPS = 2 * torch.randn(3, 4, 5, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
LABELS = torch.randint(4, (3, 4, 5), generator=torch.Generator().manual_seed(5))
LABELS[0][LABELS[0] == 2] = 1  # an image that lacks a class


def of_masks(judge: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda z, y: judge(z[:, None], y.double()[:, None])


def of_maps(judge: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda z, y: judge(z.movedim(-1, 1), y[:, None])


EXACT = {"smooth_nr": 0.0, "smooth_dr": 0.0}
CLASSES = {"softmax": True, "to_onehot_y": True} | EXACT
JUDGED = {
    "dice": (soft(f1.over(2)), of_masks(DiceLoss(sigmoid=True, **EXACT))),
    "dice of the batch": (soft(f1.over(3)), of_masks(DiceLoss(sigmoid=True, batch=True, **EXACT))),
    "jaccard": (soft(iou.over(2)), of_masks(DiceLoss(sigmoid=True, jaccard=True, **EXACT))),
    "tversky": (
        soft(tversky_index(0.3, 0.7).over(2)),
        of_masks(TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7, **EXACT)),
    ),
    "bce + dice": (bce_dice(0.7, f1.over(2)), of_masks(DiceCELoss(sigmoid=True, lambda_dice=0.7, **EXACT))),
    "bce + jaccard": (bce_dice(1.0, iou.over(2)), of_masks(DiceCELoss(sigmoid=True, jaccard=True, **EXACT))),
    "lovasz": (lovasz(iou.over(2)), lambda z, y: lovasz_hinge_loss(z[:, None], y)),
    "focal": (focal(), of_masks(FocalLoss(gamma=2.0))),
}
JUDGED_BY_CLASS = {
    "dice": (soft(macro(f1, classes=4).over(2)), of_maps(DiceLoss(**CLASSES))),
    "dice of the batch": (soft(macro(f1, classes=4).over(3)), of_maps(DiceLoss(batch=True, **CLASSES))),
    "jaccard": (soft(mean_iou(4).over(2)), of_maps(DiceLoss(jaccard=True, **CLASSES))),
    "tversky": (
        soft(macro(tversky_index(0.3, 0.7), classes=4).over(2)),
        of_maps(TverskyLoss(alpha=0.3, beta=0.7, **CLASSES)),
    ),
    "tversky of the classes present": (
        soft(macro(tversky_index(0.3, 0.7), classes=4, absent="skip_untrue").over(2)),
        lambda z, y: tversky_loss(z.movedim(-1, 1), y, 0.3, 0.7, eps=0.0),
    ),
    "cross-entropy": (cross_entropy, lambda z, y: nn.functional.cross_entropy(z.movedim(-1, 1), y)),
    "cross-entropy + dice": (
        bce_dice(0.7, macro(f1, classes=4).over(2)),
        of_maps(DiceCELoss(lambda_dice=0.7, **CLASSES)),
    ),
    "lovasz": (lovasz_softmax(iou.over(2), "all"), lambda z, y: lovasz_softmax_loss(z.movedim(-1, 1), y)),
}


def assert_agree(ours: Criterion, theirs: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor) -> None:
    """In value and gradient, to the float32 that MONAI computes in."""
    for mine, other in zip(step(ours, logits, target), step(theirs, logits, target), strict=True):
        torch.testing.assert_close(mine.double(), other.double(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", JUDGED)
def test_images_are_scored_as_their_judges_do(name: str) -> None:
    assert_agree(*JUDGED[name], IMAGES, MASKS)


@pytest.mark.parametrize("name", JUDGED_BY_CLASS)
def test_classes_are_scored_as_their_judges_do(name: str) -> None:
    assert_agree(*JUDGED_BY_CLASS[name], MAPS, LABELS)


def test_lovasz_softmax_of_the_classes_present_is_the_judges_with_the_others_weightless() -> None:
    for logits, target in zip(MAPS, LABELS, strict=True):
        present = torch.bincount(target.flatten(), minlength=4) > 0
        weight = present * (4 / present.sum())
        judge = partial(lovasz_softmax_loss, weight=weight.double())
        assert_agree(
            lovasz_softmax(iou.over(2)),
            lambda z, y, judge=judge: judge(z.movedim(-1, 0)[None], y[None]),
            logits,
            target,
        )


@pytest.mark.parametrize("classes", ["present", "all"])
def test_lovasz_softmax_of_sure_decisions_is_the_metric(classes) -> None:
    """At probabilities of 0 and 1 it is the loss of the decisions; it is only defined for Jaccard in the paper."""
    absent = "skip_untrue" if classes == "present" else "undefined"
    decision = MAPS.argmax(-1)
    sure = 1e3 * nn.functional.one_hot(decision, 4).double()
    for metric in (iou, f1):
        expected = 1 - macro(metric, classes=4, absent=absent).over(2)(decision, LABELS).mean()
        torch.testing.assert_close(lovasz_softmax(metric.over(2), classes)(sure, LABELS), expected)


@pytest.mark.parametrize("metric", [macro(f1, labels=6), weighted(iou, labels=6), micro(f1, labels=6)], ids=repr)
@pytest.mark.parametrize("make", [soft, lovasz])
def test_labels_are_scored_one_by_one_and_averaged(metric, make) -> None:
    """Labels are columns of a table, and weigh as their averages say."""
    columns = make(f1 if "f1" in metric.name else iou)
    if metric.average == "micro":
        assert_same(make(metric), lambda z, y: columns(z.flatten(), y.flatten()))
        return
    share = TARGET.sum(0) / TARGET.sum() if metric.average == "weighted" else torch.full((6,), 1 / 6)
    expected = sum(share[k] * columns(LOGITS[:, k], TARGET[:, k]) for k in range(6))
    torch.testing.assert_close(make(metric)(LOGITS, TARGET), expected)


def test_names_of_ones_own() -> None:
    assert_same(dice, soft(f1))
    assert_same(jaccard, soft(iou))
    assert_same(tversky(0.5, 0.5), dice)
    assert_same(tversky(1.0, 1.0), jaccard)


# Ignored pixels

IGNORING: dict[str, tuple[Criterion, Criterion, Metric]] = {
    "bce": (partial(bce, ignore_index=255), bce, f1),
    "balanced": (weighted_bce(ignore_index=255), weighted_bce(), f1),
    "focal": (focal(2.0, 0.25, ignore_index=255), focal(2.0, 0.25), f1),
    "soft": (soft(mcc.ignoring(255)), soft(mcc), f1),
    "lovasz": (lovasz(iou.ignoring(255)), lovasz(iou), f1),
    "bce + dice": (bce_dice(0.5, f1.ignoring(255)), bce_dice(0.5, f1), f1),
    "cross-entropy": (partial(cross_entropy, ignore_index=255), cross_entropy, mean_iou(3)),
    "soft of classes": (soft(class_mcc(3).ignoring(255)), soft(class_mcc(3)), mean_iou(3)),
    "lovasz of classes": (lovasz_softmax(iou.ignoring(255)), lovasz_softmax(), mean_iou(3)),
    "all of lovasz": (lovasz_softmax(f1.ignoring(255), "all"), lovasz_softmax(f1, "all"), mean_iou(3)),
    "both of classes": (
        bce_dice(0.5, macro(f1, classes=3).ignoring(255)),
        bce_dice(0.5, macro(f1, classes=3)),
        mean_iou(3),
    ),
}


def ignored_case(name: str) -> tuple[Criterion, Criterion, Tensor, Tensor, Tensor]:
    """Both criteria, logits, a target that is partly ignored, and where."""
    ignoring, whole, kind = IGNORING[name]
    generator = torch.Generator().manual_seed(7)
    classes = () if isinstance(kind, CountMetric) else (3,)
    logits = torch.randn(14, *classes, generator=generator, dtype=torch.float64)
    target = torch.randint(len(classes) + 2, (14,), generator=generator)
    ignored = torch.arange(14) % 4 == 1
    return ignoring, whole, logits, target.masked_fill(ignored, 255), ignored


@pytest.mark.parametrize("name", IGNORING)
def test_ignored_items_are_as_if_they_were_not_there(name: str) -> None:
    ignoring, whole, logits, target, ignored = ignored_case(name)
    spoilt = logits.clone()
    spoilt[ignored] = math.nan
    loss, gradient = step(ignoring, spoilt, target)
    expected, slope = step(whole, logits[~ignored], target[~ignored])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient[~ignored], slope)
    assert (gradient[ignored] == 0).all()


@pytest.mark.parametrize("name", IGNORING)
def test_where_all_is_ignored_the_loss_has_no_gradient_and_is_attached(name: str) -> None:
    ignoring, _, logits, target, _ = ignored_case(name)
    loss, gradient = step(ignoring, logits, torch.full_like(target, 255))
    assert (gradient == 0).all()
    assert loss.item() == (1 if name in ("soft", "soft of classes") else 0)  # one less mcc's value at 0/0


def test_ignored_pixels_of_images() -> None:
    """Each image by itself, with another number of pixels that count."""
    hidden = torch.rand(MASKS.shape, generator=torch.Generator().manual_seed(9)) < 0.3
    target = MASKS.long().masked_fill(hidden, 255)
    for make, metric in ((soft, f1), (lovasz, iou)):
        rows = [make(metric)(z[~h], y[~h]) for z, y, h in zip(IMAGES, MASKS, hidden, strict=True)]
        torch.testing.assert_close(make(metric.over(2).ignoring(255))(IMAGES, target), torch.stack(rows).mean())


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
        (lambda: tversky(-1.0, 1.0), ValueError, "needed finite weights of at least 0, not both 0, got alpha=-1.0"),
        (lambda: tversky(0.0, 0.0), ValueError, "not both 0, got alpha=0.0 and beta=0.0"),
        (lambda: tversky(1.0, math.inf), ValueError, "needed finite weights"),
        (lambda: bce_dice(-1.0), ValueError, "needed a weight of at least 0 and finite, got -1.0"),
        (lambda: bce_dice(metric=OpaqueMetric(f1_score)), TypeError, "needed a CountMetric or a"),
        (
            lambda: lovasz(mean_iou(3)),
            TypeError,
            "LabelMetric, got ConfusionMetric(macro_iou",
        ),
        (lambda: lovasz_softmax(mean_iou(3)), TypeError, "needed a CountMetric, got ConfusionMetric(macro_iou"),
        (lambda: lovasz_softmax(classes="some"), ValueError, "needed classes of present or all, got 'some'"),
        (lambda: soft(f1_score), TypeError, "needed a CountMetric or a "),
        (lambda: lovasz(f1_score), TypeError, "needed a CountMetric or a "),
        (lambda: soft(OpaqueMetric(f1_score)), TypeError, "LabelMetric, got OpaqueMetric(f1_score)"),
    ],
)
def test_what_cannot_be_made(make: Callable[[], object], error, message: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    "criterion", [cross_entropy, lovasz_softmax(), soft(mean_iou(3)), bce_dice(1.0, mean_iou(3))], ids=name
)
@pytest.mark.parametrize(
    ("logits", "target", "error", "message"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 3).long(), ValueError, "needed a target of shape (4,)"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), ValueError, "needed a target of classes from 0 to 2, got 3 at (1,)"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), ValueError, "needed a target of classes from 0 to 2, got -1"),
        (torch.zeros(2, 3), torch.zeros(2), TypeError, "needed a target of class numbers, got (2,) float32"),
        (torch.full((2, 3), math.nan), torch.zeros(2).long(), ValueError, "needed logits without NaN"),
    ],
    ids=["one-hot", "another class", "unnamed ignored", "floats", "nan"],
)
def test_bad_classes(criterion: Criterion, logits: Tensor, target: Tensor, error, message: str) -> None:
    with pytest.raises(error) as caught:
        criterion(logits, target)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("criterion", CRITERIA, ids=name)
def test_an_empty_batch_is_attached_to_the_graph(criterion: Criterion) -> None:
    """Distributed training needs a gradient from every rank, an empty one too; it is zero."""
    loss, gradient = step(criterion, torch.zeros(0, 4), torch.zeros(0, 4))
    assert loss.item() == 0.0
    assert gradient.shape == (0, 4)
