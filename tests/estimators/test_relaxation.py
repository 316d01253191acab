"""The proof for control variates by relaxation: averaged over the noise by Gauss rules, they are the exact gradient.

A relaxed estimator is a smooth function of its noise, but for a jump where the decision changes. The noise is cut
there, and each piece gets a Gauss rule: the expectation is then found to the last digits, free of chance, and two
orders of the rule show that it is. The exact gradient is found in NumPy by listing all decisions and differentiating
with a complex step. The points of the rule are rows of one large batch, scored apart.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import permutations, product
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import roots_genlaguerre
from sklearn.metrics import f1_score, matthews_corrcoef
from torch import Tensor, nn

from rlgrad import credit
from rlgrad.estimators import REBAR, RELAX, Estimator, muprop, perturbed, score_function
from rlgrad.metrics import Downstream, OpaqueMetric, Score, Scorer, f1, mcc
from rlgrad.objective import MetricLoss
from rlgrad.policies import Bernoulli, Categorical, Policy

Array = NDArray[np.float64]
Judge = Callable[[tuple[int, ...]], float]
Game = tuple[Callable[[tuple[int, ...]], Score], Judge]  # the score of a batch of this shape, and that of one row
Learner = TypeVar("Learner", REBAR, RELAX)
TOLERANCE = 1e-8
DOUBLE = torch.float64


# The exact gradient, without a line of the library


def truth(judge: Judge, logits: Array) -> tuple[float, Array]:
    """E[r] and its gradient in logits ``items`` of yes or no, or ``items classes``, by a complex step."""
    outcomes = list(product(range(logits.shape[1] if logits.ndim == 2 else 2), repeat=len(logits)))

    def expected(z: NDArray[np.complex128]) -> complex:
        odds = np.exp(z) if z.ndim == 2 else np.stack([np.ones_like(z), np.exp(z)], 1)
        p = odds / odds.sum(1, keepdims=True)
        return complex(sum(judge(o) * np.prod(p[range(len(z)), o]) for o in outcomes))

    gradient = np.zeros_like(logits)
    for at in np.ndindex(logits.shape):
        moved = logits.astype(complex)
        moved[at] += 1e-20j
        gradient[at] = expected(moved).imag / 1e-20
    return expected(logits.astype(complex)).real, gradient


def truth_of(judge: Judge, logits: Tensor) -> Array:
    """The value, and behind it the gradient, in one list of numbers."""
    value, gradient = truth(judge, logits.numpy())
    return np.array([value, *gradient.flat])


# The expectation of an estimator


def halves(p: float, nodes: int) -> tuple[Array, Array]:
    """A Gauss rule for a uniform number, cut at p; a cubic substitution takes the roots out at 0 and 1."""
    t, w = np.polynomial.legendre.leggauss(nodes)
    t, w = (t + 1) / 2, w / 2 * 3 * ((t + 1) / 2) ** 2
    return np.concatenate([p * t**3, 1 - (1 - p) * t**3]), np.concatenate([p * w, (1 - p) * w])


def exponentials(p: Array, nodes: int) -> tuple[Array, Array]:
    """A Gauss rule for iid E_c ~ Exp(1), one a class, as uniforms exp(-E_c), cut where the order of E_c / p_c changes.

    In one order, E = R v with v_c = p_c A_c, and A, from the first on, are the products of ratios s_j ... s_(K-1) in
    [0, 1]. There dE = R^(K-1) prod p prod s_j^(j-1) dR ds and exp(-sum E) = exp(-R sum v): R sum v is Gamma(K), and
    what is left for the ratios is (K-1)! prod p prod s_j^(j-1) / (sum v)^K. All of this is smooth in the ratios.
    """
    classes = len(p)
    t, w = np.polynomial.legendre.leggauss(nodes)
    ratios = np.array(list(product((t + 1) / 2, repeat=classes - 1)))
    at_ratio = np.prod(list(product(w / 2, repeat=classes - 1)), axis=1)
    radius, at_radius = roots_genlaguerre(2, classes - 1)
    noise, weight = [], []
    for order in permutations(range(classes)):
        v = np.empty((len(ratios), classes))
        for place, c in enumerate(order):
            v[:, c] = p[c] * ratios[:, place:].prod(1)
        density = at_ratio * p.prod() * (ratios ** np.arange(classes - 1)).prod(1) / v.sum(1) ** classes
        for r, of_r in zip(radius, at_radius, strict=True):  # the weights sum to (K-1)!
            noise.append(np.exp(-r * v / v.sum(1, keepdims=True)))
            weight.append(density * of_r)
    return np.concatenate(noise), np.concatenate(weight)


def tensor_rule(rules: Sequence[tuple[Array, Array]]) -> tuple[Tensor, Tensor]:
    """The product of one rule for each item: points ``rows items ...`` and weights ``rows``."""
    index = np.array(list(product(*(range(len(w)) for _, w in rules))))
    points = np.stack([rule[0][index[:, i]] for i, rule in enumerate(rules)], 1)
    weights = np.prod([rule[1][index[:, i]] for i, rule in enumerate(rules)], axis=0)
    return torch.tensor(points), torch.tensor(weights)


class FixedBernoulli(Bernoulli):
    """A policy whose noise is given."""

    def __init__(self, logits: Tensor, noise: Tensor) -> None:
        super().__init__(logits)
        self.noise = noise

    def uniform(self, draws: int, *, generator: torch.Generator | None = None) -> Tensor:
        assert len(self.noise) == draws
        return self.noise


def rows_of(estimator: Estimator, policy: Policy, leaf: Tensor, score: Score) -> Tensor:
    """The value and the gradient of each row."""
    value = estimator(policy, score)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return torch.cat([value.detach()[:, None], gradient.flatten(1)], 1)


def leaf_of(logits: Tensor, rows: int) -> Tensor:
    return logits.expand(rows, *logits.shape).clone().requires_grad_()


def yes_or_no(estimator: Estimator, game: Game, logits: Tensor, nodes: int, draws: int = 1) -> tuple[Tensor, Tensor]:
    """The estimate at each point of the rule, and the weights."""
    p = torch.sigmoid(logits).tolist() * draws
    noise, weight = tensor_rule([halves(q, nodes) for q in p])
    leaf = leaf_of(logits, len(noise))
    policy = FixedBernoulli(leaf, noise.unflatten(1, (draws, -1)).movedim(1, 0))
    return rows_of(estimator, policy, leaf, game[0]((len(noise),))), weight


def among_classes(
    estimator: Estimator, game: Game, logits: Tensor, nodes: int, patch: pytest.MonkeyPatch, unseen: float = 0.5
) -> tuple[Tensor, Tensor]:
    """The same for choices; a masked class has the noise ``unseen``, of which nothing may depend."""
    rules = []
    for p in torch.softmax(logits, -1).numpy():
        noise, weight = exponentials(p[p > 0], nodes)
        whole = np.full((len(noise), len(p)), unseen)
        whole[:, p > 0] = noise
        rules.append((whole, weight))
    points, weights = tensor_rule(rules)

    def shown(shape: tuple[int, ...], *, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        assert shape == (1, *points.shape)
        return points[None]

    patch.setattr(perturbed, "open_uniform", shown)
    leaf = leaf_of(logits, len(points))
    return rows_of(estimator, Categorical(leaf), leaf, game[0]((len(points),))), weights


def mean(estimate: tuple[Tensor, Tensor]) -> Array:
    return np.asarray(torch.tensordot(estimate[1], estimate[0], 1).numpy())


def variance(estimate: tuple[Tensor, Tensor]) -> Array:
    """Of the value, and of each coordinate of the gradient."""
    return np.asarray(torch.tensordot(estimate[1], (estimate[0] - torch.tensor(mean(estimate))).square(), 1).numpy())


# Games


def count_game(metric: Any, judge: Callable[..., float], target: tuple[int, ...]) -> Game:
    return (
        lambda rows: Scorer(metric, torch.tensor(target).expand(*rows, -1)),
        lambda decision: float(judge(target, decision)),
    )


def f1_by_hand(target: tuple[int, ...], decision: tuple[int, ...]) -> float:
    return float(f1_score(target, decision, zero_division=1.0))


def wavy(b: Tensor) -> Tensor:
    return torch.sin(2 * b.sum(-1)) + b[..., 0].square() * torch.exp(b.mean(-1)) - 0.3


def wavy_by_hand(b: tuple[int, ...]) -> float:
    return math.sin(2 * sum(b)) + b[0] * math.exp(sum(b) / len(b)) - 0.3


def in_a_box(d: Tensor) -> Tensor:
    return (1.5 + (d * torch.arange(1.0, d.shape[-1] + 1, dtype=DOUBLE)).sum(-1)) ** 1.5


def boxed(d: tuple[int, ...]) -> float:
    return (1.5 + sum((i + 1) * x for i, x in enumerate(d))) ** 1.5


WAVY: Game = (lambda rows: Downstream(wavy, dtype=DOUBLE), wavy_by_hand)
PLAIN: Game = (lambda rows: in_a_box, boxed)
OPAQUE: Game = (
    lambda rows: Scorer(OpaqueMetric(lambda d, t: in_a_box(d), batched=True), torch.zeros(*rows, 2)),
    boxed,
)
F1 = count_game(f1, f1_by_hand, (1, 0))
MCC = count_game(mcc, matthews_corrcoef, (1, 0))
GAMES = {"f1": F1, "mcc": MCC, "wavy": WAVY}

ONE = torch.tensor([0.7], dtype=DOUBLE)
TWO = torch.tensor([-0.4, 1.1], dtype=DOUBLE)


def mlp(inputs: int, scale: float = 1.0) -> nn.Sequential:
    """A network with weights that are no accident."""
    network = nn.Sequential(nn.Linear(inputs, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(-2)).double()
    with torch.no_grad():
        for at, weight in enumerate(network.parameters()):
            weight.copy_(scale * torch.sin(torch.arange(1, weight.numel() + 1) * (1.3 + at)).reshape(weight.shape))
    return network


def exactly(learner: Learner, temperature: float, strength: float) -> Learner:
    """With these settings to the last digit of a double."""
    learner.double()
    learner.log_temperature.data.fill_(math.log(temperature))
    learner.strength.data.fill_(strength)
    return learner


def rebar(temperature: float = 0.5, strength: float = 1.0, draws: int = 1) -> REBAR:
    return exactly(REBAR(draws), temperature, strength)


def relax(inputs: int, temperature: float = 0.5, strength: float = 1.0, draws: int = 1, scale: float = 1.0) -> RELAX:
    return exactly(RELAX(mlp(inputs, scale), draws), temperature, strength)


# Unbiased for yes or no


SETTINGS = [(0.5, 1.0), (0.5, -2.3), (1.0, 0.6), (1.0, 1.0)]


@pytest.mark.parametrize(("temperature", "strength"), [*SETTINGS, (0.5, 0.0), (2.0, 1.0), (0.3, 1.0), (0.1, 0.8)])
def test_rebar_is_unbiased_for_one_decision(temperature: float, strength: float) -> None:
    estimates = [yes_or_no(rebar(temperature, strength), WAVY, ONE, nodes) for nodes in (120, 180)]
    np.testing.assert_allclose(mean(estimates[1]), mean(estimates[0]), rtol=0, atol=1e-10)  # the rule has converged
    np.testing.assert_allclose(mean(estimates[1]), truth_of(WAVY[1], ONE), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("temperature", "strength"), SETTINGS)
@pytest.mark.parametrize("name", GAMES)
def test_rebar_is_unbiased_for_two_decisions(name: str, temperature: float, strength: float) -> None:
    found = mean(yes_or_no(rebar(temperature, strength), GAMES[name], TWO, 26))
    np.testing.assert_allclose(found, truth_of(GAMES[name][1], TWO), rtol=0, atol=TOLERANCE)


def test_the_rule_for_two_decisions_has_converged() -> None:
    errors = {}
    for name, game in GAMES.items():
        right = truth_of(game[1], TWO)
        errors[name] = [float(np.abs(mean(yes_or_no(rebar(), game, TWO, n)) - right).max()) for n in (6, 13, 26)]
        assert errors[name][2] < 1e-3 * errors[name][1] or errors[name][2] < 1e-11
    print(errors)


@pytest.mark.parametrize(("temperature", "strength"), SETTINGS)
@pytest.mark.parametrize(
    "game", [F1, WAVY, PLAIN, OPAQUE], ids=["f1", "differentiable", "plain function", "opaque metric"]
)
def test_relax_is_unbiased_for_two_decisions(game: Game, temperature: float, strength: float) -> None:
    found = mean(yes_or_no(relax(2, temperature, strength), game, TWO, 26))
    np.testing.assert_allclose(found, truth_of(game[1], TWO), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("scale", [0.0, -1.0, 3.0])
def test_relax_is_unbiased_whatever_the_network_says(scale: float) -> None:
    found = mean(yes_or_no(relax(1, scale=scale), PLAIN, ONE, 100))
    np.testing.assert_allclose(found, truth_of(PLAIN[1], ONE), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("make", [lambda: rebar(draws=2), lambda: relax(1, draws=2)], ids=["REBAR", "RELAX"])
def test_the_mean_of_two_draws_is_unbiased(make: Callable[[], Estimator]) -> None:
    found = yes_or_no(make(), WAVY, ONE, 30, draws=2)
    np.testing.assert_allclose(mean(found), truth_of(WAVY[1], ONE), rtol=0, atol=TOLERANCE)
    once = yes_or_no(rebar() if isinstance(make(), REBAR) else relax(1), WAVY, ONE, 100)
    np.testing.assert_allclose(variance(found), variance(once) / 2, rtol=1e-6)


# Unbiased among classes


def of_classes(one_hot: Tensor) -> Tensor:
    worth = one_hot @ torch.tensor([0.3, -1.1, 2.0][: one_hot.shape[-1]], dtype=DOUBLE)
    return torch.sin(worth.sum(-1)) + (one_hot.square().sum(-1) * worth).prod(-1)


def of_classes_by_hand(choice: tuple[int, ...]) -> float:
    worth = [(0.3, -1.1, 2.0)[c] for c in choice]
    return math.sin(sum(worth)) + math.prod(worth)


def class_game(classes: int) -> Game:
    return (lambda rows: Downstream(of_classes, classes=classes, dtype=DOUBLE)), of_classes_by_hand


CLASSES = {
    "2 classes": torch.tensor([[0.4, -0.3]], dtype=DOUBLE),
    "3 classes": torch.tensor([[0.4, -0.3, 1.0]], dtype=DOUBLE),
    "3 classes, one masked": torch.tensor([[0.4, -math.inf, 1.0]], dtype=DOUBLE),
    "2 items": torch.tensor([[0.4, -0.3], [-1.0, 0.2]], dtype=DOUBLE),
}
NODES = {"2 classes": 30, "3 classes": 24, "3 classes, one masked": 30, "2 items": 26}


@pytest.mark.parametrize(("temperature", "strength"), SETTINGS)
@pytest.mark.parametrize("name", CLASSES)
def test_unbiased_among_classes(
    name: str, temperature: float, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = CLASSES[name]
    game = class_game(logits.shape[-1])
    for estimator in (rebar(temperature, strength), relax(logits.numel(), temperature, strength)):
        found = mean(among_classes(estimator, game, logits, NODES[name], monkeypatch))
        np.testing.assert_allclose(found, truth_of(game[1], logits), rtol=0, atol=TOLERANCE)


def test_the_rule_among_classes_has_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, logits in CLASSES.items():
        game = class_game(logits.shape[-1])
        right = truth_of(game[1], logits)
        orders = NODES[name] // 4, NODES[name] // 2, NODES[name]
        errors = [
            float(np.abs(mean(among_classes(rebar(), game, logits, n, monkeypatch)) - right).max()) for n in orders
        ]
        print(name, errors)
        assert errors[2] < 1e-3 * errors[1] or errors[2] < 1e-11


def test_relax_of_a_black_box_among_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = CLASSES["3 classes"]
    found = mean(among_classes(relax(3), PLAIN, logits, 24, monkeypatch))
    np.testing.assert_allclose(found, truth_of(PLAIN[1], logits), rtol=0, atol=TOLERANCE)


def test_the_noise_of_a_masked_class_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = CLASSES["3 classes, one masked"]
    results = [among_classes(rebar(), class_game(3), logits, 10, monkeypatch, unseen)[0] for unseen in (1e-9, 0.5)]
    assert torch.equal(*results)
    assert not results[0][:, 2].any()  # nor has it a gradient


# The coupled form is the textbook's


def textbook(policy: Policy, noise: Tensor, score: Any, strength: float, temperature: float) -> Tensor:
    """REBAR as Tucker et al. write it, with v coupled to u; the surrogate's gradient in logits is the estimate.

    x = g(u, z), b = H(x), x~ = g~(v, b, z), v a constant such that x~ = x:
    (r(b) - c(x~)) log P(b), the factor held fixed, + c(x) - c(x~).
    """
    if isinstance(policy, Bernoulli):
        theta, u = policy.probs, 1 - noise
        x = policy.logits + u.logit()
        b = x > 0
        v = torch.where(b, (u - (1 - theta)) / theta, u / (1 - theta)).detach()
        u_given_b = torch.where(b, v * theta + (1 - theta), v * (1 - theta))
        x_given_b = theta.logit() + u_given_b.logit()
        log_prob = torch.where(b, theta.log(), (1 - theta).log()).sum(-1)
        decision, soft = b, lambda x: torch.sigmoid(x / temperature)
    else:
        theta = torch.softmax(policy.logits, -1)
        x = theta.log() - torch.log(-torch.log(noise))
        decision = x.argmax(-1)
        won = nn.functional.one_hot(decision, theta.shape[-1]).bool()
        clock = -torch.log(noise) / theta.detach()  # exp(-x)
        first = clock.amin(-1, keepdim=True)
        v = torch.where(won, torch.exp(-first), torch.exp(-(clock - first) * theta.detach()))
        v_won = (v * won).sum(-1, keepdim=True)
        of_others = torch.where(won, 1.0, -torch.log(torch.where(won, 0.5, v)) / theta - torch.log(v_won))
        x_given_b = torch.where(won, -torch.log(-torch.log(v_won)), -torch.log(of_others))
        log_prob = torch.where(won, theta.log(), 0.0).sum((-1, -2))
        soft = lambda x: torch.softmax(x / temperature, -1)  # noqa: E731
    torch.testing.assert_close(x_given_b, x, rtol=1e-9, atol=1e-9)  # coupled
    left = score(decision) - strength * score.relaxed(soft(x_given_b))
    difference = score.relaxed(soft(x)) - score.relaxed(soft(x_given_b))
    return (left.detach() * log_prob + strength * difference).mean(0)


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize(("temperature", "strength"), [*SETTINGS, (0.3, 1.7)])
@pytest.mark.parametrize("kind", [Bernoulli, Categorical])
def test_each_sample_is_that_of_the_textbook(
    kind: type[Policy], temperature: float, strength: float, draws: int, generator: torch.Generator
) -> None:
    shape = (5, 3) if kind is Bernoulli else (5, 2, 3)
    score = Downstream(wavy, dtype=DOUBLE) if kind is Bernoulli else Downstream(of_classes, classes=3, dtype=DOUBLE)
    logits = torch.randn(shape, generator=generator, dtype=DOUBLE, requires_grad=True)
    state = generator.get_state()
    noise = torch.rand((draws, *shape), generator=generator, dtype=DOUBLE)
    right = torch.autograd.grad(textbook(kind(logits), noise, score, strength, temperature).sum(), logits)
    generator.set_state(state)
    estimate = rebar(temperature, strength, draws)(kind(logits), score, generator=generator)
    found = torch.autograd.grad(estimate.sum(), logits)
    torch.testing.assert_close(found, right, rtol=0, atol=1e-10)


# The control variate learns


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def batch(kind: type[Policy]) -> Tensor:
    shape = (4, 3) if kind is Bernoulli else (4, 1, 3)
    return torch.sin(torch.arange(1, 13, dtype=DOUBLE)).reshape(shape).requires_grad_()


def score_for(kind: type[Policy]) -> Score:
    return Downstream(wavy, dtype=DOUBLE) if kind is Bernoulli else Downstream(of_classes, classes=3, dtype=DOUBLE)


LEARNERS: dict[str, Callable[[], REBAR | RELAX]] = {
    "REBAR": lambda: rebar(0.7, 0.6, 2),
    "RELAX": lambda: relax(3, 0.7, 0.6, 2),
}


def squared_length(estimator: Estimator, kind: type[Policy], score: Score) -> float:
    logits = batch(kind)
    estimator(kind(logits), score, generator=seeded()).sum().backward()
    return logits.grad.square().sum().item()


def each_entry(module: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Each parameter and its gradient, one number at a time."""
    for weight in module.parameters():
        yield from zip(weight.data.reshape(-1), weight.grad.reshape(-1), strict=True)


