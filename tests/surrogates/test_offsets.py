"""Offsets of classes: never worse, and no single one can be changed for the better."""

import math

import pytest
import torch
from torch import Tensor

from rlgrad.metrics import ConfusionMetric, class_kappa, class_mcc, cost_matrix, f1, iou, macro, mean_iou
from rlgrad.surrogates import best_offsets, best_threshold
from rlgrad.surrogates import offsets as module

METRICS = [macro(f1, classes=3), mean_iou(3, absent="skip"), class_mcc(3), class_kappa(3)]
METRICS += [cost_matrix([[0, 1, 4], [9, 0, 1], [2, 2, 0]])]


def case(seed: int, *shape: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Logits that favour the wrong classes."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, classes, generator=generator, dtype=torch.float64)
    target = (logits + torch.randn(logits.shape, generator=generator, dtype=torch.float64)).argmax(-1)
    return logits + torch.tensor([1.5, 0.0, -1.0])[:classes], target


def of(metric: ConfusionMetric, logits: Tensor, target: Tensor) -> float:
    return metric(logits.argmax(-1), target).mean().item()


def neighbours(logits: Tensor, offsets: Tensor) -> list[Tensor]:
    """The offsets with one changed, in every way that changes a decision."""
    found = []
    for label in range(len(offsets)):
        rest = (logits + offsets).index_fill(-1, torch.tensor(label), -math.inf).amax(-1)
        ties = (rest - logits[..., label]).flatten().sort().values
        between = torch.cat([ties[:1] - 1, (ties[1:] + ties[:-1]) / 2, ties[-1:] + 1])
        found += [offsets.index_fill(0, torch.tensor(label), float(value)) for value in between]
    return found


@pytest.mark.parametrize("metric", METRICS, ids=repr)
@pytest.mark.parametrize(("shape", "axes"), [((9,), 1), ((3, 6), 1), ((2, 3, 3), 2), ((2, 3, 3), 3)])
def test_no_single_offset_is_better(metric: ConfusionMetric, shape: tuple[int, ...], axes: int) -> None:
    metric, rose = metric.over(axes), 0
    for seed in range(3):
        logits, target = case(seed, *shape)
        offsets, value = best_offsets(metric, logits, target)
        assert value == of(metric, logits + offsets, target)
        assert value >= of(metric, logits, target)
        rose += value > of(metric, logits, target)
        assert max(of(metric, logits + other, target) for other in neighbours(logits, offsets)) <= value + 1e-12
    assert rose >= 1  # it was worth it


def test_two_classes_are_a_threshold() -> None:
    for seed in range(5):
        logits, target = case(seed, 12, classes=2)
        two = ConfusionMetric(
            lambda c: 2 * c[..., 1, 1] / (2 * c[..., 1, 1] + c[..., 0, 1] + c[..., 1, 0]), classes=2, undefined=1.0
        )
        _, expected = best_threshold(f1, logits[:, 1] - logits[:, 0], target)
        assert best_offsets(two, logits, target)[1] == pytest.approx(expected, abs=1e-12)


def test_ignored_items_leave() -> None:
    logits, target = case(0, 14)
    ignored = torch.arange(14) % 3 == 1
    offsets, value = best_offsets(
        macro(iou, classes=3).ignoring(-1),
        logits.masked_fill(ignored[:, None], math.nan),
        target.masked_fill(ignored, -1),
    )
    expected = best_offsets(macro(iou, classes=3), logits[~ignored], target[~ignored])
    assert torch.equal(offsets, expected[0])
    assert value == expected[1]


def test_items_in_slices_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Confusion matrices along the cuts are many numbers: they are made some items at a time."""
    logits, target = case(1, 2, 13)
    offsets, value = best_offsets(METRICS[0], logits, target)
    parts = [slice(start, start + 5) for start in range(0, 13, 5)]
    monkeypatch.setattr(module, "slices", lambda *_: iter(parts))
    again, same = best_offsets(METRICS[0], logits, target)
    assert torch.equal(again, offsets)
    assert same == value


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("metric", "logits", "target", "error", "message"),
    [
        (f1, torch.zeros(2, 3), torch.zeros(2).long(), TypeError, "needed a ConfusionMetric, got CountMetric(f1"),
        (METRICS[0], torch.zeros(2, 4), torch.zeros(2).long(), ValueError, "needed logits of 3 classes for macro_f1"),
        (METRICS[0], torch.full((2, 3), math.inf), torch.zeros(2).long(), ValueError, "needed finite logits"),
        (METRICS[0], torch.zeros(2, 3), torch.tensor([0, 3]), ValueError, "needed a target of classes from 0 to 2"),
        (METRICS[0], torch.zeros(0, 3), torch.zeros(0).long(), ValueError, "needed an item that counts"),
    ],
)
def test_bad_input(metric, logits: Tensor, target: Tensor, error, message: str) -> None:
    with pytest.raises(error) as caught:
        best_offsets(metric, logits, target)
    assert message in str(caught.value)
