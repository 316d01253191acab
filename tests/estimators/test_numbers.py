"""Estimators of real-valued decisions: unbiased by quadrature, or refusing."""

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rlgrad
from rlgrad import MetricLoss, estimators
from rlgrad.credit import Credit, LearnedValue, MovingAverage, Play, greedy, leave_one_out, none
from rlgrad.estimators import Estimator, evolution_strategies, importance_weighted, score_function, spsa
from rlgrad.metrics import Downstream, OpaqueMetric, Scorer, f1, macro, ndcg
from rlgrad.policies import Gaussian, independent

Array = np.ndarray
Reward = Callable[[Array | Tensor], Array | Tensor]

PROBLEMS: dict[str, tuple[list[list[float]], Reward, int]] = {  # logits, reward of items last, nodes an item
    "one": ([[0.4, -0.3]], lambda x: (x[..., 0] - 1.2) ** 3 - x[..., 0], 5),
    "one, bent": ([[0.4, -0.5]], lambda x: 1 / (1 + (x[..., 0] - 1) ** 2 / 25), 40),
    "two": ([[0.4, -0.3], [-1.0, 0.2]], lambda x: x[..., 0] ** 2 * x[..., 1] - x[..., 1] ** 3 / 2 + x[..., 0], 5),
}


def law(logits: Array, nodes: int) -> tuple[Array, Array]:
    """Outcomes ``outcomes items`` and their weights, for which polynomials of degree 2 nodes - 1 are integrated."""
    at, weight = np.polynomial.hermite_e.hermegauss(nodes)
    values = [mean + math.exp(log_std) * at for mean, log_std in logits]
    probs = [math.prod(each) for each in product(weight / math.sqrt(2 * math.pi), repeat=len(logits))]
    return np.array(list(product(*values))), np.array(probs)


def truth(logits: Array, reward: Reward, nodes: int) -> tuple[float, Array]:
    """E[reward] and its gradient, by central differences."""

    def expected(z: Array) -> float:
        outcomes, probs = law(z, nodes)
        return float(probs @ reward(outcomes))

    gradient, step = np.zeros_like(logits), 1e-5
    for index in np.ndindex(*logits.shape):
        unit = np.zeros_like(logits)
        unit[index] = step
        gradient[index] = (expected(logits + unit) - expected(logits - unit)) / (2 * step)
    return expected(logits), gradient


class Listed(Gaussian):
    """Shows the draws that it is given, ``draws lists items``."""

    def __init__(self, logits: Tensor, decision: Tensor) -> None:
        super().__init__(logits)
        self.decision = decision

    def sample(self, draws: int, *, generator: torch.Generator | None = None) -> Tensor:
        assert len(self.decision) == draws
        return self.decision


def lists_of_draws(logits: Array, nodes: int, draws: int) -> tuple[Tensor, Tensor]:
    """All lists of draws, ``draws lists items``, and the weight of each list."""
    outcomes, probs = law(logits, nodes)
    index = np.array(list(product(range(len(probs)), repeat=draws)))
    return torch.tensor(outcomes[index]).movedim(1, 0), torch.tensor(probs[index].prod(-1))


def expectation(estimator: Estimator, name: str, draws: int) -> tuple[float, Array]:
    """The estimator's mean over all lists of draws, of its value and of its gradient."""
    logits, reward, nodes = PROBLEMS[name]
    decision, probs = lists_of_draws(np.array(logits), nodes, draws)
    leaf = torch.tensor(logits, dtype=torch.float64).expand(len(probs), -1, -1).clone().requires_grad_()
    value = estimator(Listed(leaf, decision), reward)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return float(probs @ value.detach()), torch.einsum("l,l...->...", probs, gradient).numpy()


def value_of_the_mean() -> LearnedValue:
    class Value(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def forward(self, logits: Tensor) -> Tensor:
            return (self.weight * logits).sum((-1, -2))

    return LearnedValue(Value())


def moving_average() -> MovingAverage:
    credit = MovingAverage()
    credit(torch.tensor([0.7]))
    return credit.eval()


def own_mean(reward: Tensor, play: Play | None = None) -> Tensor:
    return reward - reward.mean(0)


ONE_OUT = "leave one out"
CREDITS: dict[str, Credit] = {
    "none": none,
    "greedy": greedy,
    ONE_OUT: leave_one_out,
    "learned value": value_of_the_mean(),
    "moving average": moving_average(),
}


@pytest.mark.parametrize(
    ("credit", "draws"), [(credit, draws) for credit in CREDITS for draws in (1, 2) if (credit, draws) != (ONE_OUT, 1)]
)
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_score_function_is_unbiased(name: str, credit: str, draws: int) -> None:
    value, gradient = expectation(score_function(draws, CREDITS[credit]), name, draws)
    logits, reward, nodes = PROBLEMS[name]
    expected, slope = truth(np.array(logits), reward, nodes)
    assert value == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-8)


def test_a_mean_that_holds_the_own_reward_would_be_found_out() -> None:
    _, gradient = expectation(score_function(2, own_mean), "two", 2)
    logits, reward, nodes = PROBLEMS["two"]
    assert np.abs(gradient - truth(np.array(logits), reward, nodes)[1]).max() > 0.1