@pytest.mark.parametrize("game", ["differentiable", "f1", "black box"])
@pytest.mark.parametrize("kind", [Bernoulli, Categorical])
@pytest.mark.parametrize("name", LEARNERS)
def test_the_value_carries_minus_the_slope_of_the_squared_gradient(name: str, kind: type[Policy], game: str) -> None:
    if (kind is Categorical and game == "f1") or (name == "REBAR" and game == "black box"):
        return
    score: Score = score_for(kind)
    if game == "f1":
        score = Scorer(f1, torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]))
    elif game == "black box":
        score = PLAIN[0](())
    estimator = LEARNERS[name]()
    estimator(kind(batch(kind)), score, generator=seeded()).sum().backward()
    if game == "black box":
        assert estimator.strength.grad is None
        estimator.strength.grad = torch.zeros_like(estimator.strength)  # it plays no part
    step = 1e-5
    moved = 0
    for entry, slope in each_entry(estimator):
        around = []
        for side in (1, -1):
            entry += side * step
            around.append(squared_length(copy.deepcopy(estimator).requires_grad_(False), kind, score))
            entry -= side * step
        assert slope.item() == pytest.approx(-(around[0] - around[1]) / (2 * step), rel=1e-6, abs=1e-8)
        moved += abs(slope.item()) > 1e-3
    assert moved > (1 if name == "REBAR" else 10)


