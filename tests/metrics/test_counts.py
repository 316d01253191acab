"""Counting decisions, and a formula of the counts."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix
from torch import Tensor

from rlgrad.metrics import CATALOGUE, CountMetric, expected_counts, f1, g_mean, hard_counts

ratio = CountMetric(lambda tp, fp, fn, tn: (10 * tp - 3 * fp) / torch.sqrt(tp + fp), undefined=-0.5, name="ratio")
METRICS = [*CATALOGUE.values(), ratio]


def some_rows(*shape: int, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.4


def leaves(*values: float) -> list[Tensor]:
    return [torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in values]


def gradients(value: Tensor, counts: list[Tensor]) -> list[Tensor]:
    """The derivative in each count, zero for one that the formula does not look at."""
    return list(torch.autograd.grad(value.sum(), counts, allow_unused=True, materialize_grads=True))


def test_the_counts_of_a_row_are_its_confusion_matrix() -> None:
    decision, target = some_rows(3, 2, 9, seed=1), some_rows(2, 9, seed=2)
    counts = hard_counts(decision, target)
    for draw, row in np.ndindex(3, 2):
        expected = confusion_matrix(target[row], decision[draw, row], labels=[True, False])
        assert [count[draw, row].item() for count in counts] == expected.T.ravel().tolist()


@pytest.mark.parametrize("lead", [(), (3,), (3, 2)])
def test_axes_before_those_of_the_target_are_draws(lead: tuple[int, ...]) -> None:
    decision, target = some_rows(*lead, 2, 9, seed=1), some_rows(2, 9, seed=2)
    counts = hard_counts(decision, target)
    assert [count.shape for count in counts] == [(*lead, 2)] * 4
    assert torch.equal(torch.stack(counts).sum(0), torch.full((*lead, 2), 9))


def test_no_item_is_lost_among_ten_million() -> None:
    decision = torch.ones(10_000_001, dtype=torch.bool)
    target = torch.ones(10_000_001, dtype=torch.float16)
    target[::2] = 0
    assert [int(count) for count in hard_counts(decision, target)] == [5_000_000, 5_000_001, 0, 0]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64])
def test_a_target_of_zeros_and_ones_may_have_any_dtype(dtype: torch.dtype) -> None:
    decision, target = some_rows(2, 9, seed=1), some_rows(2, 9, seed=2)
    assert torch.equal(f1(decision, target.to(dtype)), f1(decision, target))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_decisions_may_be_integers(dtype: torch.dtype) -> None:
    decision, target = some_rows(2, 9, seed=1), some_rows(2, 9, seed=2)
    assert torch.equal(f1(decision.to(dtype), target), f1(decision, target))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_scores_are_no_decisions(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=r"^needed bool or integer decisions, got \(3,\) "):
        f1(torch.ones(3, dtype=dtype), torch.ones(3))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("decision", "target"),
    [
        ((4, 1), (4,)),
        ((4,), (4, 1)),
        ((1, 4), (2, 4)),
        ((3, 1, 4), (2, 4)),
        ((2, 4), (1, 4)),
        ((4,), (2, 4)),
        ((1,), (4,)),
        ((4,), (1,)),
        ((3,), (4,)),
        ((4,), ()),
        ((), ()),
    ],
)
def test_nothing_is_broadcast(decision: tuple[int, ...], target: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^needed a decision of shape .* nothing is broadcast"):
        f1(torch.ones(decision, dtype=torch.bool), torch.ones(target))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("value", [0.5, 2.0, -1.0, math.nan, math.inf])
def test_a_target_is_zero_or_one(value: float) -> None:
    target = torch.ones(2, 3)
    target[1, 2] = value
    with pytest.raises(ValueError, match=rf"^needed a target of 0 and 1, got {value} at \(1, 2\) in \(2, 3\) float32"):
        f1(torch.ones(2, 3, dtype=torch.bool), target)


@pytest.mark.usefixtures("as_a_user")
def test_an_integer_decision_is_zero_or_one() -> None:
    with pytest.raises(ValueError, match=r"^needed a decision of 0 and 1, got 2 at \(1,\) in \(2,\) int64"):
        f1(torch.tensor([1, 2]), torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_expected_counts_of_sure_decisions_are_their_counts(dtype: torch.dtype) -> None:
    decision, target = some_rows(3, 100_001, seed=1), some_rows(3, 100_001, seed=2)
    for expected, hard in zip(expected_counts(decision.to(dtype), target), hard_counts(decision, target), strict=True):
        assert expected.dtype == torch.float64
        assert torch.equal(expected, hard.double())


def test_expected_counts_weigh_each_decision_with_its_probability() -> None:
    p = torch.tensor([0.9, 0.6, 0.4, 0.2], dtype=torch.float64, requires_grad=True)
    counts = expected_counts(p, torch.tensor([1, 0, 1, 0]))
    assert [count.item() for count in counts] == pytest.approx([1.3, 0.8, 0.7, 1.2], abs=1e-15)
    (gradient,) = torch.autograd.grad(counts.tp + 10 * counts.fp + 100 * counts.fn + 1000 * counts.tn, p)
    assert gradient.tolist() == [1 - 100, 10 - 1000, 1 - 100, 10 - 1000]


def test_the_metric_is_its_formula_of_counts() -> None:
    assert ratio.of_counts(*leaves(3.0, 1.0, 0.0, 0.0)).item() == (30 - 3) / 2
    assert repr(ratio) == "CountMetric(ratio, undefined=-0.5)"


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_where_nothing_is_defined_the_gradient_is_zero(metric: CountMetric) -> None:
    counts = leaves(0.0, 0.0, 0.0, 0.0)
    value = metric.of_counts(*counts)
    assert value.item() == metric.undefined
    assert [gradient.item() for gradient in gradients(value, counts)] == [0.0] * 4


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_no_corner_of_the_counts_has_a_nan(metric: CountMetric) -> None:
    grid = torch.cartesian_prod(*[torch.tensor([0.0, 1.0, 7.0], dtype=torch.float64)] * 4)
    counts = [count.clone().requires_grad_() for count in grid.unbind(-1)]
    value = metric.of_counts(*counts)
    assert torch.isfinite(value).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(value, counts))


def test_one_undefined_row_leaves_the_others_their_gradient() -> None:
    alone = leaves(3.0, 1.0, 2.0, 4.0)
    counts = [torch.cat([torch.zeros(1), count]).detach().requires_grad_() for count in alone]
    expected = gradients(f1.of_counts(*alone), alone)
    for gradient, of_alone in zip(gradients(f1.of_counts(*counts), counts), expected, strict=True):
        assert gradient.tolist() == [0.0, of_alone.item()]


def test_a_root_at_zero_has_a_value_and_no_gradient() -> None:
    counts = leaves(0.0, 1.0, 3.0, 4.0)
    value = g_mean.of_counts(*counts)
    assert value.item() == 0.0
    assert [gradient.item() for gradient in gradients(value, counts)] == [0.0] * 4


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_the_gradient_is_that_of_the_formula(metric: CountMetric) -> None:
    assert torch.autograd.gradcheck(metric.of_counts, leaves(3.0, 1.0, 2.0, 4.0))
    assert torch.autograd.gradgradcheck(metric.of_counts, leaves(3.0, 1.0, 2.0, 4.0))


@pytest.mark.usefixtures("as_a_user")  # inside a transform the context is of a class that the shape checks do not know
def test_functional_transforms() -> None:
    counts = [torch.tensor([value, 2 * value], dtype=torch.float64) for value in (3.0, 1.0, 2.0, 4.0)]
    torch.testing.assert_close(torch.func.vmap(f1.of_counts)(*counts), f1.of_counts(*counts))
    gradient = torch.func.vmap(torch.func.grad(f1.of_counts, argnums=(0, 1)))(*counts)
    expected = torch.tensor([[2 / 9 - 12 / 81, 1 / 9 - 6 / 81], [-6 / 81, -3 / 81]], dtype=torch.float64)
    torch.testing.assert_close(torch.stack(gradient), expected)


def test_a_formula_may_jump() -> None:
    quota = CountMetric(lambda tp, fp, fn, tn: tp > 1, undefined=0.0, name="quota")
    assert quota(torch.tensor([[True, True], [True, False]]), torch.tensor([1, 1])).tolist() == [1.0, 0.0]


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    "formula",
    [
        lambda tp, fp, fn, tn: tp if tp > fp else fp,
        lambda tp, fp, fn, tn: max(tp, fp),
        lambda tp, fp, fn, tn: math.sqrt(tp),
        lambda tp, fp, fn, tn: np.sqrt(tp.detach().numpy()),
        lambda tp, fp, fn, tn: tp.sum() / (tp + fp).sum(),
        lambda tp, fp, fn, tn: torch.stack([tp, fp]),
        lambda tp, fp, fn, tn: 1.0,
        lambda tp, fp, fn, tn: None,
        lambda tp, fp, fn: tp,
    ],
)
def test_a_formula_that_is_not_elementwise_is_a_type_error(formula) -> None:
    metric = CountMetric(formula, undefined=0.0, name="mine")
    with pytest.raises(TypeError, match=r"^needed .*mine.* torch functions$"):
        metric(some_rows(2, 3, seed=1), some_rows(3, seed=2))


@pytest.mark.usefixtures("as_a_user")
def test_the_error_inside_a_formula_is_kept_as_the_cause() -> None:
    metric = CountMetric(lambda tp, fp, fn, tn: dict[str, Tensor]()["weight"], undefined=0.0, name="mine")
    with pytest.raises(TypeError, match="got KeyError from mine") as caught:
        metric(some_rows(3, seed=1), some_rows(3, seed=2))
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("formula", "undefined", "error"),
    [
        ("f1", 0.0, TypeError),
        (max, True, TypeError),
        (max, None, TypeError),
        (max, "0", TypeError),
        (max, math.nan, ValueError),
        (max, math.inf, ValueError),
    ],
)
def test_a_metric_needs_a_formula_and_a_finite_number(formula, undefined, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^needed a .*, got "):
        CountMetric(formula, undefined=undefined)


@pytest.mark.usefixtures("as_a_user")
def test_undefined_may_be_an_integer_and_the_name_that_of_the_formula() -> None:
    def hits(tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
        return tp

    assert repr(CountMetric(hits, undefined=1)) == "CountMetric(hits, undefined=1)"


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_gain_is_what_flipping_a_decision_changes(metric: CountMetric) -> None:
    decision, target = some_rows(40, 3, 6, seed=1), some_rows(3, 6, seed=2)
    decision[:2], decision[2:4] = False, True  # nothing and everything claimed
    target[0], target[1] = False, True  # a row of one class alone
    gain = metric.gain(decision, target)
    for item in range(6):
        yes, no = decision.clone(), decision.clone()
        yes[..., item], no[..., item] = True, False
        torch.testing.assert_close(gain[..., item], metric(yes, target) - metric(no, target), rtol=0, atol=1e-14)


def test_gain_of_no_items() -> None:
    assert f1.gain(torch.zeros(3, 0, dtype=torch.bool), torch.zeros(0, dtype=torch.bool)).shape == (3, 0)
