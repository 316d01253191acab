"""What the biased estimators are, exactly, and how far that is from the gradient they stand for.

Their expectations are found by listing all draws, or by Gauss rules over the noise, and compared with closed forms that
are derived here by hand; the bias against the exact gradient is shown and printed.
"""

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.integrate import quad
from torch import Tensor, nn

from rlgrad.estimators import Estimator, gumbel_softmax, perturbed, straight_through
from rlgrad.metrics import Downstream, OpaqueMetric, Score, Scorer, f1
from rlgrad.policies import Bernoulli, Categorical, Policy

Array = NDArray[np.float64]
DOUBLE = torch.float64
TOLERANCE = 1e-8


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def jacobian(p: Array) -> Array:
    """Of softmax, at these probabilities."""
    return np.diag(p) - np.outer(p, p)


# Straight-through, over all draws


def expectation(estimator: Estimator, logits: Tensor, score: Score, draws: int = 1) -> tuple[float, Array]:
    """The value and gradient expected over every list of draws; logits ``items``, or ``items classes``."""
    kind = Bernoulli if logits.ndim == 1 else Categorical
    classes, items = 2 if kind is Bernoulli else logits.shape[-1], len(logits)
    lists = torch.tensor(list(product(range(classes), repeat=draws * items))).reshape(-1, draws, items)
    decision = lists.bool() if kind is Bernoulli else lists

    class Listed(kind):  # type: ignore[valid-type]
        def sample(self, draws: int, *, generator: torch.Generator | None = None) -> Tensor:
            return decision.movedim(1, 0)

    weight = kind(logits).log_prob(decision).flatten(1).sum(1).exp()
    leaf = logits.expand(len(lists), *logits.shape).clone().requires_grad_()
    value = estimator(Listed(leaf), score)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return (weight @ value.detach()).item(), torch.tensordot(weight, gradient, 1).numpy()


def double(function: Callable[[Tensor], Tensor], classes: int | None = None) -> Downstream:
    return Downstream(function, classes, DOUBLE)


@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("z", [-1.5, -0.3, 0.0, 0.8])
def test_straight_through_has_a_known_bias(z: float, draws: int) -> None:
    """E[(b - t)^2] = t^2 + p (1 - 2t), with slope (1 - 2t) p (1 - p); the slope at b, 2 (b - t), has mean 2 (p - t)."""
    p, t = sigmoid(z), 0.3
    score = double(lambda b: (b - t).square().sum(-1))
    value, (found,) = expectation(straight_through(draws=draws), torch.tensor([z], dtype=DOUBLE), score, draws)
    right = (1 - 2 * t) * p * (1 - p)
    print(f"p = {p:.3f}: straight-through {found:.5f}, gradient {right:.5f}, bias {found - right:.5f}")
    assert value == pytest.approx(t**2 + p * (1 - 2 * t), abs=1e-14)
    assert found == pytest.approx(2 * (p - t) * p * (1 - p), abs=1e-14)
    assert found - right == pytest.approx((2 * p - 1) * p * (1 - p), abs=1e-14)
    assert (abs(found - right) < 1e-14) == (z == 0)


TWO = torch.tensor([-0.4, 1.1], dtype=DOUBLE)
P = 1 / (1 + np.exp(-TWO.numpy()))


def test_straight_through_is_right_where_the_score_is_linear_in_each_decision() -> None:
    weight = torch.tensor([1.0, -2.0], dtype=DOUBLE)
    _, found = expectation(straight_through(), TWO, double(lambda b: b @ weight))
    np.testing.assert_allclose(found, np.array([1.0, -2.0]) * P * (1 - P), rtol=0, atol=1e-14)
    _, found = expectation(straight_through(), TWO, double(lambda b: 3 * b.prod(-1) + b[..., 0]))
    np.testing.assert_allclose(found, np.array([3 * P[1] + 1, 3 * P[0]]) * P * (1 - P), rtol=0, atol=1e-14)