@pytest.mark.parametrize(
    ("name", "draws", "credit"),
    [(name, *how) for name in PROBLEMS for how in ((1, none), (1, greedy), (2, leave_one_out))],
)
def test_importance_weights_make_draws_of_an_earlier_policy_unbiased(name: str, draws: int, credit: Credit) -> None:
    logits, reward, _ = PROBLEMS[name]
    nodes = 14 if name == "two" else 40  # the weights are no polynomials
    now = np.add(logits, [0.1, -0.1])
    decision, probs = lists_of_draws(np.array(logits), nodes, draws)
    drew = torch.tensor(logits, dtype=torch.float64).expand(len(probs), -1, -1)
    again = importance_weighted.draw(Listed(drew, decision), reward, draws=draws, credit=credit)
    leaf = torch.tensor(now).expand(len(probs), -1, -1).clone().requires_grad_()
    value = again(Gaussian(leaf), reward)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    expected, slope = truth(now, reward, 40)
    assert float(probs @ value.detach()) == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(torch.einsum("l,l...->...", probs, gradient), slope, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", [spsa, evolution_strategies])
def test_perturbed_logits_see_the_slope_too(kind: Callable[..., Estimator]) -> None:
    """The reward is quadratic in each logit but for the spread's, so that the mean's slope is met without bias."""
    leaf = torch.tensor([[0.4, -0.3], [-1.0, 0.2]], dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    kind(20_000, 0.1)(Gaussian(leaf), lambda x: -(x - 1).square().sum(-1), generator=generator).backward()
    mean, log_std = leaf.detach().unbind(-1)
    expected = torch.stack([-2 * (mean - 1), -2 * (2 * log_std).exp()], -1)
    torch.testing.assert_close(leaf.grad, expected, rtol=0, atol=0.3)


# Who takes it, and who does not


REFUSING: dict[str, Estimator] = {
    "arm": estimators.arm(),
    "disarm": estimators.disarm(),
    "counterfactual": estimators.counterfactual(),
    "blockwise": estimators.blockwise(blocks=1),
    "exact": estimators.exact(),
    "enumeration": estimators.enumeration(),
    "sum_and_sample": estimators.sum_and_sample(),
    "unordered_set": estimators.unordered_set(),
    "inclusion_weighted": estimators.inclusion_weighted(),
    "muprop": estimators.muprop(),
    "REBAR": estimators.REBAR(),
    "RELAX": estimators.RELAX(nn.Linear(2, 1)),
    "straight_through": estimators.straight_through(),
    "gumbel_softmax": estimators.gumbel_softmax(),
    "second_order": estimators.second_order(),
}


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("score", [lambda x: x.sum(-1), Scorer(f1, torch.ones(2, 3)), Downstream(lambda x: x.sum(-1))])
@pytest.mark.parametrize("name", REFUSING)
def test_an_estimator_of_choices_refuses_numbers(name: str, score) -> None:
    with pytest.raises(TypeError, match=rf"^{name} needed a .*(Bernoulli|Categorical).* got Gaussian"):
        REFUSING[name](Gaussian(torch.zeros(2, 3, 2)), score)


def test_every_estimator_takes_or_refuses_it() -> None:
    public = {name for name, each in vars(estimators).items() if isinstance(each, type) and name != "Estimator"}
    assert public == {*REFUSING, "score_function", "importance_weighted", "spsa", "evolution_strategies"}


@pytest.mark.usefixtures("as_a_user")
def test_a_credit_of_choices_refuses_numbers() -> None:
    for credit in (rlgrad.credit.counterfactual, rlgrad.credit.reward_to_go):
        with pytest.raises(TypeError, match=rf"^{credit.__name__} needed a .* got Gaussian"):
            score_function(2, credit)(Gaussian(torch.zeros(3, 2)), lambda x: x.sum(-1))
    with pytest.raises(TypeError, match=r"^mine needed a policy of independent decisions, yes/no or among classes"):
        independent(Gaussian(torch.zeros(3, 2)), who="mine")


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("score", "message"),
    [
        (Scorer(f1, torch.ones(3)), r"^needed bool or integer decisions, got \(4, 3\) float32; decide first"),
        (Scorer(macro(f1, classes=2), torch.ones(3).long()), r"^needed bool or integer decisions, got \(4, 3\) float"),
        (Scorer(OpaqueMetric(lambda d, t: 1.0), torch.ones(3)), r"^needed bool or integer decisions, got \(4, 3\)"),
        (Scorer(ndcg(), torch.ones(3)), r"^needed rankings, the items' indices by rank, got \(4, 3\) float32"),
        (Downstream(lambda d: d.sum(-1)), r"^needed yes/no decisions for Downstream.* got \(4, 3\) float32"),
        (Downstream(lambda d: d.sum((-1, -2)), classes=2), r"^needed integer decisions for Downstream.* got \(4, 3\)"),
    ],
)
def test_a_metric_of_choices_refuses_numbers(score, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        score_function(4)(Gaussian(torch.zeros(3, 2)), score)


@pytest.mark.usefixtures("as_a_user")
def test_training_on_a_metric_refuses_numbers() -> None:
    data = torch.zeros(4, 2), torch.ones(4)
    with pytest.raises(TypeError, match=r"^needed a policy whose decisions .* scores, got Gaussian, which draws real"):
        MetricLoss(f1, policy=Gaussian)
    with pytest.raises(TypeError, match=r"^needed bool or integer decisions, got \(4,\) float32"):
        rlgrad.evaluate(nn.Identity(), data, f1, policy=Gaussian)
    with pytest.raises(TypeError, match=r"^needed the policy Bernoulli or Categorical, got .*Gaussian"):
        rlgrad.audit(*data, f1, policy=Gaussian)