def test_the_mean_over_rows_carries_the_mean() -> None:
    learner = rebar()
    learner(Bernoulli(batch(Bernoulli)), WAVY[0](()), generator=seeded()).sum().backward()
    sums = [weight.grad.clone() for weight in learner.parameters()]
    learner.zero_grad()
    learner(Bernoulli(batch(Bernoulli)), WAVY[0](()), generator=seeded()).mean().backward()
    means = [weight.grad for weight in learner.parameters()]
    torch.testing.assert_close(torch.stack(means) * 4, torch.stack(sums))


@pytest.mark.parametrize("kind", [Bernoulli, Categorical])
@pytest.mark.parametrize("name", LEARNERS)
def test_what_learns_does_not_change_the_estimate(name: str, kind: type[Policy]) -> None:
    results = []
    for frozen in ([], ["log_temperature"], ["strength"], ["log_temperature", "strength", "network"]):
        learner, logits = LEARNERS[name](), batch(kind)
        for part in frozen:
            if hasattr(learner, part):
                getattr(learner, part).requires_grad_(False)
        value = learner(kind(logits), score_for(kind), generator=seeded())
        value.sum().backward()
        results.append((value.detach(), logits.grad))
        for weight in learner.parameters():
            assert (weight.grad is not None) == weight.requires_grad
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=1e-14)
    with torch.no_grad():
        assert torch.equal(learner(kind(batch(kind)), score_for(kind), generator=seeded()), results[0][0])