def test_straight_through_logits_is_the_identity() -> None:
    value, found = expectation(straight_through(through="logits"), TWO, double(lambda b: (b - 0.3).square().sum(-1)))
    assert value == pytest.approx((0.09 + 0.4 * P).sum(), abs=1e-14)
    np.testing.assert_allclose(found, 2 * (P - 0.3), rtol=0, atol=1e-14)


def test_straight_through_among_classes() -> None:
    """|b - t|^2 of a one-hot b: its slope 2 (b - t) has mean 2 (p - t), the truth is that of -2 t; the bias, of 2 p."""
    logits, t = torch.tensor([[0.4, -0.3, 1.0]], dtype=DOUBLE), torch.tensor([0.5, -1.0, 0.2], dtype=DOUBLE)
    p = torch.softmax(logits[0], -1).numpy()
    score = double(lambda b: (b - t).square().sum((-1, -2)), classes=3)
    value, found = expectation(straight_through(), logits, score)
    assert value == pytest.approx(1 - 2 * p @ t.numpy() + (t @ t).item(), abs=1e-14)
    np.testing.assert_allclose(found[0], jacobian(p) @ (2 * (p - t.numpy())), rtol=0, atol=1e-14)
    bias = found[0] - jacobian(p) @ (-2 * t.numpy())
    print(f"bias {bias}")
    np.testing.assert_allclose(bias, jacobian(p) @ (2 * p), rtol=0, atol=1e-14)
    assert np.abs(bias).max() > 0.1
    _, linear = expectation(straight_through(), logits, double(lambda b: (b * t).sum((-1, -2)), classes=3))
    np.testing.assert_allclose(linear[0], jacobian(p) @ t.numpy(), rtol=0, atol=1e-14)
    _, identity = expectation(straight_through(through="logits"), logits, score)
    np.testing.assert_allclose(identity[0], 2 * (p - t.numpy()), rtol=0, atol=1e-14)


# Yin, Lyu, Zhang, Osher, Qi, Xin (2019): a layer of binary activations on Gaussian data


def arcs(w: Array, w_star: Array, nodes: int) -> tuple[Array, Array]:
    """A Gauss rule for the angle of a standard normal in the plane, cut where it crosses either hyperplane."""
    normal = [math.atan2(v[1], v[0]) for v in (w, w_star)]
    cuts = np.sort(np.mod([a + side * math.pi / 2 for a in normal for side in (1, -1)], 2 * math.pi))
    ends = np.append(cuts, cuts[0] + 2 * math.pi)
    t, weight = np.polynomial.legendre.leggauss(nodes)
    length = np.diff(ends)
    return (
        (ends[:-1, None] + length[:, None] * (t + 1) / 2).ravel(),
        (length[:, None] * weight / 2).ravel() / (2 * math.pi),
    )


def population_loss(w: Array, w_star: Array, v: Array, v_star: Array) -> float:
    """E of half (v' H(Zw) - v*' H(Zw*))^2, rows of Z independent, from the lengths of the four arcs alone."""
    angle, weight = arcs(w, w_star, 1)
    z = np.stack([np.cos(angle), np.sin(angle)], 1)
    pairs = list(zip((z @ w > 0).tolist(), (z @ w_star > 0).tolist(), weight, strict=True))
    return sum(
        0.5 * (sum(v[i] * r[0] - v_star[i] * r[1] for i, r in enumerate(rows)) ** 2) * math.prod(r[2] for r in rows)
        for rows in product(pairs, repeat=len(v))
    )


