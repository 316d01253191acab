"""Samples without replacement: every set, weighed with a probability found from all orders it may be drawn in."""

import math
from collections.abc import Callable, Sequence
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgrad.estimators import inclusion_weighted, unordered_set
from rlgrad.estimators.without_replacement import log_set_ratios, without_replacement
from rlgrad.metrics import Downstream
from rlgrad.policies import Bernoulli, Categorical
from tests.estimators.proof import (
    LOGITS,
    METRICS,
    PROBLEMS,
    TARGET,
    Array,
    Estimates,
    Problem,
    distance,
    estimates,
    exactly,
    network,
    network_by_hand,
    of_metric,
    of_network,
    product_lists,
    rows_of,
)

POINTS = 60  # of the quadrature over thresholds
HOME = "rlgrad.estimators.without_replacement"


def plain(problem: Problem) -> type[Bernoulli] | type[Categorical]:
    return Bernoulli if problem.yes_no else Categorical


def of_order(order: Sequence[int], p: Array) -> float:
    """P(these are drawn, one after the other, none of them twice)."""
    left, chance = 1.0, 1.0
    for at in order:
        chance *= p[at] / left
        left -= p[at]
    return chance


def of_set(members: Sequence[int], p: Array) -> float:
    return sum(of_order(order, p) for order in permutations(members))


def possible_sets(p: Array, draws: int) -> list[tuple[int, ...]]:
    """Sets of the outcomes that are possible, and all of these where there are fewer than are drawn."""
    able = np.flatnonzero(p).tolist()
    impossible = np.flatnonzero(p == 0).tolist()
    if len(able) >= draws:
        return list(combinations(able, draws))
    return [tuple(able + impossible[: min(draws, len(p)) - len(able)])]