@pytest.mark.parametrize("kind", [Bernoulli, Categorical])
@pytest.mark.parametrize("name", [*LEARNERS, "muprop"])
def test_nothing_leaks_into_the_weights_downstream(name: str, kind: type[Policy]) -> None:
    """Their gradient is that of the mean reward of the decisions, and nothing else."""
    decoder, seen = mlp(3), []

    def function(decision: Tensor) -> Tensor:
        seen.append(decision.detach())
        return decoder(decision if kind is Bernoulli else decision.flatten(-2)).square()

    score = Downstream(function, classes=None if kind is Bernoulli else 3, dtype=DOUBLE)
    estimator = muprop(draws=2) if name == "muprop" else LEARNERS[name]()
    value = estimator(kind(batch(kind)), score, generator=seeded())
    value.sum().backward()
    (hard,) = [decision for decision in seen if torch.equal(decision, decision.bool().to(DOUBLE))]
    right = function(hard).mean(0)
    torch.testing.assert_close(value, right, rtol=1e-14, atol=1e-14)
    gradients = torch.autograd.grad(right.sum(), list(decoder.parameters()))
    torch.testing.assert_close([weight.grad for weight in decoder.parameters()], list(gradients), rtol=1e-13, atol=0)


def toy(wanted: float) -> Game:
    return (
        lambda rows: Downstream(lambda b: (b - wanted).square().squeeze(-1), dtype=DOUBLE),
        lambda b: (b[0] - wanted) ** 2,
    )


