"""Which estimator is quiet, and which is right? Every one of them on the toy problems of the literature.

    python scripts/estimator_toys.py --out docs/estimators.md

One Bernoulli: E[(b - t)^2] for t near 1/2, where the gradient all but vanishes; mean and variance of a single estimate
beside their closed forms. Three Bernoullis with one logit: E[sum (b_i - p_i)^2] of Liu et al. (2019) and Kool et al.
(2020). Everything runs in double precision from one seed; the page is written from what came out.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rlgrad import credit
from rlgrad.estimators import (
    REBAR,
    RELAX,
    Estimator,
    arm,
    counterfactual,
    disarm,
    enumeration,
    evolution_strategies,
    gumbel_softmax,
    inclusion_weighted,
    muprop,
    score_function,
    spsa,
    straight_through,
    sum_and_sample,
    unordered_set,
)
from rlgrad.metrics import Downstream
from rlgrad.policies import Bernoulli
from rlgrad.text import code, markdown

TARGETS = (0.499, 0.49, 0.51, 0.501)
THREE = (0.6, 0.51, 0.48)

INTRODUCTION = """# Estimators

All are called alike, `estimator(policy, score, generator=...)`, and return a tensor `*batch` whose value estimates the
expected reward and whose gradient is the estimator. `score` is what decisions are scored by: a `Scorer(metric, target)`
at the output of a network, `Downstream(function)` for decisions inside of one, or any function from decisions `draws
*batch items`, bool or class numbers, to rewards `draws *batch`. *Rewards* counts how often one estimate asks for the
reward of a whole row; n is `draws`, N the number of decisions in the row, K that of classes.

```python
import torch
from rlgrad import Bernoulli, MetricLoss, estimators
from rlgrad.metrics import Scorer, f1

logits = torch.zeros(16, 5, requires_grad=True)  # what a network put out: 16 rows of 5 decisions
target = torch.randint(0, 2, (16, 5))

# By itself: a policy, a score, a reward to be raised.
estimator = estimators.disarm(draws=4)
reward = estimator(Bernoulli(logits), Scorer(f1, target), generator=torch.Generator().manual_seed(0))
(-reward.mean()).backward()

# In a MetricLoss, by its name or as an object: 1 - reward, to be lowered.
MetricLoss(f1, "disarm")(logits, target).backward()
MetricLoss(f1, estimator)(logits, target).backward()

# A score of one's own: from draws x 16 x 5 to draws x 16.
reward = estimator(Bernoulli(logits), lambda decision: (decision == target).float().mean(-1))
(-reward.mean()).backward()
```

| `rlgrad.estimators` | paper | policy | score | rewards | bias |
| :-- | :-- | :-- | :-- | :-- | :-- |
| `score_function` | REINFORCE: Williams 1992; Kool 2019 | any | any | n | none |
| `importance_weighted` | PPO: Schulman 2017 | any | any | n, for several steps | none, until they are learned from |
| `counterfactual` | local expectation: Titsias 2015 | any | any | n for counts, else n(1 + N(K - 1)) | none |
| `exact` | this project; Jansche 2005 | any | CountMetric, and its averages over classes | none | none |
| `second_order` | delta method | Categorical | ConfusionMetric | none | of order N^-2 |
| `blockwise` | difference rewards: Wolpert 2001 | any | any | n for a SummedMetric, else n(1 + blocks) | none |
| `enumeration` | by definition | any, K^N <= 65536 | any | K^N | none |
| `sum_and_sample` | Rao-Blackwellized: Liu 2019 | any, K^N <= 65536 | any | summed + n | none |
| `unordered_set` | Kool 2020 | any, K^N <= 65536 | any | n | none |
| `inclusion_weighted` | without replacement: Kool 2019 | any, K^N <= 65536 | any | n | none |
| `arm` | Yin & Zhou 2019 | Bernoulli | any | n | none |
| `disarm` | DisARM, U2G: Dong 2020, Yin 2020 | Bernoulli | any | n | none |
| `muprop` | Gu 2016 | any | differentiable | n + 1 | none |
| `REBAR` | Tucker 2017 | any | differentiable | 2n | none |
| `RELAX` | Grathwohl 2018 | any | any, and a network | n, 2n if differentiable | none |
| `straight_through` | Bengio 2013 | any | differentiable | n | biased |
| `gumbel_softmax` | Jang 2017, Maddison 2017 | any | differentiable | n | biased |
| `spsa` | Spall 1992 | any | any | n | of order radius^2 |
| `evolution_strategies` | Salimans 2017 | any | any | n | of order sigma^2 |

