"""The study of images: metrics against scikit-learn, methods that learn, batches that are the same for all."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, jaccard_score

from rlgrad.images import PADDED, ImageProblem, generated, generated_problem, problem_of
from rlgrad.images.reading import Pair
from rlgrad.metrics import ConfusionMetric, CountMetric
from rlgrad.study.comparison import run_one
from rlgrad.study.masks import BUDGET, CLASS_METRICS, METHODS, METRICS, methods_of, metric_named
from rlgrad.study.records import append
from rlgrad.study.segmentation import Flipped, Segmentation, train
from rlgrad.study.segmentation import _read_shown as read_shown

QUICK = replace(BUDGET, epochs=1)


@pytest.fixture(scope="module")
def blobs() -> ImageProblem:
    return generated_problem("blobs", images=24, size=16)


@pytest.fixture(scope="module")
def padded() -> ImageProblem:
    made = generated("rare", n=24, size=32)
    pairs = [Pair(str(at), made.images[at, : 32 - at % 5], made.masks[at, : 32 - at % 5]) for at in range(24)]
    return problem_of([pair._replace(mask=np.minimum(pair.mask, 2)) for pair in pairs], name="padded", size=(32, 32))


def of_sklearn(name: str, decision: torch.Tensor, target: torch.Tensor) -> float:
    """The metric of its name by scikit-learn, pixels of PADDED left out."""
    score = f1_score if "dice" in name else jaccard_score
    options = {"average": "macro", "labels": [0, 1, 2]} if name.startswith("m") or "_m" in name else {}
    rows = [slice(None)] if "corpus" in name else range(len(target))
    values = []
    for row in rows:
        kept = target[row] != PADDED
        values.append(score(target[row][kept], decision[row][kept].int(), zero_division=1, **options))
    return float(np.mean(values))


@pytest.mark.parametrize("name", [*METRICS, *CLASS_METRICS])
def test_metrics_are_those_of_scikit_learn(name: str, generator: torch.Generator) -> None:
    classes = 2 if name in METRICS else 3
    target = torch.randint(-1, classes, (4, 6, 5), generator=generator)
    target[3][target[3] == classes - 1] = 0  # the last class is absent from one image
    decision = torch.randint(0, classes, (4, 6, 5), generator=generator)
    if classes == 2:
        decision = decision.bool()
    metric = metric_named(name, classes)
    assert metric.name == name
    assert metric(decision, target).mean().item() == pytest.approx(of_sklearn(name, decision, target), abs=1e-12)


def test_the_catalogue_is_left_as_it_was() -> None:
    metric_named("corpus_iou", 2)
    assert all(metric.ignore_index is None for metric in METRICS.values())
    assert METRICS["corpus_iou"].name == "iou"


def test_metrics_of_the_other_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="needed a metric of masks of 3 classes, got 'iou'; there are miou, "):
        metric_named("iou", 3)
    with pytest.raises(ValueError, match="needed a metric of masks of yes and no, got 'miou'"):
        metric_named("miou", 2)
    assert metric_named(None, 2).name == "iou"
    assert metric_named(None, 3).name == "miou"


@pytest.mark.parametrize("metric", [*METRICS, *CLASS_METRICS])
def test_padding_has_no_gradient_whatever_the_method(metric: str, generator: torch.Generator) -> None:
    named = metric_named(metric, 2 if metric in METRICS else 3)
    classes = named.classes if isinstance(named, ConfusionMetric) else 2
    target = torch.randint(-1, classes, (4, 8, 8), generator=generator)
    shape = target.shape if classes == 2 else (*target.shape, classes)
    for name in methods_of(named):
        for stage in METHODS[name](named, BUDGET, generator).stages:
            logits = torch.randn(shape, generator=generator).requires_grad_()
            stage.criterion(logits, target).backward()
            gradient = logits.grad
            assert gradient is not None
            assert (gradient[target == PADDED] == 0).all(), name
            assert (gradient[target != PADDED] != 0).float().mean() > 0.5, name


def test_flips_are_of_images_and_masks_alike_and_the_same_for_every_method(padded: ImageProblem) -> None:
    part = padded.split(seed=0).train
    # An image that is its own mask stays so.
    twins = part._replace(x=part.y[:, None].astype(np.float32))
    first, second = (Flipped(twins, 4, seed=7) for _ in range(2))
    seen = []
    for _ in range(2):
        once = [(x.clone(), y.clone()) for x, y in first]
        for (x, y), (other, _) in zip(once, second, strict=True):
            assert torch.equal(x[:, 0], y.float())
            assert torch.equal(x, other)
        seen.append(torch.cat([y for _, y in once]))
    assert not torch.equal(*seen)
    original = {mask.tobytes() for mask in part.y.astype(np.int64)}
    ways = [[], [1], [0], [0, 1]]
    counts = [sum(mask.flip(way).numpy().tobytes() in original for mask in torch.cat(seen)) for way in ways]
    assert all(count > 0 for count in counts)
    for mask in seen[0]:
        assert any(mask.flip(way).numpy().tobytes() in original for way in ways)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_runs_and_is_recorded(method: str, blobs: ImageProblem, tmp_path: Path) -> None:
    metric = metric_named("corpus_iou" if "-data" in method else "iou", 2)
    setting = Segmentation(blobs, metric, QUICK, tmp_path / "pictures")
    record = run_one(setting, method, 0)
    assert record.error is None
    assert record.epochs == (2 if "+" in method else 1)
    assert 0 <= record.test <= 1
    assert sum(record.counts["test"].values()) == 6 * 16 * 16
    assert (record.threshold == 0) == (not method.endswith("-tuned"))
    if method.endswith("-tuned"):
        assert record.test == pytest.approx(record.test_tuned)
    append(tmp_path / "records.jsonl", record)
    assert setting.missing(tmp_path / "records.jsonl", [method], [0]) == []
    assert list(setting.shown([method])) == [method]


@pytest.mark.parametrize("metric", CLASS_METRICS)
@pytest.mark.parametrize("method", ["ce", "tversky", "lovasz", "exact", "ce_dice+exact"])
def test_classes_with_padding(method: str, metric: str, padded: ImageProblem) -> None:
    record = run_one(Segmentation(padded, metric_named(metric, 3), QUICK), method, 1)
    assert record.error is None
    assert np.isnan([record.threshold, record.test_tuned]).all()
    assert record.counts == {}
    assert 0 < record.test < 1


@pytest.mark.parametrize("method", ["ce-tuned", "exact"])
def test_training_learns_and_keeps_the_best_epoch(method: str) -> None:
    problem = generated_problem("blobs", images=32, size=32)
    setting = Segmentation(problem, metric_named("iou", 2), replace(BUDGET, epochs=8, batch_size=4))
    trained = train(setting, method, 0)
    assert trained.results["test"].value > 0.5  # claiming everything has 0.11
    assert trained.others.keys() == {"corpus_iou", "dice"}


@pytest.mark.parametrize("method", ["ce-tuned", "exact"])
def test_training_repeats(method: str, blobs: ImageProblem) -> None:
    setting = Segmentation(blobs, metric_named("iou", 2), replace(BUDGET, epochs=2, batch_size=4))
    assert train(setting, method, 0).results == train(setting, method, 0).results


def test_what_is_reported_is_what_the_saved_model_decides(blobs: ImageProblem) -> None:
    trained = train(Segmentation(blobs, metric_named("iou", 2), replace(BUDGET, epochs=2)), "ce-tuned", 0)
    parts = blobs.split(seed=0)
    light = parts.test.x * parts.deviation[:, None, None] + parts.mean[:, None, None]
    masks = np.stack([trained.model.predict(image) for image in light.transpose(0, 2, 3, 1).astype(np.float32)])
    scores = [
        jaccard_score(true.ravel(), mask.ravel(), zero_division=1)
        for true, mask in zip(parts.test.y, masks, strict=True)
    ]
    assert np.mean(scores) == pytest.approx(trained.results["test"].value)
    np.testing.assert_array_equal(trained.shown.decision, masks[:4])
    np.testing.assert_array_equal(trained.shown.truth, parts.test.y[:4])


def test_the_arguments_tell_settings_apart(blobs: ImageProblem, padded: ImageProblem) -> None:
    metric = metric_named("iou", 2)
    settings = [
        Segmentation(blobs, metric),
        Segmentation(blobs, metric_named("dice", 2)),
        Segmentation(blobs, metric, replace(BUDGET, epochs=3)),
        Segmentation(replace(blobs, fingerprint="0" * 64), metric),
    ]
    assert len({setting.key("ce", 0) for setting in settings}) == 4
    assert Segmentation(blobs, metric, pictures=Path("x")).key("ce", 0) == settings[0].key("ce", 0)
    assert isinstance(metric, CountMetric)
    of_classes = Segmentation(padded, metric_named("miou", 3)).methods
    assert set(METHODS) - set(of_classes) == {
        "ce-tuned",
        "dice-tuned",
        "ce_dice-tuned",
        "focal",
        "exact-data",
        "ce+exact-data",
    }
    assert "exact-data" in Segmentation(blobs, metric_named("corpus_iou", 2)).methods


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ValueError, match=r"needed decisions kept by rlgrad compare, got .*x\.npz"):
        read_shown(tmp_path / "x.npz")
