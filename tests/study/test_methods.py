"""Methods: each is what its name says, on the same budget as all others."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from rlgrad import MetricLoss
from rlgrad.estimators import counterfactual, exact, score_function
from rlgrad.metrics import f1, recall
from rlgrad.study.methods import METHODS, REFERENCE, Budget, Recipe
from rlgrad.surrogates import Criterion

BUDGET = Budget(epochs=10, lr=0.03, patience=7, batch_size=5)
LOGITS = torch.tensor([1.2, -0.4, 0.3, -1.5, 0.1, 0.8])
TARGET = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
WARM_STARTED = [name for name in METHODS if "+" in name]


def recipe(name: str, budget: Budget = BUDGET, seed: int = 0) -> Recipe:
    return METHODS[name](f1, budget, Generator().manual_seed(seed))


def gradient(criterion: Criterion, logits: Tensor = LOGITS) -> Tensor:
    logits = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(criterion(logits, TARGET), logits)
    return found


def test_the_reference_is_a_method() -> None:
    assert REFERENCE == "ce-tuned"
    assert REFERENCE in METHODS


@pytest.mark.parametrize("name", METHODS)
def test_names_need_no_quotes_in_a_shell(name: str) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_+-]*", name)


@pytest.mark.parametrize("epochs", [2, 3, 4, 5, 7, 100])
@pytest.mark.parametrize("name", METHODS)
def test_all_methods_may_train_for_as_long(name: str, epochs: int) -> None:
    stages = recipe(name, Budget(epochs=epochs)).stages
    assert sum(stage.epochs for stage in stages) == epochs
    assert max(stage.epochs for stage in stages) - min(stage.epochs for stage in stages) <= 1


@pytest.mark.parametrize("name", METHODS)
def test_all_stages_have_the_rate_and_patience_of_the_budget(name: str) -> None:
    assert {(stage.lr, stage.patience, stage.kl) for stage in recipe(name).stages} == {(0.03, 7, 0)}


@pytest.mark.parametrize("name", METHODS)
def test_one_method_alone_tunes_its_threshold(name: str) -> None:
    assert recipe(name).threshold == ("tuned" if name == "ce-tuned" else 0.0)


@pytest.mark.parametrize("name", METHODS)
def test_a_plus_starts_from_cross_entropy(name: str) -> None:
    stages = recipe(name).stages
    assert len(stages) == 1 + ("+" in name)
    if "+" in name:
        torch.testing.assert_close(gradient(stages[0].criterion), gradient(F.binary_cross_entropy_with_logits))


@pytest.mark.parametrize("name", WARM_STARTED)
def test_a_plus_goes_on_with_the_method_that_follows_it(name: str) -> None:
    alone, warm = recipe(name.partition("+")[2]).stages[-1], recipe(name).stages[-1]
    assert type(warm.criterion) is type(alone.criterion)
    assert repr(warm.criterion) == repr(alone.criterion)
    assert torch.equal(gradient(warm.criterion), gradient(alone.criterion))


def soft_f1(logits: Tensor, target: Tensor) -> Tensor:
    p = torch.sigmoid(logits)
    return 1 - 2 * (p * target).sum() / (p.sum() + target.sum())


def focal(logits: Tensor, target: Tensor) -> Tensor:
    wrong = 1 - torch.sigmoid(torch.where(target > 0, logits, -logits))
    return (wrong**2 * -torch.log1p(-wrong)).mean()


SAME = {
    "ce": F.binary_cross_entropy_with_logits,
    "ce-tuned": F.binary_cross_entropy_with_logits,
    "focal": focal,
    "soft": soft_f1,
    "exact": MetricLoss(f1, exact()),
    "counterfactual": MetricLoss(f1, counterfactual(draws=1), generator=Generator().manual_seed(0)),
    "score_function": MetricLoss(f1, score_function(draws=16), generator=Generator().manual_seed(0)),
}


@pytest.mark.parametrize("name", SAME)
def test_a_method_is_what_its_name_says(name: str) -> None:
    torch.testing.assert_close(gradient(recipe(name).stages[-1].criterion), gradient(SAME[name]))


def test_weighted_cross_entropy_balances_the_classes() -> None:
    found = gradient(recipe("ce-weighted").stages[0].criterion, torch.zeros(6))
    rare = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    logits = torch.zeros(6, requires_grad=True)
    (of_rare,) = torch.autograd.grad(recipe("ce-weighted").stages[0].criterion(logits, rare), logits)
    for gradients, target in ((found, TARGET), (of_rare, rare)):
        assert gradients.sum() == pytest.approx(0, abs=1e-6)
        assert (gradients[target > 0] < 0).all()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_raises_positives_and_lowers_negatives(name: str) -> None:
    # Summed over seeds: one draw of a sampling method may be wrong about one of the six.
    stages = [recipe(name, seed=seed).stages[-1] for seed in range(20)]
    steps = -torch.stack([gradient(stage.criterion, torch.zeros(6)) for stage in stages]).sum(0)
    assert steps[TARGET > 0].sum() > 0 > steps[TARGET == 0].sum()


@pytest.mark.parametrize("name", ["soft", "exact", "counterfactual", "ce+score_function"])
def test_the_metric_is_the_one_asked_for(name: str) -> None:
    of_f1, of_recall = (METHODS[name](metric, BUDGET, Generator().manual_seed(0)).stages[-1] for metric in (f1, recall))
    assert not torch.allclose(gradient(of_f1.criterion), gradient(of_recall.criterion))
    # Recall does not depend on the negatives, which sampling knows on average only.
    without = gradient(of_recall.criterion)[TARGET == 0].abs().max() < 1e-12
    assert without == (name != "ce+score_function")


@pytest.mark.parametrize("name", ["score_function", "counterfactual", "ce+score_function", "ce+counterfactual"])
def test_draws_come_from_the_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    first, again, other = (gradient(recipe(name, seed=seed).stages[-1].criterion) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