A score is *differentiable* when it is defined between the decisions: `Downstream`, and a `Scorer` of a `CountMetric` or
a `ConfusionMetric`, whose formula takes fractional counts. `score_function` and `importance_weighted` take a credit
from `rlgrad.credit`: `none`, `leave_one_out` (the default), `MovingAverage`, `greedy` (self-critical),
`counterfactual`, `LearnedValue`, and `reward_to_go` for rankings. *Any* policy is one of independent decisions,
Bernoulli or Categorical; rankings (`PlackettLuce`) are taken by these two, by the four that list or draw a row's
outcomes, and by the last two.
`REBAR`, `RELAX`, `MovingAverage` and `LearnedValue` are modules; what they learn they learn from the same loss, so give
their parameters to the optimizer (`MetricLoss.parameters()` holds them, and `fit` takes them along).

Whoever comes from Storchastic finds its discrete estimators here: `ScoreFunction` with its baselines is
`score_function`, `Expect` is `enumeration`, `ScoreFunctionWOR` is `inclusion_weighted`, `UnorderedSetEstimator` is
`unordered_set`, the Rao-Blackwellized score function is `sum_and_sample`, `REBAR`, `RELAX` and `ARM` keep their names,
`GumbelSoftmax` with and without straight-through is `gumbel_softmax`, the measure-valued derivative of a Bernoulli is
`counterfactual`, and `SPSA` is `spsa`.

The tests prove each of the unbiased ones by its exact expectation, and each of the biased ones by its known bias. What
follows is measured by

    {command}

from {count} estimates of each, seed {seed}.
"""

ONE = """
## One Bernoulli: E[(b - t)^2]

The gradient in the logit is (1 - 2t) p (1 - p). At p = 1/2 and t = 0.499 it is 5e-4, while the reward is about 1/4
whatever is drawn: plain REINFORCE sees noise. *Off by* is the mean less the exact gradient in standard errors of that
mean (`0` where there is neither variance nor bias). *Trained* control variates have learned for a thousand steps of
Adam on the toy itself. The closed forms are, with D = r(1) - r(0), q = p (1 - p) and m = min(p, 1 - p): score function,
1 draw, q ((1 - p) r(1)^2 + p r(0)^2) - (q D)^2; leave-one-out of 2, q D^2 / 2 - (q D)^2; ARM, D^2 (1/12 - 2 (1/2 - m)^3
/ 3) - (q D)^2; DisARM, m D^2 (1 - m)^2 / 2 - (q D)^2; MuProp, q ((1 - p)^5 + p^5) - (q (1 - 2p))^2; straight-through, 4
q^3.
"""

VARIANCES = """
### Variance for each t, at p = 1/2
"""

THREE_TEXT = """
## Three Bernoullis with one logit: E[sum (b_i - p_i)^2], p = (0.6, 0.51, 0.48)

