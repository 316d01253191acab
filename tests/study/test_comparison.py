"""Comparisons: all methods of a seed get the same rows, weights and batches, and each run becomes one record."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import rlgrad
from rlgrad.metrics import CATALOGUE, f1
from rlgrad.model import NETWORKS, build
from rlgrad.study import comparison as module
from rlgrad.study.comparison import OVERLAP, Comparison, Trained, run, run_one, train
from rlgrad.study.methods import METHODS, Budget
from rlgrad.study.records import Record, append, read, run_key
from rlgrad.surrogates import best_threshold
from rlgrad.tables import load_problem

ROWS = 160


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    a, b, noise = rng.normal(size=(3, ROWS))
    label = np.where(a - b + noise > 0.9, "ill", "well")
    return pd.DataFrame({"a": a, "b": b, "place": rng.choice(["x", "y"], ROWS), "label": label})


def setting(**changes: Any) -> Comparison:
    """Without patience to lose, every stage lasts as long as it may."""
    problem = load_problem(table(), "label", positive="ill", name="clinic")
    made = Comparison(problem, "linear", f1, Budget(epochs=4, lr=0.1, patience=99, batch_size=32))
    return replace(made, **changes)


# --- what the methods of a seed have in common ------------------------------------------------------------------------


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The calls of `fit`, which goes on as ever."""
    calls: list[dict[str, Any]] = []

    def fit(network: Any, stages: Any, train: Any, validation: Any, metric: Any, **options: Any) -> Any:
        weights = torch.cat([value.flatten() for value in network.state_dict().values()])
        calls.append({"weights": weights, "train": train, "validation": validation, **options})
        return rlgrad.fit(network, stages, train, validation, metric, **options)

    monkeypatch.setattr(module, "fit", fit)
    return calls


def tensors(call: dict[str, Any]) -> Iterator[Tensor]:
    yield call["weights"]
    yield from call["train"]
    yield from call["validation"]


@pytest.mark.parametrize("network", NETWORKS)
def test_all_methods_of_a_seed_start_from_the_same(network: str, fitted: list[dict[str, Any]]) -> None:
    for method in METHODS:
        train(setting(network=network), method, 3)
    first, *others = fitted
    assert len(others) == len(METHODS) - 1
    for call in others:
        assert all(torch.equal(one, other) for one, other in zip(tensors(first), tensors(call), strict=True))
        assert (call["seed"], call["batch_size"]) == (3, 32)


def test_seeds_differ_in_rows_weights_and_shuffles(fitted: list[dict[str, Any]]) -> None:
    for seed in (0, 1):
        train(setting(), "ce", seed)
    zero, one = fitted
    assert (zero["seed"], one["seed"]) == (0, 1)
    assert not torch.equal(zero["weights"], one["weights"])
    splits = [setting().problem.split(seed=seed) for seed in (0, 1)]
    for part in ("train", "validation", "test"):
        # Ranks, since the same rows scaled by other rows would be other numbers.
        first, second = (np.argsort(getattr(split, part).x[:, 0]) for split in splits)
        assert not np.array_equal(first, second)


def test_all_methods_are_tested_on_the_same_rows_which_none_has_seen() -> None:
    parts = setting().problem.split(seed=3)
    for method in METHODS:
        results = train(setting(), method, 3).results
        for name, part in (("train", parts.train), ("validation", parts.validation), ("test", parts.test)):
            counts = results[name].counts
            assert counts is not None
            assert (int(counts.tp + counts.fn), int(sum(counts))) == (part.y.sum(), len(part.y))


def test_the_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = build("mlp", 5, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again, other = build("mlp", 5, seed=1), build("mlp", 5, seed=2)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
        assert not torch.equal(weight, other.state_dict()[name])


def test_a_run_leaves_the_global_generators_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), str(np.random.get_state())
    train(setting(), "ce+score_function", 0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert str(np.random.get_state()) == numpy_state


# --- what a run gives -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    return {method: run_one(setting(), method, 0) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_a_record_tells_the_run(method: str, records: dict[str, Record]) -> None:
    record = records[method]
    assert record.error is None
    assert (record.task, record.metric, record.method, record.seed) == ("clinic, linear", "f1", method, 0)
    assert record.epochs == 4  # of both stages, where there are two
    assert record.seconds > 0
    for part in ("train", "validation", "test"):
        counts = record.counts[part]
        value = 2 * counts["tp"] / (2 * counts["tp"] + counts["fp"] + counts["fn"])
        assert getattr(record, part) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_repeats_to_the_last_bit(method: str, records: dict[str, Record]) -> None:
    again = run_one(setting(), method, 0)
    assert replace(again, seconds=0.0) == replace(records[method], seconds=0.0)


def test_the_threshold_is_the_methods_own(records: dict[str, Record]) -> None:
    assert {method for method, record in records.items() if record.threshold} == {"ce-tuned"}
    assert records["ce-tuned"].test_tuned == records["ce-tuned"].test


def test_tuned_is_by_the_validation_rows() -> None:
    trained = train(setting(), "ce", 0)
    parts = setting().problem.split(seed=0)
    with torch.no_grad():
        validation, test = (trained.model.network(torch.from_numpy(x)) for x in (parts.validation.x, parts.test.x))
    threshold, _ = best_threshold(f1, validation, torch.from_numpy(parts.validation.y))
    decisions = (test > threshold).numpy()
    hits = (decisions & parts.test.y).sum()
    assert trained.test_tuned == pytest.approx(2 * hits / (decisions.sum() + parts.test.y.sum()), abs=1e-6)


def test_seconds_are_those_of_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.2)
        return rlgrad.evaluate(*arguments, **options)

    monkeypatch.setattr(module, "evaluate", slow)
    start = time.perf_counter()
    assert 0 < run_one(setting(), "ce", 0).seconds < time.perf_counter() - start - 4 * 0.2


