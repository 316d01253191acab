"""The task of hard steps: every method learns what it can, and all of a seed start from and see the same."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlgrad.estimators import RELAX, arm, score_function
from rlgrad.steps import RULES, Step, arctan
from rlgrad.stochastic import ExpectedLoss
from rlgrad.study import steps as module
from rlgrad.study.comparison import run, run_one
from rlgrad.study.records import read, run_key
from rlgrad.study.steps import METHODS, REFERENCE, TEMPERATURE, Method, Steps, Trained, digits, train
from rlgrad.train.batches import Batches

SMALL = Steps(hidden=1, width=24, epochs=3, lr=0.04, batch_size=128)
TINY = Steps(hidden=2, width=8, epochs=1)
FEW = replace(TINY, batch_size=500)  # three batches
DRAWN = ["counterfactual", "score_function", "arm", "disarm", "muprop", "rebar", "relax"]


class Watched:
    """What each training began with, and what was asked of it."""

    def __init__(self) -> None:
        self.weights: list[list[Tensor]] = []
        self.batches: list[list[Tensor]] = []
        self.temperatures: list[float] = []


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Training, which goes on as ever."""
    seen = Watched()

    class Adam(torch.optim.Adam):
        def __init__(self, parameters: list[nn.Parameter], **options: Any) -> None:
            seen.weights.append([weight.detach().clone() for weight in parameters])
            super().__init__(parameters, **options)

    class Shuffling(Batches):
        def shuffled(self, *arguments: Any, **options: Any) -> Iterator[Any]:
            seen.batches.append([])
            for x, y in super().shuffled(*arguments, **options):
                seen.batches[-1] += [x, y]
                yield x, y

    class Watching(ExpectedLoss):
        def forward(self, *arguments: Any) -> Tensor:
            seen.temperatures.append(self.temperature)
            return super().forward(*arguments)

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    monkeypatch.setattr(module, "Batches", Shuffling)
    monkeypatch.setattr(module, "ExpectedLoss", Watching)
    return seen


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


# --- what each method is and does -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> dict[str, Trained]:
    return {method: train(SMALL, method, 0) for method in METHODS}


def test_methods_are_references_surrogates_policy_gradients_and_nothing() -> None:
    surrogates = [f"surrogate-{name}" for name in (*RULES, "straight_through_clipped")]
    assert list(METHODS) == ["relu", "sigmoid", *surrogates, *DRAWN, "frozen"]
    assert [name for name, method in METHODS.items() if method.estimator is not None] == DRAWN
    assert REFERENCE in METHODS


@pytest.mark.parametrize("name", METHODS)
def test_names_need_no_quotes_in_a_shell(name: str) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_+-]*", name)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns(method: str, trained: dict[str, Trained]) -> None:
    assert trained[method].train > 0.4  # chance is 0.1
    assert trained[method].test > 0.4


@pytest.mark.parametrize("method", METHODS)
def test_only_a_frozen_network_keeps_its_first_layer(method: str, watched: Watched) -> None:
    network = train(FEW, method, 0).network
    now = list(network.parameters())
    moved = [not torch.equal(before, after) for before, after in zip(watched.weights[0], now, strict=False)]
    assert moved == ([False] * 4 + [True] * 2 if method == "frozen" else [True] * 6)


@pytest.mark.parametrize("method", METHODS)
def test_units_are_hard_where_they_are_judged(method: str, trained: dict[str, Trained]) -> None:
    first, unit, _ = trained[method].network
    values = unit(first(digits(0).test[0]))
    assert (set(values.unique().tolist()) == {0.0, 1.0}) == (method not in ("relu", "sigmoid"))


@pytest.mark.parametrize("method", METHODS)
def test_accuracy_is_that_of_the_network_that_is_kept(method: str, trained: dict[str, Trained]) -> None:
    found = trained[method]
    for (x, y), accuracy in zip(digits(0), (found.train, found.test), strict=True):
        with torch.no_grad():
            assert accuracy == pytest.approx((found.network(x).argmax(1) == y).double().mean().item(), abs=1e-12)