@pytest.mark.parametrize(("w", "v"), [((1.2, 0.5), (1.0, -0.4)), ((-0.8, 0.3), (0.3, 0.9)), ((0.0, 2.0), (1.5, 0.6))])
def test_the_coarse_gradient_of_yin_et_al(w: tuple[float, float], v: tuple[float, float]) -> None:
    """The identity straight-through gradient is no gradient of the loss, nor near it.

    The loss is half (v' H(Zw) - y)^2, y = v*' H(Zw*). Taking 1 for the derivative of H, the coarse gradient in w is
    sum_i v_i Z_i (sum_j v_j H(Z_j w) - v*_j H(Z_j w*)). Rows of Z are independent with mean 0, so that the terms with
    i != j vanish, and E[Z H(Z w)] = w / |w| E[max(g, 0)], g normal, is w / |w| / sqrt(2 pi). Hence its expectation

        (|v|^2 w / |w| - (v' v*) w* / |w*|) / sqrt(2 pi),

    which is that paper's. The loss itself knows w by its angle a to w* alone: E[H(Zw) H(Zw*)] = (pi - a) / (2 pi), so
    dE/da = v' v* / (2 pi), and da/dw = -(I - w w' / |w|^2) w* normalised / |w|.
    """
    star, v_star = np.array([0.6, 1.0]), np.array([0.8, 0.5])
    at, out = np.array(w), np.array(v)
    # The estimate is linear in each |Z_i| (the decisions know angles alone), so its mean sqrt(pi / 2) stands for it.
    angle, weight = arcs(at, star, 12)
    unit = np.stack([np.cos(angle), np.sin(angle)], 1) * math.sqrt(math.pi / 2)
    index = np.array(list(product(range(len(angle)), repeat=2)))
    z, at_z = torch.tensor(unit[index]), torch.tensor(weight[index].prod(1))
    wanted = (z @ torch.tensor(star) > 0).double() @ torch.tensor(v_star)
    leaf, scale = torch.tensor(at, requires_grad=True), 1e9
    policy = Bernoulli(scale * (z @ leaf))  # sure decisions: b = H(Zw)
    score = double(lambda b: -0.5 * (b @ torch.tensor(out) - wanted).square())
    value = straight_through(through="logits")(policy, score)
    (-(value * at_z).sum()).backward()
    found = leaf.grad.numpy() / scale

    size = np.linalg.norm(at)
    coarse = (out @ out * at / size - out @ v_star * star / np.linalg.norm(star)) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(found, coarse, rtol=0, atol=1e-10)
    assert -(value.detach() @ at_z).item() == pytest.approx(population_loss(at, star, out, v_star), abs=1e-12)

    across = star - at * (at @ star) / size**2
    right = -(out @ v_star) / (2 * math.pi * size) * across / np.linalg.norm(across)
    steps = [1e-6 * e for e in np.eye(2)]
    slope = [
        (population_loss(at + e, star, out, v_star) - population_loss(at - e, star, out, v_star)) / 2e-6 for e in steps
    ]
    np.testing.assert_allclose(slope, right, rtol=0, atol=1e-8)
    print(f"coarse {coarse}, gradient {right}, bias {coarse - right}")
    assert np.linalg.norm(coarse - right) > 0.1
    assert abs(right @ at) < 1e-12  # the loss does not know |w|,
    assert abs(coarse @ at) > 0.01  # the coarse gradient pulls on it


# Gumbel-softmax, over all noise


@cache
def legendre(nodes: int) -> tuple[Array, Array]:
    return np.polynomial.legendre.leggauss(nodes)


def halves(p: float, nodes: int) -> tuple[Tensor, Tensor]:
    """A Gauss rule for a uniform number, cut at p."""
    t, w = legendre(nodes)
    t, w = (t + 1) / 2, w / 2
    points = torch.tensor(np.concatenate([p * t, 1 - (1 - p) * t]))
    return points, torch.tensor(np.concatenate([p * w, (1 - p) * w]))


def relaxed_expectation(estimator: Estimator, z: float, score: Score, nodes: int = 150) -> tuple[float, float]:
    noise, weight = halves(sigmoid(z), nodes)

    class Fixed(Bernoulli):
        def uniform(self, draws: int, *, generator: torch.Generator | None = None) -> Tensor:
            return noise[None, :, None]

    leaf = torch.full((len(noise), 1), z, dtype=DOUBLE, requires_grad=True)
    value = estimator(Fixed(leaf), score)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return (weight @ value.detach()).item(), (weight @ gradient[:, 0]).item()


def density(x: float) -> float:
    """Of the logistic distribution."""
    return 0.25 / math.cosh(x / 2) ** 2


