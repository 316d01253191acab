"""The training loop: who is trained on what, when a stage ends, which weights are kept, and what stops it."""

import copy
import functools
import io
import itertools
import math
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from rlgrad import Categorical, ExpectedLoss, MetricLoss, Stage, evaluate, fit
from rlgrad.credit import LearnedValue, MovingAverage
from rlgrad.estimators import score_function
from rlgrad.metrics import OpaqueMetric, f1, macro
from rlgrad.steps import Step
from rlgrad.stochastic import policy_gradient
from rlgrad.surrogates import bce, best_threshold, best_thresholds
from rlgrad.train import Epoch, History

Data = tuple[Tensor, Tensor]
Make = Callable[..., nn.Module]

quiet = functools.partial(fit, progress=False)
Slide = functools.partial(Stage, optimizer=torch.optim.SGD)


def up(logits: Tensor, target: Tensor) -> Tensor:
    """Moves the weight of a Shift up by lr at every step of SGD."""
    return logits.mean()


def down(logits: Tensor, target: Tensor) -> Tensor:
    return -logits.mean()


def still(logits: Tensor, target: Tensor) -> Tensor:
    return 0.0 * logits.sum()


def agreement(decision: Tensor, target: Tensor) -> Tensor:
    return (decision == target).double().mean(-1)


ACCURACY = OpaqueMetric(agreement, batched=True)


def f1_at(data: Data, w: float) -> float:
    x, y = data
    return float(f1_score(y, x > w, zero_division=1.0))


