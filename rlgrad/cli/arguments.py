"""What commands have in common: names, the budget, a table as a problem; and the errors of a user."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from rlgrad.study.comparison import Comparison
    from rlgrad.study.methods import TableMetric
    from rlgrad.study.segmentation import Segmentation
    from rlgrad.tables import Problem

# The names stand here once more so that --help need not import torch; a test holds them to the dictionaries.
METRICS = (
    "f1, f0.5, f2, precision, recall, specificity, accuracy, balanced_accuracy, iou, mcc, cohen_kappa, g_mean, "
    "youden_j, fowlkes_mallows"
)
METHODS = (
    "ce, ce-tuned, ce-weighted, focal, soft, score_function, counterfactual, exact, ce+soft, ce+score_function, "
    "ce+counterfactual, ce+exact"
)
LABEL_METHOD = "ce-tuned-per-label"  # with several target columns
STEP_METHODS = (
    "relu, sigmoid, surrogate-sigmoid, surrogate-arctan, surrogate-fast_sigmoid, surrogate-superspike, "
    "surrogate-triangular, surrogate-boxcar, surrogate-straight_through, surrogate-straight_through_clipped, "
    "counterfactual, score_function, arm, disarm, muprop, rebar, relax, frozen"
)
OF_LABELS = (
    "with several target columns instance_ (each row is scored), macro_, micro_ or weighted_ (averages over labels) "
    "and one of these, or subset_accuracy"
)
SEGMENTATION_METRICS = "iou, corpus_iou, dice; miou, corpus_miou, mdice"  # of masks of yes and no; of classes
SEGMENTATION_METHODS = (
    "ce, ce-tuned, dice-tuned, ce_dice-tuned, dice, jaccard, tversky, focal, lovasz, ce_dice, score_function, "
    "counterfactual, exact, ce+score_function, ce+counterfactual, ce+exact, ce_dice+exact"
)
MetricName = Annotated[str, tyro.conf.arg(metavar="NAME", help=f"What counts in the end, one of {METRICS}.")]
TableMetricName = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="NAME",
        help=f"What counts in the end, one of {METRICS}; {OF_LABELS}.",
        help_behavior_hint="(default: f1, with several target columns instance_f1)",
    ),
]
MethodName = Annotated[
    str,
    tyro.conf.arg(
        metavar="NAME",
        help=f"How to train, one of {METHODS}; ce is cross-entropy, and ce+exact starts from its solution. With "
        f"several target columns also {LABEL_METHOD}.",
    ),
]
MethodNames = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        metavar="NAME ...",
        help=(
            f"Which methods, of {METHODS}, with several target columns also {LABEL_METHOD}; with --task steps, of "
            f"{STEP_METHODS}; with --task segmentation, of {SEGMENTATION_METHODS}, where ce_dice is a sum of two "
            "losses and + means that one comes after the other."
        ),
        help_behavior_hint="(default: all)",
    ),
]
Network = Literal["linear", "mlp"]
Task = Literal["table", "steps", "segmentation"]


class BadInput(ValueError):
    """What the user can mend: told in one line, with exit status 2."""


@dataclass
class Budget:
    """What training may spend, the same for every method."""

    epochs: int = 100
    """Passes over the training rows, at most; half of them on each stage where a method has two."""
    lr: float = 0.01
    """Learning rate of Adam."""
    patience: int = 20
    """End a stage after this many epochs without a better validation metric."""
    batch_size: int = 256
    """Rows a batch."""


def metric_named(name: str | None, *, labels: int = 1) -> "TableMetric":
    """A metric of one label or of several; F1 for none."""
    from rlgrad.metrics import metric_named

    default = "f1" if labels == 1 else "instance_f1"
    return metric_named(name or default, labels=None if labels == 1 else labels)


def methods_named(names: tuple[str, ...], task: Task = "table", *, labels: int = 1) -> list[str]:
    """The methods of a task that are named, each once; all for none."""
    from rlgrad.study import methods, segmentation, steps

    of_table = methods.METHODS if labels == 1 else methods.LABEL_METHODS
    of_task = {"table": list(of_table), "steps": list(steps.METHODS), "segmentation": list(segmentation.METHODS)}
    known = of_task[task]
    for name in names:
        if name == LABEL_METHOD and name not in known:
            raise BadInput(f"needed several target columns for {name}, got one; pass --target A,B,... or leave it out")
        check_name(name, known, "a method")
    return list(dict.fromkeys(names)) or known


def check_name(name: str, known: list[str], what: str) -> None:
    """Refuse a name that is not known, with those that are close."""
    if name not in known:
        from difflib import get_close_matches

        close = get_close_matches(name.lower(), known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
        raise BadInput(f"needed {what} that exists, got {name!r}; {hint}")


def problem_of(table: Path | None, target: str | None, positive: str | None, no_header: bool) -> "Problem":
    """The table as a problem, or the digits for none."""
    from rlgrad.tables import digits_table, load_problem, read_table

    if table is None:
        if target is not None or positive is not None or no_header:
            raise BadInput("needed a table to take the target from, got none; name a file first")
        return load_problem(digits_table(), "is_8", name="digits")
    if target is None:
        names = ", ".join(map(repr, read_table(table, header=not no_header).columns))
        raise BadInput(f"needed a column to predict, got none; pass --target with one of {names}")
    return load_problem(table, target, positive=positive, header=not no_header)


def comparison_of(problem: "Problem", network: str, metric: "TableMetric", budget: Budget) -> "Comparison":
    """What a comparison is of."""
    from rlgrad.study.comparison import Comparison
    from rlgrad.study.methods import Budget as StudyBudget

    return Comparison(problem, network, metric, StudyBudget(**vars(budget)))


def segmentation_of(
    folder: Path | None, size: tuple[int, ...], metric: str | None, pictures: Path | None, budget: dict[str, Any]
) -> "Segmentation":
    """A folder of images as a setting, or generated images for none; those of several classes for a metric of such."""
    from rlgrad.images import generated_problem, load_images
    from rlgrad.study.segmentation import BUDGET, CLASS_METRICS, Segmentation, metric_named

    if folder is None:
        if size:
            raise BadInput("needed a folder of images to bring to a size, got none; name it first")
        problem = generated_problem("rare" if metric in CLASS_METRICS else "blobs")
    else:
        problem = load_images(folder, size=_both_sides(size))
    named = metric_named(metric, len(problem.values))
    setting = Segmentation(problem, named, replace(BUDGET, **budget), pictures)
    problem.split(seed=0)  # what is wrong with the images would be wrong in every run
    return setting


def _both_sides(size: tuple[int, ...]) -> tuple[int, int] | None:
    if len(size) > 2:
        raise BadInput(f"needed a height and a width, or one number for both, got --size {' '.join(map(str, size))}")
    return (size[0], size[-1]) if size else None
