"""The QPWC neuron against its source's own output, its definition, and its limits."""

import math

import pytest
import torch

from rlgrad.steps import QPWC, Staircase

# sharp, z, s, ds: rows of what the MATLAB source gives under Octave.
SOURCE = [
    (10.0, -0.10000000000000001, 0, 0),
    (10.0, 0, 0, 0),
    (10.0, 0.0010000000000000009, 0.0017410222944405221, 0.069155906396862657),
    (10.0, 0.049999999999999989, 0.011856468294391692, 0.45176659730912122),
    (10.0, 0.125, 0.125, 2.5),
    (10.0, 0.20000000000000001, 0.23814353170560834, 0.45176659730912),
    (10.0, 0.25, 0.24832678726892882, 0.066480566707900327),
    (10.0, 0.251, 0.25174102229444051, 0.069155906396862116),
    (10.0, 0.29999999999999999, 0.26185646829439169, 0.451766597309121),
    (10.0, 0.37500000000000006, 0.37500000000000011, 2.5),
    (10.0, 0.49000000000000005, 0.49751204953327394, 0.098527635065061334),
    (10.0, 0.5, 0.49832678726892882, 0.066480566707900327),
    (10.0, 0.50100000000000011, 0.50174102229444051, 0.069155906396862116),
    (10.0, 0.60000000000000009, 0.56723535534249891, 1.966119332414821),
    (10.0, 0.69999999999999996, 0.73814353170560831, 0.45176659730912105),
    (10.0, 0.75, 0.74832678726892876, 0.066480566707902519),
    (10.0, 0.75100000000000011, 0.75341356621106914, 0.067805226850288711),
    (10.0, 0.80000000000000004, 0.75899310498104577, 0.17662706213291107),
    (10.0, 0.90000000000000013, 0.8096014610110589, 1.049935854035067),
    (10.0, 0.95000000000000018, 0.88447071068499794, 1.9661193324148221),
    (10.0, 0.99900000000000011, 0.9975000833300004, 2.4997500166657223),
    (10.0, 1, 1, 0),
    (10.0, 1.1000000000000001, 1, 0),
    (100.0, 0, 0, 0),
    (100.0, 0.0010000000000000009, 7.1933916469110331e-23, 2.8773566587644133e-20),
    (100.0, 0.099999999999999978, 1.1349467175608499e-05, 0.0045395807735951277),
    (100.0, 0.125, 0.125, 25),
    (100.0, 0.20000000000000001, 0.24999999999997663, 9.348077867342944e-12),
    (100.0, 0.25, 0.25, 0),
    (100.0, 0.29999999999999999, 0.25000000000002337, 9.348077867342944e-12),
    (100.0, 0.39999999999999997, 0.49998865053282437, 0.0045395807736018671),
    (100.0, 0.60000000000000009, 0.50001134946717563, 0.0045395807736018671),
    (100.0, 0.69999999999999996, 0.74999999999997669, 9.3258734068504458e-12),
    (100.0, 0.75, 0.75, 0),
    (100.0, 0.90000000000000013, 0.75000000103057685, 2.0611536879193952e-07),
    (100.0, 0.95000000000000018, 0.75002269893435125, 0.0045395807736018671),
    (100.0, 0.98999999999999999, 0.80960146101105868, 10.499358540350636),
    (100.0, 0.99900000000000011, 0.9750830013437638, 24.751657271186051),
    (100.0, 1, 1, 0),
]


def definition(z: float, sharp: float) -> tuple[float, float]:
    """S and ds, case by case."""
    if z <= 0 or z >= 1:
        return float(z >= 1), 0.0
    c, w, b, k = next(
        (c, w, b, k)
        for end, c, w, b, k in (
            (0.25, 0.125, 0.25, 0.0, 4 * sharp),
            (0.5, 0.375, 0.25, 0.25, 4 * sharp),
            (0.75, 0.625, 0.25, 0.5, 4 * sharp),
            (1.0, 1.0, 0.5, 0.75, 2 * sharp),
        )
        if z <= end
    )
    tail = math.exp(-abs(k * (z - c)))
    up = (1.0 if z >= c else tail) / (1 + tail)
    return b + w * up, sharp * tail / (1 + tail) ** 2


def both(z: torch.Tensor, sharp: float) -> tuple[torch.Tensor, torch.Tensor]:
    z = z.clone().requires_grad_()
    s = QPWC(sharp=sharp)(z)
    (ds,) = torch.autograd.grad(s.sum(), z)
    return s.detach(), ds


@pytest.mark.parametrize("sharp", [10.0, 100.0])
def test_it_is_what_its_source_gives(sharp: float) -> None:
    z, s, ds = torch.tensor([row[1:] for row in SOURCE if row[0] == sharp], dtype=torch.float64).T
    found = both(z, sharp)
    assert (found[0] - s).abs().max() < 1e-12
    assert (found[1] - ds).abs().max() < 1e-12


