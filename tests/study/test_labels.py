"""Comparisons on a table of several labels: each method is judged by its own thresholds, each record is whole."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score

from rlgrad.metrics import metric_named
from rlgrad.study.comparison import Comparison, run, run_one, train
from rlgrad.study.methods import LABEL_METHODS, METHODS, REFERENCE, Budget
from rlgrad.study.records import Record, read
from rlgrad.surrogates import best_threshold, best_thresholds
from rlgrad.tables import load_problem

ROWS = 160
LABELS = ["ill", "tired", "cold"]


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, ROWS))
    scores = np.stack([a - b - 0.9, b + 0.2, a - 0.6]) + 0.8 * rng.normal(size=(3, ROWS))
    return pd.DataFrame({"a": a, "b": b} | dict(zip(LABELS, (scores > 0).astype(int), strict=True)))


def setting(metric: str = "instance_f1", **changes: Any) -> Comparison:
    problem = load_problem(table(), LABELS, name="clinic")
    budget = Budget(epochs=4, lr=0.1, patience=99, batch_size=32)
    return replace(Comparison(problem, "linear", metric_named(metric, labels=3), budget), **changes)


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    return {method: run_one(setting(), method, 0) for method in LABEL_METHODS}


def test_methods_are_those_of_one_label_and_a_threshold_for_each() -> None:
    assert setting().methods == LABEL_METHODS
    assert set(LABEL_METHODS) - set(METHODS) == {"ce-tuned-per-label"}
    assert list(LABEL_METHODS).index("ce-tuned-per-label") == list(LABEL_METHODS).index(REFERENCE) + 1
    assert replace(setting(), problem=load_problem(table(), "ill")).methods == METHODS


@pytest.mark.parametrize("method", LABEL_METHODS)
def test_a_record_tells_the_run(method: str, records: dict[str, Record]) -> None:
    record = records[method]
    assert record.error is None, record.error
    assert (record.task, record.metric, record.method, record.epochs) == ("clinic, linear", "instance_f1", method, 4)
    assert 0 < record.test <= 1
    assert 0 < record.test_tuned <= 1
    parts = setting().problem.split(seed=0)
    for name in ("train", "validation", "test"):  # of all decisions together
        counts, y = record.counts[name], getattr(parts, name).y
        assert (counts["tp"] + counts["fn"], sum(counts.values())) == (y.sum(), y.size)


def test_thresholds_are_the_methods_own(records: dict[str, Record]) -> None:
    assert {name for name, record in records.items() if record.threshold} == {"ce-tuned", "ce-tuned-per-label"}
    assert np.isnan(records["ce-tuned-per-label"].threshold)
    assert records["ce-tuned"].test_tuned == records["ce-tuned"].test


@pytest.mark.parametrize(("metric", "average"), [("instance_f1", "samples"), ("macro_f1", "macro")])
@pytest.mark.parametrize("method", ["ce", "ce-tuned", "ce-tuned-per-label"])
def test_the_metric_is_that_of_the_tuned_decisions(method: str, metric: str, average: str) -> None:
    trained = train(setting(metric), method, 0)
    parts = setting().problem.split(seed=0)
    with torch.no_grad():
        validation, test = (trained.model.network(torch.from_numpy(part.x)) for part in (parts.validation, parts.test))
    named, truth = metric_named(metric, labels=3), torch.from_numpy(parts.validation.y)
    threshold: Any = 0.0
    if method == "ce-tuned":
        threshold, _ = best_threshold(named, validation, truth)
    elif method == "ce-tuned-per-label":
        threshold, _ = best_thresholds(named, validation, truth)
    decision = (test > threshold).numpy()
    expected = f1_score(parts.test.y, decision, average=average, zero_division=1.0)
    assert trained.results["test"].value == pytest.approx(expected, abs=1e-9)
    thresholds = [label.threshold for label in trained.model.description.labels]
    np.testing.assert_allclose(thresholds, np.broadcast_to(threshold, 3), rtol=1e-6)
    assert trained.confusion.tp.tolist() == (decision & parts.test.y).sum(0).tolist()
    assert trained.confusion.fp.tolist() == (decision & ~parts.test.y).sum(0).tolist()
    predicted = trained.model.predict(table())  # what is saved decides as what was judged
    assert sorted(predicted)[:3] == sorted(f"prediction_{label}" for label in LABELS)


def test_thresholds_for_each_label_are_no_worse_than_one_on_the_validation_rows() -> None:
    tuned = [train(setting("macro_f1"), method, 1) for method in ("ce-tuned", "ce-tuned-per-label")]
    one, each = (trained.results["validation"].value for trained in tuned)
    assert each >= one


@pytest.mark.parametrize("metric", ["macro_f1", "micro_f1", "weighted_iou", "subset_accuracy"])
@pytest.mark.parametrize("method", ["soft", "score_function", "counterfactual", "exact", "ce+exact"])
def test_other_averages_train(metric: str, method: str) -> None:
    record = run_one(setting(metric), method, 0)
    assert record.error is None, record.error
    assert record.metric == metric


def test_a_run_repeats_to_the_last_bit(records: dict[str, Record]) -> None:
    for method in ("score_function", "ce-tuned-per-label"):
        again = run_one(setting(), method, 0)
        assert repr(replace(again, seconds=0.0)) == repr(replace(records[method], seconds=0.0))


def test_records_of_other_labels_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    list(run(setting(), setting().missing(path, ["ce-tuned-per-label"], [0]), path, workers=1))
    assert setting().missing(path, ["ce-tuned-per-label"], [0]) == []
    assert read(path)[0].arguments["target"] == LABELS
    assert read(path)[0].arguments["positive"] == ["1", "1", "1"]
    for columns in (LABELS[:2], LABELS[::-1]):
        other = replace(setting(), problem=load_problem(table(), columns, name="clinic"))
        assert len(other.missing(path, ["ce-tuned-per-label"], [0])) == 1
