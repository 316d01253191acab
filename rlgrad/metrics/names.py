"""Metrics by name, for one label of a table and for several."""

import copy
from collections.abc import Callable
from difflib import get_close_matches

from rlgrad.metrics.averages import LabelMetric, macro, micro, weighted
from rlgrad.metrics.catalogue import CATALOGUE
from rlgrad.metrics.counts import CountMetric

_AVERAGES: dict[str, Callable[..., object]] = {"macro": macro, "micro": micro, "weighted": weighted}
AVERAGES = ("instance", *_AVERAGES)

# The hinge, not fp + fn == 0, which is the same of hard counts: it has a slope where fewer than one error is expected.
subset_accuracy = CountMetric(lambda tp, fp, fn, tn: (1 - fp - fn).clamp(min=0), undefined=1.0, name="subset_accuracy")


def metric_names(*, labels: int | None = None) -> list[str]:
    """The names that ``metric_named`` knows.

    Example:
        >>> metric_names(labels=6)[:4]
        ['instance_f1', 'macro_f1', 'micro_f1', 'weighted_f1']
    """
    if labels is None:
        return list(CATALOGUE)
    return [*(f"{average}_{name}" for name in CATALOGUE for average in AVERAGES), subset_accuracy.name]


def metric_named(name: str, *, labels: int | None = None) -> CountMetric | LabelMetric:
    """A metric of one label's decisions, or of tables (rows, labels).

    With several labels the name of a count metric alone does not say what is averaged. ``instance_f1`` is the mean over
    rows of the F1 of a row's labels (scikit-learn's "samples"), ``macro_f1`` the mean over labels of the F1 of a
    label's rows, ``weighted_f1`` the same weighted by how many rows have the label, and ``micro_f1`` the F1 of all
    decisions together. ``instance_iou`` is also called the Jaccard score, ``instance_accuracy`` one minus the Hamming
    loss, and ``subset_accuracy`` is the share of rows whose labels are all right.

    Args:
        name: one of ``metric_names``.
        labels: how many there are, two at least; None for one.

    Raises:
        ValueError: there is no such name for one label, or for several; the names are listed.

    Example:
        >>> metric_named("macro_f1", labels=6)
        LabelMetric(macro_f1, labels=6)
    """
    if name not in metric_names(labels=labels):
        raise ValueError(_advice(name, labels))
    if labels is None:
        return CATALOGUE[name]
    if name == subset_accuracy.name:
        return subset_accuracy
    average, _, of = name.partition("_")
    if average == "instance":
        return _named(CATALOGUE[of], name)
    metric = _AVERAGES[average](CATALOGUE[of], labels=labels)
    assert isinstance(metric, LabelMetric)
    return metric


def _named(metric: CountMetric, name: str) -> CountMetric:
    metric = copy.copy(metric)
    metric.name = name
    return metric


def _advice(name: str, labels: int | None) -> str:
    """Why a name is not one of them: it is one of the other kind, or a slip of the pen."""
    if labels is None and name in metric_names(labels=2):
        return f"needed a metric of one label, got {name!r}, which is of several; name several target columns"
    if labels is not None and name in CATALOGUE:
        choices = ", ".join(f"{average}_{name}" for average in AVERAGES)
        return (
            f"needed a metric of {labels} labels, got {name!r}, which is of one; there are {choices} and "
            f"{subset_accuracy.name}"
        )
    names = metric_names(labels=labels)
    close = get_close_matches(name.lower(), names, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names)}"
    return f"needed a metric that exists, got {name!r}; {hint}"