ZERO = torch.zeros(1, dtype=DOUBLE)


def noise_of(estimator: Estimator, game: Game, nodes: int = 120) -> float:
    return float(variance(yes_or_no(estimator, game, ZERO, nodes))[1])


@pytest.mark.parametrize(("wanted", "temperature"), [(0.0, 2.0), (0.1, 2.0), (0.0, 4.0)])
def test_quieter_than_the_score_function(wanted: float, temperature: float) -> None:
    game = toy(wanted)
    found = noise_of(rebar(temperature), game), noise_of(score_function(draws=1, credit=credit.none), game)
    print(f"(b - {wanted})^2: REBAR {found[0]:.3e}, REINFORCE {found[1]:.3e}")
    assert found[0] < 0.6 * found[1]


@pytest.mark.parametrize("make", [muprop, rebar])
def test_much_quieter_where_the_relaxation_is_near(make: Callable[[], Estimator]) -> None:
    plain = every_estimate(score_function(draws=1, credit=credit.none), TWO, F1[0]((4,)), 1)
    found = every_estimate(muprop(), TWO, F1[0]((4,)), 1) if make is muprop else yes_or_no(rebar(), F1, TWO, 26)
    noise = variance(found)[1:].sum(), variance(plain)[1:].sum()
    print(f"f1 of two decisions: {noise[0]:.3e}, REINFORCE {noise[1]:.3e}")
    assert noise[0] < noise[1] / 2


@pytest.mark.parametrize("temperature", [0.25, 0.5, 1.0, 2.0])
def test_no_quieter_where_the_relaxation_says_nothing(temperature: float) -> None:
    """(b - .499)^2 is .25 at both ends and 0 between them: REBAR's best strength is about 0, which is REINFORCE.

    This is the method, not an error: each sample is the textbook's. The variance is a parabola in the strength.
    """
    game = toy(0.499)
    at_0, at_half, at_1 = (noise_of(rebar(temperature, strength), game) for strength in (0.0, 0.5, 1.0))
    curve = 2 * (at_0 - 2 * at_half + at_1)
    slope = at_1 - at_0 - curve
    print(f"temperature {temperature}: REBAR {at_1:.4e}, at its best {at_0 - slope**2 / 4 / curve:.8e}")
    assert at_0 == pytest.approx(1.5625e-2, rel=2e-5)
    assert at_1 > at_0
    assert abs(slope / curve) < 1e-3
    assert slope**2 / 4 / curve < 1e-7 * at_0


def hidden(game: Game) -> Game:
    """The same with a score that is a plain function."""
    return (lambda rows: partial(call, game[0](rows))), game[1]


def call(score: Score, decision: Tensor) -> Tensor:
    return score(decision)


# What is learnt from, its noise before at most, and after: 1.5625e-2 is REINFORCE, which REBAR falls back upon
TRAINED: dict[str, tuple[Callable[[], REBAR | RELAX], Game, float, float]] = {
    "REBAR": (lambda: rebar(0.25, 1.0), toy(0.499), 3.8e-2, 1.57e-2),
    "REBAR, nearly linear": (lambda: rebar(0.25, 0.0), toy(0.0), 6.2e-2, 2e-2),
    "RELAX of a black box": (
        lambda: relax(1, scale=0.1),
        hidden(toy(0.499)),
        1.4e-2,
        1e-4,
    ),
}


@pytest.mark.parametrize("name", TRAINED)
def test_training_the_control_variate_takes_variance_away(name: str) -> None:
    make, game, least, most = TRAINED[name]
    learner = make()
    before = noise_of(learner, game)
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.1)
    generator = seeded()
    for _ in range(60):
        optimizer.zero_grad()
        logits = torch.zeros(32, 1, dtype=DOUBLE, requires_grad=True)
        (-learner(Bernoulli(logits), game[0]((32,)), generator=generator).mean()).backward()
        optimizer.step()
    after = noise_of(learner, game)
    print(f"variance {before:.3e} -> {after:.3e}, temperature {learner.log_temperature.exp():.3f}")
    assert before > least
    assert after < most
    assert mean(yes_or_no(learner, game, ZERO, 120))[1] == pytest.approx(truth_of(game[1], ZERO)[1], abs=1e-6)


# Modules