@pytest.mark.parametrize("name", [*RULES, "straight_through_clipped"])
def test_a_surrogate_is_that_of_its_name(name: str) -> None:
    x = torch.linspace(-2, 2, 9)
    unit = METHODS[f"surrogate-{name}"].unit()
    assert isinstance(unit, Step)
    wanted = (x.abs() <= 1).float() if name == "straight_through_clipped" else RULES[name]()(x)
    assert torch.equal(unit.backward(x), wanted)


@pytest.mark.parametrize("method", ["rebar", "relax"])
def test_what_belongs_to_a_control_variate_learns_too(method: str, watched: Watched) -> None:
    train(FEW, method, 0)
    (weights,) = watched.weights
    assert len(weights) == 6 + {"rebar": 2, "relax": 2 + 4}[method]


def test_the_temperature_falls_over_all_batches(watched: Watched) -> None:
    train(replace(FEW, epochs=3), "muprop", 0)
    batches = sum(len(epoch) // 2 for epoch in watched.batches)
    first, last = TEMPERATURE
    wanted = [first * (last / first) ** (call / batches) for call in range(batches)]
    assert watched.temperatures == pytest.approx(wanted)
    assert batches == 3 * 3


# --- what the methods of a seed have in common ------------------------------------------------------------------------


def test_all_methods_of_a_seed_start_from_and_see_the_same(watched: Watched) -> None:
    for method in METHODS:
        train(FEW, method, 3)
    weights, batches = watched.weights[0], watched.batches[0]
    assert [tuple(weight.shape) for weight in weights] == [(8, 64), (8,), (8, 8), (8,), (10, 8), (10,)]
    assert len(watched.weights) == len(watched.batches) == len(METHODS)
    for other_weights, other_batches in zip(watched.weights, watched.batches, strict=True):
        assert same(weights, other_weights[:6])
        assert same(batches, other_batches)


def test_seeds_differ_in_rows_and_weights(watched: Watched) -> None:
    for seed in (0, 1):
        train(TINY, "relu", seed)
    first, second = watched.weights
    assert not any(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    zero, one = (torch.cat(batches[::2]).double().sum() for batches in watched.batches)
    assert not torch.equal(zero, one)


def test_seeds_and_epochs_differ_in_shuffles(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "digits", lambda seed: digits(0))
    for seed in (0, 1):
        train(replace(TINY, epochs=2), "relu", seed)
    orders = [torch.cat(batches[::2]) for batches in watched.batches]
    assert len({tuple(order[:64].flatten().tolist()) for order in orders}) == 4
    assert len({order.double().sum().item() for order in orders}) == 1


def test_a_quarter_of_every_class_is_held_out() -> None:
    (x, y), (test_x, test_y) = digits(0)
    assert (x.dtype, float(x.min()), float(x.max())) == (torch.float32, 0.0, 1.0)
    assert [tuple(part.shape) for part in (x, test_x)] == [(1347, 64), (450, 64)]
    share = test_y.bincount() / (y.bincount() + test_y.bincount())
    assert share == pytest.approx([0.25] * 10, abs=0.005)
    assert Steps.overlap == pytest.approx(len(test_y) / len(y), rel=0.01)
    rows = {tuple(row.tolist()) for row in x}
    assert sum(tuple(row.tolist()) in rows for row in test_x) == 0


def test_a_run_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    train(FEW, "relax", 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("method", ["relu", "counterfactual", "relax"])
def test_a_run_repeats_to_the_last_bit(method: str) -> None:
    record, again = run_one(FEW, method, 2), train(FEW, method, 2)
    assert record.error is None
    assert (record.train, record.test) == (again.train, again.test)


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_record_tells_the_run_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    (made,) = run(TINY, TINY.missing(path, ["relu"], [0]), path, workers=1)
    (found,) = read(path)
    assert TINY.missing(path, ["relu"], [0]) == []
    assert (found.task, found.metric, found.method, found.seed) == ("digits, 64-8-8-10", "accuracy", "relu", 0)
    assert found.arguments == {
        "data": "digits",
        "hidden": 2,
        "width": 8,
        "epochs": 1,
        "lr": 0.003,
        "batch_size": 64,
        "temperature": [1.0, 0.3],
        "test_share": 0.25,
        "methods": TINY.arguments["methods"],
    }
    assert all(isnan(value) for value in (found.validation, found.threshold, found.test_tuned))
    assert (found.counts, found.epochs, found.error) == ({}, 1, None)
    assert (found.train, found.test, found.seconds) == (made.train, made.test, made.seconds)
    assert found.seconds > 0


def test_seconds_are_those_of_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(seed: int) -> Any:
        time.sleep(0.2)
        return digits(seed)

    monkeypatch.setattr(module, "digits", slow)
    start = time.perf_counter()
    assert 0 < train(TINY, "relu", 0).seconds < time.perf_counter() - start - 0.2


@pytest.mark.parametrize("change", [{"hidden": 1}, {"width": 9}, {"epochs": 2}, {"lr": 0.1}, {"batch_size": 63}])
def test_a_record_belongs_to_its_setting_alone(change: dict[str, Any]) -> None:
    assert replace(TINY, **change).key("relu", 0) != TINY.key("relu", 0)


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        ("arm", METHODS["arm"]._replace(estimator=lambda width: arm(draws=8))),
        ("score_function", METHODS["score_function"]._replace(estimator=lambda width: score_function(draws=5))),
        ("relax", METHODS["relax"]._replace(estimator=lambda width: RELAX(nn.Linear(width, 1), draws=1))),
        ("surrogate-arctan", METHODS["surrogate-arctan"]._replace(unit=lambda: Step(backward=arctan(slope=3.0)))),
    ],
)
def test_a_record_belongs_to_what_its_method_was(method: str, changed: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    before = TINY.key(method, 0)
    monkeypatch.setitem(METHODS, method, changed)
    assert TINY.key(method, 0) != before


def test_what_a_method_is_says_the_same_in_every_process() -> None:
    state = torch.get_rng_state()
    for name, method in METHODS.items():
        said = method.definition(24)
        assert said == method.definition(24)
        assert "0x" not in said, name
    assert torch.equal(torch.get_rng_state(), state)


def test_a_training_that_diverges_is_a_failed_record() -> None:
    record = run_one(replace(TINY, lr=1e30), "relu", 4)
    assert record.error is not None
    assert re.search(
        r"FloatingPointError: needed finite numbers, got (nan|-?inf) for .* epoch 1; lower lr", record.error
    )
    assert isnan(record.test)
    assert (
        TINY.key("relu", 4)
        != replace(TINY, lr=1e30).key("relu", 4)
        == run_key(task=record.task, metric=record.metric, arguments=record.arguments, method="relu", seed=4)
    )


def test_weights_that_the_last_step_spoils_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Spoiling(torch.optim.Adam):
        def step(self, closure: Any = None) -> Any:
            self.param_groups[0]["params"][0].data.fill_(float("nan"))

    monkeypatch.setattr(torch.optim, "Adam", Spoiling)
    with pytest.raises(FloatingPointError, match=r"got nan for the weights 0\.weight after the last epoch; lower lr"):
        train(replace(TINY, batch_size=2000), "counterfactual", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 0}, "needed hidden of at least 1, got 0"),
        ({"width": 0}, "needed width of at least 1, got 0"),
        ({"epochs": 0}, "needed epochs of at least 1, got 0"),
        ({"batch_size": -1}, "needed batch_size of at least 1, got -1"),
        ({"lr": 0.0}, "needed a positive finite lr, got 0.0"),
    ],
)
def test_what_cannot_be_trained_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Steps(**change)
