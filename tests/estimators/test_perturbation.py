"""The proof for perturbed logits: expected over all noise, the estimate is a central difference of E[reward].

Directions are listed (all signs) or taken from a Gauss-Hermite rule; for each, the decisions of both sides are constant
in the uniform noise between the probabilities, so that its expectation is a finite sum over intervals. The central
difference is found in NumPy by listing all decisions. Its bias falls as the radius squared, and is printed.
"""

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlgrad.estimators import Estimator, evolution_strategies, perturbation, spsa
from rlgrad.metrics import Downstream, OpaqueMetric, Score, Scorer, f1
from rlgrad.policies import Bernoulli, Categorical, Policy

Array = NDArray[np.float64]
DOUBLE = torch.float64
TOLERANCE = 1e-12


# E[reward], without a line of the library


def reward(decision: tuple[int, ...]) -> float:
    return math.sin(sum((i + 1.3) * d for i, d in enumerate(decision))) + 0.5 * decision[0] * decision[-1]


def score(decision: Tensor) -> Tensor:
    d = decision.double()
    ramp = torch.arange(d.shape[-1], dtype=DOUBLE) + 1.3
    return torch.sin(d @ ramp) + 0.5 * d[..., 0] * d[..., -1]


def probabilities(z: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Of each class, ``items classes``; yes or no are two classes."""
    odds = np.exp(z) if z.ndim == 2 else np.stack([np.ones_like(z), np.exp(z)], 1)
    return np.asarray(odds / odds.sum(1, keepdims=True))


def expected(z: NDArray[np.complex128]) -> complex:
    p = probabilities(z)
    return complex(sum(reward(o) * np.prod(p[range(len(p)), o]) for o in product(range(p.shape[1]), repeat=len(p))))


def gradient_of(z: Array) -> Array:
    gradient = np.zeros_like(z)
    for at in np.ndindex(z.shape):
        moved = z.astype(complex)
        moved[at] += 1e-20j
        gradient[at] = expected(moved).imag / 1e-20
    return gradient


def central(z: Array, directions: Array, weights: Array, radius: float) -> tuple[float, Array]:
    """The mean of E[r] on both sides, and their difference along each direction, over directions."""
    there, back = (np.array([expected(z + s * radius * e + 0j).real for e in directions]) for s in (1, -1))
    along = directions * ((there - back) / (2 * radius)).reshape(-1, *[1] * z.ndim)
    return float(weights @ (there + back)) / 2, np.tensordot(weights, along, 1)


# Directions


def all_signs(shape: tuple[int, ...], nodes: int) -> tuple[Array, Array]:
    signs = np.array(list(product([-1.0, 1.0], repeat=math.prod(shape)))).reshape(-1, *shape)
    return signs, np.full(len(signs), 1 / len(signs))


def hermite(shape: tuple[int, ...], nodes: int) -> tuple[Array, Array]:
    """A Gauss rule for standard normal numbers."""
    points, weight = np.polynomial.hermite_e.hermegauss(nodes)
    size = math.prod(shape)
    directions = np.array(list(product(points, repeat=size))).reshape(-1, *shape)
    return directions, np.prod(list(product(weight / weight.sum(), repeat=size)), axis=1)


CASES: dict[str, tuple[Callable[..., Estimator], str, Callable[[tuple[int, ...], int], tuple[Array, Array]]]] = {
    "spsa": (lambda radius, draws=2: spsa(draws, radius), "random_signs", all_signs),
    "es": (lambda radius, draws=2: evolution_strategies(draws, radius), "gaussian", hermite),
}
LOGITS = {
    "1 decision": np.array([0.8]),
    "2 decisions": np.array([0.8, -0.5]),
    "3 classes": np.array([[0.4, -0.3, 1.0]]),
    "2 items of 2 classes": np.array([[0.4, -0.3], [-0.2, 0.5]]),
}
NODES = {"1 decision": 40, "2 decisions": 20, "3 classes": 9, "2 items of 2 classes": 5}


def intervals(z: Array, direction: Array, radius: float) -> tuple[Array, Array]:
    """Points ``points items`` between the numbers where a decision changes on either side, and their weights.

    Classes are drawn by their cumulative probabilities, and 1 before 0 of yes or no.
    """
    middles, lengths = [], []
    sides = [probabilities(z + s * radius * direction + 0j).real for s in (1, -1)]
    for item in range(len(z)):
        cuts = [np.cumsum(p[item] if z.ndim == 2 else p[item, ::-1])[:-1] for p in sides]
        ends = np.sort(np.concatenate([[0.0, 1.0], *cuts]))
        middles.append((ends[1:] + ends[:-1]) / 2)
        lengths.append(np.diff(ends))
    return np.array(list(product(*middles))), np.prod(list(product(*lengths)), axis=1)


def expectation(name: str, z: Array, radius: float, nodes: int, patch: pytest.MonkeyPatch) -> tuple[float, Array]:
    make, noise_name, rule = CASES[name]
    directions, at_direction = rule(z.shape, nodes)
    parts = [intervals(z, e, radius) for e in directions]
    direction = torch.tensor(np.repeat(directions, [len(w) for _, w in parts], axis=0))
    uniform = torch.tensor(np.concatenate([u for u, _ in parts]))
    weight = torch.tensor(np.concatenate([w * a for (_, w), a in zip(parts, at_direction, strict=True)]))

    def noise(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
        assert shape == (1, *direction.shape)
        return direction[None]

    class Fixed(Bernoulli if z.ndim == 1 else Categorical):
        def uniform(self, draws: int, *, generator: torch.Generator | None = None) -> Tensor:
            assert draws == 1
            return uniform[None]

    patch.setattr(perturbation, noise_name, noise)
    leaf = torch.tensor(z).expand(len(weight), *z.shape).clone().requires_grad_()
    value = make(radius)(Fixed(leaf), score)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return (weight @ value.detach()).item(), torch.tensordot(weight, gradient, 1).numpy()


@pytest.mark.parametrize("radius", [0.5, 0.05, 2.0])
@pytest.mark.parametrize("at", LOGITS)
@pytest.mark.parametrize("name", CASES)
def test_a_central_difference_of_the_expected_reward(
    name: str, at: str, radius: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    z, nodes = LOGITS[at], NODES[at]
    value, found = expectation(name, z, radius, nodes, monkeypatch)
    right = central(z, *CASES[name][2](z.shape, nodes), radius)
    assert value == pytest.approx(right[0], abs=TOLERANCE)
    np.testing.assert_allclose(found, right[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("at", ["1 decision", "2 decisions"])
def test_evolution_strategies_give_the_gradient_of_the_smoothed_reward(
    at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    z, sigma = LOGITS[at], 0.5
    value, found = expectation("es", z, sigma, 40 if at == "1 decision" else 20, monkeypatch)
    directions, weights = hermite(z.shape, 60 if at == "1 decision" else 30)
    smooth = [(expected(z + sigma * e + 0j).real, gradient_of(z + sigma * e)) for e in directions]
    assert value == pytest.approx(sum(w * r for w, (r, _) in zip(weights, smooth, strict=True)), abs=1e-8)
    right = np.sum([w * slope for w, (_, slope) in zip(weights, smooth, strict=True)], axis=0)
    np.testing.assert_allclose(found, right, rtol=0, atol=1e-8)


@pytest.mark.parametrize("at", LOGITS)
@pytest.mark.parametrize("name", CASES)
def test_the_bias_falls_as_the_radius_squared(name: str, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    z = LOGITS[at]
    right = gradient_of(z)
    bias = [expectation(name, z, radius, 5, monkeypatch)[1] - right for radius in (0.2, 0.1, 0.05)]
    sizes = [float(np.linalg.norm(b)) for b in bias]
    print(f"{name}, {at}: bias " + ", ".join(f"{size:.2e}" for size in sizes))
    assert sizes[0] > 1e-5
    assert sizes[0] / sizes[1] == pytest.approx(4.0, abs=0.25)
    assert sizes[1] / sizes[2] == pytest.approx(4.0, abs=0.1)
    np.testing.assert_allclose(bias[1] / 0.1**2, bias[2] / 0.05**2, rtol=0.1, atol=0.1 * sizes[2] / 0.05**2)


MAKERS: dict[str, Callable[..., Estimator]] = {"spsa": spsa, "es": evolution_strategies}


@pytest.mark.parametrize("kind", [Bernoulli, Categorical])
@pytest.mark.parametrize("name", MAKERS)
def test_both_sides_share_their_noise(name: str, kind: type[Policy], generator: torch.Generator) -> None:
    """A tiny step changes no decision, hence shows no difference: of other noise it would show a huge one."""
    logits = torch.zeros(3, 4, 5, dtype=DOUBLE, requires_grad=True)
    policy = kind(logits) if kind is Categorical else kind(logits.flatten(1))
    MAKERS[name](100, 1e-12)(policy, score, generator=generator).sum().backward()
    assert not logits.grad.any()


@pytest.mark.parametrize("name", CASES)
def test_the_mean_over_pairs(name: str, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    make, noise_name, _ = CASES[name]
    direction = torch.randn(3, 2, 4, generator=generator, dtype=DOUBLE)
    uniform = torch.rand(3, 2, 4, generator=generator, dtype=DOUBLE)

    def estimate(pairs: list[int]) -> Tensor:
        class Fixed(Bernoulli):
            def uniform(self, draws: int, *, generator: torch.Generator | None = None) -> Tensor:
                return uniform[pairs]

        monkeypatch.setattr(perturbation, noise_name, lambda shape, like, generator: direction[pairs])
        logits = torch.linspace(-1, 1, 8, dtype=DOUBLE).reshape(2, 4).requires_grad_()
        rewards: list[Tensor] = []

        def seen(decision: Tensor) -> Tensor:
            rewards.append(score(decision))
            return rewards[-1]

        value = make(0.5, 2 * len(pairs))(Fixed(logits), seen)
        assert len(rewards[0]) == 2 * len(pairs)
        torch.testing.assert_close(value, rewards[0].mean(0))  # of both sides
        return torch.cat([value.detach()[:, None], torch.autograd.grad(value.sum(), logits)[0]], 1)

    torch.testing.assert_close(estimate([0, 1, 2]), torch.stack([estimate([pair]) for pair in range(3)]).mean(0))


def test_directions(generator: torch.Generator) -> None:
    """Signs are +-1, alike probable and independent; Gaussians have mean 0 and variance 1. 5.5 standard errors each."""
    like = torch.zeros((), dtype=DOUBLE)
    shape, count = (20_000, 3), 60_000
    signs = perturbation.random_signs(shape, like, generator)
    normal = perturbation.gaussian(shape, like, generator)
    assert signs.abs().eq(1).all()
    for noise in (signs, normal):
        assert noise.dtype == DOUBLE
        assert noise.mean().abs() < 5.5 / math.sqrt(count)
        assert (noise[:, 0] * noise[:, 1]).mean().abs() < 5.5 / math.sqrt(len(noise))
    assert (normal.square().mean() - 1).abs() < 5.5 * math.sqrt(2 / count)
    assert perturbation.random_signs((4,), torch.zeros(()), None).dtype == torch.float32


@pytest.mark.parametrize("name", MAKERS)
def test_the_real_noise_gives_the_central_difference(name: str, generator: torch.Generator) -> None:
    """Every row is an estimate: their mean is within 5 standard errors, in 2 coordinates (once in a million)."""
    z = LOGITS["2 decisions"]
    rows = 40_000
    leaf = torch.tensor(z).expand(rows, 2).clone().requires_grad_()
    value = MAKERS[name](2, 0.5)(Bernoulli(leaf), score, generator=generator)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    _, right = central(z, *CASES[name][2](z.shape, 20), 0.5)
    error = gradient.mean(0) - torch.tensor(right)
    assert (error.abs() < 5 * gradient.std(0) / math.sqrt(rows)).all()


# Errors


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("size", [0.0, -0.5, math.inf, -math.inf, math.nan])
def test_a_radius_is_above_zero(size: float) -> None:
    with pytest.raises(ValueError, match=r"^needed a radius above 0, got "):
        spsa(radius=size)
    with pytest.raises(ValueError, match=r"^needed a sigma above 0, got "):
        evolution_strategies(sigma=size)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", MAKERS)
def test_draws_come_in_pairs(name: str) -> None:
    for draws in (0, 1, 3, -2):
        with pytest.raises(ValueError, match=f"^needed an even number of draws, at least 2, got {draws}"):
            MAKERS[name](draws)
    for wrong in (2.0, True, "2"):
        with pytest.raises(TypeError, match=r"^needed a whole number of draws, got "):
            MAKERS[name](wrong)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", MAKERS)
def test_rewards(name: str) -> None:
    policy = Bernoulli(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"^needed finite rewards, got nan"):
        MAKERS[name]()(policy, lambda d: d.sum(-1) * math.nan)
    with pytest.raises(ValueError, match=r"^needed rewards of shape \(2, 2\)"):
        MAKERS[name]()(policy, lambda d: d.double())
    with pytest.raises(ValueError, match="nothing is broadcast"):
        MAKERS[name]()(policy, Scorer(f1, torch.ones(3)))


# Numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (3,), (2, 2, 3), (2, 0)])
@pytest.mark.parametrize("name", MAKERS)
def test_shapes_and_dtypes(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    logits = torch.zeros(shape, dtype=dtype, requires_grad=True)
    opaque = Scorer(OpaqueMetric(lambda d, t: float(d.sum() > 1)), torch.ones(shape))
    for judged in (Scorer(f1, torch.ones(shape)), opaque):
        value = MAKERS[name](4)(Bernoulli(logits), judged)
        assert value.shape == shape[:-1]
        assert value.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
        value.sum().backward()
        assert logits.grad.dtype == dtype
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("kind", [Bernoulli, Categorical])
@pytest.mark.parametrize("name", MAKERS)
def test_a_generator_determines_the_estimate(name: str, kind: type[Policy]) -> None:
    before = torch.get_rng_state()
    gradients: list[Tensor] = []
    for seed in (5, 5, 6):
        logits = torch.zeros(3, 5, 4, requires_grad=True)
        policy = kind(logits) if kind is Categorical else kind(logits.flatten(1))
        value = MAKERS[name]()(policy, score, generator=torch.Generator().manual_seed(seed))
        gradients += torch.autograd.grad(value.sum(), logits)
    assert torch.equal(gradients[0], gradients[1])
    assert not torch.equal(gradients[1], gradients[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [50.0, 1e4, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MAKERS)
def test_sure_decisions_have_no_gradient(
    name: str, dtype: torch.dtype, size: float, generator: torch.Generator
) -> None:
    yes = torch.tensor([size, -size], dtype=dtype, requires_grad=True)
    of = torch.tensor([[0.0, -size, -size]], dtype=dtype, requires_grad=True)
    MAKERS[name](20)(Bernoulli(yes), score, generator=generator).backward()
    MAKERS[name](20)(Categorical(of), score, generator=generator).backward()
    assert not yes.grad.any()
    assert not of.grad.any()


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_masked_is_not_moved(name: str, generator: torch.Generator) -> None:
    logits = torch.tensor([[0.0, -math.inf, 0.5], [1.0, 0.0, -math.inf]], requires_grad=True)
    MAKERS[name](200)(Categorical(logits), score, generator=generator).backward()
    moved = logits.grad.tolist()
    assert moved[0][1] == moved[1][2] == 0
    assert all(math.isfinite(x) for row in moved for x in row)
    assert sum(x != 0 for row in moved for x in row) == 4


@pytest.mark.parametrize("name", MAKERS)
def test_downstream_under_autocast(name: str) -> None:
    encoder, decoder = nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 1), nn.Flatten(-2))
    weights = [*encoder.parameters(), *decoder.parameters()]
    with torch.no_grad():
        for weight in weights:
            weight.copy_(torch.cos(torch.arange(weight.numel()) * 1.7).reshape(weight.shape))
    judged: Score = Downstream(lambda b: -decoder(b).square())
    results = []
    for enabled in (False, True):
        generator = torch.Generator().manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = encoder(torch.tensor([[0.5, -1.0], [1.0, 0.25]]))
            value = MAKERS[name](8)(Bernoulli(logits), judged, generator=generator)
        assert value.dtype == torch.float32
        results.append(torch.autograd.grad(value.sum(), weights))
    torch.testing.assert_close(results[1], results[0], rtol=0.1, atol=0.05)
    assert any(gradient.any() for gradient in results[0][2:])
