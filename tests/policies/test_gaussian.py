"""Real-valued decisions: against scipy and torch.distributions, and at the ends of the number line."""

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor, nn

import rlgrad
from rlgrad.estimators import importance_weighted
from rlgrad.policies import Bernoulli, Gaussian, kind_of, kl_divergence

Z = torch.tensor([[[0.0, 0.0], [3.0, -1.0]], [[-2.5, 0.7], [0.1, 1.5]], [[7.0, -3.0], [1e3, 2.0]]]).double()
NORMAL = stats.norm(Z[..., 0].numpy(), Z[..., 1].exp().numpy())


def value_and_gradient(function: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().clone().requires_grad_()
    value = function(leaf)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def normal_law(logits: Tensor) -> torch.distributions.Normal:
    return torch.distributions.Normal(logits[..., 0], logits[..., 1].exp())


# A second implementation


def test_it_agrees_with_scipy() -> None:
    decision = Gaussian(Z).sample(6, generator=torch.Generator().manual_seed(0))
    for found, expected in (
        (Gaussian(Z).log_prob(decision), NORMAL.logpdf(decision.numpy())),
        (Gaussian(Z).entropy(), NORMAL.entropy()),
        (Gaussian(Z).mode, NORMAL.mean()),
        (Gaussian(Z).std, NORMAL.std()),
    ):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("p", "q"), [((0.3, -0.2), (1.0, 0.4)), ((0.0, 1.0), (0.0, 0.0)), ((2.0, 0.5), (2.0, 0.5))])
def test_the_divergence_is_the_integral(p: tuple[float, float], q: tuple[float, float]) -> None:
    one, other = (stats.norm(mean, math.exp(log_std)) for mean, log_std in (p, q))
    expected, _ = integrate.quad(
        lambda x: one.pdf(x) * (one.logpdf(x) - other.logpdf(x)), one.ppf(1e-15), one.isf(1e-15), epsabs=1e-12
    )
    found = kl_divergence(*(Gaussian(torch.tensor([each], dtype=torch.float64)) for each in (p, q)))
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_gradients_agree_with_torch_distributions() -> None:
    decision, other = Gaussian(Z).sample(4, generator=torch.Generator().manual_seed(0)), Z.roll(1, 0)
    for ours, theirs in (
        (lambda z: Gaussian(z).log_prob(decision), lambda z: normal_law(z).log_prob(decision)),
        (lambda z: Gaussian(z).entropy(), lambda z: normal_law(z).entropy()),
        (
            lambda z: kl_divergence(Gaussian(z), Gaussian(other)),
            lambda z: torch.distributions.kl_divergence(normal_law(z), normal_law(other)),
        ),
        (
            lambda z: kl_divergence(Gaussian(other), Gaussian(z)),
            lambda z: torch.distributions.kl_divergence(normal_law(other), normal_law(z)),
        ),
    ):
        torch.testing.assert_close(value_and_gradient(ours, Z), value_and_gradient(theirs, Z), rtol=1e-10, atol=1e-10)


def test_near_policies_diverge_by_a_small_number_above_zero() -> None:
    """The difference of logs and of squares written out has no digit left here."""
    one, other = (Gaussian(torch.tensor([[0.5, log_std]])) for log_std in (1.0, 1.0001))
    assert kl_divergence(one, other).item() == pytest.approx(1e-8, rel=1e-2)  # (difference of logs)^2


def test_the_surprise_is_the_derivative_of_the_log_density() -> None:
    logits = torch.cat([Z, torch.tensor([[[0.0, 20.5], [0.0, -21.0]]]).double()])
    decision = Gaussian(logits).sample(3, generator=torch.Generator().manual_seed(0))
    leaf = logits.expand(3, -1, -1, -1).clone().requires_grad_()
    (expected,) = torch.autograd.grad(Gaussian(leaf).log_prob(decision).sum(), leaf)
    torch.testing.assert_close(Gaussian(logits).surprise(decision), expected)


