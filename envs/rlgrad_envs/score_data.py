"""Scores of rows and the truth about them: held-out ones of a logistic regression, a file, or arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64, Num, Shaped

from rlgrad.metrics import CountMetric, LabelMetric, Metric, OpaqueMetric, as_metric, metric_named
from rlgrad.tables import binary_target, columns_of, read_table, targets
from rlgrad.tables.columns import numbers, texts
from rlgrad.tables.names import check_columns, listed
from rlgrad_envs.data import BUILT_IN, check_target, load_data
from rlgrad_envs.scoring import MetricArgument, metric_for

ScoreData: TypeAlias = str | Path | pd.DataFrame | tuple[Any, Any] | list[Any]
Decided: TypeAlias = Bool[np.ndarray, "..."] | Int64[np.ndarray, "..."]
Kind: TypeAlias = Literal["yes or no", "classes", "labels"]


@dataclass(frozen=True)
class Scores:
    """Scores, and what is true of each row, which are read only.

    Attributes:
        kind: "yes or no", one score a row; "classes", a score for each, one of which is true; "labels", a score for
            each, any of which are true.
        scores: from 0 to 1, a column for each class or label, or one.
        truth: 0 and 1; the number of the class; or a table of 0 and 1.
        names: of the columns.
    """

    kind: Kind
    scores: Float64[np.ndarray, "rows columns"]
    truth: Int64[np.ndarray, " rows"] | Int64[np.ndarray, "rows columns"]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        outside = ~((self.scores >= 0) & (self.scores <= 1))
        if outside.any():
            row, column = np.argwhere(outside)[0]
            raise ValueError(
                f"needed scores from 0 to 1, got {self.scores[row, column]} in row {row}, column {column}; logits are "
                "made so by the logistic function"
            )
        highest = self.scores.shape[1] - 1 if self.kind == "classes" else 1
        if ((self.truth < 0) | (self.truth > highest)).any():
            raise ValueError(f"needed a target of whole numbers from 0 to {highest}, got others; number the classes")
        self.scores.flags.writeable = self.truth.flags.writeable = False

    def __len__(self) -> int:
        return len(self.truth)

    def decide(
        self, scores: Float64[np.ndarray, "some rows columns"], threshold: Float64[np.ndarray, "some columns"]
    ) -> Decided:
        """What is above its threshold; of classes the one that is furthest above, or least below, its own."""
        margin = scores - threshold[:, None]
        if self.kind == "classes":
            return np.asarray(margin.argmax(-1))
        return np.asarray(margin[..., 0] > 0 if self.kind == "yes or no" else margin > 0)

    def one_hot(self, decided: Decided) -> Bool[np.ndarray, "... columns"]:
        """Decisions or truth as yes or no for each column."""
        if self.kind == "labels":
            return np.asarray(decided == 1)
        classes = np.arange(self.scores.shape[1]) if self.kind == "classes" else 1
        return np.asarray(decided[..., None] == classes)

    def metric_for(self, metric: MetricArgument | None) -> Metric:
        """The metric of these decisions; by default F1, of classes and of labels its mean over them."""
        columns = self.scores.shape[1]
        metric = ("f1" if self.kind == "yes or no" else "macro_f1") if metric is None else metric
        if self.kind == "labels":
            return _of_labels(metric, columns)
        return metric_for(metric, classes=2 if self.kind == "yes or no" else columns)


def _of_labels(metric: MetricArgument, labels: int) -> Metric:
    if isinstance(metric, str):
        return metric_named(metric, labels=labels)
    chosen = as_metric(metric)
    if isinstance(chosen, OpaqueMetric):
        return chosen.over(2)
    if not isinstance(chosen, CountMetric | LabelMetric) or getattr(chosen, "labels", labels) != labels:
        raise ValueError(f"needed a metric of tables of {labels} labels, got {metric!r}; name one such as 'macro_f1'")
    return chosen


def scores_of(data: ScoreData, target: str | Sequence[str] | None) -> Scores:
    """The scores that an argument ``data`` means; see :class:`rlgrad_envs.threshold.ThresholdEnv`.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: data of another type.
        ValueError: scores that are not from 0 to 1, a target that does not fit them, or one missing or too many.

    Example:
        >>> digits = scores_of("digits", None)
        >>> digits.kind, digits.scores.shape, digits.truth.mean().round(3)
        ('yes or no', (899, 1), np.float64(0.097))
    """
    check_target(data, target)
    if isinstance(data, str) and data in BUILT_IN:
        return _held_out(data)
    if isinstance(data, str | Path | pd.DataFrame):
        assert target is not None
        return _of_table(data if isinstance(data, pd.DataFrame) else read_table(data), target)
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError(f"needed data=(scores, target), a table, a file or a name, got {type(data).__name__}")
    return _of_arrays(np.asarray(data[0]), np.asarray(data[1]))


@lru_cache
def _held_out(name: str) -> Scores:
    """Scores of the half of a set that a logistic regression has not seen, shrunk so that 0.5 is no good threshold."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split

    data = load_data(name, None)
    x, x_held_out, y, truth = train_test_split(
        data.features, data.target, test_size=0.5, random_state=0, stratify=data.target
    )
    scores = LogisticRegression(C=0.01, max_iter=1000).fit(x, y).predict_proba(x_held_out).astype(np.float64)
    if len(data.classes) == 2:
        return Scores("yes or no", scores[:, 1:], truth, (data.classes[1],))
    return Scores("classes", scores, truth, data.classes)


def _of_arrays(scores: Num[np.ndarray, "..."], target: Shaped[np.ndarray, "..."]) -> Scores:
    table = scores[:, None] if scores.ndim == 1 else scores
    fits = table.ndim == 2 and target.shape in ((len(table),), table.shape)
    if not fits or not table.size or table.dtype.kind not in "biuf" or target.dtype.kind not in "biu":
        raise ValueError(
            f"needed numbers (rows,) or (rows, columns) for scores, and a target of bool or integers for each row, or "
            f"for each row and label, got {scores.shape} {scores.dtype} and {target.shape} {target.dtype}"
        )
    kind: Kind = "yes or no" if table.shape[1] == 1 else "classes" if target.ndim == 1 else "labels"
    truth = target.astype(np.int64)
    names = tuple(str(at) for at in range(table.shape[1])) if kind != "yes or no" else ("1",)
    return Scores(kind, table.astype(np.float64), truth.reshape(-1) if kind == "yes or no" else truth, names)


def _of_table(table: pd.DataFrame, target: str | Sequence[str]) -> Scores:
    """Every column but those of the target holds scores: one, one for each class by its name, or one for each label."""
    columns = columns_of(table, target)
    check_columns(table, columns)
    scores = table.drop(columns=columns)
    names = tuple(map(str, scores.columns))
    values = np.stack([numbers(scores[name]) for name in scores], axis=1) if names else np.zeros((len(table), 0))
    if len(columns) > 1:
        if len(names) != len(columns):
            raise ValueError(f"needed a score for each of {len(columns)} labels, got columns {listed(names)}")
        return Scores("labels", values, targets(table, columns).y.astype(np.int64), tuple(columns))
    if len(names) == 1:
        found = binary_target(table, columns[0])
        return Scores("yes or no", values, found.y.astype(np.int64), found.classes[1:])
    labels = texts(table[columns[0]])
    strange = sorted(set(labels) - set(names))
    if strange or not names:
        raise ValueError(
            f"needed a column of scores for each class in {columns[0]!r}, got none for {listed(strange)}; name the "
            "columns as the classes"
        )
    return Scores("classes", values, np.array([names.index(label) for label in labels]), names)
