"""Rankings against brute force, and at the ends of the number line."""

import math
from itertools import permutations

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from rlgrad.policies import PlackettLuce, independent, kind_of, kl_divergence

INF = math.inf
Z = torch.tensor([[0.3, -1.2, 0.9, 2.0], [-0.5, 0.8, 0.1, 0.0]], dtype=torch.float64)
EXTREME = [
    [1e30, 1e30, 0.0, -1e30],
    [1e4, -1e4, 3e38, -3e38],
    [-1e4, -1e4 - 1, -2e4, -2e4 + 1],
    [80.0, 0.0, -80.0, 0.0],
]


def lists(items: int, places: int | None = None) -> Tensor:
    return torch.tensor(list(permutations(range(items), places)))


def by_hand(logits: list[float], ranking: list[int]) -> list[float]:
    """One choice after another, in plain arithmetic."""
    left, steps = set(range(len(logits))), []
    for item in ranking:
        steps.append(logits[item] - math.log(math.fsum(math.exp(logits[other]) for other in left)))
        left.remove(item)
    return steps


def by_softmax(logits: Tensor, decision: Tensor) -> Tensor:
    """The same in tensors, quadratic in the items: what was placed is masked."""
    log_probs = []
    placed = torch.zeros(*decision.shape[:-1], logits.shape[-1], dtype=torch.bool)
    for item in decision.unbind(-1):
        left = torch.log_softmax(logits.expand(placed.shape).masked_fill(placed, -INF), -1)
        log_probs.append(left.gather(-1, item[..., None]).squeeze(-1))
        placed = placed.scatter(-1, item[..., None], True)
    return torch.stack(log_probs, -1)


def slope(logits: Tensor, decision: Tensor) -> Tensor:
    """The gradient of each decision's log-probability, by autograd."""
    leaf = logits.expand(*decision.shape[:-1], -1).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(PlackettLuce(leaf).log_prob(decision).sum(), leaf)
    return gradient


# The law


