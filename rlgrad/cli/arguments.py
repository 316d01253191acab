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
    "counterfactual, exact, exact-data, ce+score_function, ce+counterfactual, ce+exact, ce+exact-data, ce_dice+exact"
)
MetricName = Annotated[str, tyro.conf.arg(metavar="NAME", help=f"What counts in the end, one of {METRICS}.")]
MethodName = Annotated[
    str,
    tyro.conf.arg(
        metavar="NAME",
        help=(
            f"How to train, one of {METHODS}; ce is cross-entropy, and ce+exact starts from its solution. With several "
            f"target columns also {LABEL_METHOD}. With --task segmentation one of {SEGMENTATION_METHODS}; ce_dice is "
            "the sum of the two losses."
        ),
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


class RunFailed(RuntimeError):
    """What failed when all was asked for rightly: told in one line, with exit status 1."""


def left_to_the_task(metavar: str, default: str, help: str | None = None) -> Any:
    """An option that is None if left: some tasks refuse it, and others have a default of their own."""
    return tyro.conf.arg(metavar=metavar, help=help, help_behavior_hint=f"(default: {default})")


@dataclass
class Budget:
    """What training may spend, the same for every method."""

    epochs: Annotated[int | None, left_to_the_task("INT", "100, of images 20")] = None
    """Passes over the training rows or images, at most; half of them on each stage where a method has two."""
    lr: Annotated[float | None, left_to_the_task("FLOAT", "0.01")] = None
    """Learning rate of Adam."""
    patience: Annotated[int | None, left_to_the_task("INT", "20")] = None
    """End a stage after this many epochs without a better validation metric."""
    batch_size: Annotated[int | None, left_to_the_task("INT", "256, of images 8")] = None
    """Rows or images a batch."""

    @property
    def given(self) -> dict[str, Any]:
        """What is not left to the default of the task."""
        return {name: value for name, value in vars(self).items() if value is not None}


def refuse_foreign(command: object, task: Task, options: dict[Task, tuple[str, ...]]) -> None:
    """Refuse options that only other tasks take, where they are not what they are if left.

    Args:
        command: what was parsed.
        task: the one that was asked for.
        options: of each task, those that not every task takes.
    """
    for other, names in options.items():
        foreign = [name for name in names if name not in options[task]]
        given = [_spelled(name, other) for name in foreign if getattr(command, name) != getattr(type(command), name)]
        if given:
            raise BadInput(
                f"needed options of --task {task}, got {', '.join(given)} of --task {other}; "
                f"leave that out, or pass --task {other}"
            )


def _spelled(name: str, task: Task) -> str:
    return "a table or a folder of images" if name == "data" else f"--{name.replace('_', '-')}"


def metric_named(name: str | None, *, labels: int = 1) -> "TableMetric":
    """A metric of one label or of several; F1 for none."""
    from rlgrad.metrics import metric_named

    default = "f1" if labels == 1 else "instance_f1"
    return metric_named(name or default, labels=None if labels == 1 else labels)


def methods_named(names: tuple[str, ...], task: Task = "table", *, labels: int = 1) -> list[str]:
    """The methods of a task that are named, each once; all for none."""
    from rlgrad.study import masks, methods, steps

    of_table = methods.METHODS if labels == 1 else methods.LABEL_METHODS
    of_task = {"table": list(of_table), "steps": list(steps.METHODS), "segmentation": list(masks.METHODS)}
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
    if (table / "images").is_dir():
        raise BadInput(f"needed a table, got the folder of images {table}; pass --task segmentation")
    if target is None:
        names = ", ".join(map(repr, read_table(table, header=not no_header).columns))
        raise BadInput(f"needed a column to predict, got none; pass --target with one of {names}")
    return load_problem(table, target, positive=positive, header=not no_header)


def comparison_of(problem: "Problem", network: str, metric: "TableMetric", budget: Budget) -> "Comparison":
    """What a comparison is of."""
    from rlgrad.study.comparison import Comparison
    from rlgrad.study.methods import Budget as StudyBudget

    return Comparison(problem, network, metric, StudyBudget(**budget.given))


def segmentation_of(
    folder: Path | None, size: tuple[int, ...], metric: str | None, pictures: Path | None, budget: dict[str, Any]
) -> "Segmentation":
    """A folder of images as a setting, or generated images for none; those of several classes for a metric of such."""
    from rlgrad.images import generated_problem, load_images
    from rlgrad.study.masks import BUDGET, CLASS_METRICS, metric_named
    from rlgrad.study.segmentation import Segmentation

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


def possible_methods(methods: list[str], setting: "Segmentation", *, named: bool) -> list[str]:
    """The methods that are for the metric and for masks of this kind; that a named one is not is an error."""
    impossible = [method for method in methods if method not in setting.methods]
    if named and impossible:
        raise BadInput(
            f"needed methods that can train for {setting.metric_name} of masks of {len(setting.problem.values)} "
            f"classes, got {', '.join(impossible)}; there are {', '.join(setting.methods)}"
        )
    return [method for method in methods if method in setting.methods]


def _both_sides(size: tuple[int, ...]) -> tuple[int, int] | None:
    if len(size) > 2:
        raise BadInput(f"needed a height and a width, or one number for both, got --size {' '.join(map(str, size))}")
    return (size[0], size[-1]) if size else None
