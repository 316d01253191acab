"""What trains and judges masks: metrics by name, and the methods, a dictionary from name to function.

A method is a function of the metric, the budget and a generator that returns a recipe, as for tables. The name of one
in two stages has a plus: ``ce+exact`` is cross-entropy first. ``ce_dice`` is the sum of the two losses. What is
"-tuned" decides by one threshold for all images, the best on the validation images. What is "-data" trains each batch
for the metric of all images together, see ``MetricLoss(scope="data")``.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from rlgrad.estimators import counterfactual, exact, score_function
from rlgrad.images import PADDED
from rlgrad.metrics import ConfusionMetric, CountMetric, f1, iou, macro, tversky_index
from rlgrad.objective import MetricLoss
from rlgrad.study.methods import Budget, Recipe, stage
from rlgrad.surrogates import Criterion, bce, bce_dice, cross_entropy, focal, lovasz, lovasz_softmax, soft

PixelMetric = CountMetric | ConfusionMetric
Method = Callable[[PixelMetric, Budget, torch.Generator], Recipe]
MakeCriterion = Callable[[PixelMetric, torch.Generator], Criterion]

BUDGET = Budget(epochs=20, lr=0.01, patience=20, batch_size=8)
_ALPHA, _BETA = 0.3, 0.7  # of the Tversky loss: a miss costs more than a false alarm

# Each image by itself, or all together. The first of either kind is the default.
METRICS: dict[str, CountMetric] = {"iou": iou.over(2), "corpus_iou": iou.over(3), "dice": f1.over(2)}
CLASS_METRICS: dict[str, tuple[CountMetric, int]] = {"miou": (iou, 2), "corpus_miou": (iou, 3), "mdice": (f1, 2)}


def metric_named(name: str | None, values: int) -> PixelMetric:
    """A metric of masks by its name, without the pixels that only pad an image.

    Args:
        name: of ``METRICS`` where a pixel is yes or no, else of ``CLASS_METRICS``, averages over the classes in which
            one that is neither there nor claimed counts 1; None for the first.
        values: how many different pixels there are.

    Raises:
        ValueError: there is no such metric of so many; those that there are are listed.

    Example:
        >>> metric_named("corpus_iou", 2)
        CountMetric(corpus_iou, undefined=1)
    """
    known = list(METRICS if values == 2 else CLASS_METRICS)
    name = known[0] if name is None else name
    if name not in known:
        what = "masks of yes and no" if values == 2 else f"masks of {values} classes"
        raise ValueError(f"needed a metric of {what}, got {name!r}; there are {', '.join(known)}")
    if values == 2:
        metric: PixelMetric = copy.copy(METRICS[name])
    else:
        formula, axes = CLASS_METRICS[name]
        metric = _over_classes(formula, values).over(axes)
    metric.name = name
    return metric.ignoring(PADDED)


def _over_classes(formula: CountMetric, classes: int) -> ConfusionMetric:
    averaged = macro(formula, classes=classes)
    assert isinstance(averaged, ConfusionMetric)
    return averaged


def _alike(formula: CountMetric, metric: PixelMetric) -> PixelMetric:
    """Another formula, of the same pixels and classes as the metric."""
    whole = _over_classes(formula, metric.classes) if isinstance(metric, ConfusionMetric) else formula
    return whole.over(metric.item_axes).ignoring(metric.ignore_index)


def _cross_entropy(metric: PixelMetric, generator: torch.Generator) -> Criterion:
    entropy: Any = cross_entropy if isinstance(metric, ConfusionMetric) else bce
    return partial(entropy, ignore_index=metric.ignore_index)


def _lovasz(metric: PixelMetric, generator: torch.Generator) -> Criterion:
    of_pixels = iou.over(metric.item_axes).ignoring(metric.ignore_index)
    return lovasz_softmax(of_pixels) if isinstance(metric, ConfusionMetric) else lovasz(of_pixels)


_SURROGATES: dict[str, MakeCriterion] = {
    "ce": _cross_entropy,
    "dice": lambda metric, generator: soft(_alike(f1, metric)),
    "jaccard": lambda metric, generator: soft(_alike(iou, metric)),
    "tversky": lambda metric, generator: soft(_alike(tversky_index(_ALPHA, _BETA), metric)),
    "focal": lambda metric, generator: focal(ignore_index=metric.ignore_index),
    "lovasz": _lovasz,
    "ce_dice": lambda metric, generator: bce_dice(metric=_alike(f1, metric)),
}
_ON_THE_METRIC: dict[str, MakeCriterion] = {
    "score_function": lambda metric, generator: MetricLoss(metric, score_function(draws=8), generator=generator),
    "counterfactual": lambda metric, generator: MetricLoss(metric, counterfactual(draws=1), generator=generator),
    "exact": lambda metric, generator: MetricLoss(metric, exact(), generator=generator),
}
_ON_ALL_DATA: dict[str, MakeCriterion] = {
    "exact-data": lambda metric, generator: MetricLoss(metric, exact(), scope="data", generator=generator),
}


def _trained(
    criteria: Sequence[MakeCriterion], tuned: bool, metric: PixelMetric, budget: Budget, generator: torch.Generator
) -> Recipe:
    """The epochs of the budget shared out among the stages, decided at probability 1/2 or by a tuned threshold."""
    shares = [max(1, (budget.epochs + at) // len(criteria)) for at in range(len(criteria))]
    made = [criterion(metric, generator) for criterion in criteria]
    stages = [stage(criterion, budget, epochs=epochs) for criterion, epochs in zip(made, shares, strict=True)]
    return Recipe(stages, threshold="tuned" if tuned else 0.0)


_SCRATCH: dict[str, Method] = {
    name: partial(_trained, [criterion], False)
    for name, criterion in (_SURROGATES | _ON_THE_METRIC | _ON_ALL_DATA).items()
}
_TUNED: dict[str, Method] = {
    f"{name}-tuned": partial(_trained, [_SURROGATES[name]], True) for name in ("ce", "dice", "ce_dice")
}
_STAGED: dict[str, Method] = {
    **{
        f"ce+{name}": partial(_trained, [_cross_entropy, second], False)
        for name, second in (_ON_THE_METRIC | _ON_ALL_DATA).items()
    },
    "ce_dice+exact": partial(_trained, [_SURROGATES["ce_dice"], _ON_THE_METRIC["exact"]], False),
}

METHODS: dict[str, Method] = {"ce": _SCRATCH["ce"], **_TUNED, **_SCRATCH, **_STAGED}
REFERENCE = "ce-tuned"


def methods_of(metric: PixelMetric) -> list[str]:
    """Names of the methods that can train for a metric.

    Thresholds and the focal loss are a matter of yes and no, and only images scored all together have a rest.

    Example:
        >>> [name for name in METHODS if name not in methods_of(metric_named("corpus_miou", 3))]
        ['ce-tuned', 'dice-tuned', 'ce_dice-tuned', 'focal']
    """
    of_classes = isinstance(metric, ConfusionMetric)
    return [
        name
        for name in METHODS
        if not (of_classes and (name in _TUNED or name == "focal")) and not (metric.item_axes < 3 and "-data" in name)
    ]