@pytest.mark.parametrize("places", [1, 2, 3, 4])
def test_log_prob_is_that_of_one_choice_after_another(places: int) -> None:
    every = lists(4, places)
    log_prob = PlackettLuce(Z).log_prob(every[:, None].expand(-1, 2, -1))
    for row, logits in enumerate(Z.tolist()):
        expected = torch.tensor([by_hand(logits, ranking) for ranking in every.tolist()], dtype=torch.float64)
        torch.testing.assert_close(log_prob[:, row], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("places", [1, 2, 3, 4])
@pytest.mark.parametrize("masked", [[], [1], [0, 3], [0, 1, 2, 3]])
def test_the_probabilities_of_all_lists_sum_to_one(masked: list[int], places: int) -> None:
    logits = Z.clone()
    logits[0, masked] = -INF
    probs = PlackettLuce(logits).log_prob(lists(4, places)[:, None].expand(-1, 2, -1)).sum(-1).exp()
    torch.testing.assert_close(probs.sum(0), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("places", [1, 3, 4])
def test_the_gradient_is_that_of_masked_softmaxes(places: int) -> None:
    decision = lists(4, places)[:, None].expand(-1, 2, -1)
    leaf = Z.clone().requires_grad_()
    weight = torch.randn(decision.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (expected,) = torch.autograd.grad((weight * by_softmax(leaf, decision)).sum(), leaf)
    (gradient,) = torch.autograd.grad((weight * PlackettLuce(leaf).log_prob(decision)).sum(), leaf)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("places", [1, 2, 4])
@pytest.mark.parametrize("masked", [[], [1], [0, 3]])
def test_surprise_is_the_derivative_of_the_log_probability(masked: list[int], places: int) -> None:
    logits = Z.clone()
    logits[0, masked] = -INF
    decision = PlackettLuce(logits).sample(20, k=places, generator=torch.Generator().manual_seed(0))
    surprise = PlackettLuce(logits.clone().requires_grad_()).surprise(decision)
    assert not surprise.requires_grad
    torch.testing.assert_close(surprise, slope(logits, decision), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("per_position", [False, True])
def test_log_likelihood_is_the_weighted_sum(per_position: bool, generator: torch.Generator) -> None:
    for places in (2, 4):
        decision = PlackettLuce(Z).sample(5, k=places, generator=generator)
        weight = torch.randn((5, 2, places) if per_position else (5, 2, 1), dtype=torch.float64, generator=generator)
        found = PlackettLuce(Z).log_likelihood(decision, weight if per_position else weight[..., 0])
        torch.testing.assert_close(found, (weight * by_softmax(Z, decision)).sum((0, -1)))


# Sampling


@pytest.mark.parametrize("places", [1, 2, 4])
def test_frequencies_are_the_probabilities(places: int, generator: torch.Generator) -> None:
    """Pearson's statistic stays below a bound that it passes once in 1e9."""
    every = lists(4, places)
    draws = PlackettLuce(Z).sample(20_000, k=places, generator=generator)
    for row, logits in enumerate(Z):
        expected = 20_000 * by_softmax(logits, every).sum(-1).exp()
        seen = (draws[:, row, None] == every).all(-1).sum(0)
        assert expected.min() > 5
        assert ((seen - expected).square() / expected).sum() < chi2.isf(1e-9, len(every) - 1)


def test_a_sample_is_what_its_noise_decides_and_the_generator_gives() -> None:
    policy = PlackettLuce(Z.float())
    noise = policy.uniform(20, generator=torch.Generator().manual_seed(7))
    assert noise.shape == (20, 2, 4)
    sample = policy.sample(20, generator=torch.Generator().manual_seed(7))
    assert torch.equal(policy.decide(noise), sample)
    assert torch.equal(policy.sample(20, k=2, generator=torch.Generator().manual_seed(7)), sample[..., :2])
    assert not torch.equal(policy.sample(20, generator=torch.Generator().manual_seed(8)), sample)


def test_the_mode_is_by_logit_and_then_by_index() -> None:
    policy = PlackettLuce(torch.tensor([[0.0, 1.0, 0.0, 1.0], [-INF, -1.0, -INF, 2.0]]))
    assert policy.mode.tolist() == [[1, 3, 0, 2], [3, 1, 0, 2]]
    every = lists(4)
    likeliest = every[PlackettLuce(Z[0]).log_prob(every).sum(-1).argmax()]
    assert torch.equal(PlackettLuce(Z[0]).mode, likeliest)


# The ends of the number line


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_have_finite_log_probs_and_gradients(dtype: torch.dtype) -> None:
    logits, decision = torch.tensor(EXTREME, dtype=dtype), lists(4)[:, None].expand(-1, len(EXTREME), -1)
    assert PlackettLuce(logits).log_prob(decision).isfinite().all()
    assert slope(logits, decision).isfinite().all()
    assert PlackettLuce(logits).surprise(decision).isfinite().all()
    expected = by_softmax(logits.double(), decision)
    moderate = expected[:, 2:]
    torch.testing.assert_close(PlackettLuce(logits).log_prob(decision)[:, 2:].double(), moderate, rtol=1e-5, atol=1e-5)


def test_float32_gradients_of_large_logits_are_those_of_float64() -> None:
    """A scan of exponentials in float32 would lose the digits after the logits' own."""
    logits, decision = torch.tensor([[9000.0, 8999.0, -9000.0, -9001.0]]), lists(4)[:, None]
    torch.testing.assert_close(slope(logits, decision).double(), slope(logits.double(), decision), rtol=1e-6, atol=1e-6)


def test_equal_giants_are_drawn_alike(generator: torch.Generator) -> None:
    policy = PlackettLuce(torch.tensor([1e30, 1e30, 0.0]))
    first = policy.sample(2000, generator=generator)[:, 0]
    assert set(first.tolist()) == {0, 1}
    assert abs((first == 0).double().mean().item() - 0.5) < 6 * math.sqrt(0.25 / 2000)
    assert policy.log_prob(torch.tensor([1, 0, 2])).tolist() == pytest.approx([-math.log(2), 0, 0])


def test_masked_items_come_last_by_index_and_have_no_gradient(generator: torch.Generator) -> None:
    logits = torch.tensor([[-INF, 0.5, -INF, 0.0, -INF], [-INF] * 5])
    policy = PlackettLuce(logits)
    draws = policy.sample(200, generator=generator)
    assert draws[:, 0, :2].sort().values.unique(dim=0).tolist() == [[1, 3]]
    assert draws[:, 0, 2:].unique(dim=0).tolist() == [[0, 2, 4]]
    assert draws[:, 1].unique(dim=0).tolist() == [[0, 1, 2, 3, 4]]
    log_prob = policy.log_prob(draws)
    assert (log_prob[:, 0, 2:] == 0).all()
    assert (log_prob[:, 1] == 0).all()
    gradient = slope(logits, draws)
    assert gradient.isfinite().all()
    assert (gradient[logits.isinf().expand_as(gradient)] == 0).all()
    torch.testing.assert_close(log_prob[:, 0, :2], PlackettLuce(logits[0, [1, 3]]).log_prob(draws[:, 0, :2] // 2))


def test_what_is_impossible_has_no_probability_and_no_nan() -> None:
    logits, decision = torch.tensor([0.0, -INF, 1.0, -INF]), torch.tensor([[1, 0, 2, 3], [0, 2, 3, 1]])
    assert PlackettLuce(logits).log_prob(decision).sum(-1).tolist() == [-INF, -INF]
    assert PlackettLuce(logits).surprise(decision).isfinite().all()
    leaf = logits.clone().requires_grad_()
    likelihood = PlackettLuce(leaf).log_likelihood(decision, torch.zeros(2))
    likelihood.backward()
    assert likelihood.item() == 0
    assert leaf.grad.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_log_likelihood_of_a_long_list_of_halves(dtype: torch.dtype) -> None:
    policy = PlackettLuce(torch.zeros(10_000, dtype=dtype))
    decision = policy.sample(1, generator=torch.Generator().manual_seed(0))
    assert policy.log_prob(decision).dtype == torch.float32
    assert policy.log_likelihood(decision, torch.ones(1)).item() == pytest.approx(-math.lgamma(10_001), rel=1e-5)


@pytest.mark.parametrize("shape", [(2, 0), (0, 3)])
def test_no_items_at_all(shape: tuple[int, int], generator: torch.Generator) -> None:
    policy = PlackettLuce(torch.zeros(shape, requires_grad=True))
    decision = policy.sample(4, generator=generator)
    assert decision.shape == (4, *shape)
    policy.log_likelihood(decision, torch.ones(4, shape[0])).sum().backward()
    assert policy.surprise(decision).shape == (4, *shape)


# Bad input


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        (torch.tensor([0, 1]), TypeError, "needed floating-point logits, got (2,) int64"),
        (torch.tensor(0.0), ValueError, "needed logits of shape (*batch items), got () float32"),
        (torch.tensor([[0.0, math.nan]]), ValueError, "needed logits without NaN, got 1 of 2, the first at (0, 1)"),
        (torch.tensor([[0.0, INF]]), ValueError, "needed logits below +inf, got (1, 2) float32 with it at (0, 1)"),
    ],
)
def test_logits_that_are_none(logits: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        PlackettLuce(logits)
    assert str(caught.value).startswith(message)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("decision", "error", "message"),
    [
        (
            torch.zeros(2, 3, dtype=torch.bool),
            TypeError,
            "needed rankings, the items' indices by rank, got (2, 3) bool",
        ),
        (torch.zeros(2, 3), TypeError, "needed rankings, the items' indices by rank, got (2, 3) float32"),
        (
            torch.tensor([[0, 1, 2], [1, 0, 1]]),
            ValueError,
            "needed rankings without an item twice, got [1, 0, 1] in row (1,)",
        ),
        (torch.tensor([[0, 1, 2], [1, 0, 3]]), ValueError, "needed items from 0 to 2, got 3 at (1, 2)"),
        (torch.tensor([[0, 1, 2], [1, 0, -1]]), ValueError, "needed items from 0 to 2, got -1 at (1, 2)"),
        (torch.tensor([[0, 1, 2, 0], [0, 1, 2, 0]]), ValueError, "needed from 1 to 3 places"),
        (torch.zeros(2, 0, dtype=torch.long), ValueError, "needed from 1 to 3 places"),
        (torch.tensor([0, 1, 2]), ValueError, "needed decisions of shape (*draws, 2, places), got (3,) int64"),
        (torch.tensor([[0, 1, 2]]), ValueError, "needed decisions of shape (*draws, 2, places), got (1, 3) int64"),
    ],
)
def test_decisions_that_are_no_rankings(decision: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        PlackettLuce(torch.zeros(2, 3)).log_prob(decision)
    assert str(caught.value).startswith(message)


@pytest.mark.usefixtures("as_a_user")
def test_other_errors() -> None:
    policy = PlackettLuce(torch.zeros(2, 3))
    for k in (0, 4):
        with pytest.raises(ValueError, match=rf"^needed from 1 to 3 places, got k={k}"):
            policy.sample(2, k=k)
    with pytest.raises(ValueError, match=r"^needed advantages of shape \(5, 2\) or \(5, 2, 3\), got "):
        policy.log_likelihood(policy.sample(5), torch.ones(5))
    with pytest.raises(
        TypeError, match=r"^kl_divergence needed a policy of independent decisions, .* got PlackettLuce"
    ):
        kl_divergence(policy, policy)
    with pytest.raises(TypeError, match=r"^mine needed a policy of independent decisions, .* use score_function"):
        independent(policy, who="mine")
    assert kind_of(policy) is PlackettLuce