@pytest.mark.parametrize("sharp", [0.1, 1.0, 10.0, 30.0, 177.5, 1e4])
def test_it_is_its_definition_to_the_last_digits(sharp: float) -> None:
    borders = [edge + step for edge in (0, 0.25, 0.5, 0.75, 1) for step in (-1e-9, 0.0, 1e-9)]
    points = [*borders, 5e-324, 1e-30, 1 - 2**-53, *torch.linspace(-0.2, 1.2, 281).tolist()]
    expected = torch.tensor([definition(z, sharp) for z in points], dtype=torch.float64).T
    s, ds = both(torch.tensor(points, dtype=torch.float64), sharp)
    torch.testing.assert_close(s, expected[0], rtol=1e-12, atol=0)
    # Relative: no digits are lost far from a step. The last place of z is worth 2e-16 k there.
    torch.testing.assert_close(ds, expected[1], rtol=1e-12 + 4e-15 * sharp, atol=1e-300)


@pytest.mark.parametrize("sharp", [0.1, 1.0, 10.0, 177.0, 178.0, 1e3, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_finite_at_any_steepness(sharp: float, dtype: torch.dtype) -> None:
    z = torch.cat([torch.linspace(-1, 2, 3001), torch.tensor([3e38, -3e38, math.inf, -math.inf])]).to(dtype)
    s, ds = both(z, sharp)
    assert torch.isfinite(s).all()
    assert torch.isfinite(ds).all()
    assert ((s >= 0) & (s <= 1)).all()
    assert ((ds >= 0) & (ds <= sharp / 4 * 1.01)).all()


def test_single_precision_agrees_with_double() -> None:
    z = torch.linspace(-0.2, 1.2, 4001)
    for sharp in (0.1, 10.0, 100.0):
        single, double = both(z, sharp), both(z.double(), sharp)
        torch.testing.assert_close(single[0].double(), double[0], rtol=0, atol=3e-7 * max(1.0, sharp / 10))
        torch.testing.assert_close(single[1].double(), double[1], rtol=2e-6 * max(1.0, sharp), atol=1e-30)


@pytest.mark.parametrize("sharp", [1.0, 10.0])
def test_the_jumps_at_the_borders_are_j_2j_2j_3j_and_none_at_the_end(sharp: float) -> None:
    j = 0.25 / (1 + math.exp(sharp / 2))
    below = torch.tensor([0.0, 0.25, 0.5, 0.75, 1 - 2**-53], dtype=torch.float64)
    above = torch.tensor([5e-324, *torch.nextafter(below[1:4], torch.ones(3).double()), 1.0], dtype=torch.float64)
    module = QPWC(sharp=sharp)
    jumps = (module(above) - module(below)) / j
    assert jumps.tolist() == pytest.approx([1, 2, 2, 3, 0], abs=1e-9)


def test_the_steps_are_where_the_slope_peaks_and_the_quarters_are_plateaus() -> None:
    _, at_steps = both(torch.tensor([0.125, 0.375, 0.625, 1 - 2**-53], dtype=torch.float64), 10.0)
    _, at_quarters = both(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), 10.0)
    assert at_steps.tolist() == pytest.approx([2.5] * 4)
    assert at_quarters.max() < 0.07


def test_between_its_borders_backward_is_the_true_derivative() -> None:
    z = torch.tensor([-0.5, 0.01, 0.2, 0.3, 0.45, 0.55, 0.7, 0.8, 0.99, 1.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(QPWC(sharp=7.0), z)
    assert torch.autograd.gradgradcheck(QPWC(sharp=7.0), z)


def test_its_limit_is_a_staircase() -> None:
    z = torch.tensor([-1.0, 0.0, 0.124, 0.126, 0.25, 0.374, 0.376, 0.624, 0.626, 0.75, 0.999, 1.0, 2.0])
    stairs = Staircase([0.0, 0.25, 0.5, 0.75, 1.0], [0.125, 0.375, 0.625, 1.0], at_threshold=1.0)
    assert torch.equal(QPWC(sharp=1e6)(z), stairs(z))


@pytest.mark.parametrize("sharp", [0.0, -1.0, math.nan, math.inf])
def test_a_steepness_that_makes_no_sense_is_refused(sharp: float) -> None:
    with pytest.raises(ValueError, match="needed a finite sharp above 0, got "):
        QPWC(sharp=sharp)


def test_a_rule_is_that_of_the_staircase_which_the_neuron_becomes() -> None:
    z = torch.linspace(-0.5, 1.5, 201, requires_grad=True)
    stairs = Staircase([0.0, 0.25, 0.5, 0.75, 1.0], [0.125, 0.375, 0.625, 1.0], backward="arctan")
    neuron = QPWC(sharp=20.0, backward="arctan")
    found, wanted = (torch.autograd.grad(each(z).sum(), z)[0] for each in (neuron, stairs))
    torch.testing.assert_close(found, wanted)
    assert torch.equal(neuron(z), QPWC(sharp=20.0)(z))