def over_the_line(function: Callable[[float], float]) -> float:
    """Its integral, cut at 0."""
    ends = [-80.0, -20.0, -4.0, -1.0, -0.2, 0.0, 0.2, 1.0, 4.0, 20.0, 80.0]
    parts = [quad(function, a, b, epsabs=1e-13, epsrel=1e-12)[0] for a, b in pairwise(ends)]
    return math.fsum(parts)


def by_hand(r: Callable[[float], float], z: float, temperature: float) -> tuple[float, float]:
    """E[r(soft)] and its slope, which is taken of the density: E[r(soft) d log f(x - z) / dz]."""
    value = over_the_line(lambda x: r(sigmoid(x / temperature)) * density(x - z))
    slope = over_the_line(lambda x: r(sigmoid(x / temperature)) * density(x - z) * math.tanh((x - z) / 2))
    return value, slope


TEMPERATURES = [1.0, 0.5, 0.25, 0.125]
Z = 0.7


LOWER = [1.0, 0.5, 0.25, 0.125, 0.05, 0.025, 0.0125]


def biases(r: Callable[[Any], Any], hard: bool) -> list[float]:
    p = sigmoid(Z)
    right = (r(1) - r(0)) * p * (1 - p)
    score = double(lambda b: r(b).sum(-1))
    found = [relaxed_expectation(gumbel_softmax(temperature=t, hard=hard), Z, score, 300)[1] - right for t in LOWER]
    print(f"{r.__name__}, hard {hard}: gradient {right:.5f}, bias " + ", ".join(f"{b:+.5f}" for b in found))
    return found


def square(b: Any) -> Any:
    return (b - 0.2) ** 2


def line(b: Any) -> Any:
    return 2 * b - 0.3


def cube(b: Any) -> Any:
    return b**3


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("r", [square, line])
def test_gumbel_softmax_is_the_gradient_of_the_relaxed_reward(r: Callable[[Any], Any], temperature: float) -> None:
    score = double(lambda b: r(b).sum(-1))
    found = [relaxed_expectation(gumbel_softmax(temperature=temperature), Z, score, nodes) for nodes in (100, 150)]
    assert found[0] == pytest.approx(found[1], abs=1e-10)  # the rule has converged
    assert found[1] == pytest.approx(by_hand(r, Z, temperature), abs=1e-9)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("r", "slope"), [(square, lambda b: 2 * (b - 0.2)), (line, lambda b: 2.0)])
def test_hard_gumbel_softmax_has_the_hard_value_and_the_soft_slope(
    r: Callable[[Any], Any], slope: Callable[[Any], Any], temperature: float
) -> None:
    value, found = relaxed_expectation(
        gumbel_softmax(temperature=temperature, hard=True), Z, double(lambda b: r(b).sum(-1))
    )
    p = sigmoid(Z)
    assert value == pytest.approx(p * r(1) + (1 - p) * r(0), abs=1e-13)
    scaled = over_the_line(lambda x: slope(float(x > 0)) * density(x / temperature) / temperature * density(x - Z))
    assert found == pytest.approx(scaled, abs=1e-9)


def test_gumbel_softmax_is_biased_by_the_order_of_the_temperature() -> None:
    found = biases(square, hard=False)
    assert min(map(abs, found[:4])) > 5e-3
    assert abs(found[3]) > abs(found[4]) > abs(found[5]) > abs(found[6])
    assert found[5] / found[6] == pytest.approx(2.0, abs=0.1)


def test_gumbel_softmax_is_biased_by_the_temperature_squared_where_the_reward_is_linear() -> None:
    """Then it is the gradient smoothed by a logistic density of variance (pi temperature)^2 / 3, hard or not."""
    found = biases(line, hard=False)
    assert biases(line, hard=True) == pytest.approx(found, abs=1e-10)
    assert abs(found[0]) > 0.1
    assert found[5] / found[6] == pytest.approx(4.0, abs=0.01)
    p = sigmoid(Z)
    bent = p * (1 - p) * (1 - 6 * p * (1 - p))  # the second derivative of p (1 - p) in the logit
    assert found[6] == pytest.approx(2 * bent * (math.pi * 0.0125) ** 2 / 6, rel=1e-2)


