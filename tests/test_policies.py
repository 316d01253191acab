"""Distributions over decisions, against torch.distributions and at the ends of the number line."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rlgrad import policies
from rlgrad.policies import Bernoulli, Categorical, Gaussian, Policy, kl_divergence

INF = math.inf


def normal(*shape: int, seed: int = 0, scale: float = 2.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def bernoulli(logits: Tensor) -> torch.distributions.Bernoulli:
    return torch.distributions.Bernoulli(logits=logits)


def categorical(logits: Tensor) -> torch.distributions.Categorical:
    return torch.distributions.Categorical(logits=logits)


def value_and_gradient(function: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().clone().requires_grad_()
    value = function(leaf)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def assert_same(ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], logits: Tensor) -> None:
    """Two functions of the logits agree in value and gradient."""
    actual, expected = value_and_gradient(ours, logits), value_and_gradient(theirs, logits)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


# A second implementation


def test_bernoulli_agrees_with_torch_distributions() -> None:
    logits, other, decision = normal(3, 7), normal(3, 7, seed=1), normal(4, 3, 7, seed=2) > 0
    assert_same(lambda z: Bernoulli(z).probs, lambda z: bernoulli(z).probs, logits)
    assert_same(lambda z: Bernoulli(z).log_prob(decision), lambda z: bernoulli(z).log_prob(decision.double()), logits)
    assert_same(lambda z: Bernoulli(z).entropy(), lambda z: bernoulli(z).entropy(), logits)
    assert torch.equal(Bernoulli(logits).mode, bernoulli(logits).mode.bool())
    for ours, theirs in (  # as a function of the policy, and of the reference
        (
            lambda z: kl_divergence(Bernoulli(z), Bernoulli(other)),
            lambda z: torch.distributions.kl_divergence(bernoulli(z), bernoulli(other)),
        ),
        (
            lambda z: kl_divergence(Bernoulli(other), Bernoulli(z)),
            lambda z: torch.distributions.kl_divergence(bernoulli(other), bernoulli(z)),
        ),
    ):
        assert_same(ours, theirs, logits)


def test_categorical_agrees_with_torch_distributions() -> None:
    logits, other = normal(3, 7, 5), normal(3, 7, 5, seed=1)
    decision = torch.randint(5, (4, 3, 7), generator=torch.Generator().manual_seed(2))
    assert_same(lambda z: Categorical(z).probs, lambda z: categorical(z).probs, logits)
    assert_same(lambda z: Categorical(z).log_prob(decision), lambda z: categorical(z).log_prob(decision), logits)
    assert_same(lambda z: Categorical(z).entropy(), lambda z: categorical(z).entropy(), logits)
    assert torch.equal(Categorical(logits).mode, categorical(logits).mode)
    for ours, theirs in (
        (
            lambda z: kl_divergence(Categorical(z), Categorical(other)),
            lambda z: torch.distributions.kl_divergence(categorical(z), categorical(other)),
        ),
        (
            lambda z: kl_divergence(Categorical(other), Categorical(z)),
            lambda z: torch.distributions.kl_divergence(categorical(other), categorical(z)),
        ),
    ):
        assert_same(ours, theirs, logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_two_classes_are_a_yes_or_no(dtype: torch.dtype) -> None:
    z = normal(3, 7).to(dtype)
    two, one = Categorical(torch.stack([torch.zeros_like(z), z], -1)), Bernoulli(z)
    assert one.probs.dtype == two.probs.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(two.probs[..., 1], one.probs)
    torch.testing.assert_close(two.entropy(), one.entropy())
    torch.testing.assert_close(two.log_prob(one.mode.long()), one.log_prob(one.mode))
    assert torch.equal(two.mode.bool(), one.mode)


def test_a_tie_is_decided_for_the_lower() -> None:
    assert Bernoulli(torch.zeros(1)).mode.tolist() == [False]
    assert Categorical(torch.zeros(1, 3)).mode.tolist() == [0]


# The ends of the number line

EXTREME = [-1e30, -1e4, -1000.0, -100.0, -20.0, 0.0, 20.0, 100.0, 1000.0, 1e4, 1e30]


@pytest.mark.parametrize("decide", [False, True])
def test_log_prob_of_extreme_logits_is_finite_with_gradient_b_minus_p(decide: bool) -> None:
    logits = torch.tensor(EXTREME)
    decision = torch.full_like(logits, decide, dtype=torch.bool)
    value, gradient = value_and_gradient(lambda z: Bernoulli(z).log_prob(decision), logits)
    against = (1 - 2 * decision.double()) * logits  # -log(1 + exp(x)), for one x as for the other
    torch.testing.assert_close(value.double(), -nn.functional.softplus(against), rtol=1e-6, atol=1e-40)
    torch.testing.assert_close(gradient, decision.float() - torch.sigmoid(logits))


def test_categorical_log_prob_of_extreme_logits_is_finite_with_gradient_b_minus_p() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e30, 0.0, -1e30]])
    for chosen in range(3):
        decision = torch.full((3,), chosen)
        value, gradient = value_and_gradient(lambda z, d=decision: Categorical(z).log_prob(d), logits)
        assert torch.isfinite(value).all()
        torch.testing.assert_close(gradient, nn.functional.one_hot(decision, 3) - torch.softmax(logits, -1))


@pytest.mark.parametrize("logits", [torch.tensor(EXTREME), torch.tensor([[1e4, -1e4], [1e30, -1e30], [0.0, 1e4]])])
def test_entropy_of_extreme_logits_is_finite(logits: Tensor) -> None:
    policy = Bernoulli if logits.ndim == 1 else Categorical
    for part in value_and_gradient(lambda z: policy(z).entropy(), logits):
        assert torch.isfinite(part).all()


def test_an_infinite_logit_is_a_sure_decision() -> None:
    logits = torch.tensor([INF, -INF])
    sure, impossible = torch.tensor([True, False]), torch.tensor([False, True])
    value, gradient = value_and_gradient(lambda z: Bernoulli(z).log_prob(sure), logits)
    assert value.tolist() == [0.0, 0.0]
    assert gradient.tolist() == [0.0, 0.0]
    value, gradient = value_and_gradient(lambda z: Bernoulli(z).log_prob(impossible), logits)
    assert torch.isfinite(value).all()
    assert (value < -1e29).all()
    assert torch.isfinite(gradient).all()
    assert Bernoulli(logits).entropy().tolist() == [0.0, 0.0]


def test_a_masked_class_is_never_drawn_and_has_no_gradient(generator: torch.Generator) -> None:
    logits = torch.tensor([[-INF, 1.0, -INF, 2.0, -INF], [0.0, -INF, -INF, -INF, -INF]])
    policy = Categorical(logits)
    assert policy.probs.isfinite().all()
    draws = policy.sample(2000, generator=generator)
    assert draws[:, 0].unique().tolist() == [1, 3]
    assert draws[:, 1].unique().tolist() == [0]
    weight = normal(2000, 2, dtype=torch.float32)
    for function in (
        lambda z: Categorical(z).log_prob(draws),
        lambda z: Categorical(z).log_likelihood(draws, weight),
        lambda z: Categorical(z).entropy(),
        lambda z: kl_divergence(Categorical(z), Categorical(logits + 1)),
    ):
        value, gradient = value_and_gradient(function, logits)
        assert torch.isfinite(value).all()
        assert torch.isfinite(gradient).all()
        assert (gradient[torch.isinf(logits)] == 0).all()


def test_entropy_and_divergence_leave_masked_classes_out() -> None:
    logits, other = normal(4, 3), normal(4, 3, seed=1)
    masked = nn.functional.pad(logits, (0, 2), value=-INF)
    torch.testing.assert_close(Categorical(masked).entropy(), Categorical(logits).entropy())
    divergence = kl_divergence(Categorical(masked), Categorical(nn.functional.pad(other, (0, 2), value=-INF)))
    torch.testing.assert_close(divergence, kl_divergence(Categorical(logits), Categorical(other)))


@pytest.mark.parametrize("policy", [Bernoulli, Categorical])
def test_autocast_and_bfloat16_logits(policy: type[Policy]) -> None:
    layer = nn.Linear(4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = layer(normal(5, 4, scale=1e3, dtype=torch.float32))
        assert logits.dtype == torch.bfloat16
        logits.retain_grad()
        made = policy(logits)
        decision = made.sample(8, generator=torch.Generator().manual_seed(0))
        log_prob = made.log_prob(decision)
        likelihood = made.log_likelihood(decision, torch.full(decision.shape[:-1], 1 / 8))
    assert log_prob.dtype == likelihood.dtype == torch.float32
    torch.testing.assert_close(likelihood, log_prob.sum(-1).mean(0))
    likelihood.sum().backward()
    chosen = decision if policy is Bernoulli else nn.functional.one_hot(decision, 6)
    torch.testing.assert_close(logits.grad.float(), (chosen.float().mean(0) - made.probs.detach()), atol=4e-3, rtol=0)
    assert torch.isfinite(layer.weight.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_log_likelihood_of_a_hundred_thousand_halves(dtype: torch.dtype) -> None:
    expected = 100_000 * math.log(0.5)  # in float16 itself -inf, in bfloat16 -69 120
    yes_no = Bernoulli(torch.zeros(100_000, dtype=dtype))
    decision = yes_no.sample(1, generator=torch.Generator().manual_seed(0))
    assert yes_no.log_likelihood(decision, torch.ones(1)).item() == pytest.approx(expected, rel=1e-5)
    assert yes_no.log_prob(decision).sum().item() == pytest.approx(expected, rel=1e-5)
    choices = Categorical(torch.zeros(100_000, 2, dtype=dtype))
    assert choices.log_likelihood(decision.long(), torch.ones(1)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("as_a_user")
def test_nan_logits_are_named_by_index() -> None:
    logits = torch.zeros(2, 3)
    logits[1, 2] = math.nan
    logits[0, 0], logits[0, 1] = INF, -INF
    for policy in (Bernoulli, Categorical):
        with pytest.raises(ValueError, match=r"^needed logits without NaN, got 1 of 6, the first at \(1, 2\)"):
            policy(logits)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("row", [[0.0, INF], [-INF, -INF], [INF, -INF]])
def test_categorical_needs_a_class_and_no_sure_one(row: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^needed logits below \+inf and a class that is not masked .* at \(1,\)"):
        Categorical(torch.tensor([[0.0, 0.0], row]))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("policy", "logits", "error", "message"),
    [
        (
            Bernoulli,
            torch.ones(3, dtype=torch.long),
            TypeError,
            "needed floating-point logits, got (3,) int64",
        ),
        (
            Bernoulli,
            torch.ones(3, dtype=torch.bool),
            TypeError,
            "needed floating-point logits, got (3,) bool",
        ),
        (Bernoulli, torch.tensor(0.0), ValueError, "needed logits of shape (*batch items), got () float32"),
        (
            Categorical,
            torch.ones(3),
            ValueError,
            "needed logits of shape (*batch items classes), got (3,) float32",
        ),
    ],
)
def test_logits_are_floating_point_with_their_axes(policy, logits, error, message: str) -> None:
    with pytest.raises(error) as caught:
        policy(logits)
    assert str(caught.value).startswith(message)


# Sampling


def assert_frequencies(counts: Tensor, probs: Tensor, draws: int) -> None:
    """Each frequency lies within six standard errors (missed once in 5e8): exact where p is 0 or 1."""
    error = (counts / draws - probs).abs()
    assert (error <= 6 * torch.sqrt(probs * (1 - probs) / draws)).all(), error


def test_bernoulli_frequencies(generator: torch.Generator) -> None:
    policy = Bernoulli(torch.tensor([[-INF, -100.0, -5.0, -1.0], [0.0, 0.5, 3.0, INF]], dtype=torch.float64))
    counts = policy.sample(50_000, generator=generator).double().sum(0)
    assert_frequencies(counts, policy.probs, 50_000)


def test_categorical_frequencies(generator: torch.Generator) -> None:
    logits = torch.tensor([[-INF, 0.0, 1.0, -1.0], [2.0, -3.0, 0.0, -INF], [0.0, -200.0, -INF, -INF]]).double()
    policy = Categorical(logits)
    counts = nn.functional.one_hot(policy.sample(50_000, generator=generator), 4).double().sum(0)
    assert_frequencies(counts, policy.probs, 50_000)


@pytest.mark.parametrize("uniform", [0.0, math.nextafter(1.0, 0.0)])
def test_the_ends_of_the_uniform_draw_nothing_impossible(uniform: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, *, dtype, **_: torch.full(shape, uniform, dtype=dtype))
    assert Bernoulli(torch.tensor([-INF, INF], dtype=torch.float64)).sample(1).tolist() == [[False, True]]
    masked = torch.tensor([[-INF, 0.1, 0.2, 0.3, -INF], [-INF, -INF, -INF, 0.0, -INF]])
    assert Categorical(masked).sample(1).tolist() == [[1 if uniform == 0 else 3, 3]]


POLICIES = [Bernoulli(normal(3, 5)), Categorical(normal(3, 5)), Gaussian(normal(3, 2))]
IDS = ["yes/no", "classes", "numbers"]


@pytest.mark.parametrize("policy", POLICIES, ids=IDS)
def test_a_sample_is_what_its_noise_decides(policy: Policy) -> None:
    noise = policy.uniform(20, generator=torch.Generator().manual_seed(7))
    sample = policy.sample(20, generator=torch.Generator().manual_seed(7))
    assert noise.shape == sample.shape == (20, 3, 5)[: 3 if isinstance(policy, Bernoulli) else 2]
    assert torch.equal(policy.decide(noise), sample)
    assert torch.equal(policy.decide(noise), policy.decide(noise))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_noise_has_the_precision_of_the_policy(dtype: torch.dtype) -> None:
    logits = normal(3, 5).to(dtype)
    assert Bernoulli(logits).uniform(2).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert Categorical(logits).uniform(2).dtype == torch.float64  # sums of many small probabilities


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_noise_and_its_mirror_image_lie_strictly_between_0_and_1(
    end: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(shape: tuple[int, ...], *, dtype: torch.dtype, **_: object) -> Tensor:
        steps = 2.0 ** (24 if dtype == torch.float32 else 53)  # rand gives multiples of one over this, below 1
        return torch.full(shape, 0.0 if end == 0 else 1 - 1 / steps, dtype=dtype)

    monkeypatch.setattr(torch, "rand", ends)
    for noise in (Bernoulli(torch.zeros(3, dtype=dtype)).uniform(2), Categorical(torch.zeros(3, 2)).uniform(2)):
        for each in (noise, 1 - noise):
            assert (each > 0).all()
            assert (each < 1).all()
            assert torch.isfinite(torch.logit(each)).all()


def test_decide_inverts_the_distribution() -> None:
    """Of noises at the middles of a thousand equal steps, as many make a decision as it has probability."""
    middles = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    yes_no = Bernoulli(torch.tensor([-INF, -2.0, 0.0, 0.7, INF], dtype=torch.float64))
    decision = yes_no.decide(middles[:, None].expand(1000, 5))
    torch.testing.assert_close(decision.double().mean(0), yes_no.probs, rtol=0, atol=1e-3)
    assert (decision.long().diff(dim=0) <= 0).all()  # yes where the noise is low
    classes = Categorical(torch.tensor([[-INF, 0.0, 1.0, -1.0], [2.0, -3.0, 0.0, -INF]], dtype=torch.float64))
    choice = classes.decide(middles[:, None].expand(1000, 2))
    frequency = nn.functional.one_hot(choice, 4).double().mean(0)
    torch.testing.assert_close(frequency, classes.probs, rtol=0, atol=1.5e-3)
    assert (choice.diff(dim=0) >= 0).all()  # class by class


def test_decide_has_its_edge_at_the_probability() -> None:
    p = 0.375
    policy = Bernoulli(torch.tensor([math.log(p / (1 - p))], dtype=torch.float64))
    around = torch.tensor([[p - 1e-9], [p + 1e-9]], dtype=torch.float64)
    assert policy.decide(around).tolist() == [[True], [False]]
    classes = Categorical(torch.tensor([[p, 0.5, 1 - p - 0.5]], dtype=torch.float64).log())
    edges = torch.tensor([[p - 1e-9], [p + 1e-9], [p + 0.5 - 1e-9], [p + 0.5 + 1e-9]], dtype=torch.float64)
    assert classes.decide(edges).tolist() == [[0], [1], [1], [2]]


def test_decisions_carry_no_gradient() -> None:
    for policy in (Bernoulli, Categorical, Gaussian):
        made = policy(normal(3, 2).requires_grad_())
        noise = made.uniform(2)
        assert not noise.requires_grad
        assert not made.decide(noise).requires_grad
        assert not made.mode.requires_grad
        assert not made.surprise(made.decide(noise)).requires_grad
        assert isinstance(made, Gaussian) or not made.encode(made.decide(noise)).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_decisions_encoded(dtype: torch.dtype) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    yes_no = Bernoulli(torch.zeros(2, dtype=dtype)).encode(torch.tensor([[True, False]]))
    assert yes_no.tolist() == [[1.0, 0.0]]
    classes = Categorical(torch.zeros(2, 3, dtype=dtype)).encode(torch.tensor([[2, 0]]))
    assert classes.tolist() == [[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]]
    assert yes_no.dtype == classes.dtype == wide


@pytest.mark.parametrize("policy", [Bernoulli, Categorical])
def test_the_mean_of_encoded_decisions_is_their_probability(policy: type[Policy], generator: torch.Generator) -> None:
    made = policy(normal(2, 3))
    counts = made.encode(made.sample(20_000, generator=generator)).sum(0)
    assert_frequencies(counts, made.probs, 20_000)


def test_decisions_are_independent(generator: torch.Generator) -> None:
    """Correlations of fair decisions between items, and between draws, lie within six standard errors."""
    for decision in (
        Bernoulli(torch.zeros(3, dtype=torch.float64)).sample(50_000, generator=generator),
        Categorical(torch.zeros(3, 2, dtype=torch.float64)).sample(50_000, generator=generator),
    ):
        sign = 2 * decision.double() - 1
        between = torch.stack([sign[:, 0] * sign[:, 1], sign[:, 1] * sign[:, 2], sign[:, 0] * sign[:, 0].roll(1)])
        assert (between.mean(-1).abs() < 6 / math.sqrt(50_000)).all()


@pytest.mark.parametrize("policy", POLICIES, ids=IDS)
def test_a_generator_determines_the_draws_and_the_global_one_is_left_alone(policy: Policy) -> None:
    before = torch.get_rng_state()
    first = policy.sample(20, generator=torch.Generator().manual_seed(7))
    again = policy.sample(20, generator=torch.Generator().manual_seed(7))
    other = policy.sample(20, generator=torch.Generator().manual_seed(8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("policy", POLICIES, ids=IDS)
def test_without_a_generator_the_global_one_is_drawn_from(policy: Policy) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first = policy.sample(20)
        torch.manual_seed(3)
        assert torch.equal(policy.sample(20), first)


def test_more_than_two_to_the_24th_classes(generator: torch.Generator) -> None:
    logits = torch.full((1, 2**24 + 2), -INF)
    logits[0, -1] = 0.0
    assert Categorical(logits).sample(3, generator=generator).tolist() == [[2**24 + 1]] * 3


@pytest.mark.parametrize(
    ("policy", "shape"),
    [(Bernoulli, (2, 0)), (Categorical, (2, 0, 3)), (Bernoulli, (0, 3)), (Gaussian, (2, 0, 2)), (Gaussian, (0, 3, 2))],
)
def test_no_items_at_all(policy: type[Policy], shape: tuple[int, ...], generator: torch.Generator) -> None:
    made = policy(torch.zeros(shape, requires_grad=True))
    decision = made.sample(4, generator=generator)
    assert decision.shape == (4, *shape[:2])
    likelihood = made.log_likelihood(decision, torch.ones(4, shape[0]))
    assert torch.equal(likelihood, torch.zeros(shape[0]))
    likelihood.sum().backward()


# The weighted sum that carries the gradient


def weighted_sum(policy: type[Policy], logits: Tensor, decision: Tensor, weight: Tensor) -> Tensor:
    """What `log_likelihood` means, written out."""
    log_prob = policy(logits).log_prob(decision)
    return (log_prob * (weight if weight.shape == decision.shape else weight[..., None])).sum((0, -1))


@pytest.mark.parametrize("per_item", [False, True])
@pytest.mark.parametrize("at_once", [1, 7, 12, 1 << 22])  # random numbers in a slice; a draw has six
@pytest.mark.parametrize("policy", [Bernoulli, Categorical])
def test_log_likelihood_is_the_weighted_sum(
    policy: type[Policy],
    at_once: int,
    per_item: bool,
    monkeypatch: pytest.MonkeyPatch,
    generator: torch.Generator,
) -> None:
    monkeypatch.setattr(policies.shared, "_SLICE", at_once)
    logits = normal(2, 3) if policy is Bernoulli else normal(2, 3, 4)
    decision = policy(logits).sample(5, generator=generator)
    weight = normal(*decision.shape, seed=1) if per_item else normal(*decision.shape[:-1], seed=1)
    assert_same(
        lambda z: policy(z).log_likelihood(decision, weight),
        lambda z: weighted_sum(policy, z, decision, weight),
        logits,
    )


@pytest.mark.parametrize(
    ("draws", "items", "sizes"), [(5, 3, [2, 2, 1]), (4, 3, [2, 2]), (2, 100, [1, 1]), (3, 0, [3])]
)
def test_slices_cover_every_draw_once(
    draws: int, items: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies.shared, "_SLICE", 7)
    parts = list(policies.slices(draws, items))
    assert [part.stop - part.start for part in parts] == sizes
    assert [draw for part in parts for draw in range(draws)[part]] == list(range(draws))


@pytest.mark.parametrize("policy", [Bernoulli, Categorical, Gaussian])
@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded", "channels last"])
def test_the_layout_in_memory_does_not_matter(policy: type[Policy], layout: str) -> None:
    logits = {
        "transposed": normal(4, 5, 3).permute(2, 1, 0),
        "strided": normal(3, 5, 8)[..., ::2],
        "expanded": normal(5, 4).expand(3, 5, 4),
        "channels last": normal(3, 5, 2, 2).to(memory_format=torch.channels_last).flatten(2),
    }[layout]
    logits = logits[..., :2] if policy is Gaussian else logits
    assert not logits.is_contiguous()
    results = []
    for z in (logits, logits.contiguous()):
        made = policy(z)
        decision = made.sample(6, generator=torch.Generator().manual_seed(0))
        weight = normal(*decision.shape, seed=1)
        likelihood = value_and_gradient(lambda z, d=decision, w=weight: policy(z).log_likelihood(d, w), z)
        results.append((decision, made.mode, made.log_prob(decision), made.entropy(), *likelihood))
    torch.testing.assert_close(*results, rtol=1e-14, atol=1e-14)


# Bad input


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("shape", [(4, 1), (4,), (1, 3), (3, 2), (5, 4, 3), ()])
def test_a_decision_is_not_broadcast(shape: tuple[int, ...]) -> None:
    for policy, dtype in (
        (Bernoulli(torch.zeros(2, 3)), torch.bool),
        (Categorical(torch.zeros(2, 3, 4)), torch.long),
        (Gaussian(torch.zeros(2, 3, 2)), torch.float32),
    ):
        with pytest.raises(
            ValueError, match=r"^needed decisions of shape \(\*draws, 2, 3\), got .*nothing is broadcast"
        ):
            policy.log_prob(torch.zeros(shape, dtype=dtype))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("shape", [(5,), (2,), (5, 1), (1, 2), (5, 2, 1), (5, 1, 3), (2, 5), (5, 3)])
def test_a_weight_is_not_broadcast(shape: tuple[int, ...]) -> None:
    for policy in (Bernoulli(torch.zeros(2, 3)), Categorical(torch.zeros(2, 3, 4)), Gaussian(torch.zeros(2, 3, 2))):
        with pytest.raises(ValueError, match=r"^needed advantages of shape \(5, 2\) or \(5, 2, 3\), got "):
            policy.log_likelihood(policy.sample(5), torch.ones(shape))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("wrong", [-1, 4])
def test_a_class_that_does_not_exist_is_named(wrong: int) -> None:
    policy = Categorical(torch.zeros(3, 4))
    for method in (policy.log_prob, lambda d: policy.log_likelihood(d, torch.ones(1))):
        with pytest.raises(ValueError, match=rf"^needed classes from 0 to 3, got {wrong} at \(0, 2\)"):
            method(torch.tensor([[0, 3, wrong]]))


@pytest.mark.usefixtures("as_a_user")
def test_divergence_is_between_policies_of_one_kind_and_shape() -> None:
    with pytest.raises(TypeError, match=r"^needed two policies of one kind, got Bernoulli and Categorical"):
        kl_divergence(Bernoulli(torch.zeros(3)), Categorical(torch.zeros(3, 2)))
    with pytest.raises(TypeError, match=r"^needed two policies of one kind, got Gaussian and Categorical"):
        kl_divergence(Gaussian(torch.zeros(3, 2)), Categorical(torch.zeros(3, 2)))
    with pytest.raises(ValueError, match="nothing is broadcast"):
        kl_divergence(Bernoulli(torch.zeros(4, 1)), Bernoulli(torch.zeros(4)))
    with pytest.raises(ValueError, match="nothing is broadcast"):
        kl_divergence(Gaussian(torch.zeros(4, 1, 2)), Gaussian(torch.zeros(4, 2)))


@pytest.mark.parametrize("logits", [torch.tensor([14.0, -14.0, 0.5]), torch.tensor([[14.0, 0.0], [-14.0, 0.0]])])
def test_the_surprise_of_what_is_nearly_sure_is_precise(logits: Tensor) -> None:
    kind = Bernoulli if logits.ndim == 1 else Categorical
    for decision in (kind(logits).mode[None], kind(-logits).mode[None]):
        precise = kind(logits.double()).surprise(decision)
        torch.testing.assert_close(kind(logits).surprise(decision).double(), precise, rtol=1e-5, atol=0)