def test_a_loss_holds_the_parameters_of_its_control_variate() -> None:
    learner = REBAR()
    criterion = MetricLoss(f1, learner)
    assert {id(weight) for weight in criterion.parameters()} == {id(learner.log_temperature), id(learner.strength)}
    assert set(criterion.state_dict()) == {"estimator.log_temperature", "estimator.strength"}
    criterion(torch.zeros(4, requires_grad=True), torch.tensor([1, 0, 1, 0])).backward()
    assert all(weight.grad is not None for weight in criterion.parameters())


def test_the_loss_minimises_the_squared_gradient() -> None:
    """MetricLoss is minimised: what it leaves in the parameters is plus the slope."""
    learner = rebar(0.7, 0.6)
    criterion = MetricLoss(f1, learner, reduction="sum", generator=seeded())
    target = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 0]])
    criterion(batch(Bernoulli), target).backward()
    around = [
        squared_length(rebar(0.7, 0.6 + step).requires_grad_(False), Bernoulli, Scorer(f1, target))
        for step in (1e-5, -1e-5)
    ]
    assert learner.strength.grad.item() == pytest.approx((around[0] - around[1]) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("name", LEARNERS)
def test_copied_and_saved(name: str) -> None:
    learner = LEARNERS[name]()
    learner.log_temperature.data.fill_(-0.1)
    other = LEARNERS[name]()
    other.load_state_dict(learner.state_dict())
    results = []
    for one in (learner, copy.deepcopy(learner), other):
        logits = batch(Bernoulli)
        one(Bernoulli(logits), WAVY[0](()), generator=seeded()).sum().backward()
        results.append((logits.grad, one.log_temperature.grad))
    assert all(torch.equal(a, b) for result in results for a, b in zip(result, results[0], strict=True))
    assert "draws=2" in repr(learner)


# muprop


def listed(policy: Policy, draws: int) -> tuple[Tensor, Tensor]:
    """All lists of draws of a policy of one row, ``lists draws items``, and their probabilities."""
    classes = 2 if isinstance(policy, Bernoulli) else policy.logits.shape[-1]
    items = len(policy.logits)
    lists = torch.tensor(list(product(range(classes), repeat=draws * items))).reshape(-1, draws, items)
    decision = lists.bool() if isinstance(policy, Bernoulli) else lists
    return decision, policy.log_prob(decision).detach().flatten(1).sum(1).exp()


def every_estimate(estimator: Estimator, logits: Tensor, score: Score, draws: int) -> tuple[Tensor, Tensor]:
    kind = Bernoulli if logits.ndim == 1 else Categorical
    decision, probability = listed(kind(logits), draws)

    class Listed(kind):  # type: ignore[valid-type]
        def sample(self, draws: int, *, generator: torch.Generator | None = None) -> Tensor:
            return decision.movedim(1, 0)

    leaf = leaf_of(logits, len(decision))
    return rows_of(estimator, Listed(leaf), leaf, score), probability


@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("name", GAMES)
def test_muprop_is_unbiased(name: str, draws: int) -> None:
    score, judge = GAMES[name]
    found = every_estimate(muprop(draws=draws), TWO, score((4**draws,)), draws)
    np.testing.assert_allclose(mean(found), truth_of(judge, TWO), rtol=0, atol=1e-12)


@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("name", CLASSES)
def test_muprop_is_unbiased_among_classes(name: str, draws: int) -> None:
    logits = CLASSES[name]
    game = class_game(logits.shape[-1])
    found = every_estimate(muprop(draws=draws), logits, game[0](()), draws)
    np.testing.assert_allclose(mean(found), truth_of(game[1], logits), rtol=0, atol=1e-12)


@pytest.mark.parametrize("logits", [TWO, CLASSES["3 classes"], CLASSES["2 items"]], ids=["yes or no", "3", "2 x 2"])
def test_muprop_has_no_noise_where_the_score_is_linear(logits: Tensor) -> None:
    weight = torch.linspace(-1, 2, logits.numel(), dtype=DOUBLE).reshape(logits.shape)
    axes = (-1,) if logits.ndim == 1 else (-1, -2)
    score = Downstream(lambda b: (b * weight).sum(axes), None if logits.ndim == 1 else logits.shape[-1], DOUBLE)
    found = every_estimate(muprop(), logits, score, 1)
    assert variance(found)[1:].max() < 1e-30
    assert variance(found)[0] > 1e-2  # the value is the reward of what was drawn


# Hidden decisions inside a network: encoder, two hidden bits, decoder


INPUT = np.array([[0.5, -1.0], [1.5, 0.3], [-0.7, 0.9]])
WANTED = np.array([0.3, -0.8, 1.2])
ENCODER = np.array([[0.4, -0.6, 0.1], [0.9, 0.2, -0.3]])  # the last column is the bias
DECODER = np.array([1.1, -0.7, 0.4])


def losses(hidden: Any, decoder: Any, xp: Any) -> Any:
    """Of hidden bits ``... 2``: half the squared error of a sine of an affine function."""
    out = xp.sin(2.0 * (hidden[..., 0] * decoder[0] + hidden[..., 1] * decoder[1] + decoder[2]))
    return 0.5 * (out + hidden[..., 0] * hidden[..., 1] - xp.asarray(WANTED)) ** 2


def expected_loss(weights: NDArray[np.complex128]) -> complex:
    """The sum over rows of the loss expected over the four hidden states."""
    encoder, decoder = weights[:6].reshape(2, 3), weights[6:]
    z = INPUT @ encoder[:, :2].T + encoder[:, 2]
    p = 1 / (1 + np.exp(-z))
    total = 0j
    for bits in product([0, 1], repeat=2):
        probability = np.prod(np.where(bits, p, 1 - p), axis=1)
        total += complex((probability * losses(np.array(bits)[None] * np.ones((3, 2)), decoder, np)).sum())
    return total


@pytest.mark.parametrize("name", ["muprop", "REBAR", "RELAX", "RELAX, the score unknown to it"])
def test_both_ends_of_a_network_get_their_expected_gradient(name: str) -> None:
    weights = np.concatenate([ENCODER.ravel(), DECODER])
    right = [expected_loss(weights + 1e-20j * unit).imag / 1e-20 for unit in np.eye(9)]
    encoder = torch.tensor(ENCODER, requires_grad=True)
    decoder = torch.tensor(DECODER, requires_grad=True)
    z = torch.tensor(INPUT) @ encoder[:, :2].T + encoder[:, 2]  # one row for each input
    score: Score = Downstream(lambda hidden: -losses(hidden, decoder, torch), dtype=DOUBLE)
    if name.endswith("unknown to it"):
        score = partial(call, score)
    estimator = muprop() if name == "muprop" else rebar(0.5, 0.8) if name == "REBAR" else relax(2, 0.5, 0.8)
    if name == "muprop":
        lists = torch.tensor(list(product([False, True], repeat=2)))
        decision = lists[:, None].expand(4, 3, 2)
        weight = Bernoulli(z).log_prob(decision).sum(-1).exp().detach()

        class Listed(Bernoulli):
            def sample(self, draws: int, *, generator: torch.Generator | None = None) -> Tensor:
                return decision[None]

        policy: Policy = Listed(z.expand(4, 3, 2))
    else:
        rules = [tensor_rule([halves(p, 30) for p in row]) for row in torch.sigmoid(z).tolist()]
        noise, weight = (torch.stack(part, 1) for part in zip(*rules, strict=True))
        policy = FixedBernoulli(z.expand(len(noise), 3, 2), noise[None])
    loss = -(estimator(policy, score) * weight).sum()
    loss.backward()
    assert loss.item() == pytest.approx(expected_loss(weights).real, abs=1e-10)
    assert encoder.grad is not None
    assert decoder.grad is not None
    found = torch.cat([encoder.grad.flatten(), decoder.grad])
    np.testing.assert_allclose(found, right, rtol=0, atol=TOLERANCE)
    assert min(np.abs(right)) > 1e-3


# Errors


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("make", [REBAR, lambda **k: RELAX(nn.Identity(), **k)], ids=["REBAR", "RELAX"])
def test_a_temperature_is_above_zero(make: Callable[..., Estimator], temperature: float) -> None:
    with pytest.raises(ValueError, match=r"^needed a temperature above 0 \(at least 1e-6\), got "):
        make(temperature=temperature)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("make", [muprop, REBAR, lambda draws: RELAX(nn.Identity(), draws)])
def test_draws(make: Callable[[Any], Estimator]) -> None:
    for draws in (0, -1):
        with pytest.raises(ValueError, match=f"^needed at least 1 draw, got {draws}"):
            make(draws)
    for wrong in (1.0, "2", True, None):
        with pytest.raises(TypeError, match=r"^needed a whole number of draws, got "):
            make(wrong)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("score", "got"),
    [
        (lambda d: d.double().sum(-1), "function"),
        (Scorer(OpaqueMetric(lambda d, t: 1.0, name="mine"), torch.ones(3)), r"OpaqueMetric\(mine\)"),
    ],
    ids=["plain function", "black box"],
)
@pytest.mark.parametrize("make", [muprop, REBAR])
def test_a_derivative_is_needed(make: Callable[[], Estimator], score: Score, got: str) -> None:
    with pytest.raises(TypeError, match=rf"(?s)needed a score that is differentiable.*{got}.*in Downstream"):
        make()(Bernoulli(torch.zeros(3)), score)