def test_hard_gumbel_softmax_stays_biased() -> None:
    """As the temperature falls, it takes (r'(0) + r'(1)) / 2 for r(1) - r(0): right for a square, wrong for a cube."""
    p = sigmoid(Z)
    found = biases(cube, hard=True)
    assert 2 * found[6] - found[5] == pytest.approx((3 / 2 - 1) * p * (1 - p), abs=1e-3)
    found = biases(square, hard=True)
    assert 2 * found[6] - found[5] == pytest.approx(0.0, abs=1e-3)
    assert abs(found[2]) > 1e-3


def test_two_classes_are_yes_or_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """E_c ~ Exp(1): of what is normalised only E_1 / (E_1 + E_2) matters, which is uniform, and cut at the first p."""
    logits = torch.tensor([0.9, 0.2], dtype=DOUBLE)
    share, weight = halves(sigmoid(0.7), 120)
    noise = torch.exp(-torch.stack([share, 1 - share], -1))[None, :, None]
    monkeypatch.setattr(perturbed, "open_uniform", lambda shape, *, like, generator: noise)
    for hard in (False, True):
        estimator = gumbel_softmax(temperature=0.5, hard=hard)
        leaf = logits.expand(len(share), 1, 2).clone().requires_grad_()
        value = estimator(Categorical(leaf), double(lambda b: square(b[..., 0]).sum(-1), classes=2))
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        right = relaxed_expectation(estimator, 0.7, double(lambda b: square(b).sum(-1)))
        assert (weight @ value.detach()).item() == pytest.approx(right[0], abs=1e-9)
        np.testing.assert_allclose(weight @ gradient[:, 0], [right[1], -right[1]], rtol=0, atol=1e-9)


@pytest.mark.parametrize("hard", [False, True])
def test_each_sample_among_classes_is_that_of_the_textbook(hard: bool, generator: torch.Generator) -> None:
    logits = torch.randn(4, 2, 3, generator=generator, dtype=DOUBLE, requires_grad=True)
    state = generator.get_state()
    gumbel = -torch.log(-torch.log(torch.rand(5, 4, 2, 3, generator=generator, dtype=DOUBLE)))
    soft = torch.softmax((logits + gumbel) / 0.7, -1)
    one_hot = nn.functional.one_hot((logits + gumbel).argmax(-1), 3).double()
    weight = torch.tensor([0.3, -1.1, 2.0], dtype=DOUBLE)

    def r(b: Tensor) -> Tensor:
        return torch.sin((b @ weight).sum(-1))

    if hard:
        leaf = one_hot.clone().requires_grad_()
        (slope,) = torch.autograd.grad(r(leaf).sum(), leaf)
        right, value = torch.autograd.grad(soft, logits, slope / 5)[0], r(one_hot).mean(0)
    else:
        right, value = torch.autograd.grad(r(soft).mean(0).sum(), logits)[0], r(soft).mean(0)
    generator.set_state(state)
    estimate = gumbel_softmax(draws=5, temperature=0.7, hard=hard)(
        Categorical(logits), double(r, 3), generator=generator
    )
    torch.testing.assert_close(estimate, value, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(estimate.sum(), logits)[0], right, rtol=0, atol=1e-12)


# What the score is shown, and what is downstream of it

ALL: dict[str, Callable[..., Estimator]] = {
    "probs": straight_through,
    "logits": lambda draws=1: straight_through(draws=draws, through="logits"),
    "soft": gumbel_softmax,
    "hard": lambda draws=1: gumbel_softmax(draws=draws, hard=True),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["probs", "logits", "hard"])
