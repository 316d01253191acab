"""Surrogate derivatives: closed forms, integrals, peaks, types, and how they are chosen."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from scipy.integrate import quad

from rlgrad.steps.rules import (
    RULES,
    Rule,
    arctan,
    as_rule,
    boxcar,
    fast_sigmoid,
    sigmoid,
    straight_through,
    superspike,
    triangular,
)

Make = Callable[..., Rule]
SIZES = (0.1, 1.0, 7.0)


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def box(d: float, w: float) -> float:
    return 1 / w if abs(d) < w / 2 else 0.5 / w if abs(d) == w / 2 else 0.0


# Each as the literature writes it, in Python's own arithmetic.
CLOSED: dict[Make, Callable[[float, float], float]] = {
    sigmoid: lambda d, s: s * logistic(s * d) * (1 - logistic(s * d)),
    arctan: lambda d, s: s / 2 / (1 + (math.pi / 2 * s * d) ** 2),
    fast_sigmoid: lambda d, s: s / 2 / (1 + abs(s * d)) ** 2,
    superspike: lambda d, s: 1 / (1 + abs(s * d)) ** 2,
    triangular: lambda d, w: max(0.0, 1 - abs(d) / w) / w,
    boxcar: box,
    straight_through: lambda d, clip: float(abs(d) <= clip),
}
# The soft steps whose derivatives they are, at d = 1.
SOFT: dict[Make, Callable[[float], float]] = {
    sigmoid: lambda s: logistic(s),
    arctan: lambda s: math.atan(math.pi / 2 * s) / math.pi + 0.5,
    fast_sigmoid: lambda s: (1 + s / (1 + s)) / 2,
    superspike: lambda s: 1 / s + 1 / (1 + s),
    triangular: lambda w: 1.0 if w <= 1 else 0.5 + 1 / w - 0.5 / w**2,
    boxcar: lambda w: min(1.0, 0.5 + 1 / w),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", CLOSED)
def test_a_rule_is_its_closed_form(rule: Make, size: float) -> None:
    distances = [0.0, -0.0, 1e-3, -1e-3, 0.05, 0.3, -0.5, 0.5, 1.0, -1.0, -3.4, 3.5, 7.0, 20.0, 50.0]
    distances += [size, -size, size / 2, -size / 2]
    found = rule(size)(torch.tensor(distances, dtype=torch.float64))
    expected = torch.tensor([CLOSED[rule](d, size) for d in distances], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", SOFT)
def test_the_area_is_that_of_the_soft_step(rule: Make, size: float) -> None:
    def at(d: float) -> float:
        return float(rule(size)(torch.tensor(d, dtype=torch.float64)))

    corners = [c for c in (-size, -size / 2, 0.0, size / 2, size) if c < 1]
    edges = [-math.inf, *corners, 1.0]
    area = sum(quad(at, low, high)[0] for low, high in pairwise(edges))
    total = area + sum(
        quad(at, low, high)[0] for low, high in ((1.0, max(1.0, size)), (max(1.0, size), math.inf)) if low < high
    )
    assert total == pytest.approx(2 / size if rule is superspike else 1.0, abs=1e-7)
    assert area == pytest.approx(SOFT[rule](size), abs=1e-7)


def test_those_with_an_area_of_one_have_their_peak_of_one_by_default() -> None:
    peaks = {name: float(rule()(torch.zeros(()))) for name, rule in RULES.items()}
    assert peaks == dict.fromkeys(RULES, 1.0)


@pytest.mark.parametrize("rule", CLOSED)
def test_far_away_there_is_nothing_and_nothing_overflows(rule: Make) -> None:
    for size in (1e-3, 1e4):
        for dtype in (torch.float32, torch.float64):
            far = torch.tensor([math.inf, -math.inf, torch.finfo(dtype).max, -torch.finfo(dtype).max], dtype=dtype)
            assert rule(size)(far).tolist() == pytest.approx([0.0] * 4, abs=1e-60)


@pytest.mark.parametrize("rule", [sigmoid, arctan, fast_sigmoid, superspike])
def test_the_tails_keep_their_digits_in_single_precision(rule: Make) -> None:
    distance = torch.tensor([2.0, 5.0, 12.0], dtype=torch.float64)
    both = torch.cat([distance, -distance])
    torch.testing.assert_close(rule(3.0)(both.float()).double(), rule(3.0)(both), rtol=2e-5, atol=0)


@pytest.mark.parametrize("rule", CLOSED)
def test_a_rule_leaves_its_argument_alone(rule: Make) -> None:
    distance = torch.linspace(-2, 2, 9)
    before = distance.clone()
    rule(1.0)(distance)
    assert torch.equal(distance, before)


@pytest.mark.parametrize("rule", [sigmoid, arctan, fast_sigmoid, superspike, triangular])
def test_a_rule_can_be_differentiated_itself(rule: Make) -> None:
    distance = torch.tensor([-1.3, -0.2, 0.4, 2.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rule(1.5), distance)


def test_plain_straight_through_is_one_everywhere() -> None:
    assert straight_through()(torch.tensor([0.0, 1e30, math.inf])).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("rule", CLOSED)
@pytest.mark.parametrize("size", [0.0, -1.0, math.nan, math.inf])
def test_sizes_that_make_no_sense_are_refused(rule: Make, size: float) -> None:
    if rule is straight_through and size == math.inf:
        return
    with pytest.raises(ValueError, match=r"^needed a finite (slope|width|clip) above 0, got "):
        rule(size)


def test_rules_by_name_and_as_they_are() -> None:
    assert as_rule("arctan") == arctan()
    assert as_rule(boxcar(2.0)) == boxcar(2.0)
    assert as_rule(torch.cos) is torch.cos
    assert as_rule(None) is None


@pytest.mark.usefixtures("as_a_user")
def test_what_is_no_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^needed a backward rule of sigmoid, .*, got 'tanh'; or None for none$"):
        as_rule("tanh")
    with pytest.raises(TypeError, match=r"got <class 'rlgrad.steps.rules.arctan'>; call it, or name it$"):
        as_rule(arctan)
    with pytest.raises(TypeError, match=r"^needed a backward rule such as arctan\(slope=2\), got 3; "):
        as_rule(3)