The exact gradient in the common logit is {exact}.
Each estimate asks for about four rewards.
"""


@dataclass(frozen=True)
class Toy:
    """E[sum over i of (b_i - targets_i)^2] with one logit for all decisions."""

    targets: tuple[float, ...]
    logit: float

    @property
    def gradient(self) -> float:
        """The exact derivative in the logit."""
        p = torch.tensor(self.logit, dtype=torch.float64).sigmoid()
        return sum(1 - 2 * t for t in self.targets) * float(p * (1 - p))

    def estimates(self, estimator: Estimator, count: int, seed: int) -> Tensor:
        """Many independent estimates of the derivative, each a row of a batch."""
        targets = torch.tensor(self.targets, dtype=torch.float64)
        score = Downstream(lambda b: (b - targets).square().sum(-1), dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed)
        done: list[Tensor] = []
        for start in range(0, count, 50_000):
            rows = min(50_000, count - start)
            logits = torch.full((rows, len(targets)), self.logit, dtype=torch.float64, requires_grad=True)
            estimator(Bernoulli(logits), score, generator=generator).sum().backward()
            assert logits.grad is not None
            done.append(logits.grad.sum(-1))
        return torch.cat(done)


def trained(estimator: REBAR | RELAX, toy: Toy, *, steps: int = 1000) -> Estimator:
    """The estimator after its control variate has learned to be quiet on this toy, from a thousand rows a step."""
    optimizer = torch.optim.Adam(estimator.parameters(), lr=0.02, maximize=True)  # estimates are of a reward
    for step in range(steps):
        optimizer.zero_grad()
        toy.estimates(estimator, 1000, step)
        optimizer.step()
    return estimator.requires_grad_(False)


def relax(items: int, draws: int) -> RELAX:
    """RELAX with a small network, its initial weights always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Linear(items, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(-2)
    return RELAX(nn.Sequential(*layers).double(), draws)


ClosedForm = Callable[[float, float], float]  # of p and t


def _closed(second_moment: Callable[[float, float], float]) -> ClosedForm:
    """A variance from the mean square divided by D^2 for estimates whose mean is q D, with D = r(1) - r(0)."""

    def variance(p: float, t: float) -> float:
        difference, q = 1 - 2 * t, p * (1 - p)
        return second_moment(p, q) * difference**2 - (q * difference) ** 2

    return variance


def _reinforce(p: float, t: float) -> float:
    q = p * (1 - p)
    return q * ((1 - p) * (1 - t) ** 4 + p * t**4) - (q * (1 - 2 * t)) ** 2


def _muprop(p: float, t: float) -> float:
    q = p * (1 - p)
    return q * ((1 - p) ** 5 + p**5) - (q * (1 - 2 * p)) ** 2


CLOSED: dict[str, ClosedForm] = {
    "score_function, credit none, 1 draw": _reinforce,
    "score_function, leave-one-out, 2 draws": _closed(lambda p, q: q / 2),
    "counterfactual, 1 draw": lambda p, t: 0.0,
    "enumeration": lambda p, t: 0.0,
    "sum_and_sample, 1 + 1": lambda p, t: 0.0,
    "unordered_set, 2 draws": lambda p, t: 0.0,
    "inclusion_weighted, 2 draws": lambda p, t: 0.0,
    "arm, 2 draws": _closed(lambda p, q: 1 / 12 - 2 * abs(0.5 - p) ** 3 / 3),
    "disarm, 2 draws": _closed(lambda p, q: min(p, 1 - p) * max(p, 1 - p) ** 2 / 2),
    "muprop, 1 draw": _muprop,
    "straight_through, 1 draw": lambda p, t: 4 * (p * (1 - p)) ** 3,
}
ON_ONE: dict[str, Callable[[Toy], Estimator]] = {
    "score_function, credit none, 1 draw": lambda toy: score_function(1, credit.none),
    "score_function, greedy, 1 draw": lambda toy: score_function(1, credit.greedy),
    "score_function, leave-one-out, 2 draws": lambda toy: score_function(2),
    "counterfactual, 1 draw": lambda toy: counterfactual(1),
    "enumeration": lambda toy: enumeration(),
    "sum_and_sample, 1 + 1": lambda toy: sum_and_sample(1, 1),
    "unordered_set, 2 draws": lambda toy: unordered_set(2),
    "inclusion_weighted, 2 draws": lambda toy: inclusion_weighted(2),
    "arm, 2 draws": lambda toy: arm(2),
    "disarm, 2 draws": lambda toy: disarm(2),
    "muprop, 1 draw": lambda toy: muprop(1),
    "REBAR, 1 draw": lambda toy: REBAR(1),
    "REBAR, 1 draw, trained": lambda toy: trained(REBAR(1), toy),
    "RELAX, 1 draw, trained": lambda toy: trained(relax(1, 1), toy),
    "straight_through, 1 draw": lambda toy: straight_through(1),
    "gumbel_softmax, 1 draw": lambda toy: gumbel_softmax(1),
    "gumbel_softmax, hard, 1 draw": lambda toy: gumbel_softmax(1, hard=True),
    "spsa, 2 draws": lambda toy: spsa(2),
    "evolution_strategies, 2 draws": lambda toy: evolution_strategies(2),
}
ON_THREE: dict[str, Callable[[Toy], Estimator]] = {
    "score_function, credit none, 4 draws": lambda toy: score_function(4, credit.none),
    "score_function, leave-one-out, 4 draws": lambda toy: score_function(4),
    "counterfactual, 1 draw": lambda toy: counterfactual(1),
    "enumeration": lambda toy: enumeration(),
    "sum_and_sample, 3 + 1": lambda toy: sum_and_sample(3, 1),
    "unordered_set, 4 draws": lambda toy: unordered_set(4),
    "unordered_set, 8 draws": lambda toy: unordered_set(8),
    "inclusion_weighted, 4 draws": lambda toy: inclusion_weighted(4),
    "arm, 4 draws": lambda toy: arm(4),
    "disarm, 4 draws": lambda toy: disarm(4),
    "muprop, 3 draws": lambda toy: muprop(3),
    "REBAR, 2 draws": lambda toy: REBAR(2),
    "REBAR, 2 draws, trained": lambda toy: trained(REBAR(2), toy),
    "RELAX, 2 draws, trained": lambda toy: trained(relax(3, 2), toy),
    "straight_through, 4 draws": lambda toy: straight_through(4),
    "gumbel_softmax, 4 draws": lambda toy: gumbel_softmax(4),
    "gumbel_softmax, hard, 4 draws": lambda toy: gumbel_softmax(4, hard=True),
    "spsa, 4 draws": lambda toy: spsa(4),
    "evolution_strategies, 4 draws": lambda toy: evolution_strategies(4),
}


def cells(estimates: Tensor, exact: float) -> list[str]:
    """Mean, how far off it is in standard errors, and variance."""
    mean, variance = float(estimates.mean()), float(estimates.var())
    error = (variance / len(estimates)) ** 0.5
    rounding = 1e-12
    off = 0.0 if abs(mean - exact) < rounding else (mean - exact) / max(error, rounding)
    off_by = f"{off:+.1f}" if abs(off) < 100 else f"{off:+.0e}"
    return [f"{mean:.4e}", off_by if off else "0", f"{variance:.4e}" if variance > rounding**2 else "0"]


def one_bernoulli(p: float, count: int, seed: int) -> str:
    """Every estimator at one probability, with its closed form."""
    toy = Toy((TARGETS[0],), float(torch.tensor(p, dtype=torch.float64).logit()))
    rows = [["estimator", "mean", "off by", "variance", "closed form"]]
    for name, make in ON_ONE.items():
        known = f"{CLOSED[name](p, TARGETS[0]):.4e}" if name in CLOSED else ""
        rows.append([code(name), *cells(toy.estimates(make(toy), count, seed), toy.gradient), _zero(known)])
    return f"\n### p = {p}, t = {TARGETS[0]}: exact gradient {toy.gradient:.4e}\n\n{markdown(rows)}\n"


def variances(count: int, seed: int) -> str:
    """Measured variance of every estimator at p = 1/2 for each target."""
    toys = [Toy((t,), 0.0) for t in TARGETS]
    rows = [["estimator", *(f"t = {t}" for t in TARGETS)]]
    for name, make in ON_ONE.items():
        found = [cells(toy.estimates(make(toy), count, seed), toy.gradient)[-1] for toy in toys]
        rows.append([code(name), *found])
    return f"{VARIANCES}\n{markdown(rows)}\n"


def three_bernoullis(count: int, seed: int) -> str:
    """Every estimator on three decisions, where the logit is 0 and where it is -4."""
    toys = [Toy(THREE, 0.0), Toy(THREE, -4.0)]
    exact = " and ".join(f"{toy.gradient:.7g} at logit {toy.logit:g}" for toy in toys)
    header = [f"{what}, logit {toy.logit:g}" for toy in toys for what in ("mean", "off by", "variance")]
    rows = [["estimator", *header]]
    for name, make in ON_THREE.items():
        found = [cells(toy.estimates(make(toy), count, seed), toy.gradient) for toy in toys]
        rows.append([code(name), *found[0], *found[1]])
    return f"{THREE_TEXT.format(exact=exact)}\n{markdown(rows)}\n"


def _zero(number: str) -> str:
    return "0" if number and float(number) < 1e-20 else number


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400_000, help="estimates of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/estimators.md"))
    arguments = parser.parse_args()
    count, seed = arguments.count, arguments.seed
    command = f"python scripts/estimator_toys.py --count {count} --seed {seed}"
    page = INTRODUCTION.format(command=command, count=f"{count:,}", seed=seed) + ONE
    page += "".join(one_bernoulli(p, count, seed) for p in (0.5, 0.9))
    page += variances(count, seed) + three_bernoullis(count, seed)
    arguments.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
