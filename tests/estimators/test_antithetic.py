"""Pairs of draws: integrated exactly, by a Gauss rule in each interval between the breakpoints p and 1 - p."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgrad.estimators import Estimator, arm, disarm, score_function
from rlgrad.metrics import OpaqueMetric, Scorer, f1
from rlgrad.policies import Bernoulli
from tests.estimators.proof import (
    LOGITS,
    METRICS,
    ROWS,
    TARGET,
    TARGETS,
    YES_NO,
    Array,
    Case,
    Estimates,
    Problem,
    WithNoise,
    distance,
    estimates,
    every_estimate,
    of_metric,
    of_network,
)


def nodes(p: float, points: int) -> tuple[Array, Array]:
    """Nodes and weights on [0, 1], a Gauss rule of this many points on each interval between 0, p, 1 - p and 1.

    There the estimators are polynomials of the noise of a decision: of degree 1, and their squares of degree 2.
    """
    ends = np.unique([0.0, min(p, 1 - p), max(p, 1 - p), 1.0])
    x, w = np.polynomial.legendre.leggauss(points)
    middle, half = (ends[1:] + ends[:-1]) / 2, (ends[1:] - ends[:-1]) / 2
    return (middle[:, None] + half[:, None] * x).ravel(), (half[:, None] * w).ravel()


def over_noise(make: Callable[[], Estimator], problem: Problem, *, pairs: int = 1, points: int = 1) -> Estimates:
    """The estimator at all nodes of the noises of all decisions and pairs."""
    rules = [nodes(p, points) for p in (1 / (1 + np.exp(-problem.logits.numpy()))).ravel()] * pairs
    noise = torch.cartesian_prod(*[torch.from_numpy(x) for x, _ in rules]).reshape(-1, len(rules))
    weight = torch.cartesian_prod(*[torch.from_numpy(w) for _, w in rules]).reshape(-1, len(rules)).prod(-1)
    noise = noise.reshape(len(noise), pairs, *problem.target.shape).movedim(0, 1)
    return estimates(make(), problem, weight, lambda leaf: WithNoise(leaf, noise))


@pytest.mark.parametrize("problem", YES_NO.values(), ids=YES_NO)
@pytest.mark.parametrize("make", [arm, disarm])
def test_unbiased(make: type[arm | disarm], problem: Problem) -> None:
    assert not distance(over_noise(make, problem), problem)


@pytest.mark.parametrize("pairs", [2, 3])
@pytest.mark.parametrize("make", [arm, disarm])
def test_unbiased_with_several_pairs(make: type[arm | disarm], pairs: int) -> None:
    problem = of_metric(METRICS["f1"], LOGITS[:2], TARGET[:2])
    assert not distance(over_noise(lambda: make(draws=2 * pairs), problem, pairs=pairs), problem)


@pytest.mark.parametrize("make", [arm, disarm])
def test_unbiased_at_a_tie_and_at_sure_decisions(make: type[arm | disarm]) -> None:
    # At p = 1/2 the inner interval is empty; where a decision is sure only the inner one is left.
    problem = of_network(torch.tensor([0.0, 40.0, -40.0, 1.3], dtype=torch.float64))
    assert not distance(over_noise(make, problem), problem)


def wrong_half(*_: object, **__: object) -> Estimator:
    return lambda policy, score, *, generator=None: 2 * disarm()(policy, score, generator=generator)


def test_a_missing_half_is_found_out() -> None:
    problem = of_metric(METRICS["f1"])
    assert distance(over_noise(wrong_half, problem), problem).gradient > 1e-2


def test_disarm_is_arm_with_its_noise_integrated_out() -> None:
    """Within a cell of the noises the decisions stay as they are: the mean of arm there is disarm."""
    problem = of_metric(METRICS["profit"], LOGITS[:3], TARGET[:3])
    one, other = over_noise(arm, problem, points=2), over_noise(disarm, problem, points=2)
    assert (other.variance <= one.variance).all()
    assert (other.variance < one.variance - 1e-3).any()
    noise = torch.cartesian_prod(*[torch.from_numpy(nodes(float(p), 2)[0]) for p in LOGITS[:3].sigmoid()])
    p = LOGITS[:3].sigmoid()
    cells, cell = torch.unique(torch.cat([noise < p, 1 - noise < p], -1), dim=0, return_inverse=True)
    assert len(cells) == 3**3
    for at in torch.nn.functional.one_hot(cell).T.bool():
        share = one.probability[at] / one.probability[at].sum()
        means = (share @ found.gradient[at] for found in (one, other))
        torch.testing.assert_close(*means, rtol=0, atol=1e-12)


# Golden values: E[(b - t)^2] of one decision, where the rewards of 1 and 0 differ by d = 1 - 2t


@dataclass(frozen=True)
class Golden:
    """The mean, and the variances of the four estimators, in closed form."""

    p: float
    t: float = 0.499

    @property
    def d(self) -> float:
        return (1 - self.t) ** 2 - self.t**2

    @property
    def mean(self) -> float:
        return self.d * self.p * (1 - self.p)

    @property
    def plain(self) -> float:
        p, t = self.p, self.t  # E[r^2 (b - p)^2] - mean^2
        return p * (1 - t) ** 4 * (1 - p) ** 2 + (1 - p) * t**4 * p**2 - self.mean**2

    @property
    def leave_one_out(self) -> float:
        return self.d**2 / 4 * 2 * self.p * (1 - self.p) - self.mean**2  # d / 2 where the two differ, else 0

    @property
    def arm(self) -> float:
        q = min(self.p, 1 - self.p)  # the two differ where u lies within q of 0 or 1, and give d |u - 1/2|
        return self.d**2 * 2 * (0.5**3 - (0.5 - q) ** 3) / 3 - self.mean**2

    @property
    def disarm(self) -> float:
        q = min(self.p, 1 - self.p)
        return self.d**2 * 2 * q * ((1 - q) / 2) ** 2 - self.mean**2


PRINTED = {
    ("plain", 0.5): "1.5625e-02",
    ("leave_one_out", 0.5): "2.500e-07",
    ("arm", 0.5): "8.333e-08",
    ("disarm", 0.5): "0",
    ("plain", 0.9): "5.589e-03",
    ("leave_one_out", 0.9): "1.476e-07",
    ("arm", 0.9): "1.3027e-07",
    ("disarm", 0.9): "1.296e-07",
}


def squared(t: float, logit: float) -> Problem:
    metric = OpaqueMetric(lambda decision, target: (decision.double() - t).square().squeeze(-1), batched=True)
    logits, target = torch.tensor([logit], dtype=torch.float64), torch.zeros(1)
    return Problem(
        logits, target, lambda target, decision: (decision[0] - t) ** 2, lambda target: Scorer(metric, target)
    )


FOUND: dict[str, Callable[[Problem], Estimates]] = {
    "plain": lambda problem: every_estimate(
        Case(lambda: score_function(draws=1, credit=lambda r, play: r), 1), problem
    ),
    "leave_one_out": lambda problem: every_estimate(Case(lambda: score_function(draws=2), 2), problem),
    "arm": lambda problem: over_noise(arm, problem, points=2),
    "disarm": lambda problem: over_noise(disarm, problem, points=2),
}


@pytest.mark.parametrize("p", [0.5, 0.9])
@pytest.mark.parametrize("name", FOUND)
def test_golden_variance(name: str, p: float) -> None:
    golden, problem = Golden(p), squared(0.499, float(np.log(p / (1 - p))))
    found = FOUND[name](problem)
    assert not distance(found, problem)
    assert found.mean[1][0] == pytest.approx(golden.mean, rel=1e-9)
    variance = getattr(golden, name)
    assert found.variance[0] == pytest.approx(variance, rel=1e-9, abs=1e-20)
    digits = PRINTED[name, p]
    if digits == "0":
        assert abs(variance) < 1e-20
    else:
        places = len(digits.split("e")[0]) - 2
        half_a_unit = 0.5 * 10.0 ** (int(digits.split("e")[1]) - places)
        assert variance == pytest.approx(float(digits), rel=0, abs=half_a_unit)


@pytest.mark.parametrize("t", [0.3, 0.499, 0.9])
@pytest.mark.parametrize("p", [0.05, 0.3, 0.6, 0.97])
def test_variances_in_closed_form_and_their_order(p: float, t: float) -> None:
    golden, problem = Golden(p, t), squared(t, float(np.log(p / (1 - p))))
    for name, find in FOUND.items():
        assert find(problem).variance[0] == pytest.approx(getattr(golden, name), rel=1e-9, abs=1e-18)
    assert golden.disarm <= golden.arm <= golden.leave_one_out + 1e-18


@pytest.mark.parametrize("make", [arm, disarm])
def test_two_pairs_have_half_the_variance_of_one(make: type[arm | disarm]) -> None:
    problem = of_metric(METRICS["profit"], LOGITS[:2], TARGET[:2])
    one = over_noise(make, problem, points=2)
    two = over_noise(lambda: make(draws=4), problem, pairs=2, points=2)
    np.testing.assert_allclose(two.variance, one.variance / 2, rtol=1e-10)


@pytest.mark.parametrize("make", [arm, disarm])
def test_both_members_of_each_pair_are_scored_and_belong_together(make: type[arm | disarm]) -> None:
    """Each estimate is the mean of what its pairs give alone, and its value that of all rewards."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(3, *ROWS.shape, generator=generator, dtype=torch.float64)
    score = Scorer(f1, TARGETS)

    def estimate(noise: Tensor) -> tuple[Tensor, Tensor]:
        leaf = ROWS.clone().requires_grad_()
        value = make(draws=2 * len(noise))(WithNoise(leaf, noise), score)
        return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]

    parts = [estimate(noise[pair : pair + 1]) for pair in range(3)]
    means = tuple(torch.stack(part).mean(0) for part in zip(*parts, strict=True))
    torch.testing.assert_close(estimate(noise), means, rtol=1e-12, atol=1e-14)
    p = ROWS.sigmoid()
    rewards = torch.stack([score(noise < p), score(1 - noise < p)])
    torch.testing.assert_close(estimate(noise)[0], rewards.mean((0, 1)), rtol=1e-12, atol=1e-14)


def test_disarm_leaves_sure_decisions_alone(generator: torch.Generator) -> None:
    logits = torch.tensor([0.0, 0.0, 50.0, -50.0, torch.inf, -torch.inf], requires_grad=True)
    value = disarm(draws=20)(Bernoulli(logits), Scorer(f1, torch.ones(6)), generator=generator)
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient[2:].tolist() == pytest.approx([0.0] * 4, abs=1e-12)
    assert (gradient[:2] != 0).all()
