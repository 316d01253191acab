"""Black-box metrics, and the scorer that fills in a target."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, hamming_loss
from torch import Tensor

from rlgrad import MetricLoss
from rlgrad.metrics import CountMetric, OpaqueMetric, Scorer, as_metric, f1

DECISION = torch.rand(5, 2, 8, generator=torch.Generator().manual_seed(1)) < 0.5
TARGET = torch.rand(2, 8, generator=torch.Generator().manual_seed(2)) < 0.5


def sklearn_f1(decision: Tensor, target: Tensor) -> float:
    return float(f1_score(target, decision, zero_division=1.0))


@pytest.mark.parametrize(("lead", "rows"), [((), ()), ((5,), ()), ((), (2,)), ((5,), (2,)), ((5, 1), (2,))])
def test_scores_each_draw_and_row(lead: tuple[int, ...], rows: tuple[int, ...]) -> None:
    decision = DECISION.reshape(5, 1, 2, 8)[:, 0, :, :][: math.prod(lead), : math.prod(rows)].reshape(*lead, *rows, 8)
    target = TARGET[: math.prod(rows)].reshape(*rows, 8)
    scores = OpaqueMetric(sklearn_f1)(decision, target)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, f1(decision, target), rtol=0, atol=1e-12)


def test_each_call_sees_one_row_and_its_own_target() -> None:
    seen = []
    OpaqueMetric(lambda decision, target: seen.append((decision, target)) or 0)(  # type: ignore[func-returns-value]
        DECISION, TARGET
    )
    expected = [(DECISION[draw, row], TARGET[row]) for draw, row in np.ndindex(5, 2)]
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(seen, expected, strict=True))


def test_batched_gets_everything_at_once() -> None:
    metric = OpaqueMetric(lambda decision, target: (decision == target).float().mean(-1), batched=True, name="hits")
    scores = metric(DECISION, TARGET)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, (DECISION == TARGET).double().mean(-1), rtol=0, atol=1e-7)
    assert repr(metric) == "OpaqueMetric(hits, batched=True)"


@pytest.mark.parametrize(
    "function",
    [
        lambda decision, target: np.mean(decision.numpy() == target.numpy()),
        lambda decision, target: 1 - hamming_loss(target, decision),
        lambda decision, target: (decision == target).double().mean(),
        lambda decision, target: np.float32(np.mean(np.asarray(decision) == np.asarray(target))),
        lambda decision, target: np.array([np.mean(decision.numpy() == target.numpy())]).item(),
    ],
    ids=["numpy", "sklearn", "torch", "float32", "item"],
)
def test_any_kind_of_number_will_do(function) -> None:
    expected = (DECISION == TARGET).double().mean(-1)
    torch.testing.assert_close(OpaqueMetric(function)(DECISION, TARGET), expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize(("result", "score"), [(3, 3.0), (True, 1.0), (np.int64(-2), -2.0)])
def test_integers_are_numbers(result: object, score: float) -> None:
    assert OpaqueMetric(lambda decision, target: result)(DECISION[:1, 0], TARGET[0]).item() == score


def test_integer_decisions_such_as_classes_arrive_as_they_are() -> None:
    seen = []
    OpaqueMetric(lambda decision, target: seen.append(decision.tolist()) or 0.0)(  # type: ignore[func-returns-value]
        torch.tensor([[2, 0, 1]]), torch.tensor([1, 0, 2])
    )
    assert seen == [[2, 0, 1]]


@pytest.mark.parametrize("batched", [False, True])
def test_what_the_function_does_to_its_inputs_stays_there(batched: bool) -> None:
    def vandal(decision: Tensor, target: Tensor) -> Tensor:
        score = (decision & target).sum(-1).double()
        decision.fill_(True)
        target.fill_(False)
        return score

    decision, target = DECISION.clone(), TARGET.clone()
    scores = OpaqueMetric(vandal, batched=batched)(decision, target)
    assert torch.equal(decision, DECISION)
    assert torch.equal(target, TARGET)
    assert torch.equal(scores, (DECISION & TARGET).sum(-1).double())


@pytest.mark.usefixtures("as_a_user")
def test_an_exception_names_draw_and_row_and_keeps_its_cause() -> None:
    calls = iter(range(10))

    def fails_at_the_seventh(decision: Tensor, target: Tensor) -> float:
        if next(calls) == 7:
            raise ZeroDivisionError("no pixels")
        return 0.0

    with pytest.raises(
        RuntimeError,
        match=r"^fails_at_the_seventh raised ZeroDivisionError at draw and row \(3, 1\): no pixels$",
    ) as caught:
        OpaqueMetric(fails_at_the_seventh)(DECISION, TARGET)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.usefixtures("as_a_user")
def test_a_batched_exception_is_a_runtime_error_too() -> None:
    def fails(decision: Tensor, target: Tensor) -> Tensor:
        raise ZeroDivisionError("no pixels")

    with pytest.raises(RuntimeError, match=r"^fails raised ZeroDivisionError.*no pixels$") as caught:
        OpaqueMetric(fails, batched=True)(DECISION, TARGET)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("result", [None, "best", [1, 2], torch.ones(2), np.ones(2), 1j], ids=repr)
def test_what_is_no_number_is_refused(result: object) -> None:
    metric = OpaqueMetric(lambda decision, target: result, name="mine")
    with pytest.raises(ValueError, match=r"^needed a number from mine, got .* at draw and row \(0, 0\)") as caught:
        metric(DECISION, TARGET)
    assert caught.value.__cause__ is not None


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_with_draw_and_row(bad: float, batched: bool) -> None:
    scores = torch.zeros(5, 2)
    scores[3, 1] = bad
    one_by_one = iter(scores.flatten().tolist())
    metric = OpaqueMetric(lambda d, t: scores if batched else next(one_by_one), batched=batched, name="mine")
    with pytest.raises(ValueError, match=rf"^needed a finite score from mine, got {bad} at draw and row \(3, 1\)"):
        metric(DECISION, TARGET)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("result", [None, 0.5, torch.ones(5), torch.ones(5, 2, 8), torch.ones(2, 5), np.ones((5, 2))])
def test_a_batched_result_of_another_shape_is_refused(result: object) -> None:
    metric = OpaqueMetric(lambda decision, target: result, batched=True, name="mine")
    with pytest.raises(ValueError, match=r"^needed scores of shape \(5, 2\) from mine, got "):
        metric(DECISION, TARGET)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")  # torch's own
@pytest.mark.parametrize("batched", [False, True])
def test_a_result_that_requires_grad_is_detached(batched: bool) -> None:
    weight = torch.ones((), requires_grad=True)
    metric = OpaqueMetric(lambda d, t: weight * (d == t).double().mean(-1), batched=batched)
    with pytest.warns(UserWarning, match="returned a score with a gradient, which a black box has no use for"):
        scores = metric(DECISION, TARGET)
    assert not scores.requires_grad
    assert torch.equal(scores, (DECISION == TARGET).double().mean(-1))


@pytest.mark.usefixtures("as_a_user")
def test_the_shape_rule_holds_before_the_function_is_called() -> None:
    metric = OpaqueMetric(lambda decision, target: pytest.fail("called"))
    with pytest.raises(ValueError, match="nothing is broadcast"):
        metric(torch.ones(4, 1, dtype=torch.bool), torch.ones(4))
    with pytest.raises(TypeError, match="needed bool or integer decisions"):
        metric(torch.ones(4), torch.ones(4))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("function", [None, "f1", 0.5])
def test_a_metric_is_callable(function) -> None:
    for make in (OpaqueMetric, as_metric):
        with pytest.raises(TypeError, match=r"^needed a (function\(decision, target\)|metric), got "):
            make(function)


def test_as_metric_wraps_bare_functions_alone() -> None:
    assert as_metric(f1) is f1
    opaque = OpaqueMetric(sklearn_f1)
    assert as_metric(opaque) is opaque
    wrapped = as_metric(sklearn_f1)
    assert isinstance(wrapped, OpaqueMetric)
    assert repr(wrapped) == "OpaqueMetric(sklearn_f1)"


@pytest.mark.parametrize("metric", [f1, OpaqueMetric(sklearn_f1)], ids=str)
def test_a_scorer_is_its_metric_with_the_target_filled_in(metric: CountMetric | OpaqueMetric) -> None:
    assert torch.equal(Scorer(metric, TARGET)(DECISION), metric(DECISION, TARGET))


# Rows of several axes, and ignored items.

IMAGES = torch.rand(3, 2, 4, 6, generator=torch.Generator().manual_seed(3)) < 0.5
MASKS = (torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(4)) < 0.5).long()


def corner(decision: Tensor, target: Tensor) -> float:
    """Agreement in the upper left corner: of an image, and of nothing flatter."""
    return float((decision[:2, :2] == target[:2, :2]).double().mean())


def test_the_function_sees_rows_of_as_many_axes_as_are_asked_for() -> None:
    expected = (IMAGES == MASKS)[..., :2, :2].double().mean((-1, -2))
    torch.testing.assert_close(OpaqueMetric(corner, item_axes=2)(IMAGES, MASKS), expected)
    torch.testing.assert_close(OpaqueMetric(corner).over(2)(IMAGES, MASKS), expected)
    joint = OpaqueMetric(lambda decision, target: decision.shape == target.shape == (2, 4, 6)).over(3)(IMAGES, MASKS)
    assert joint.tolist() == [1.0] * 3


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_batched_scores_drop_all_item_axes(axes: int) -> None:
    metric = OpaqueMetric(lambda d, t: (d == t).double().flatten(-axes).mean(-1), batched=True, item_axes=axes)
    torch.testing.assert_close(metric(IMAGES, MASKS), (IMAGES == MASKS).double().flatten(-axes).mean(-1))


def test_a_sequence_arrives_without_its_padding() -> None:
    target = TARGET.long()
    target[0, 5:] = -100
    target[1, ::2] = -100
    metric = OpaqueMetric(sklearn_f1, ignore_index=-100)
    expected = [[sklearn_f1(row[t != -100], t[t != -100]) for row, t in zip(d, target, strict=True)] for d in DECISION]
    assert metric(DECISION, target).tolist() == expected
    assert OpaqueMetric(sklearn_f1).ignoring(-100)(DECISION, target).tolist() == expected


def test_a_row_of_padding_alone_arrives_empty() -> None:
    target = TARGET.long()
    target[1] = -100
    scores = OpaqueMetric(lambda d, t: d.numel() + 10 * t.numel(), ignore_index=-100)(DECISION, target)
    assert scores[:, 0].tolist() == [88.0] * 5
    assert scores[:, 1].tolist() == [0.0] * 5


@pytest.mark.parametrize("batched", [False, True])
def test_an_image_keeps_its_shape_and_is_marked_where_it_is_ignored(batched: bool) -> None:
    masks = MASKS.clone()
    masks[:, 1:3, 2:4] = 255
    seen = []

    def same_share(decision: Tensor, target: Tensor) -> Tensor:
        seen.append((decision, target))
        return (decision == target).double().flatten(-2).mean(-1)

    metric = OpaqueMetric(same_share, batched=batched, item_axes=2, ignore_index=255)
    scores = metric(IMAGES, masks)
    ignored = masks == 255
    torch.testing.assert_close(scores, ((masks == IMAGES) | ignored).double().mean((-1, -2)))
    for decision, target in seen:
        assert torch.equal(decision == 255, (target == 255).expand(decision.shape))
        assert decision.shape[-2:] == (4, 6)
    assert int(masks.sum()) == int(torch.where(ignored, 255, MASKS).sum())  # the caller's own are as they were


def test_copies_leave_the_original_alone() -> None:
    metric = OpaqueMetric(corner)
    other = metric.over(2).ignoring(255)
    assert (metric.item_axes, metric.ignore_index) == (1, None)
    assert (other.item_axes, other.ignore_index) == (2, 255)
    assert repr(other) == "OpaqueMetric(corner, item_axes=2, ignore_index=255)"


@pytest.mark.usefixtures("as_a_user")
def test_axes_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="needed at least one axis"):
        OpaqueMetric(corner, item_axes=0)
    with pytest.raises(ValueError, match="needed 3 axes of items"):
        OpaqueMetric(corner, item_axes=3)(IMAGES[0, 0], MASKS[0])


def test_a_loss_of_images_has_no_gradient_where_they_are_ignored() -> None:
    masks = MASKS.clone()
    masks[:, 0, 0] = 255
    logits = torch.zeros(2, 4, 6, requires_grad=True)
    metric = OpaqueMetric(corner, item_axes=2, ignore_index=255)
    loss = MetricLoss(metric, generator=torch.Generator().manual_seed(0))(logits, masks)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[:, 0, 0] == 0).all()
    assert (gradient[:, 1, 1] != 0).any()