@pytest.mark.usefixtures("as_a_user")
def test_a_network_is_a_module_with_one_guess_a_row() -> None:
    with pytest.raises(TypeError, match=r"^needed a network as control variate, got .*; pass an nn.Module"):
        RELAX(lambda b: b.sum(-1))
    for network in (nn.Linear(3, 1), nn.Identity(), nn.Flatten(0)):
        with pytest.raises(ValueError, match=r"^needed guesses of shape \(2, 4\).*, got "):
            RELAX(network, 2)(Bernoulli(torch.zeros(4, 3)), lambda d: d.double().sum(-1))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("make", [muprop, REBAR, lambda: RELAX(mlp(3).float())])
def test_a_relaxed_reward_is_finite(make: Callable[[], Estimator]) -> None:
    between = Downstream(lambda b: torch.where((b == 0) | (b == 1), b, math.nan).sum(-1))
    with pytest.raises(ValueError, match=r"^needed finite rewards, got nan for draw 0, row "):
        make()(Bernoulli(torch.zeros(2, 3)), between)


@pytest.mark.usefixtures("as_a_user")
def test_a_guess_is_finite() -> None:
    network = mlp(3).float()
    for weight in network.parameters():
        weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match=r"^needed finite guesses, got nan for draw 0, row "):
        RELAX(network)(Bernoulli(torch.zeros(2, 3)), lambda d: d.double().sum(-1))


ALL: dict[str, Callable[[], Estimator]] = {
    "muprop": muprop,
    "REBAR": REBAR,
    "RELAX": lambda: RELAX(mlp(3).float()),
}


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", ALL)
def test_a_target_is_not_broadcast(name: str) -> None:
    for target in [(3,), (1, 3), (2, 1)]:
        with pytest.raises(ValueError, match="nothing is broadcast"):
            ALL[name]()(Bernoulli(torch.zeros(2, 3)), Scorer(f1, torch.ones(target)))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", ["muprop", "REBAR"])
def test_choices_need_a_downstream_that_knows_the_classes(name: str) -> None:
    """A Downstream that was not told of classes."""
    score = Downstream(lambda decision: decision.sum(-1))
    with pytest.raises(ValueError, match=r"^needed yes/no decisions for Downstream\(..., classes=None\), got "):
        ALL[name]()(Categorical(torch.zeros(2, 3, 3)), score)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(("classes", "kind"), [(None, Categorical), (5, Categorical), (2, Bernoulli)])