def w_of(model: nn.Module) -> float:
    return model.get_parameter("w").item()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def same(model: nn.Module, expected: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def lines(history: History) -> list[tuple[Any, ...]]:
    """All but the seconds."""
    return [(e.stage, e.epoch, e.loss, e.train, e.validation, e.threshold) for e in history.epochs]


class Recorder:
    """A criterion that remembers the weight it was called at."""

    def __init__(self, model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.model, self.criterion = model, criterion
        self.seen: list[float] = []

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        self.seen.append(w_of(self.model))
        return self.criterion(logits, target)


class Nth:
    """A criterion that is another one at its nth call."""

    def __init__(self, n: int, other: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.n, self.other, self.calls = n, other, 0

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        return self.other(logits, target) if self.calls == self.n else up(logits, target)


# What is learned


@pytest.mark.parametrize("criterion", [bce, MetricLoss(f1), nn.BCEWithLogitsLoss()], ids=["bce", "f1", "torch"])
def test_training_raises_the_metric(toy: Data, network: Make, criterion: Any) -> None:
    model = network()
    before = evaluate(model, toy, f1).value
    history = quiet(model, Stage(criterion, epochs=30, lr=0.1), toy, toy, f1)
    assert before < 0.6
    assert history.best.validation > 0.85
    assert len(history.epochs) <= 30


@pytest.mark.parametrize(
    ("threshold", "rows"), [(0.0, False), (0.4, False), ("tuned", False), (0.0, True), (0.4, True), ("tuned", True)]
)
def test_the_model_is_left_as_the_best_epoch_had_it(toy: Data, network: Make, threshold: Any, rows: bool) -> None:
    x, y = toy
    y = torch.stack([y, 1 - y], 1) if rows else y
    train, validation = (x[:80], y[:80]), (x[80:], y[80:])
    model = network(nn.Dropout(0.5), nn.BatchNorm1d(3), outputs=2 if rows else 1)
    torch.manual_seed(0)  # of the dropout
    stages = [Stage(bce, epochs=6, lr=0.3), Stage(MetricLoss(f1), epochs=6, lr=0.3)]
    history = quiet(model, stages, train, validation, f1, threshold=threshold, batch_size=20)
    best = history.best
    assert evaluate(model, validation, f1, threshold=best.threshold).value == best.validation
    assert evaluate(model, train, f1, threshold=best.threshold).value == best.train


def test_every_epoch_is_judged_on_both_parts(ladder: Data, shift: Make) -> None:
    x, y = ladder
    train = x[::2], y[::2]
    history = quiet(shift(-0.5), Slide(up, epochs=7, lr=1.0), train, ladder, f1)
    assert [epoch.epoch for epoch in history.epochs] == [*range(1, 8)]
    at = [k - 0.5 for k in range(1, 8)]  # one batch an epoch, hence one step
    assert [epoch.validation for epoch in history.epochs] == pytest.approx([f1_at(ladder, w) for w in at])
    assert [epoch.train for epoch in history.epochs] == pytest.approx([f1_at(train, w) for w in at])
    # The loss is that of training, before each step: the mean of 0, 2, 4, 6 less the weight.
    assert [epoch.loss for epoch in history.epochs] == pytest.approx([3 - (w - 1) for w in at])
    seconds = [0.0, *(epoch.seconds for epoch in history.epochs)]
    assert all(before < after for before, after in itertools.pairwise(seconds))
    assert {epoch.threshold for epoch in history.epochs} == {0.0}


def test_the_loss_is_a_mean_over_rows(shift: Make) -> None:
    data = torch.arange(5.0), torch.arange(5) > 2
    history = quiet(shift(0.0), Stage(lambda z, y: len(y) + still(z, y), epochs=1), data, data, f1, batch_size=3)
    assert history.epochs[0].loss == pytest.approx((3 * 3 + 2 * 2) / 5)


def test_the_first_best_epoch_is_kept(ladder: Data, shift: Make) -> None:
    model = shift(1.25)
    history = quiet(model, Slide(up, epochs=8, lr=0.5), ladder, ladder, f1)
    assert [epoch.validation for epoch in history.epochs].count(1.0) == 2  # at 3.25 and at 3.75
    assert history.best.epoch == 4
    assert w_of(model) == 3.25


def test_the_first_epoch_counts_even_if_it_made_things_worse(ladder: Data, shift: Make) -> None:
    # The history begins after the first epoch, so the initial weights are no candidate.
    model = shift(3.5)
    history = quiet(model, Slide(down, epochs=2, lr=1.0), ladder, ladder, f1)
    assert w_of(model) == 2.5
    assert history.best.validation == pytest.approx(f1_at(ladder, 2.5))


# Stages


def test_a_stage_starts_from_the_best_weights_so_far(ladder: Data, shift: Make) -> None:
    model = shift(0.5)
    first, second = Recorder(model, up), Recorder(model, down)
    stages = [Slide(first, epochs=6, lr=1.0, name="first"), Slide(second, epochs=2, lr=1.0, name="second")]
    history = quiet(model, stages, ladder, ladder, f1)
    assert [epoch.stage for epoch in history.epochs] == ["first"] * 6 + ["second"] * 2
    assert [epoch.epoch for epoch in history.epochs] == [*range(1, 9)]
    assert first.seen == [k + 0.5 for k in range(6)]
    assert second.seen == [3.5, 2.5]  # not 6.5, where the first stage ended
    assert history.best.epoch == 3
    assert w_of(model) == 3.5


@pytest.mark.parametrize("patience", [1, 2, 5])
def test_a_stage_that_never_improves_ends_after_patience_and_one(ladder: Data, shift: Make, patience: int) -> None:
    # The first epoch of a stage is its best so far; patience counts the epochs after it.
    stages = [Stage(still, patience=patience), Stage(still, epochs=1), Stage(still, patience=patience)]
    history = quiet(shift(2.5), stages, ladder, ladder, f1)
    assert len(history.epochs) == (patience + 1) + 1 + (patience + 1)
    assert {epoch.validation for epoch in history.epochs} == {f1_at(ladder, 2.5)}


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_a_stage_ends_when_the_metric_has_stopped_improving(ladder: Data, shift: Make, patience: int) -> None:
    history = quiet(shift(0.5), Slide(up, lr=1.0, patience=patience), ladder, ladder, f1)
    assert history.best.epoch == 3
    assert len(history.epochs) == 3 + patience


def test_an_improvement_starts_patience_anew(ladder: Data, shift: Make) -> None:
    # Half a rung a step: the metric rises at every other epoch, which a patience of two endures.
    stage = Slide(up, lr=0.5, patience=2)
    history = quiet(shift(0.25), stage, ladder, ladder, f1)
    assert history.best.validation == 1.0
    assert len(quiet(shift(0.25), Slide(up, lr=0.5, patience=1), ladder, ladder, f1).epochs) == 3


def test_patience_is_counted_within_a_stage(ladder: Data, shift: Make) -> None:
    # The second stage falls far below the first stage's best and climbs back, rung by rung.
    fall = Nth(1, lambda logits, target: -4 * logits.mean())
    stages = [Slide(up, epochs=1, lr=1.0), Slide(fall, epochs=5, lr=1.0, patience=1)]
    history = quiet(shift(2.5), stages, ladder, ladder, f1)
    assert [epoch.validation for epoch in history.epochs] == pytest.approx(
        [f1_at(ladder, w) for w in (3.5, -0.5, 0.5, 1.5, 2.5, 3.5)]
    )
    assert history.best.epoch == 1


def test_epochs_are_a_cap(ladder: Data, shift: Make) -> None:
    history = quiet(shift(-100.0), Slide(up, epochs=3, lr=1e-6, patience=1000), ladder, ladder, f1)
    assert len(history.epochs) == 3


def test_names_of_stages(ladder: Data, shift: Make) -> None:
    stages = [Stage(bce, epochs=1), Stage(MetricLoss(f1), epochs=1), Stage(bce, epochs=1, name="again")]
    history = quiet(shift(0.0), stages, ladder, ladder, f1)
    assert [epoch.stage for epoch in history.epochs] == ["bce", "MetricLoss", "again"]


def test_an_optimizer_is_fresh_for_each_stage(ladder: Data, shift: Make) -> None:
    model = shift(0.0)
    momentum = functools.partial(torch.optim.SGD, momentum=0.9)
    second = Recorder(model, still)
    stages = [Stage(up, epochs=1, lr=1.0, optimizer=momentum), Stage(second, epochs=3, lr=1.0, optimizer=momentum)]
    quiet(model, stages, ladder, ladder, f1)
    assert second.seen == [1.0] * 3  # no momentum is carried over


def test_the_optimizer_is_given_the_parameters_and_lr(ladder: Data, shift: Make) -> None:
    given = []

    def optimizer(parameters: Iterator[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        given.append(([*parameters], lr))
        return torch.optim.SGD(given[-1][0], lr=lr)

    model = shift(0.0)
    quiet(model, Stage(up, epochs=1, lr=0.25, optimizer=optimizer), ladder, ladder, f1)
    assert len(given) == 1
    assert given[0][0][0] is model.w
    assert given[0][1] == 0.25
    assert w_of(model) == 0.25


def test_gradients_do_not_pile_up(ladder: Data, shift: Make) -> None:
    # Four batches an epoch; each step moves by lr times its own gradient, which is -1.
    model = shift(0.0)
    seen = Recorder(model, up)
    quiet(model, Slide(seen, epochs=1, lr=0.25), ladder, ladder, f1, batch_size=2)
    assert seen.seen == [0.0, 0.25, 0.5, 0.75]


def test_every_epoch_and_every_seed_has_an_order_of_its_own(ladder: Data, shift: Make) -> None:
    def orders(seed: int) -> list[tuple[float, ...]]:
        seen: list[float] = []

        def criterion(logits: Tensor, target: Tensor) -> Tensor:
            seen.extend(logits.tolist())
            return still(logits, target)

        stages = [Stage(criterion, epochs=2), Stage(criterion, epochs=2)]
        quiet(shift(0.0), stages, ladder, ladder, f1, batch_size=3, seed=seed)
        return [tuple(seen[start : start + 8]) for start in range(0, 32, 8)]

    assert all(sorted(order) == list(range(8)) for order in orders(0))
    assert len({*orders(0), *orders(1)}) == 8
    assert orders(0) == orders(0)


@pytest.mark.parametrize("kl", [0.0, 1.0])
@pytest.mark.parametrize("before", [True, False])
def test_the_model_is_in_training_mode_in_training_alone(ladder: Data, shift: Make, before: bool, kl: float) -> None:
    model, modes = shift(0.0).train(before), []
    model.register_forward_hook(lambda module, *_: modes.append(module.training))
    quiet(model, Stage(up, epochs=2, kl=kl), ladder, ladder, f1)
    reference = [False] if kl else []
    assert modes == [True, *reference, False, False] * 2  # a step, then validation and train are judged


# Threshold


def test_a_tuned_threshold_is_the_best_on_validation(toy: Data, network: Make) -> None:
    x, y = toy
    train, validation = (x[:80], y[:80]), (x[80:], y[80:])
    model = network()
    history = quiet(model, Stage(bce, epochs=5, lr=0.02), train, validation, f1, threshold="tuned")
    with torch.no_grad():
        expected = best_threshold(f1, model(validation[0]), validation[1])
    assert (history.best.threshold, history.best.validation) == expected
    assert history.best.threshold != 0
    # The threshold of validation is the one that train is judged at, not train's own best.
    assert evaluate(model, train, f1, threshold=expected[0]).value == history.best.train


@pytest.mark.parametrize("metric", [f1, macro(f1, labels=2)], ids=["instance", "macro"])
def test_thresholds_of_labels_are_the_best_on_validation(metric: Any, network: Make) -> None:
    x = torch.randn(90, 3, generator=torch.Generator().manual_seed(3))
    y = torch.stack([x[:, 0] > 1.0, x[:, 1] > -1.0], 1)
    train, validation = (x[:60], y[:60]), (x[60:], y[60:])
    model = network(outputs=2)
    history = quiet(model, Stage(bce, epochs=3, lr=0.02), train, validation, metric, threshold="tuned per label")
    logits = model(validation[0]).detach()
    each, value = best_thresholds(metric, logits, validation[1])
    assert history.best.threshold == tuple(each.tolist())
    assert history.best.validation == pytest.approx(value, abs=1e-9)
    assert history.best.validation >= best_threshold(metric, logits, validation[1])[1]


def test_the_threshold_is_tuned_at_every_epoch(ladder: Data, shift: Make) -> None:
    history = quiet(shift(0.0), Slide(up, epochs=3, lr=1.0), ladder, ladder, f1, threshold="tuned")
    assert [epoch.threshold for epoch in history.epochs] == [2.5, 1.5, 0.5]
    assert {epoch.validation for epoch in history.epochs} == {1.0}


def test_a_fixed_threshold(ladder: Data, shift: Make) -> None:
    history = quiet(shift(0.0), Slide(up, epochs=4, lr=1.0), ladder, ladder, f1, threshold=1.5)
    assert history.best.epoch == 2
    assert {epoch.threshold for epoch in history.epochs} == {1.5}


# The pull towards the start


@pytest.mark.parametrize("kl", [10.0, 40.0])
def test_kl_pulls_towards_the_start(shift: Make, kl: float) -> None:
    # At rest the slope of the criterion is that of kl KL(sigmoid(-w) || 1/2): 1 = kl w sigmoid'(w).
    data, model = (torch.zeros(8), torch.zeros(8)), shift(0.0)
    seen = Recorder(model, up)
    quiet(model, Slide(seen, epochs=200, lr=0.05, patience=200, kl=kl), data, data, f1)
    w = seen.seen[-1]
    p = 1 / (1 + math.exp(-w))
    assert kl * w * p * (1 - p) == pytest.approx(1, abs=1e-3)


def test_without_kl_nothing_pulls(shift: Make) -> None:
    data, model = (torch.zeros(8), torch.zeros(8)), shift(0.0)
    seen = Recorder(model, up)
    quiet(model, Slide(seen, epochs=201, lr=0.05, patience=201, kl=0.0), data, data, f1)
    assert seen.seen[-1] == pytest.approx(10.0, abs=1e-3)


def test_kl_is_against_the_start_of_its_stage(ladder: Data, shift: Make) -> None:
    model = shift(0.5)
    anchored = Recorder(model, still)
    stages = [Slide(up, epochs=6, lr=1.0), Slide(anchored, epochs=3, lr=1.0, kl=5.0)]
    history = quiet(model, stages, ladder, ladder, f1)
    assert [epoch.loss for epoch in history.epochs[6:]] == [0.0] * 3  # of neither the first nor the last weights
    assert anchored.seen == [3.5] * 3


def test_the_kl_is_part_of_the_loss(shift: Make) -> None:
    data = torch.zeros(8), torch.zeros(8)
    history = quiet(shift(0.0), Slide(up, epochs=2, lr=1.0, kl=3.0), data, data, f1)
    p = 1 / (1 + math.e)  # of deciding 1 at w = 1, where the second step is taken
    kl = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert [epoch.loss for epoch in history.epochs] == pytest.approx([0.0, -1 + 3 * kl], abs=1e-6)


def test_kl_of_a_categorical_policy(toy: Data, network: Make) -> None:
    x, y = toy
    criterion = nn.CrossEntropyLoss()
    moved = []
    for kl in (0.0, 100.0):
        model = network(outputs=3)
        before = weights(model)
        quiet(model, Slide(criterion, epochs=20, lr=0.02, kl=kl), (x, y.long()), (x, y.long()), ACCURACY,
              policy=Categorical)  # fmt: skip
        moved.append(max(float((value - before[name]).abs().max()) for name, value in model.state_dict().items()))
    assert moved[1] < moved[0] / 5


def test_classes_without_their_policy_are_told_of_it() -> None:
    network = nn.Sequential(nn.Linear(3, 4), Step(backward=policy_gradient()), nn.Linear(4, 3))
    data = torch.randn(12, 3), torch.arange(12) % 3
    stage = Stage(ExpectedLoss(nn.CrossEntropyLoss(reduction="none")), epochs=1)
    with pytest.raises(ValueError, match=r"is classes, pass policy=rlgrad\.Categorical$"):
        quiet(network, stage, data, data, ACCURACY)
    quiet(network, stage, data, data, ACCURACY, policy=Categorical)


# Data of all kinds


@pytest.mark.parametrize("criterion", [bce, MetricLoss(f1)], ids=["bce", "f1"])
def test_data_without_positives(network: Make, toy: Data, criterion: Any) -> None:
    x, none = toy[0], torch.zeros(len(toy[0]))
    history = quiet(network(), Stage(criterion, epochs=3, lr=0.1), (x, none), (x, none), f1, batch_size=10)
    assert all(math.isfinite(epoch.loss) for epoch in history.epochs)
    assert all(0 <= epoch.validation <= 1 for epoch in history.epochs)


def test_some_batches_without_positives(network: Make, toy: Data) -> None:
    history = quiet(network(), Stage(MetricLoss(f1), epochs=5, lr=0.1), toy, toy, f1, batch_size=2)
    assert history.best.validation > 0.85


@pytest.mark.parametrize("rows", [121, 101, 41])
def test_no_batch_of_a_single_row_meets_batch_normalisation(network: Make, toy: Data, rows: int) -> None:
    x, y = toy[0][:rows], toy[1][:rows]
    history = quiet(network(nn.BatchNorm1d(3)), Stage(bce, epochs=2, lr=0.1), (x, y), (x, y), f1, batch_size=20)
    assert len(history.epochs) == 2


def test_a_loader_whose_last_batch_is_a_single_row(network: Make, toy: Data) -> None:
    loader = DataLoader(TensorDataset(*toy), batch_size=40)
    assert [len(y) for _, y in loader][-1] == 1
    history = quiet(network(), Stage(MetricLoss(f1), epochs=30, lr=0.1), loader, loader, f1)
    assert history.best.validation > 0.85
    # Batch normalisation cannot learn from one row; torch says so, and the model is as it was.
    model = network(nn.BatchNorm1d(3))
    before = weights(model)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        quiet(model, Stage(bce, epochs=2), loader, loader, f1)
    assert same(model, before)


def test_a_loader_is_trained_on_as_tensors_are(ladder: Data, shift: Make) -> None:
    loader = [(x, y) for x, y in zip(ladder[0].split(4), ladder[1].split(4), strict=True)]
    model = shift(0.0)
    seen = Recorder(model, up)
    history = quiet(model, Slide(seen, epochs=2, lr=1.0), loader, loader, f1)
    assert seen.seen == [0.0, 1.0, 2.0, 3.0]
    assert [epoch.validation for epoch in history.epochs] == pytest.approx([f1_at(ladder, 2), f1_at(ladder, 4)])


@pytest.mark.usefixtures("as_a_user")
def test_arrays_serve(network: Make, toy: Data) -> None:
    arrays = tuple(part.numpy() for part in toy)
    stage = Stage(MetricLoss(f1), epochs=3, lr=0.1)
    given: Any = arrays
    assert lines(quiet(network(), stage, given, given, f1)) == lines(quiet(network(), stage, toy, toy, f1))


@pytest.mark.parametrize("criterion", [bce, MetricLoss(f1)], ids=["bce", "f1"])
def test_targets_of_any_type_are_the_same_to_the_criteria(network: Make, toy: Data, criterion: Any) -> None:
    x, y = toy
    histories = []
    for dtype in (torch.float32, torch.int64, torch.bool):
        data = x, y.to(dtype)
        histories.append(quiet(network(), Stage(criterion, epochs=3, lr=0.1), data, data, f1, threshold="tuned"))
    assert lines(histories[0]) == lines(histories[1]) == lines(histories[2])


@pytest.mark.parametrize("metric", [f1, agreement, ACCURACY], ids=["count", "function", "batched"])
def test_metrics_of_all_kinds(network: Make, toy: Data, metric: Any) -> None:
    model = network()
    history = quiet(model, Stage(bce, epochs=3, lr=0.1), toy, toy, metric)
    assert evaluate(model, toy, metric).value == history.best.validation


def test_the_data_are_left_as_they_were(network: Make, toy: Data) -> None:
    x, y = (part.clone() for part in toy)
    quiet(network(), Stage(MetricLoss(f1), epochs=2), toy, toy, f1, batch_size=10)
    assert torch.equal(x, toy[0])
    assert torch.equal(y, toy[1])


@pytest.mark.parametrize("which", ["train", "validation"])
def test_an_iterator_runs_dry(network: Make, toy: Data, which: str) -> None:
    model = network()
    before = weights(model)
    data: Any = {"train": [toy], "validation": [toy]} | {which: iter([])}
    with pytest.raises(ValueError, match="got no batch; an iterator can be gone through only once"):
        quiet(model, Stage(bce, epochs=2), data["train"], data["validation"], f1)
    assert same(model, before)


def test_an_iterator_as_training_data_is_refused(network: Make, toy: Data) -> None:
    with pytest.raises(ValueError, match="can be gone through only once"):
        quiet(network(), Stage(bce, epochs=2), iter([toy]), toy, f1)


def test_parameters_that_are_frozen_or_unused_stay(network: Make, toy: Data) -> None:
    model = network(nn.Linear(3, 3))
    model[0].requires_grad_(False)  # type: ignore[index]
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    before = weights(model)
    quiet(model, Stage(bce, epochs=3, lr=0.1), toy, toy, f1)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"1.weight", "1.bias"}


# What is not finite


def is_nan(logits: Tensor, target: Tensor) -> Tensor:
    return logits.mean() * torch.nan


def is_infinite(logits: Tensor, target: Tensor) -> Tensor:
    return logits.mean() + torch.inf


def has_no_finite_slope(logits: Tensor, target: Tensor) -> Tensor:
    return (0 * logits).abs().sqrt().mean()  # 0, with a slope of 0 times infinity


FAULTS = {
    "nan loss": (is_nan, "got nan for the loss"),
    "infinite loss": (is_infinite, "got inf for the loss"),
    "gradient": (has_no_finite_slope, "got nan for the gradient of w"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_finite_ends_the_first_step(ladder: Data, shift: Make, fault: str) -> None:
    criterion, message = FAULTS[fault]
    model = shift(1.5)
    with pytest.raises(FloatingPointError, match=f"{message} in stage 'x', epoch 1, batch 1; .* initial weights"):
        quiet(model, Slide(criterion, lr=1.0, name="x"), ladder, ladder, f1)
    assert w_of(model) == 1.5


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_finite_leaves_the_best_weights(ladder: Data, shift: Make, fault: str) -> None:
    # Four steps of one an epoch: the first ends at 3.5, the best, the second at 7.5; the next stage starts from 3.5.
    criterion, message = FAULTS[fault]
    model = shift(-0.5)
    stages = [Slide(up, epochs=2, lr=1.0), Slide(Nth(6, criterion), lr=1.0, name="late", patience=9)]
    where = f"{message} in stage 'late', epoch 4, batch 2; the model keeps the weights of epoch 1 .validation f1 1.0000"
    with pytest.raises(FloatingPointError, match=where):
        quiet(model, stages, ladder, ladder, f1, batch_size=2)
    assert w_of(model) == 3.5


class Breaks(nn.Module):
    """Logits that turn to NaN from the nth call in training on."""

    def __init__(self, model: nn.Module, n: int) -> None:
        super().__init__()
        self.model, self.n, self.calls = model, n, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        logits: Tensor = self.model(x)
        return logits * torch.nan if self.training and self.calls >= self.n else logits


@pytest.mark.parametrize(("n", "kept"), [(1, 0.5), (3, 2.5)])
def test_logits_that_are_not_numbers(ladder: Data, shift: Make, n: int, kept: float) -> None:
    model = Breaks(shift(0.5), n)
    with pytest.raises(FloatingPointError, match=f"got nan for a logit in stage 'up', epoch {n}, batch 1; "):
        quiet(model, Slide(up, lr=2.0), ladder, ladder, f1)
    assert model.get_parameter("model.w").item() == kept


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("criterion", [bce, MetricLoss(f1)], ids=["bce", "f1"])
def test_inputs_that_are_not_finite(network: Make, toy: Data, criterion: Any, value: float) -> None:
    x, y = toy[0].clone(), toy[1]
    x[17, 1] = value
    model = network()
    before = weights(model)
    with pytest.raises(FloatingPointError, match=r"a logit in stage .*, epoch 1, batch \d+; .* NaN in the inputs"):
        quiet(model, Stage(criterion, lr=0.1), (x, y), toy, f1, batch_size=20)
    assert same(model, before)


@pytest.mark.parametrize("sign", [1, -1])
def test_weights_that_overflow_are_not_kept(ladder: Data, shift: Make, sign: int) -> None:
    # Gradient and lr are finite, their product is not: the last step of an epoch must not slip through.
    model = shift(0.5)
    stage = Slide(lambda logits, target: sign * 1e30 * logits.mean(), epochs=2, lr=1e30, name="leap")
    with pytest.raises(FloatingPointError, match="'leap', epoch 1"):
        quiet(model, stage, ladder, ladder, f1)
    assert w_of(model) == 0.5


def test_buffers_go_back_too(network: Make, toy: Data) -> None:
    # Batch normalisation has taken in the NaN of the inputs by the time it is found.
    x, y = toy[0].clone(), toy[1]
    x[17, 1] = math.nan
    model = network(nn.BatchNorm1d(3))
    before = weights(model)
    with pytest.raises(FloatingPointError):
        quiet(model, Stage(bce), (x, y), toy, f1)
    assert same(model, before)


# Interruptions


class Stop(Exception):
    """What no library raises."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stop, SystemExit])
@pytest.mark.parametrize(("n", "kept"), [(1, 0.5), (2, 1.5), (7, 3.5)])
def test_whatever_ends_training_the_best_weights_are_kept(
    ladder: Data, shift: Make, error: type[BaseException], n: int, kept: float
) -> None:
    def stop(logits: Tensor, target: Tensor) -> Tensor:
        raise error("now")

    model = shift(0.5)
    with pytest.raises(error, match="now"):
        quiet(model, Slide(Nth(n, stop), lr=1.0), ladder, ladder, f1)
    assert w_of(model) == kept


def test_a_metric_that_raises(ladder: Data, shift: Make) -> None:
    def metric(decision: Tensor, target: Tensor) -> float:
        raise Stop("no score")

    model = shift(0.5)
    with pytest.raises(RuntimeError, match="no score"):
        quiet(model, Slide(up, lr=1.0), ladder, ladder, metric)
    assert w_of(model) == 0.5


def test_after_an_interruption_a_fit_is_as_any_other(network: Make, toy: Data) -> None:
    stage = Stage(MetricLoss(f1), epochs=3, lr=0.1)
    expected = lines(quiet(network(), stage, toy, toy, f1))
    model = network()
    with pytest.raises(FloatingPointError):
        quiet(model, Stage(is_nan), toy, toy, f1)
    assert lines(quiet(model, stage, toy, toy, f1)) == expected


# Reproducibility


def test_the_same_seed_gives_the_same_run(network: Make, toy: Data) -> None:
    def run(seed: int) -> tuple[list[tuple[Any, ...]], dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        criterion = MetricLoss(f1, score_function(draws=4), generator=generator)
        model = network()
        stages = [Stage(bce, epochs=3, lr=0.1), Stage(criterion, epochs=3, lr=0.1, kl=0.1)]
        return lines(quiet(model, stages, toy, toy, f1, batch_size=20, seed=seed)), weights(model)

    torch.manual_seed(1)
    history, state = run(3)
    torch.manual_seed(2)  # which may not matter
    again, state_again = run(3)
    assert history == again
    assert all(torch.equal(state[name], state_again[name]) for name in state)
    assert run(4)[0] != history


@pytest.mark.usefixtures("as_a_user")  # the shape checks draw from random themselves
def test_global_generators_are_left_alone(network: Make, toy: Data) -> None:
    model = network()
    before = torch.get_rng_state(), np.random.get_state(legacy=False), random.getstate()
    quiet(model, [Stage(bce, epochs=2), Stage(MetricLoss(f1), epochs=2, kl=0.1)], toy, toy, f1, batch_size=20)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_equal(np.random.get_state(legacy=False), before[1])
    assert random.getstate() == before[2]


# Fabric


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_a_fabric_of_ones_own(network: Make, toy: Data, precision: Any) -> None:
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    model = network()
    stages = [Stage(bce, epochs=10, lr=0.1), Stage(MetricLoss(f1), epochs=10, lr=0.1, kl=0.01)]
    for _ in range(2):  # also when it has been launched before
        history = quiet(model, stages, toy, toy, f1, fabric=fabric)
    assert history.best.validation > 0.85


def test_the_precision_of_a_fabric_matters(network: Make, toy: Data) -> None:
    def losses(precision: Any) -> list[float]:
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        history = quiet(network(), Stage(bce, epochs=2, lr=0.1), toy, toy, f1, fabric=fabric)
        return [epoch.loss for epoch in history.epochs]

    assert losses("bf16-mixed") != losses("32-true")
    assert losses("bf16-mixed") == pytest.approx(losses("32-true"), abs=0.01)


def test_a_fabric_of_two_devices_is_refused(network: Make, toy: Data) -> None:
    fabric = Fabric(accelerator="cpu", devices=2)
    with pytest.raises(ValueError, match=r"needed a Fabric of one device, got 2: .* use devices=1"):
        quiet(network(), Stage(bce), toy, toy, f1, fabric=fabric)


# Criteria with a state


def test_a_criterion_with_buffers_keeps_them_through_stages(network: Make, toy: Data) -> None:
    generator = torch.Generator().manual_seed(0)
    criterion = MetricLoss(f1, score_function(draws=8, credit=MovingAverage(0.5)), generator=generator)
    stages = [Stage(bce, epochs=5, lr=0.1), Stage(criterion, epochs=1), Stage(criterion, epochs=1)]
    history = quiet(network(), stages, toy, toy, f1)
    assert history.best.validation > 0.5
    # Two epochs of one batch each: the weight of the past is 1 - 0.5^2.
    assert float(criterion.state_dict()["credit.weight"]) == 0.75


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("progress", [True, False])
def test_nothing_is_printed_where_there_is_no_terminal(
    ladder: Data, shift: Make, capfd: pytest.CaptureFixture[str], progress: bool
) -> None:
    fit(shift(0.5), Stage(bce, epochs=2), ladder, ladder, f1, progress=progress)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("progress", [True, False])
def test_progress_is_shown_on_a_terminal(
    ladder: Data, shift: Make, monkeypatch: pytest.MonkeyPatch, progress: bool
) -> None:
    terminal, out = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", out)
    history = fit(shift(0.5), Stage(bce, epochs=2), ladder, ladder, f1, progress=progress)
    assert len(history.epochs) == 2
    assert out.getvalue() == ""
    assert ("bce" in terminal.getvalue()) is progress
    assert ("/2 " in terminal.getvalue()) is progress


# Arguments


def test_stage_has_usual_defaults_and_cannot_be_changed() -> None:
    stage = Stage(bce)
    assert stage.optimizer is torch.optim.Adam
    assert stage.kl == 0
    with pytest.raises(AttributeError, match="cannot assign"):
        stage.lr = 1.0


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "needed epochs of at least 1, got 0"),
        ({"patience": 0}, "needed patience of at least 1, got 0"),
        ({"lr": 0.0}, "needed a positive finite lr, got 0.0"),
        ({"lr": -1.0}, "needed a positive finite lr"),
        ({"lr": math.inf}, "needed a positive finite lr"),
        ({"lr": math.nan}, "needed a positive finite lr"),
        ({"kl": -1.0}, "needed a kl weight of at least 0"),
        ({"kl": math.nan}, "needed a kl weight of at least 0"),
        ({"kl": math.inf}, "needed a kl weight of at least 0"),
    ],
)
def test_bad_stages(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stage(bce, **arguments)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("criterion", [None, "bce", torch.zeros(())])
def test_a_stage_without_a_criterion(criterion: Any) -> None:
    with pytest.raises(TypeError, match=r"needed a criterion\(logits, target\), got"):
        Stage(criterion)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"stages": []}, TypeError, "needed a Stage or several"),
        ({"stages": [bce]}, TypeError, "wrap the criterion: Stage"),
        ({"stages": bce}, TypeError, "wrap the criterion: Stage"),
        ({"stages": MetricLoss(f1)}, TypeError, "wrap the criterion: Stage"),
        ({"threshold": "best"}, ValueError, 'needed a finite number in logits or "tuned"'),
        ({"threshold": None}, (TypeError, ValueError), "threshold"),
        ({"threshold": math.nan}, ValueError, "threshold"),
        ({"threshold": "tuned", "metric": agreement}, TypeError, "needed a CountMetric to tune a threshold for"),
        ({"threshold": 1.0, "policy": Categorical}, ValueError, "needed threshold 0 for a Categorical policy"),
        ({"batch_size": 0}, ValueError, "needed a batch_size of at least 1"),
        ({"seed": -1}, ValueError, "needed a seed from 0 to"),
        ({"seed": 2**63}, ValueError, "needed a seed from 0 to"),
        ({"metric": "f1"}, TypeError, "needed a metric, got 'f1'"),
        ({"train": None}, TypeError, "a pair of tensors or an iterable of batches as train"),
        ({"validation": (torch.zeros(3, 3), torch.zeros(2))}, ValueError, "as many inputs as targets in validation"),
    ],
)
def test_bad_arguments(network: Make, toy: Data, arguments: dict[str, Any], error: Any, message: str) -> None:
    model = network()
    before = weights(model)
    good: dict[str, Any] = {"stages": Stage(bce, epochs=1), "train": toy, "validation": toy, "metric": f1}
    with pytest.raises(error, match=message):
        quiet(model, **(good | arguments))
    assert same(model, before)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("returned", "message"),
    [
        pytest.param(lambda logits, target: 0.5, "needed", id="number"),
        pytest.param(lambda logits, target: None, "needed", id="nothing"),
        pytest.param(lambda logits, target: (logits - target) ** 2, "scalar", id="vector"),
        pytest.param(lambda logits, target: ((logits > 0) == target).double().mean(), "grad", id="no gradient"),
    ],
)
def test_a_criterion_that_gives_no_loss(network: Make, toy: Data, returned: Any, message: str) -> None:
    model = network()
    before = weights(model)
    with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
        quiet(model, Stage(returned), toy, toy, f1)
    assert same(model, before)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("criterion", [bce, MetricLoss(f1)], ids=["bce", "f1"])
@pytest.mark.parametrize("columns", [0, 1])
def test_an_output_of_one_column_is_to_be_squeezed(toy: Data, criterion: Any, columns: int) -> None:
    x, y = toy
    data = x, y[:, None] if columns else y
    model = nn.Linear(3, 1)
    before = weights(model)
    with pytest.raises(ValueError, match="squeeze"):
        quiet(model, Stage(criterion, epochs=2), data, data, f1)
    assert same(model, before)


@pytest.mark.usefixtures("as_a_user")
def test_validation_of_another_shape_leaves_the_model_as_it_was(network: Make, toy: Data) -> None:
    x, y = toy
    model = network()
    before = weights(model)
    with pytest.raises(ValueError, match="needed a target of shape"):
        quiet(model, Stage(bce, lr=0.1), toy, (x, torch.stack([y, y], 1)), f1)
    assert same(model, before)


def test_the_best_of_a_history_is_its_first_highest() -> None:
    epochs = [
        Epoch("a", k, loss=1.0, train=0.0, validation=value, threshold=0.0, seconds=1.0)
        for k, value in enumerate([0.1, 0.9, 0.5, 0.9], start=1)
    ]
    assert History(epochs).best is epochs[1]


class Distilled(nn.Module):
    """A criterion that holds another network, which is not to be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Linear(1, 1)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return (self.teacher(logits[:, None]) - target[:, None]).square().mean()


class Level(nn.Module):
    """The same value for every row."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))

    def forward(self, logits: Tensor) -> Tensor:
        return self.level.expand(logits.shape[:-1])


def test_networks_that_a_criterion_holds_are_not_trained_but_baselines_are() -> None:
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    distilled = Distilled()
    learned = MetricLoss(f1, score_function(draws=2, credit=LearnedValue(Level())))
    criteria = {"teacher": distilled, "value": learned}
    before = {name: [p.detach().clone() for p in each.parameters()] for name, each in criteria.items()}
    for criterion in criteria.values():
        model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
        fit(model, Stage(criterion, epochs=2), (x, y), (x, y), f1, batch_size=20)
    moved = {name: not all(map(torch.equal, before[name], each.parameters())) for name, each in criteria.items()}
    assert moved == {"teacher": False, "value": True}