def stubbed(monkeypatch: pytest.MonkeyPatch, chosen: Tensor, threshold: Tensor, problem: Problem) -> None:
    rows = problem.target.shape[:-1]
    shape = (len(chosen), *rows)
    answer = chosen.reshape(*shape, chosen.shape[-1]), threshold.reshape(shape)

    def stub(log_p: Tensor, draws: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        assert draws == chosen.shape[-1]
        return answer

    monkeypatch.setattr(f"{HOME}.without_replacement", stub)


def over_sets(problem: Problem, draws: int, monkeypatch: pytest.MonkeyPatch) -> Estimates:
    """unordered_set for every set in every row."""
    rows = []
    for p in rows_of(problem):
        sets = possible_sets(p, draws)
        chances = [of_set([s for s in members if p[s]], p) for members in sets]
        rows.append((torch.tensor(chances), torch.tensor(sets)))
    probability, chosen = product_lists(rows)
    stubbed(monkeypatch, chosen, torch.zeros(chosen.shape[:-1]), problem)
    return estimates(unordered_set(draws=draws), problem, probability, plain(problem))


def over_thresholds(problem: Problem, draws: int, monkeypatch: pytest.MonkeyPatch, *, points: int = 40) -> Estimates:
    """inclusion_weighted for every set and, by quadrature, every threshold.

    The largest of the Gumbels outside, of total probability R, is k with P(k <= x) = exp(-R exp(-x)): v = exp(-R
    exp(-k)) is uniform. Given k, each of the others lies above k apart, with probability 1 - exp(-p exp(-k)), which is
    1 - v^(p / R). The rule is the double-exponential one (tanh-sinh): it does not mind the ends, where that is steep.
    """
    x = np.linspace(-3.3, 3.3, POINTS)
    log_v = -np.log1p(np.exp(-np.pi * np.sinh(x)))
    weight = (x[1] - x[0]) * np.pi * np.cosh(x) * np.exp(2 * log_v - np.pi * np.sinh(x))
    rows = []
    for p in rows_of(problem):
        chances, what = [], []
        for members in possible_sets(p, draws):
            rest = 1 - p[list(members)].sum() if len(members) < np.count_nonzero(p) else 0.0
            if rest == 0:
                chances.append(np.ones(1))
                thresholds = np.array([-np.inf])
            else:
                above = [-np.expm1(p[s] / rest * log_v) for s in members]
                chances.append(np.prod(above, axis=0) * weight)
                thresholds = np.log(rest) - np.log(-log_v)
            what += [(*members, k) for k in thresholds]
        rows.append((torch.from_numpy(np.concatenate(chances)), torch.tensor(what, dtype=torch.float64)))
    probability, shown = product_lists(rows)
    stubbed(monkeypatch, shown[..., :-1].long(), shown[..., -1], problem)
    return estimates(inclusion_weighted(draws=draws), problem, probability, plain(problem))


ONE_ROW = {
    "profit": of_metric(METRICS["profit"], LOGITS[:3], TARGET[:3]),
    "f1": of_metric(METRICS["f1"], LOGITS[:3], TARGET[:3]),
    "network": of_network(LOGITS[:3]),
    "one item": of_network(torch.tensor([[1.0, -0.4, 0.3, -2.0]], dtype=torch.float64), classes=4),
    "black box, classes": PROBLEMS["black box, classes"],
    "network, classes": PROBLEMS["network, classes"],
}
ROWS = {
    name: PROBLEMS[name] for name in ("profit, rows", "black box, rows", "network, rows", "black box, masked, rows")
}


@pytest.mark.parametrize("draws", [2, 3, 4])
@pytest.mark.parametrize("problem", (ONE_ROW | ROWS).values(), ids=ONE_ROW | ROWS)
def test_unordered_set_is_unbiased(problem: Problem, draws: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not distance(over_sets(problem, draws, monkeypatch), problem)


@pytest.mark.parametrize("draws", [2, 3, 4])
@pytest.mark.parametrize("problem", ONE_ROW.values(), ids=ONE_ROW)
def test_inclusion_weighted_is_unbiased(problem: Problem, draws: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not distance(over_thresholds(problem, draws, monkeypatch), problem)


@pytest.mark.parametrize("name", ["profit, rows", "network, rows"])
def test_inclusion_weighted_is_unbiased_in_each_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not distance(over_thresholds(PROBLEMS[name], 2, monkeypatch), PROBLEMS[name])


@pytest.mark.parametrize("draws", [8, 9, 12])
@pytest.mark.parametrize("problem", [ONE_ROW["profit"], ONE_ROW["network"], PROBLEMS["profit, rows"]])
@pytest.mark.parametrize("make", [unordered_set, inclusion_weighted])
def test_exact_where_all_outcomes_are_drawn(
    make: Callable[..., unordered_set | inclusion_weighted], problem: Problem, draws: int, generator: torch.Generator
) -> None:
    runs = 10
    one = estimates(
        lambda policy, score, **_: make(draws=draws)(policy, score, generator=generator),
        problem,
        torch.full((runs,), 1 / runs, dtype=torch.float64),
        plain(problem),
    )
    assert not distance(one, problem)
    assert one.variance.max() < 1e-24


@pytest.mark.parametrize("draws", [6, 9])
@pytest.mark.parametrize("make", [unordered_set, inclusion_weighted])
def test_exact_where_all_that_is_possible_is_drawn(make, draws: int, generator: torch.Generator) -> None:
    """Masked classes: six of nine outcomes are possible."""
    logits = torch.tensor([[0.3, -math.inf, 0.5], [1.2, 0.1, -0.4]], dtype=torch.float64)
    problem = of_network(logits, classes=3)
    found = estimates(
        lambda policy, score, **_: make(draws=draws)(policy, score, generator=generator),
        problem,
        torch.full((5,), 0.2, dtype=torch.float64),
        Categorical,
    )
    assert not distance(found, problem)
    assert found.variance.max() < 1e-24


@pytest.mark.parametrize("draws", [2, 3])
@pytest.mark.parametrize("problem", ONE_ROW.values(), ids=ONE_ROW)
def test_unordered_set_is_the_mean_of_inclusion_weighted_given_the_set(
    problem: Problem, draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rao-Blackwell, exactly: set by set, and so in variance."""
    one, other = over_sets(problem, draws, monkeypatch), over_thresholds(problem, draws, monkeypatch)
    for at in range(len(one.probability)):
        nodes = slice(POINTS * at, POINTS * (at + 1))
        share = other.probability[nodes]
        assert share.sum().item() == pytest.approx(one.probability[at].item(), abs=1e-11)
        share = share / share.sum()
        torch.testing.assert_close(share @ other.value[nodes], one.value[at], rtol=0, atol=1e-8)
        torch.testing.assert_close(
            torch.tensordot(share, other.gradient[nodes], 1), one.gradient[at], rtol=0, atol=1e-8
        )
    assert (one.variance <= other.variance + 1e-12).all()
    assert (one.variance < other.variance - 1e-4).any()


@pytest.mark.parametrize("problem", [ONE_ROW["profit"], ONE_ROW["network, classes"]])
def test_more_draws_are_less_noisy(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = [over_sets(problem, draws, monkeypatch).variance.sum() for draws in (2, 3, 4, 5)]
    assert sums == sorted(sums, reverse=True)


def test_weights_of_the_network_get_the_gradient_of_the_mean_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    base = of_network(LOGITS[:3])

    def expected(w: float) -> float:
        return float(exactly(Problem(base.logits, base.target, network_by_hand(scale=w), base.score))[0])

    truth = (expected(0.8 + 1e-5) - expected(0.8 - 1e-5)) / 2e-5
    problem = Problem(base.logits, base.target, base.judge, lambda target: network(scale=scale))
    for over, make in ((over_sets, unordered_set), (over_thresholds, inclusion_weighted)):
        weights = over(problem, 3, monkeypatch).probability  # leaves the stub in place
        policy = Bernoulli(problem.logits.expand(len(weights), 3))
        (slope,) = torch.autograd.grad(weights @ make(draws=3)(policy, problem.score(problem.target)), scale)
        assert slope.item() == pytest.approx(truth, abs=1e-8)


# The parts


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_set_ratios_are_those_of_permutations(size: int) -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(7), 3)
    members, rest = torch.from_numpy(p[:, :size]), torch.from_numpy(p[:, size:].sum(1))
    single, paired = (ratio.exp() for ratio in log_set_ratios(members.log(), rest.log()))

    def given(members: list[int], gone: set[int], row: Array) -> float:
        left = row.copy()
        left[list(gone)] = 0
        return of_set(members, left / left.sum())

    for row in range(3):
        for s in range(size):
            others = [t for t in range(size) if t != s]
            ratio = given(others, {s}, p[row]) / of_set(range(size), p[row])
            assert single[row, s].item() == pytest.approx(ratio, rel=1e-10)
            for t in others:
                without = given([u for u in others if u != t], {s, t}, p[row]) / given(others, {s}, p[row])
                assert paired[row, s, t].item() == pytest.approx(without, rel=1e-10)
            assert paired[row, s, s].item() == pytest.approx(1.0, rel=1e-12)


def test_a_sample_without_replacement_is_drawn_in_the_order_of_its_probabilities() -> None:
    """A chi-square test over all ordered pairs of five outcomes.

    Its statistic has mean f and standard deviation sqrt(2 f) for f degrees of freedom; the bound at six of them is
    passed by chance less than once in a million.
    """
    p = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
    draws = 100_000
    log_p = torch.from_numpy(np.log(p)).expand(draws, 5)
    chosen, threshold = without_replacement(log_p, 2, generator=torch.Generator().manual_seed(0))
    assert chosen.shape == (draws, 2)
    orders = list(permutations(range(5), 2))
    seen = torch.bincount(chosen[:, 0] * 5 + chosen[:, 1], minlength=25).reshape(5, 5).numpy()
    assert sum(seen[order] for order in orders) == draws  # none twice
    expected = np.array([draws * of_order(order, p) for order in orders])
    statistic = float((((np.array([seen[order] for order in orders]) - expected) ** 2) / expected).sum())
    freedom = len(orders) - 1
    assert statistic < freedom + 6 * math.sqrt(2 * freedom) + 10

    # The threshold is the largest of the Gumbels outside: exp(-rest exp(-k)), given which two are chosen and that
    # they lie above, has the distribution whose density is proportional to the product of 1 - v^(p / rest).
    rest = 1 - p[chosen.numpy()].sum(1)
    v = np.exp(-rest * np.exp(-threshold.numpy()))
    for members in combinations(range(5), 2):
        at = (np.sort(chosen.numpy(), 1) == members).all(1)
        left = 1 - p[list(members)].sum()
        grid = (np.arange(20_000) + 0.5) / 20_000
        density = np.prod([1 - grid ** (p[s] / left) for s in members], axis=0)
        mean, square = (float((density * grid**k).sum() / density.sum()) for k in (1, 2))
        error = math.sqrt((square - mean**2) / at.sum())
        assert abs(v[at].mean() - mean) < 6 * error


def test_an_impossible_outcome_is_drawn_last(generator: torch.Generator) -> None:
    log_p = torch.tensor([0.5, 0.0, 0.3, 0.2, 0.0], dtype=torch.float64).log().expand(1000, 5)
    chosen, threshold = without_replacement(log_p, 3, generator=generator)
    assert set(chosen.flatten().tolist()) == {0, 2, 3}
    assert (threshold == -math.inf).all()
    chosen, threshold = without_replacement(log_p, 5, generator=generator)
    assert (chosen.sort(-1).values == torch.arange(5)).all()
    assert (threshold == -math.inf).all()


def test_no_more_than_twelve_draws() -> None:
    with pytest.raises(ValueError, match=r"^needed at most 12 draws, got 13; average several estimates$"):
        unordered_set(draws=13)


@pytest.mark.parametrize("make", [unordered_set, inclusion_weighted])
def test_more_outcomes_than_can_be_listed(make) -> None:
    with pytest.raises(ValueError, match=r"_(set|weighted) needed at most 65536 outcomes a row, got 2\^17; use "):
        make()(Bernoulli(torch.zeros(17)), lambda decision: decision.double().sum(-1))


@pytest.mark.parametrize("make", [unordered_set, inclusion_weighted])
@pytest.mark.parametrize("size", [50.0, 370.0, 400.0, 1e4, math.inf])
def test_a_sure_row_has_no_gradient(make, size: float, generator: torch.Generator) -> None:
    logits = torch.tensor([size, -size, size], dtype=torch.float64, requires_grad=True)
    score = Downstream(lambda decision: decision.sum(-1).exp(), dtype=torch.float64)
    for _ in range(20):
        value = make(draws=3)(Bernoulli(logits), score, generator=generator)
        assert value.item() == pytest.approx(math.exp(2))
        (gradient,) = torch.autograd.grad(value, logits)
        assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize(
    "make",
    [
        unordered_set,
        inclusion_weighted,
    ],
)
def test_probabilities_at_the_end_of_the_number_line_are_finite(make, generator: torch.Generator) -> None:
    logits = torch.tensor([744.0, 745.5], dtype=torch.float64, requires_grad=True)
    for _ in range(50):
        value = make(draws=2)(Bernoulli(logits), lambda b: b.sum(-1).double(), generator=generator)
        assert torch.isfinite(torch.autograd.grad(value, logits)[0]).all()
