"""Estimators and surrogates as directions."""

import copy
import shlex
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlgrad import Bernoulli, Categorical, MetricLoss
from rlgrad.auditing.candidates import Batch, TooSlow, candidates, default_estimators, default_surrogates
from rlgrad.credit import MovingAverage
from rlgrad.estimators import ESTIMATORS, REBAR, counterfactual, enumeration, exact, score_function
from rlgrad.metrics import OpaqueMetric, f1
from rlgrad.surrogates import bce, soft

LOGITS = torch.tensor([2.0, 0.5, -0.5, -1.5])
TARGET = torch.tensor([1, 0, 1, 0])
BATCH = Batch(LOGITS, TARGET, f1, Bernoulli)


def gradient(estimators: dict[str, Any] | None = None, surrogates: dict[str, Any] | None = None) -> Tensor:
    (only,) = candidates(BATCH, estimators or {}, surrogates or {}, seed=0)
    return only.gradient()


def test_a_surrogate_points_where_its_loss_falls() -> None:
    leaf = LOGITS.clone().requires_grad_()
    (expected,) = torch.autograd.grad(bce(leaf, TARGET), leaf)
    assert torch.equal(gradient(surrogates={"bce": bce}), -expected)
    assert (gradient(surrogates={"bce": bce}) > 0).tolist() == TARGET.bool().tolist()


def test_an_estimator_points_where_the_reward_rises() -> None:
    assert torch.cosine_similarity(gradient({"exact": exact()}), gradient(surrogates={"soft": soft(f1)}), 0) > 0.98


def test_any_criterion_will_do() -> None:
    batch = Batch(LOGITS, TARGET.float(), f1, Bernoulli)
    (only,) = candidates(batch, {}, {"torch": nn.BCEWithLogitsLoss()}, seed=0)
    assert torch.allclose(only.gradient(), gradient(surrogates={"bce": bce}))


def test_estimators_keep_their_state() -> None:
    average, rebar = MovingAverage(), REBAR()
    given = {"average": score_function(draws=4, credit=average), "rebar": rebar}
    before = copy.deepcopy(rebar.state_dict())
    for each in candidates(BATCH, given, {}, seed=0):
        first, second = each.gradient(), each.gradient()
        assert not torch.equal(first, second)
    assert average.weight == 0
    assert all(torch.equal(value, before[name]) for name, value in rebar.state_dict().items())
    assert all(parameter.grad is None for parameter in rebar.parameters())


def test_draws_do_not_depend_on_the_company() -> None:
    alone = candidates(BATCH, {"a": counterfactual()}, {}, seed=3)[0]
    later = candidates(BATCH, {"b": counterfactual(), "a": counterfactual()}, {}, seed=3)[1]
    other = candidates(BATCH, {"a": counterfactual()}, {}, seed=4)[0]
    same, different = (alone.gradient(), later.gradient()), other.gradient()
    assert torch.equal(*same)
    assert not torch.equal(same[0], different)
    one, another = candidates(BATCH, {"a": score_function(), "b": score_function()}, {}, seed=3)
    assert not torch.equal(one.gradient(), another.gradient())