def test_a_stage_may_end_early() -> None:
    record = run_one(setting(budget=Budget(epochs=60, lr=0.1, patience=2)), "ce", 0)
    assert 3 <= record.epochs < 60


def test_the_model_that_is_kept_is_the_one_that_was_judged() -> None:
    trained: Trained = train(setting(), "ce+exact", 0)
    x, y = map(torch.from_numpy, setting().problem.split(seed=0).test)
    value = rlgrad.evaluate(trained.model.network, (x, y), f1).value
    assert value == trained.results["test"].value == trained.model.description.scores["test"]


@pytest.mark.parametrize("metric", ["mcc", "recall", "specificity"])
def test_another_metric_is_trained_for_and_judged_by(metric: str) -> None:
    record = run_one(setting(metric=CATALOGUE[metric]), "exact", 0)
    counts = record.counts["test"]
    assert record.metric == metric
    values = {
        "recall": counts["tp"] / (counts["tp"] + counts["fn"]),
        "specificity": counts["tn"] / (counts["tn"] + counts["fp"]),
    }
    assert record.test == pytest.approx(values.get(metric, record.test), abs=1e-6)


def test_what_goes_wrong_is_told_in_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("nothing to divide by")

    monkeypatch.setitem(METHODS, "ce", broken)
    record = run_one(setting(), "ce", 5)
    assert record.error is not None
    assert record.error.startswith("Traceback")
    assert record.error.endswith("ZeroDivisionError: nothing to divide by\n")
    assert (record.method, record.seed, record.epochs) == ("ce", 5, 0)
    assert setting().key("ce", 5) == run_key(
        task=record.task, metric=record.metric, arguments=record.arguments, method="ce", seed=5
    )


def test_ctrl_c_is_no_failed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(METHODS, "ce", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_one(setting(), "ce", 0)


# --- which runs belong together ---------------------------------------------------------------------------------------


def changed_cell() -> pd.DataFrame:
    changed = table()
    changed.loc[7, "a"] += 1e-6
    return changed


OTHERS: dict[str, dict[str, Any]] = {
    "network": {"network": "mlp"},
    "metric": {"metric": CATALOGUE["mcc"]},
    "positive class": {"problem": load_problem(table(), "label", positive="well", name="clinic")},
    "target": {"problem": load_problem(table(), "place", name="clinic")},
    "data": {"problem": load_problem(changed_cell(), "label", positive="ill", name="clinic")},
    "name": {"problem": load_problem(table(), "label", positive="ill", name="hospital")},
    **{
        name: {"budget": replace(setting().budget, **{name: value})}
        for name, value in {"epochs": 5, "lr": 0.2, "patience": 98, "batch_size": 33}.items()
    },
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_record_belongs_to_its_setting_alone(other: str, tmp_path: Path) -> None:
    path, changed = tmp_path / "records.jsonl", setting(**OTHERS[other])
    assert changed.key("ce", 0) != setting().key("ce", 0)
    assert len(list(run(setting(), setting().missing(path, ["ce"], [0]), path, workers=1))) == 1
    assert (len(setting().missing(path, ["ce"], [0])), len(setting().records(path, ["ce"], [0]))) == (0, 1)
    assert (len(changed.missing(path, ["ce"], [0])), len(changed.records(path, ["ce"], [0]))) == (1, 0)


def test_the_same_setting_is_found_again() -> None:
    assert setting().key("ce", 0) == setting().key("ce", 0)
    assert len({setting().key(method, seed) for method in METHODS for seed in range(3)}) == 3 * len(METHODS)


def test_runs_are_written_before_they_are_told(tmp_path: Path) -> None:
    path = tmp_path / "new" / "records.jsonl"
    wanted = setting().missing(path, ["ce", "soft"], [0, 1])
    assert [(key.method, key.seed) for key in wanted] == [("ce", 0), ("soft", 0), ("ce", 1), ("soft", 1)]
    for number, record in enumerate(run(setting(), wanted, path, workers=1), start=1):
        assert len(read(path)) == number
        assert read(path)[-1].test == record.test
    assert setting().missing(path, ["ce", "soft"], [0, 1]) == []
    assert setting().missing(path, ["soft", "focal"], [1, 2]) == [
        setting().key("focal", 1),
        setting().key("soft", 2),
        setting().key("focal", 2),
    ]


def test_records_come_in_the_order_of_the_methods_and_the_last_of_a_run_counts(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    for method, seed in (("soft", 1), ("ce", 1), ("soft", 0), ("ce", 0), ("focal", 0)):
        append(path, run_one(setting(), method, seed))
    last = replace(run_one(setting(), "ce", 0), test=0.125)
    append(path, last)
    found = setting().records(path, ["ce", "soft"], [0, 1])
    assert [(record.method, record.seed) for record in found] == [("ce", 0), ("ce", 1), ("soft", 0), ("soft", 1)]
    assert found[0] == last


def test_overlap_is_that_of_the_parts() -> None:
    parts = setting().problem.split(seed=0)
    assert pytest.approx(len(parts.test.y) / len(parts.train.y), rel=0.05) == OVERLAP
