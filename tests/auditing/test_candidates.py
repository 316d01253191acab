"""Estimators and surrogates as directions."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlgrad import Bernoulli, Categorical
from rlgrad.auditing.candidates import Batch, candidates, default_estimators, default_surrogates
from rlgrad.credit import MovingAverage
from rlgrad.estimators import REBAR, counterfactual, exact, score_function
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
    assert {"exact", "arm(2)", "rebar(1)", "spsa(2)"} <= default_estimators().keys()
    assert [*default_surrogates(f1)] == ["bce", "bce, balanced", "focal", "soft f1", "lovasz f1"]
    assert [*default_surrogates(OpaqueMetric(print))] == ["bce", "bce, balanced", "focal"]
    assert [*default_surrogates(f1, policy=Categorical)] == ["cross-entropy"]
