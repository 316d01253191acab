"""What each single decision is worth, for any score; unbiasedness is shown in test_expectation.py."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from rlgrad import credit, policies
from rlgrad.credit import Play
from rlgrad.estimators import Estimator, counterfactual, score_function
from rlgrad.metrics import CATALOGUE, OpaqueMetric, Scorer
from rlgrad.policies import Bernoulli, Categorical, Policy
from tests.estimators.proof import CLASSES, MASKED, PROBLEMS, Case, Problem, bias, every_estimate, network


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def drawn(policy: Policy, draws: int = 5) -> Tensor:
    return policy.sample(draws, generator=torch.Generator().manual_seed(1))


def by_hand(policy: Policy, score: Callable[[Tensor], Tensor], decision: Tensor) -> Tensor:
    """Every alternative written down, one at a time."""
    classes = 2 if isinstance(policy, Bernoulli) else policy.logits.shape[-1]
    rewards = decision.new_zeros((*decision.shape, classes), dtype=torch.float64)
    for item in range(decision.shape[-1]):
        for c in range(classes):
            changed = decision.clone()
            changed[..., item] = c
            rewards[..., item, c] = score(changed)
    if isinstance(policy, Bernoulli):
        return rewards[..., 1] - rewards[..., 0]
    return rewards - score(decision)[..., None, None]


POLICIES: dict[str, Policy] = {
    "yes/no": Bernoulli(normal(4)),
    "yes/no, rows": Bernoulli(normal(2, 3, 4)),
    "classes": Categorical(CLASSES),
    "masked, rows": Categorical(MASKED),
    "one item": Bernoulli(normal(2, 1)),
}


@pytest.mark.parametrize("at_once", [1, 7, 1 << 22])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_gain_is_what_every_alternative_would_have_brought(
    policy: Policy, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies.shared, "_SLICE", at_once)
    score = network(None if isinstance(policy, Bernoulli) else 3)
    decision = drawn(policy)
    found = credit.gain(policy, score, decision)
    assert found.shape == (5, *policy.logits.shape)
    # What cannot be is not asked for.
    asked = by_hand(policy, score, decision)
    if isinstance(policy, Categorical):
        asked = asked.masked_fill(policy.logits == -torch.inf, 0.0)
    torch.testing.assert_close(found, asked, rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", CATALOGUE)
def test_a_formula_and_the_same_as_a_black_box_agree(metric: str) -> None:
    policy = POLICIES["yes/no, rows"]
    target, decision = normal(2, 3, 4) > 0, drawn(policy)
    formula = CATALOGUE[metric]
    known = Scorer(formula, target)
    asked = Scorer(OpaqueMetric(lambda d, t: formula(d, t), batched=False), target)
    torch.testing.assert_close(
        credit.gain(policy, known, decision), credit.gain(policy, asked, decision), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("at_once", [1, 10, 24, 1 << 22])
def test_a_score_is_asked_for_as_many_changes_at_once_as_fit(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies.shared, "_SLICE", at_once)
    asked: list[int] = []

    def score(decision: Tensor) -> Tensor:
        asked.append(decision.numel())
        return decision.double().sum(-1)

    found = credit.gain(POLICIES["yes/no, rows"], score, drawn(POLICIES["yes/no, rows"], 2))
    assert torch.equal(found, torch.ones(2, 2, 3, 4, dtype=torch.float64))
    one = 2 * 24
    assert asked[0] == one  # as it is, and then every change of each item once
    assert sum(asked[1:]) == 4 * one
    assert max(asked) <= max(at_once, one)


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("name", ["network, rows", "network, classes", "black box"])
def test_unbiased_across_slices(name: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies.shared, "_SLICE", at_once)
    assert not bias(Case(lambda: counterfactual(draws=1), 1), PROBLEMS[name])


@pytest.mark.parametrize("name", ["network", "network, masked, rows", "black box, rows", "f1"])
def test_half_the_noise_with_twice_the_draws_and_less_than_credit_to_all(name: str) -> None:
    problem = PROBLEMS[name]
    if name == "network, masked, rows":
        problem = PROBLEMS["network, classes"]
    if name == "f1":
        problem = Problem(problem.logits[:3], problem.target[:3], problem.judge, problem.score)
    one = every_estimate(Case(counterfactual, 1), problem).variance
    two = every_estimate(Case(lambda: counterfactual(draws=2), 2), problem).variance
    torch.testing.assert_close(torch.from_numpy(two), torch.from_numpy(one) / 2, rtol=1e-9, atol=1e-15)
    # Decisions credited by the reward alone, and by their own share without integrating it out.
    plain = every_estimate(Case(lambda: score_function(draws=1, credit=credit.none), 1), problem).variance
    share = every_estimate(Case(lambda: score_function(draws=1, credit=credit.counterfactual), 1), problem).variance
    assert (one <= share + 1e-12).all()
    assert one.sum() < plain.sum()


@pytest.mark.parametrize("policy", [Bernoulli(normal(3)), Categorical(normal(2, 3))], ids=["yes/no", "classes"])
def test_a_single_decision_is_without_noise(policy: Policy) -> None:
    logits = policy.logits[..., :1] if isinstance(policy, Bernoulli) else policy.logits[..., :1, :]
    one = type(policy)(logits)
    score = network(None if isinstance(policy, Bernoulli) else 3)
    gains = credit.gain(one, score, drawn(one, 50))
    probs = one.probs.expand(gains.shape)
    slope = gains if isinstance(policy, Bernoulli) else gains - (probs * gains).sum(-1, keepdim=True)
    torch.testing.assert_close(slope, slope[:1].expand_as(slope), rtol=0, atol=1e-12)


# A score that knows its own gain


@dataclass
class Knowing:
    """The square of the number of ones, and what one more is worth."""

    answer: object = None
    asked: int = 0

    def __call__(self, decision: Tensor) -> Tensor:
        self.asked += 1
        return decision.double().sum(-1).square()

    def gain(self, decision: Tensor) -> object:
        if self.answer is not None:
            return self.answer
        others = decision.double().sum(-1, keepdim=True) - decision.double()
        return 2 * others + 1


@pytest.mark.parametrize("make", [counterfactual, lambda: score_function(draws=3, credit=credit.counterfactual)])
def test_a_score_may_know_its_own_gain(make: Callable[[], Estimator]) -> None:
    score, gradients = Knowing(), []
    for each in (score, lambda decision: score(decision)):
        logits = normal(2, 4).requires_grad_()
        before = score.asked
        value = make()(Bernoulli(logits), each, generator=torch.Generator().manual_seed(0))
        if each is score:
            assert score.asked == before + 1  # for the value alone
        gradients.append(torch.autograd.grad(value.sum(), logits)[0])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (1.0, TypeError, "needed a tensor of gains, got 1.0"),
        (
            torch.ones(1, 2),
            ValueError,
            r"needed gains of shape \(1, 2, 4\) \(draws \*batch items \[classes\]\), got ",
        ),
        (torch.ones(2, 4), ValueError, r"needed gains of shape \(1, 2, 4\)"),
        (torch.full((1, 2, 4), torch.nan), ValueError, r"needed finite gains, got nan for draw 0, row \(0, 0\)"),
    ],
)
def test_what_a_score_knows_is_checked(answer: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        counterfactual()(Bernoulli(normal(2, 4)), Knowing(answer))


def test_what_a_score_knows_carries_no_graph() -> None:
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    score = Knowing(weight * torch.ones(1, 3, dtype=torch.float64))
    assert not credit.gain(Bernoulli(normal(3)), score, torch.ones(1, 3, dtype=torch.bool)).requires_grad


def test_gain_builds_no_graph() -> None:
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    policy = Bernoulli(normal(3).requires_grad_())
    assert not credit.gain(policy, network(scale=weight), drawn(policy)).requires_grad
    play = Play(policy, drawn(policy), network(scale=weight))
    assert not credit.counterfactual(play.score(play.decision), play).requires_grad


@pytest.mark.usefixtures("as_a_user")
def test_a_reward_of_a_change_is_checked_too() -> None:
    def score(decision: Tensor) -> Tensor:
        return torch.where(decision.all(-1), torch.nan, 1.0)

    decision = torch.tensor([[True, False]])
    with pytest.raises(ValueError, match=r"^needed finite rewards, got nan for draw 1, row "):
        credit.gain(Bernoulli(torch.zeros(2)), score, decision)


@pytest.mark.parametrize(("classes", "rewards"), [(None, 1 + 4), (3, 1 + 4 * 2)])
def test_it_asks_for_one_reward_and_for_each_alternative(classes: int | None, rewards: int) -> None:
    asked = 0

    def score(decision: Tensor) -> Tensor:
        nonlocal asked
        asked += len(decision)
        return decision.double().sum(-1)

    policy = Bernoulli(torch.zeros(4)) if classes is None else Categorical(torch.zeros(4, classes))
    counterfactual(draws=1)(policy, score)
    assert asked == rewards