@pytest.mark.parametrize("per_item", [False, True])
def test_log_likelihood_is_the_weighted_sum(per_item: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    decision = Gaussian(Z).sample(5, generator=generator)
    weight = torch.randn(5, 3, 2, generator=generator, dtype=torch.float64)
    weight = weight if per_item else weight[..., 0]
    each = NORMAL.logpdf(decision.numpy()) * (weight if per_item else weight[..., None]).numpy()
    found = Gaussian(Z).log_likelihood(decision, weight).numpy()
    np.testing.assert_allclose(found, each.sum((0, -1)), rtol=1e-12)


# Sampling


def test_decisions_are_the_quantiles_of_their_noise() -> None:
    uniform = torch.cat([torch.tensor([5.6e-17, 1e-12, 1 - 1e-12, 1 - 2**-53]).double(), torch.linspace(0.01, 0.99, 9)])
    noise = uniform.double()[:, None, None].expand(-1, 3, 2)
    np.testing.assert_allclose(Gaussian(Z).decide(noise).numpy(), NORMAL.ppf(noise.numpy()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_follow_the_law(dtype: torch.dtype, generator: torch.Generator) -> None:
    draws = Gaussian(Z.to(dtype)).sample(20_000, generator=generator).double().numpy()
    uniform = NORMAL.cdf(draws)
    for row, item in product(range(3), range(2)):  # missed once in 3e7 each
        assert stats.kstest(uniform[:, row, item], "uniform").statistic < 3 / math.sqrt(20_000)
    correlation = np.corrcoef(uniform.reshape(20_000, 6).T) - np.eye(6)
    assert np.abs(correlation).max() < 6 / math.sqrt(20_000)


@pytest.mark.parametrize("end", [0.0, 1 - 2**-53])
def test_the_ends_of_the_noise_are_eight_standard_deviations_out(end: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, *, dtype, **_: torch.full(shape, end, dtype=dtype))
    (draw,) = Gaussian(torch.zeros(1, 2)).sample(1).flatten().tolist()
    assert draw == pytest.approx(math.copysign(8.2, end - 0.5), abs=0.1)


# Precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    policy = Gaussian(torch.zeros(100_000, 2, dtype=dtype))
    decision = policy.sample(1, generator=torch.Generator().manual_seed(0))
    assert decision.dtype == policy.mode.dtype == policy.log_prob(decision).dtype == policy.entropy().dtype == kept
    expected = stats.norm.logpdf(decision.double().numpy()).sum()  # in float16 itself -inf
    assert policy.log_likelihood(decision, torch.ones(1, dtype=kept)).item() == pytest.approx(expected, rel=1e-5)


def test_autocast() -> None:
    layer = nn.Linear(4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        policy = Gaussian(layer(torch.randn(5, 4, generator=torch.Generator().manual_seed(0))).unflatten(-1, (3, 2)))
        decision = policy.sample(8, generator=torch.Generator().manual_seed(0))
        likelihood = policy.log_likelihood(decision, torch.full((8, 5), 1 / 8))
    assert likelihood.dtype == torch.float32
    likelihood.sum().backward()
    assert torch.isfinite(layer.weight.grad).all()


def test_a_decision_of_another_precision_is_taken_in_that_of_the_policy() -> None:
    policy = Gaussian(Z.float())
    decision = policy.sample(2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(policy.log_prob(decision.double()), policy.log_prob(decision))


# The ends of the number line

ENDS = torch.tensor([[0.0, 1e4], [0.0, -1e4], [1e30, -1e4], [-1e30, 1e4], [3e38, -20.0], [-3e38, 20.0]])


def test_nothing_overflows_at_the_ends() -> None:
    policy = Gaussian(ENDS)
    decision = policy.sample(50, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(decision).all()
    for far in (decision, decision.roll(1, -1), torch.zeros_like(decision)):
        for function in (
            lambda z, d=far: Gaussian(z).log_prob(d),
            lambda z, d=far: Gaussian(z).log_likelihood(d, torch.ones(50) / 50),
            lambda z: Gaussian(z).entropy(),
            lambda z: kl_divergence(Gaussian(z), Gaussian(ENDS.roll(1, 0))),
            lambda z: kl_divergence(Gaussian(ENDS.roll(1, 0)), Gaussian(z)),
        ):
            value, gradient = value_and_gradient(function, ENDS)
            assert torch.isfinite(value).all()
            assert torch.isfinite(gradient).all()
            assert (gradient[:4, 1] == 0).all()  # a log of the standard deviation out of its bounds
        assert torch.isfinite(policy.surprise(far)).all()


def test_remembered_draws_that_have_become_impossible_have_weight_zero() -> None:
    score = lambda x: x.sum(-1)  # noqa: E731
    again = importance_weighted.draw(Gaussian(torch.tensor([[1e30, -20.0]])), score, draws=4)
    leaf = torch.tensor([[-1e30, -20.0]], requires_grad=True)
    again(Gaussian(leaf), score).backward()
    assert torch.isfinite(leaf.grad).all()


# Others of its kind


def test_its_kind_makes_another_from_its_logits() -> None:
    class Mine(Gaussian):
        pass

    assert kind_of(Mine(Z)) is kind_of(Gaussian(Z)) is rlgrad.Gaussian is Gaussian
    assert torch.equal(kind_of(Mine(Z))(Mine(Z).logits).mode, Gaussian(Z).mode)
    assert Gaussian.axes == (-2, -1)


# Bad input


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        (torch.zeros(2), ValueError, r"^needed logits of shape \(\*batch items 2\), got \(2,\) float32; stack mean"),
        (torch.zeros(3, 1), ValueError, r"^needed logits of shape \(\*batch items 2\), got \(3, 1\) float32"),
        (torch.zeros(2, 3), ValueError, r"^needed logits of shape \(\*batch items 2\), got \(2, 3\) float32"),
        (torch.zeros(3, 2).long(), TypeError, r"^needed floating-point logits, got \(3, 2\) int64"),
        (
            torch.tensor([[0.0, 0.0], [1.0, math.nan]]),
            ValueError,
            r"^needed logits without NaN, got 1 of 4, the first at \(1, 1\)",
        ),
        (torch.tensor([[0.0, 0.0], [math.inf, 0.0]]), ValueError, r"^needed finite logits, got inf at \(1, 0\)"),
        (torch.tensor([[0.0, -math.inf]]), ValueError, r"^needed finite logits, got -inf at \(0, 1\)"),
    ],
)
def test_logits_are_two_finite_numbers_an_item(logits: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Gaussian(logits)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("decision", "error", "message"),
    [
        (torch.zeros(4, 2).bool(), TypeError, r"^needed floating-point decisions, got \(4, 2\) bool; pass what the"),
        (torch.zeros(4, 2).long(), TypeError, r"^needed floating-point decisions, got \(4, 2\) int64"),
        (torch.tensor([[0.0, math.nan]]), ValueError, r"^needed finite decisions, got nan at \(0, 1\)"),
        (torch.tensor([[math.inf, 0.0]]), ValueError, r"^needed finite decisions, got inf at \(0, 0\)"),
    ],
)
def test_a_decision_is_a_finite_number(decision: Tensor, error: type[Exception], message: str) -> None:
    policy = Gaussian(torch.zeros(2, 2))
    for method in (policy.log_prob, policy.surprise, lambda d: policy.log_likelihood(d, torch.ones(len(d)))):
        with pytest.raises(error, match=message):
            method(decision)


def test_a_yes_or_no_is_no_number() -> None:
    with pytest.raises(TypeError, match=r"^needed two policies of one kind, got Bernoulli and Gaussian"):
        kl_divergence(Bernoulli(torch.zeros(3)), Gaussian(torch.zeros(3, 2)))
