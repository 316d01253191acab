"""The metric of an environment: named in whichever way, and asked once for the decisions of all episodes."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float64, Int64, Shaped

from rlgrad.metrics import (
    CATALOGUE,
    ConfusionMetric,
    CountMetric,
    LabelMetric,
    Metric,
    RankingMetric,
    as_metric,
    class_accuracy,
    class_kappa,
    class_mcc,
    macro,
    metric_named,
    micro,
    weighted,
)

MetricArgument: TypeAlias = str | Metric | Callable[..., Any]

_AVERAGES: dict[str, Callable[..., Any]] = {"macro": macro, "micro": micro, "weighted": weighted}
_OF_CLASSES = {"accuracy": class_accuracy, "mcc": class_mcc, "cohen_kappa": class_kappa}


def metric_for(metric: MetricArgument | None, *, classes: int) -> Metric:
    """A metric for choices among so many classes, two of which are yes and no.

    Args:
        metric: a name, of ``rlgrad.metrics.metric_names()`` for two classes, and for more ``"accuracy"``, ``"mcc"``,
            ``"cohen_kappa"`` or the average of such a metric over classes, as in ``"macro_f1"``, ``"micro_iou"``,
            ``"weighted_f1"``; a metric of rlgrad; any function ``(decision, target) -> number`` of one episode; or
            None for F1, and for more classes than two its mean over classes.
        classes: how many.

    Raises:
        TypeError: it is neither, or of rankings or of several labels.
        ValueError: there is no such name; or the metric is of another number of classes.

    Example:
        >>> metric_for("f1", classes=2)
        CountMetric(f1, undefined=1)
        >>> metric_for("macro_f1", classes=3)
        ConfusionMetric(macro_f1, classes=3, undefined=1)
    """
    if metric is None:
        return metric_for("f1" if classes == 2 else "macro_f1", classes=classes)
    if isinstance(metric, str):
        return metric_named(metric) if classes == 2 else _of_classes(metric, classes)
    metric = as_metric(metric)
    if isinstance(metric, LabelMetric | RankingMetric):
        raise TypeError(f"needed a metric of choices among {classes} classes, got {metric!r}; take one of decisions")
    if isinstance(metric, CountMetric) and classes > 2:
        raise ValueError(f"needed a metric of {classes} classes, got {metric!r}; average it: macro(..., {classes=})")
    if isinstance(metric, ConfusionMetric) and metric.classes != classes:
        raise ValueError(f"needed a metric of {classes} classes, got {metric!r}; make it for {classes}")
    return metric


def _of_classes(name: str, classes: int) -> Metric:
    average, _, of = name.partition("_")
    if name in _OF_CLASSES:
        return _OF_CLASSES[name](classes)
    if average in _AVERAGES and of in CATALOGUE:
        metric: Metric = _AVERAGES[average](CATALOGUE[of], classes=classes)
        return metric
    names = [*_OF_CLASSES, *(f"{average}_{of}" for average in _AVERAGES for of in CATALOGUE)]
    averaged = [other for other in names if other.endswith(f"_{name.lower()}")]
    close = averaged or get_close_matches(name.lower(), names) or names[:4]
    raise ValueError(f"needed a metric of {classes} classes, got {name!r}; there are {', '.join(close)} and others")


def score(
    metric: Metric, decisions: Shaped[np.ndarray, "rows *items"], targets: Shaped[np.ndarray, "rows *items"]
) -> Float64[np.ndarray, " rows"]:
    """The metric of each row, in one call.

    Args:
        metric: of as many axes of items as the arrays have beyond rows.
        decisions: bool for yes and no, integers for classes.
        targets: integers.

    Raises:
        RuntimeError: the metric raised; it is named.
        ValueError: the metric gave something else than a finite number for each row; it is named.

    Example:
        >>> from rlgrad.metrics import f1
        >>> score(f1, np.array([[True, True, False], [True, False, True]]), np.array([[1, 0, 1], [1, 0, 1]]))
        array([0.5, 1. ])
    """
    decided = torch.as_tensor(decisions)
    scores = metric(decided.long() if isinstance(metric, ConfusionMetric) else decided, torch.as_tensor(targets))
    return checked_scores(metric.name, scores, len(decisions))


def checked_scores(name: str, scores: object, rows: int) -> Float64[np.ndarray, " rows"]:
    """One finite number for each row, as an array.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(scores, torch.Tensor) or scores.shape != (rows,):
        got = tuple(scores.shape) if isinstance(scores, torch.Tensor) else repr(scores)
        raise ValueError(f"needed one score for each of {rows} episodes from {name}, got {got}; score items jointly")
    values = scores.detach().cpu().double().numpy()
    if not np.isfinite(values).all():
        raise ValueError(f"needed finite scores from {name}, got {values[~np.isfinite(values)][0]}; give a worst value")
    return values


def score_counts(metric: Metric, counts: Int64[np.ndarray, "rows true claimed"]) -> Float64[np.ndarray, " rows"] | None:
    """The metric of confusion matrices, or None where it is no formula of these.

    Example:
        >>> from rlgrad.metrics import f1
        >>> score_counts(f1, np.array([[[1, 1], [0, 1]]]))
        array([0.66666667])
    """
    if getattr(metric, "ignore_index", None) is not None:
        return None
    if isinstance(metric, ConfusionMetric):
        return checked_scores(metric.name, metric.of_confusion(torch.as_tensor(counts)), len(counts))
    if not isinstance(metric, CountMetric):
        return None
    tn, fp, fn, tp = torch.as_tensor(counts).flatten(1).unbind(1)
    return checked_scores(metric.name, metric.of_counts(tp, fp, fn, tn), len(counts))


def confusion(
    target: Int64[np.ndarray, "rows items"], decision: Int64[np.ndarray, "rows items"], classes: int
) -> Int64[np.ndarray, "rows true claimed"]:
    """How many items of each true class were given each class, in each row.

    Example:
        >>> confusion(np.array([[0, 0, 1]]), np.array([[0, 1, 1]]), 2).tolist()
        [[[1, 1], [0, 1]]]
    """
    rows = len(target)
    cell = (np.arange(rows)[:, None] * classes + target) * classes + decision
    return np.bincount(cell.ravel(), minlength=rows * classes**2).reshape(rows, classes, classes)