@pytest.mark.parametrize("name", ["muprop", "REBAR"])
def test_a_downstream_of_other_classes(name: str, classes: int | None, kind: type[Policy]) -> None:
    logits = torch.zeros(2, 3) if kind is Categorical else torch.zeros(3)
    with pytest.raises((TypeError, ValueError), match="classes"):
        ALL[name]()(kind(logits), Downstream(lambda b: b.flatten(1).sum(-1), classes))


def test_a_frozen_network_of_a_black_box() -> None:
    learner = relax(3)
    learner.network.requires_grad_(False)
    learner.log_temperature.requires_grad_(False)
    logits = batch(Bernoulli)
    learner(Bernoulli(logits), in_a_box, generator=seeded()).sum().backward()
    assert logits.grad is not None
    assert learner.strength.grad is None or not learner.strength.grad


def test_the_value_of_infinite_logits_at_a_low_temperature() -> None:
    logits = torch.tensor([math.inf, 0.3, -math.inf], requires_grad=True)
    value = REBAR(temperature=1e-5)(Bernoulli(logits), Scorer(f1, torch.tensor([1, 1, 0])), generator=seeded())
    assert value.isfinite()


# Numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (3,), (2, 2, 3)])
@pytest.mark.parametrize("name", ALL)
def test_shapes_and_dtypes(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    estimator = ALL[name]()
    if isinstance(estimator, nn.Module):
        estimator.to(dtype)
    logits = torch.zeros(shape, dtype=dtype, requires_grad=True)
    for score in (Scorer(f1, torch.ones(shape)), Downstream(lambda b: b.square().sum(-1))):
        value = estimator(Bernoulli(logits), score)
        assert (value.shape, value.dtype) == (shape[:-1], dtype)
        value.sum().backward()
        assert logits.grad.dtype == dtype
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", ["muprop", "REBAR"])
def test_rows_without_items(name: str) -> None:
    logits = torch.zeros(2, 0, requires_grad=True)
    value = ALL[name]()(Bernoulli(logits), Scorer(f1, torch.ones(2, 0)))
    assert torch.equal(value, torch.ones(2))
    value.sum().backward()
    assert logits.grad.shape == (2, 0)


@pytest.mark.parametrize("kind", [Bernoulli, Categorical])
@pytest.mark.parametrize("name", ALL)
def test_a_generator_determines_the_estimate(name: str, kind: type[Policy]) -> None:
    estimator, before = ALL[name](), torch.get_rng_state()
    gradients: list[Tensor] = []
    for seed in (5, 5, 6):
        logits = batch(kind).detach().float().requires_grad_()
        score = Downstream(
            lambda b: b.flatten(2)[..., 0].square() + b.flatten(2)[..., 1], 3 if kind is Categorical else None
        )
        value = estimator(kind(logits), score, generator=torch.Generator().manual_seed(seed))
        gradients += torch.autograd.grad(value.sum(), logits)
    assert torch.equal(gradients[0], gradients[1])
    assert not torch.equal(gradients[1], gradients[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [50.0, 1e4, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_sure_decisions_have_no_gradient(name: str, dtype: torch.dtype, size: float) -> None:
    estimator = ALL[name]()
    if isinstance(estimator, nn.Module):
        estimator.to(dtype)
    for score in (Scorer(f1, torch.tensor([1, 1, 0])), Downstream(lambda b: b.square().sum(-1), dtype=dtype)):
        logits = torch.tensor([size, -size, size], dtype=dtype, requires_grad=True)
        estimator(Bernoulli(logits), score, generator=seeded()).backward()
        assert logits.grad.abs().max() < 1e-12
    if isinstance(estimator, nn.Module):
        assert all(w.grad is None or torch.isfinite(w.grad).all() for w in estimator.parameters())


@pytest.mark.parametrize("size", [50.0, 1e4, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_sure_choices_have_no_gradient(name: str, dtype: torch.dtype, size: float) -> None:
    estimator = ALL[name]()
    if isinstance(estimator, nn.Module):
        estimator.to(dtype)
    logits = torch.tensor([[0.0, -size, -size]], dtype=dtype, requires_grad=True)
    score = Downstream(
        lambda one_hot: (one_hot @ torch.arange(3, dtype=dtype)).square().sum(-1), classes=3, dtype=dtype
    )
    estimator(Categorical(logits), score, generator=seeded()).backward()
    assert logits.grad.abs().max() < 1e-12
    if isinstance(estimator, nn.Module):
        assert all(w.grad is None or torch.isfinite(w.grad).all() for w in estimator.parameters())


@pytest.mark.parametrize("name", ALL)
def test_one_sure_decision_among_others(name: str) -> None:
    logits = torch.tensor([math.inf, 0.3, -math.inf], requires_grad=True)
    ALL[name]()(Bernoulli(logits), Scorer(f1, torch.tensor([1, 1, 0])), generator=seeded()).backward()
    sure_yes, unsure, sure_no = logits.grad.tolist()
    assert sure_yes == sure_no == 0
    assert math.isfinite(unsure)
    assert unsure != 0


@pytest.mark.parametrize("name", ALL)
def test_under_autocast(name: str) -> None:
    """The estimate is near that of full precision, on the same decisions."""
    encoder, decoder = nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 1), nn.Flatten(-2))
    with torch.no_grad():
        for weight in (*encoder.parameters(), *decoder.parameters()):
            weight.copy_(torch.cos(torch.arange(weight.numel()) * 1.7).reshape(weight.shape))
    score = Downstream(lambda b: -decoder(b).square())
    results = []
    for enabled in (False, True):
        estimator = ALL[name]()
        modules = nn.ModuleList([encoder, decoder, *([estimator] if isinstance(estimator, nn.Module) else [])])
        modules.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = encoder(torch.tensor([[0.5, -1.0], [1.0, 0.25]]))
            value = estimator(Bernoulli(logits), score, generator=seeded())
        assert value.dtype == torch.float32
        value.sum().backward()
        results.append([weight.grad.clone() for weight in modules.parameters()])
    torch.testing.assert_close(results[1], results[0], rtol=0.1, atol=0.05)
