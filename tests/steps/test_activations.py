"""Step, Sign and Staircase: what they are at every kind of number, and what they let through on the way back."""

import copy
import math
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from rlgrad.steps import QPWC, RULES, Sign, Staircase, Step, boxcar, straight_through, triangular
from rlgrad.steps.replaced import _LARGE

INF, NAN = math.inf, math.nan
TINY = 5e-324  # the least number there is
NUMBERS = [-INF, -1e300, -1.0, -TINY, -0.0, 0.0, TINY, 1e-30, 0.5, 1.0, 7.0, 1e300, INF]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
STAIRS = [-1.0, 0.1, 0.7, 0.3], [-0.5, 0.2, 1.5]
EVERY = {
    "step": lambda backward=None: Step(backward=backward),
    "step at 1": lambda backward=None: Step(backward=backward, at_zero=1.0),
    "sign": lambda backward=None: Sign(backward=backward),
    "staircase": lambda backward=None: Staircase(*STAIRS, backward=backward),
    "qpwc": lambda backward=None: QPWC(sharp=5.0),
}
every = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)


def gradient(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.detach().clone().requires_grad_()
    module(x).sum().backward()
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize("at_zero", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("dtype", FLOATS)
def test_step_by_its_definition(at_zero: float, dtype: torch.dtype) -> None:
    x = torch.tensor(NUMBERS, dtype=dtype)
    expected = [1.0 if n > 0 else 0.0 if n < 0 else at_zero for n in x.tolist()]
    assert torch.equal(Step(at_zero=at_zero)(x), torch.tensor(expected, dtype=dtype))


@pytest.mark.parametrize("at_zero", [-1.0, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", FLOATS)
def test_sign_by_its_definition(at_zero: float, dtype: torch.dtype) -> None:
    x = torch.tensor(NUMBERS, dtype=dtype)
    expected = [1.0 if n > 0 else -1.0 if n < 0 else at_zero for n in x.tolist()]
    assert torch.equal(Sign(at_zero=at_zero)(x), torch.tensor(expected, dtype=dtype))


@pytest.mark.parametrize("dtype", FLOATS)
def test_staircase_takes_its_levels_exactly(dtype: torch.dtype) -> None:
    levels, thresholds = STAIRS
    x = torch.tensor([*NUMBERS, *thresholds, -0.6, -0.4, 0.19, 0.21, 1.49, 1.51], dtype=dtype)
    stairs = torch.tensor(thresholds, dtype=torch.promote_types(dtype, torch.float32)).tolist()
    lower = [levels[sum(n > t for t in stairs)] for n in x.tolist()]
    upper = [levels[sum(n >= t for t in stairs)] for n in x.tolist()]
    assert torch.equal(Staircase(*STAIRS)(x), torch.tensor(lower, dtype=dtype))
    assert torch.equal(Staircase(*STAIRS, at_threshold=1.0)(x), torch.tensor(upper, dtype=dtype))


def test_a_threshold_can_take_part_of_its_jump() -> None:
    stairs = Staircase([0.0, 1.0, 5.0], [-1.0, 1.0], at_threshold=0.25)
    assert stairs(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [0.25, 1.0, 2.0]


def test_staircase_agrees_with_floor_and_round() -> None:
    x = torch.tensor([-0.5, 0.0, 0.5, 0.99, 1.0, 1.5, 2.0, 2.49, 2.5, 2.999, 3.0])
    floor = Staircase([-1.0, 0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0], at_threshold=1.0)
    assert torch.equal(floor(x), x.floor())


@every
def test_nan_stays_nan_and_infinities_are_levels(make) -> None:
    found = make("arctan")(torch.tensor([NAN, -INF, INF]))
    assert torch.isnan(found).tolist() == [True, False, False]
    assert torch.isfinite(found[1:]).all()


@every
@pytest.mark.parametrize("dtype", FLOATS)
def test_dtype_and_shape_are_kept(make, dtype: torch.dtype) -> None:
    module = make("arctan")
    for shape in ((), (0,), (3,), (2, 0, 3), (2, 3, 4)):
        x = torch.linspace(-2, 2, max(1, math.prod(shape)), dtype=dtype)[: math.prod(shape)].reshape(shape)
        y, grad = module(x), gradient(module, x)
        assert (y.dtype, y.shape, grad.dtype, grad.shape) == (dtype, x.shape, dtype, x.shape)


@every
def test_half_precision_is_single_precision_rounded_once(make) -> None:
    x = torch.linspace(-3, 3, 101)
    for dtype in (torch.float16, torch.bfloat16):
        half, module = x.to(dtype), make("sigmoid")
        assert torch.equal(module(half), module(half.float()).to(dtype))
        assert torch.equal(gradient(module, half), gradient(module, half.float()).to(dtype))


@every
def test_a_view_gives_what_its_copy_gives(make) -> None:
    module, x = make("arctan"), torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    for view in (x.T, x[::2, 1::3], x[:, 0], x.expand(2, 6, 8)):
        # But for the last place of a sigmoid, which depends on whether it is done in a vector or alone.
        torch.testing.assert_close(module(view), module(view.contiguous()), rtol=3e-7, atol=0)
        grad = torch.autograd.grad(module(leaf := view.detach().requires_grad_()).sum(), leaf)[0]
        torch.testing.assert_close(grad, gradient(module, view.contiguous()), rtol=3e-7, atol=0)


@every
def test_large_tensors_are_done_in_blocks_with_the_same_result(make) -> None:
    module = make("sigmoid")
    x = torch.randn(2, _LARGE // 2 + 777, generator=torch.Generator().manual_seed(0))
    grad = gradient(module, x)
    for rows in (slice(0, 1), slice(1, 2)):
        torch.testing.assert_close(module(x)[rows], module(x[rows]), rtol=1e-6, atol=0)
        torch.testing.assert_close(grad[rows], gradient(module, x[rows]), rtol=1e-6, atol=1e-38)
    half = x.bfloat16()
    assert gradient(module, half).dtype == torch.bfloat16
    torch.testing.assert_close(gradient(module, half)[0], gradient(module, half[0]), rtol=2**-7, atol=0)


def test_large_tensors_that_are_views_or_differentiated_twice() -> None:
    module, x = Step(backward="sigmoid"), torch.linspace(-2, 2, _LARGE + 6)
    assert torch.equal(module(x.reshape(2, -1).T), module(x).reshape(2, -1).T)
    torch.testing.assert_close(gradient(module, x.reshape(2, -1)[:, ::2]), gradient(module, x).reshape(2, -1)[:, ::2])
    leaf = x[:: _LARGE // 2].double().requires_grad_()
    large = leaf.repeat(_LARGE)
    (first,) = torch.autograd.grad(module(large).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    (expected,) = torch.autograd.grad(RULES["sigmoid"]()(leaf).sum(), leaf)
    torch.testing.assert_close(second, _LARGE * expected)
    rows = torch.stack([x, -x / 3])
    found = torch.func.vmap(torch.func.grad(lambda row: module(row).sum()))(rows)
    torch.testing.assert_close(found, RULES["sigmoid"]()(rows))


@every
def test_the_input_and_the_incoming_gradient_are_left_alone(make) -> None:
    for size in (5, _LARGE + 5):
        x = torch.linspace(-2, 2, size).requires_grad_()
        grad, before = torch.linspace(0, 1, size), x.detach().clone()
        make("arctan")(x).backward(grad)
        assert torch.equal(x, before)
        assert torch.equal(grad, torch.linspace(0, 1, size))


@pytest.mark.parametrize("name", ["step", "sign", "staircase"])
def test_without_a_rule_the_derivative_is_zero(name: str) -> None:
    x = torch.linspace(-2, 2, 9).requires_grad_()
    (EVERY[name]()(x) * torch.tensor(INF)).sum().backward()  # zero even then, as for torch.ceil
    assert torch.equal(x.grad, torch.zeros(9))


@pytest.mark.parametrize("name", RULES)
def test_backward_is_the_rule_at_the_distance_from_each_threshold(name: str) -> None:
    rule = RULES[name]()
    x = torch.linspace(-3, 3, 61, dtype=torch.float64)
    weight = torch.linspace(-1, 2, 61, dtype=torch.float64)
    jumps = (1.1, 0.6, -0.4)
    expected = {
        Step(backward=name): rule(x),
        Sign(backward=rule): 2 * rule(x),
        Staircase(*STAIRS, backward=rule): sum(j * rule(x - t) for j, t in zip(jumps, STAIRS[1], strict=True)),
    }
    for module, slope in expected.items():
        leaf = x.clone().requires_grad_()
        module(leaf).backward(weight)
        torch.testing.assert_close(leaf.grad, weight * slope, rtol=1e-12, atol=1e-15)


def test_any_function_is_a_rule() -> None:
    x = torch.tensor([-1.0, 0.5])
    assert torch.equal(gradient(Step(backward=torch.cos), x), torch.cos(x))
    assert torch.equal(gradient(Sign(backward=torch.cos), x), 2 * torch.cos(x))


def test_boxes_of_a_quantizer_tile_the_line() -> None:
    quantizer = Staircase([0.0, 1.0, 2.0, 3.0], [0.5, 1.5, 2.5], backward=boxcar(width=1.0))
    x = torch.tensor([-0.1, 0.0, 0.3, 0.5, 1.0, 1.7, 2.0, 2.9, 3.0, 3.1])
    assert gradient(quantizer, x).tolist() == [0.0, 0.5, *[1.0] * 6, 0.5, 0.0]


@pytest.mark.parametrize("name", ["sigmoid", "arctan", "fast_sigmoid", "superspike", "triangular"])
def test_the_second_derivative_is_that_of_the_rule(name: str) -> None:
    rule, x = RULES[name](), torch.tensor([-0.7, 0.2, 1.4], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(Step(backward=name)(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    (expected,) = torch.autograd.grad(rule(x).sum(), x)
    assert torch.equal(second, expected)
    assert torch.autograd.gradcheck(lambda x: torch.autograd.grad(QPWC()(x).sum(), x, create_graph=True), x / 3)


@every
@pytest.mark.parametrize("rule", RULES)
def test_per_example_gradients(make, rule: str) -> None:
    module, rows = make(rule), torch.linspace(-2, 2, 12).reshape(3, 4)
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0])
    found = torch.func.vmap(torch.func.grad(lambda row: (weight * module(row)).sum()))(rows)
    expected = torch.stack([weight * gradient(module, row) for row in rows])
    torch.testing.assert_close(found, expected)
    assert torch.equal(torch.func.vmap(module, in_dims=1)(rows), module(rows).T)


def test_batches_of_incoming_gradients_of_a_large_tensor() -> None:
    x = torch.linspace(-2, 2, _LARGE + 3).requires_grad_()
    module, grads = Step(backward="triangular"), torch.stack([torch.ones(_LARGE + 3), torch.linspace(0, 1, _LARGE + 3)])
    (found,) = torch.autograd.grad(module(x), x, grads, is_grads_batched=True)
    assert torch.equal(found, grads * triangular()(x.detach()))


@every
def test_under_autocast_nothing_changes(make) -> None:
    module, x = make("sigmoid"), torch.linspace(-1, 2, 31)
    for dtype in (torch.float32, torch.bfloat16):
        leaf = x.to(dtype).clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = module(leaf)
            y.sum().backward()
        assert torch.equal(y, module(x.to(dtype)))
        assert torch.equal(leaf.grad, gradient(module, x.to(dtype)))


COMPILED = """
import torch
from rlgrad.steps import QPWC, Sign, Staircase, Step, straight_through, triangular
from rlgrad.stochastic import policy_gradient

layers = [Step(), Step(backward="arctan"), Sign(backward="boxcar"), Step(backward=straight_through(clip=1.0))]
layers += [Staircase([-1.0, 0.1, 0.3], [-0.5, 0.2], backward=triangular(0.7)), QPWC(sharp=5.0)]
layers += [Step(backward=policy_gradient())]  # which warns, but not in compiled code
everything = lambda x: torch.stack([layer(x) for layer in layers])
compiled = torch.compile(everything, backend="aot_eager", fullgraph=True)  # all but the C++, which takes long
results = []
for function in (everything, compiled):
    leaf = torch.linspace(-2, 2, 41).requires_grad_()
    y = function(leaf)
    results.append((y.detach(), *torch.autograd.grad(y.sum(), leaf)))
torch.testing.assert_close(*results)
"""


def test_compiled_in_one_graph_it_is_the_same() -> None:
    """In an interpreter of its own, without the shape checks, which torch.compile cannot trace."""
    run = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@every
def test_modules_are_copied_saved_and_shown(make) -> None:
    module, x = make("arctan"), torch.linspace(-1, 2, 7)
    assert module.state_dict() == {}
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(twin) == repr(module)
        assert torch.equal(gradient(twin, x), gradient(module, x))
    assert torch.equal(module.to(torch.float64)(x), module(x))


def test_what_they_look_like() -> None:
    assert repr(Step(backward="arctan")) == "Step(backward=arctan(slope=2.0), at_zero=0)"
    assert repr(Sign(backward=straight_through(clip=1.0), at_zero=-1.0)) == (
        "Sign(backward=straight_through(clip=1.0), at_zero=-1)"
    )
    assert repr(Staircase([0.0, 1.0], [0.5])) == "Staircase([0, 1], [0.5], backward=None, at_threshold=0)"
    assert repr(QPWC(sharp=100.0)) == "QPWC(sharp=100, backward=None)"


@every
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_only_floating_point_is_taken(make, dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=r"^needed floating-point input of a step, got \(2,\) .*; convert it with"):
        make()(torch.ones(2, dtype=dtype))


@pytest.mark.parametrize(
    ("levels", "thresholds", "message"),
    [
        ([0.0, 1.0], [0.0, 1.0], "needed one level more than thresholds, got 2 levels and 2 thresholds"),
        ([0.0, 1.0, 2.0], [0.0], "needed one level more than thresholds, got 3 levels and 1 thresholds"),
        ([0.0], [], "needed one level more than thresholds, got 1 levels and 0 thresholds"),
        ([0.0, 1.0, 2.0], [1.0, 0.0], r"needed thresholds that increase, got \[1.0, 0.0\]"),
        ([0.0, 1.0, 2.0], [1.0, 1.0], r"needed thresholds that increase, got \[1.0, 1.0\]"),
        ([0.0, NAN], [0.0], "needed finite levels and thresholds"),
        ([0.0, 1.0], [INF], "needed finite levels and thresholds"),
    ],
)
def test_stairs_that_make_no_sense_are_refused(levels: list[float], thresholds: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Staircase(levels, thresholds)


@pytest.mark.parametrize("make", [Step, Sign, lambda **k: Staircase([0.0, 1.0], [0.0], **k)])
def test_unknown_rules_are_refused(make) -> None:
    with pytest.raises(ValueError, match=r"needed a backward rule of sigmoid, .*, got 'relu'"):
        make(backward="relu")


def test_values_at_a_threshold_lie_between_its_sides() -> None:
    for refused in (-0.1, 1.1, NAN):
        with pytest.raises(ValueError, match="needed at_zero from 0 to 1, got "):
            Step(at_zero=refused)
        with pytest.raises(ValueError, match="needed at_threshold from 0 to 1, got "):
            Staircase([0.0, 1.0], [0.0], at_threshold=refused)
    with pytest.raises(ValueError, match="needed at_zero from -1 to 1, got 2"):
        Sign(at_zero=2.0)