def test_the_score_is_shown_exact_zeros_and_ones(name: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    seen: list[Tensor] = []

    def function(b: Tensor) -> Tensor:
        seen.append(b.detach())
        return b.flatten(2).sum(-1)

    logits = torch.tensor([[0.0, 1e-3, 3.3, -7.7, 50.0, -1e4, math.inf, -math.inf]], dtype=dtype)
    ALL[name](draws=50)(Bernoulli(logits), Downstream(function, dtype=DOUBLE), generator=generator)
    ALL[name](draws=50)(Categorical(logits[..., None, :-2]), Downstream(function, 6, DOUBLE), generator=generator)
    for b in seen:
        assert torch.equal(b, b.round())
        assert b.unique().tolist() == [0, 1]
    assert torch.equal(seen[1].sum(-1), torch.ones(50, 1, 1, dtype=DOUBLE))
    assert (seen[0][..., [4, 6]] == 1).all()
    assert (seen[0][..., [5, 7]] == 0).all()


@pytest.mark.parametrize("name", ALL)
def test_the_weights_downstream_get_the_gradient_of_what_was_scored(name: str, generator: torch.Generator) -> None:
    weight, seen = torch.tensor([0.5, -1.5, 0.7], dtype=DOUBLE, requires_grad=True), []

    def function(b: Tensor) -> Tensor:
        seen.append(b.detach())
        return torch.sin((b * weight).sum(-1))

    logits = torch.tensor([[0.2, -1.0, 0.5], [1.0, 0.0, -0.3]], dtype=DOUBLE, requires_grad=True)
    value = ALL[name](draws=4)(Bernoulli(logits), double(function), generator=generator)
    value.sum().backward()
    right = function(seen[0]).mean(0)
    assert torch.equal(value, right)
    torch.testing.assert_close(weight.grad, torch.autograd.grad(right.sum(), weight)[0], rtol=1e-13, atol=1e-15)


# Errors


@pytest.mark.usefixtures("as_a_user")
def test_arguments() -> None:
    for wrong in (0.0, -1.0, math.inf, -math.inf, math.nan):
        with pytest.raises(ValueError, match=r"^needed a temperature above 0, got "):
            gumbel_softmax(temperature=wrong)
    for through in ("prob", "", None, "LOGITS"):
        with pytest.raises(ValueError, match=r'^needed through "probs" or "logits", got '):
            straight_through(through=through)
    for make in (straight_through, gumbel_softmax):
        for few in (0, -2):
            with pytest.raises(ValueError, match=f"^needed at least 1 draw, got {few}"):
                make(draws=few)
        for odd in (1.0, True, "1"):
            with pytest.raises(TypeError, match=r"^needed a whole number of draws, got "):
                make(draws=odd)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", ALL)
def test_a_derivative_is_needed(name: str) -> None:
    black_box = Scorer(OpaqueMetric(lambda d, t: 1.0, name="mine"), torch.ones(3))
    for score, got in ((lambda d: d.double().sum(-1), "function"), (black_box, r"OpaqueMetric\(mine\)")):
        with pytest.raises(TypeError, match=rf"needed a score that is differentiable .*{got}.*Downstream"):
            ALL[name]()(Bernoulli(torch.zeros(3)), score)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", ALL)
def test_rewards_are_finite_and_one_a_row(name: str) -> None:
    with pytest.raises(ValueError, match=r"^needed finite rewards, got nan for draw 0, row "):
        ALL[name]()(Bernoulli(torch.zeros(2, 3)), Downstream(lambda b: b.sum(-1) * math.nan))
    with pytest.raises(ValueError, match=r"^needed rewards of shape \(1, 2\) .*, got \(1, 2, 3\)"):
        ALL[name]()(Bernoulli(torch.zeros(2, 3)), Downstream(lambda b: b))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("target", [(3,), (1, 3), (2, 1)])
def test_a_target_is_not_broadcast(name: str, target: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="nothing is broadcast"):
        ALL[name]()(Bernoulli(torch.zeros(2, 3)), Scorer(f1, torch.ones(target)))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(("classes", "kind"), [(None, Categorical), (5, Categorical), (2, Bernoulli)])
@pytest.mark.parametrize("name", ALL)
def test_a_downstream_of_other_classes(name: str, classes: int | None, kind: type[Policy]) -> None:
    with pytest.raises((TypeError, ValueError), match="classes"):
        ALL[name]()(
            kind(torch.zeros(4, 2, 3)), Downstream(lambda b: b.flatten(2).sum(-1).reshape(1, 4, -1)[..., 0], classes)
        )


# Numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (3,), (2, 2, 3), (2, 0)])
@pytest.mark.parametrize("name", ALL)
def test_shapes_and_dtypes(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    logits = torch.zeros(shape, dtype=dtype, requires_grad=True)
    for score in (Scorer(f1, torch.ones(shape)), Downstream(lambda b: b.square().sum(-1))):
        value = ALL[name]()(Bernoulli(logits), score)
        assert value.shape == shape[:-1]
        assert value.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
        value.sum().backward()
        assert logits.grad.dtype == dtype


@pytest.mark.parametrize("kind", [Bernoulli, Categorical])
@pytest.mark.parametrize("name", ALL)
def test_a_generator_determines_the_estimate(name: str, kind: type[Policy]) -> None:
    before = torch.get_rng_state()
    gradients: list[Tensor] = []
    score = Downstream(lambda b: b.flatten(2).square().cumsum(-1).square().sum(-1), 4 if kind is Categorical else None)
    for seed in (5, 5, 6):
        logits = torch.zeros(3, 5, 4, requires_grad=True)
        policy = kind(logits) if kind is Categorical else kind(logits.flatten(1))
        value = ALL[name]()(policy, score, generator=torch.Generator().manual_seed(seed))
        gradients += torch.autograd.grad(value.sum(), logits)
    assert torch.equal(gradients[0], gradients[1])
    assert not torch.equal(gradients[1], gradients[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [50.0, 1e4, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["probs", "soft", "hard"])
def test_sure_decisions_have_no_gradient(name: str, dtype: torch.dtype, size: float) -> None:
    estimator, square_sum = ALL[name](), lambda b: b.square().flatten(1).sum(-1)
    yes = torch.tensor([size, -size], dtype=dtype, requires_grad=True)
    of = torch.tensor([[0.0, -size, -size]], dtype=dtype, requires_grad=True)
    estimator(Bernoulli(yes), Downstream(square_sum, dtype=dtype)).backward()
    estimator(Categorical(of), Downstream(square_sum, 3, dtype)).backward()
    for leaf in (yes, of):
        assert leaf.grad.abs().max() < 1e-12


def test_straight_through_logits_does_not_fade() -> None:
    """The identity goes on where the decision is sure, but for an infinite logit."""
    logits = torch.tensor([50.0, -1e4, math.inf, -math.inf], requires_grad=True)
    straight_through(through="logits")(Bernoulli(logits), Downstream(lambda b: 3 * b.sum(-1))).backward()
    assert logits.grad.tolist() == [3, 3, 0, 0]
    masked = torch.tensor([[0.0, -math.inf, 1.0]], requires_grad=True)
    straight_through(through="logits")(Categorical(masked), Downstream(lambda b: 3 * b.sum((-1, -2)), 3)).backward()
    assert masked.grad.tolist() == [[3, 0, 3]]


@pytest.mark.parametrize("name", ALL)
def test_under_autocast(name: str) -> None:
    encoder, decoder = nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 1), nn.Flatten(-2))
    weights = [*encoder.parameters(), *decoder.parameters()]
    with torch.no_grad():
        for weight in weights:
            weight.copy_(torch.cos(torch.arange(weight.numel()) * 1.7).reshape(weight.shape))
    results = []
    for enabled in (False, True):
        generator = torch.Generator().manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = encoder(torch.tensor([[0.5, -1.0], [1.0, 0.25]]))
            value = ALL[name]()(Bernoulli(logits), Downstream(lambda b: -decoder(b).square()), generator=generator)
        assert value.dtype == torch.float32
        results.append(torch.autograd.grad(value.sum(), weights))
    torch.testing.assert_close(results[1], results[0], rtol=0.1, atol=0.05)