def test_draws_behind_an_estimate() -> None:
    given = {"cf": counterfactual(draws=3), "exact": exact()}
    assert [each.declared for each in candidates(BATCH, given, {"bce": bce}, seed=0)] == [3, None, 0]


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("surrogate", "message"),
    [
        (lambda logits, target: logits, "needed a scalar loss"),
        (lambda logits, target: logits.detach().sum(), "without a gradient; do not detach"),
        (lambda logits, target: 1.0, "got 1.0; do not detach"),
        (lambda logits, target: torch.ones((), requires_grad=True) * 2, "one that does not"),
        (lambda logits, target: (logits * torch.nan).sum(), "needed a finite gradient"),
    ],
)
def test_what_is_no_surrogate(surrogate: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        gradient(surrogates={"mine": surrogate})


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("estimators", "surrogates", "error", "message"),
    [
        ({"a": exact}, {}, TypeError, "needed estimator 'a' such as"),
        ({"a": "exact"}, {}, TypeError, "got 'exact'; call it"),
        ({"a": soft(f1)}, {}, TypeError, "belongs among the surrogates"),
        ({"a": nn.BCEWithLogitsLoss()}, {}, TypeError, "belongs among the surrogates"),
        ({"a": MetricLoss(f1)}, {}, TypeError, "got MetricLoss.*belongs among the surrogates"),
        ([exact()], {}, TypeError, "needed estimators by name"),
        ({}, {"a": soft}, TypeError, "needed surrogate 'a' such as"),
        ({}, {}, ValueError, "needed an estimator or a surrogate"),
        ({"a": exact()}, {"a": bce}, ValueError, "got 'a' as an estimator and as a surrogate"),
    ],
)
def test_what_is_no_candidate(estimators: object, surrogates: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        candidates(BATCH, estimators, surrogates, seed=0)


def test_the_usual_candidates() -> None:
    plain = {"score_function-2", "score_function-16", "greedy", "moving_average"}
    others = {"score_function", "blockwise", "second_order"}  # draws, blocks and classes are the caller's
    assert default_estimators().keys() - plain == ESTIMATORS.keys() - others
    assert [*default_surrogates(f1)] == ["bce", "bce-balanced", "focal", "soft", "lovasz"]
    assert [*default_surrogates(OpaqueMetric(print))] == ["bce", "bce-balanced", "focal"]
    for name in (*default_estimators(), *default_surrogates(f1)):
        assert shlex.quote(name) == name
    assert [*default_surrogates(f1, policy=Categorical)] == ["cross-entropy"]


# What an estimate asks for, as docs/estimators.md counts it, for 4 decisions.
REWARDS = {
    "exact": 0, "enumeration": 16, "counterfactual": 1, "score_function-2": 2, "score_function-16": 16, "greedy": 17,
    "moving_average": 16, "arm": 2, "disarm": 2, "unordered_set": 4, "sum_and_sample": 2, "inclusion_weighted": 4,
    "muprop": 2, "rebar": 2, "straight_through": 1, "gumbel_softmax": 1, "spsa": 2, "evolution_strategies": 2,
}  # fmt: skip


@pytest.mark.parametrize("rows", [1, 3])
def test_rewards_are_counted(rows: int) -> None:
    batch = Batch(LOGITS.expand(rows, -1), TARGET.expand(rows, -1), f1, Bernoulli)
    found = candidates(batch, default_estimators(), {"soft": soft(f1)}, seed=0)
    for _ in range(2):
        for each in found:
            each.gradient()
        assert {each.name: each.tally.rewards for each in found} == REWARDS | {"soft": 0}


def test_a_black_box_is_asked_for_each_change() -> None:
    box = Batch(LOGITS, TARGET, OpaqueMetric(lambda b, y: (b == y).double().mean()), Bernoulli)
    (only,) = candidates(box, {"cf": counterfactual(draws=3)}, {}, seed=0)
    only.gradient()
    assert only.tally.rewards == 3 * (1 + 4)


def test_more_rewards_than_there_is_time_for() -> None:
    (only,) = candidates(BATCH, {"all": enumeration()}, {}, seed=0)
    only.tally.most, only.tally.each = 15, 2.0
    with pytest.raises(TooSlow, match="too slow: about 32 s an estimate; raise seconds"):
        only.gradient()


def test_whether_anything_is_drawn() -> None:
    given = {"cf": counterfactual(draws=3), "exact": exact(), "mine": lambda p, s, generator: score_function()(
        p, s, generator=generator)}  # fmt: skip
    found = candidates(BATCH, given, {"bce": bce}, seed=0)
    for each in found:
        each.gradient()
    assert [each.draws for each in found] == [3, 0, 1, 0]
