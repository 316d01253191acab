"""Other people's metrics, each against a call of its own on what was drawn."""

import ast
import builtins
import itertools
import math
import os
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics.functional.classification as classification
import torchmetrics.functional.segmentation as segmentation
from torch import Tensor
from torchmetrics.classification import (
    BinaryF1Score,
    BinaryHammingDistance,
    BinaryHingeLoss,
    BinaryStatScores,
    MulticlassF1Score,
)
from torchmetrics.segmentation import MeanIoU

import rlgrad.metrics
from rlgrad import MetricLoss
from rlgrad.estimators import score_function
from rlgrad.metrics import OpaqueMetric, f1, from_program, from_sklearn, from_torchmetrics, mcc
from rlgrad.policies import Bernoulli, Categorical

GENERATOR = torch.Generator().manual_seed(6)
DECISION = torch.rand(3, 2, 12, generator=GENERATOR) < 0.5
TARGET = (torch.rand(2, 12, generator=GENERATOR) < 0.5).long()

# torchmetrics: every function of hard decisions, and of scores where decisions will do, that gives one number.

BINARY = [
    "accuracy",
    "cohen_kappa",
    "f1_score",
    "fbeta_score",
    "hamming_distance",
    "hinge_loss",
    "jaccard_index",
    "matthews_corrcoef",
    "negative_predictive_value",
    "precision",
    "recall",
    "specificity",
]
BINARY_SCORES = ["auroc", "average_precision", "calibration_error", "eer", "logauc"]
CLASSES = [
    "accuracy",
    "cohen_kappa",
    "exact_match",
    "f1_score",
    "fbeta_score",
    "hamming_distance",
    "jaccard_index",
    "matthews_corrcoef",
    "negative_predictive_value",
    "precision",
    "recall",
    "specificity",
]
LABELS = [
    "accuracy",
    "exact_match",
    "f1_score",
    "fbeta_score",
    "hamming_distance",
    "jaccard_index",
    "matthews_corrcoef",
    "negative_predictive_value",
    "precision",
    "recall",
    "specificity",
]
LABEL_SCORES = ["auroc", "average_precision", "coverage_error", "logauc", "ranking_average_precision", "ranking_loss"]
TASK = [name for name in BINARY if name != "hinge_loss"]
TASK_SCORES = [*BINARY_SCORES, "hinge_loss"]
LOSSES = [
    "calibration_error",
    "coverage_error",
    "eer",
    "hamming_distance",
    "hausdorff_distance",
    "hinge_loss",
    "ranking_loss",
]


@dataclass(frozen=True)
class Case:
    """A function, the kind of decisions that it judges, and how it wants them."""

    function: Callable[..., Any]
    kind: str
    as_float: bool = False

    @property
    def name(self) -> str:
        return str(self.function.__name__)

    def call(self) -> Callable[..., Any]:
        options: dict[str, object] = {"beta": 2.0} if "fbeta" in self.name else {}
        if self.kind in ("task", "classes of a task"):
            options |= {"task": "binary"} if self.kind == "task" else {"task": "multiclass", "num_classes": 3}
        elif self.kind == "image":
            options |= {"num_classes": 2, "input_format": "index"}
        elif self.kind != "binary":
            options |= {"num_classes": 3} if self.kind == "classes" else {"num_labels": 4}
        return partial(self.function, **options)


def named(module: Any, prefix: str, names: list[str], kind: str, *, as_float: bool = False) -> list[Case]:
    return [Case(getattr(module, prefix + name), kind, as_float) for name in names]


CASES = [
    *named(classification, "binary_", BINARY, "binary"),
    *named(classification, "binary_", BINARY_SCORES, "binary", as_float=True),
    *named(classification, "multiclass_", CLASSES, "classes"),
    *named(classification, "multilabel_", LABELS, "labels"),
    *named(classification, "multilabel_", LABEL_SCORES, "labels", as_float=True),
    *named(classification, "", TASK, "task"),
    *named(classification, "", TASK_SCORES, "task", as_float=True),
    *named(classification, "", ["exact_match"], "classes of a task"),
    *named(segmentation, "", ["dice_score", "generalized_dice_score", "hausdorff_distance", "mean_iou"], "image"),
]
SHAPES = {"labels": (2, 6, 4), "image": (2, 5, 5)}  # two rows each: tables of labels, images; else lists of decisions


def test_at_least_sixty_functions_are_called() -> None:
    assert len({case.function for case in CASES}) == len(CASES) >= 60


@pytest.mark.filterwarnings("ignore::UserWarning:torchmetrics")
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-{case.kind}")
def test_a_torchmetrics_function_is_a_reward(case: Case) -> None:
    shape = SHAPES.get(case.kind, (2, 12))
    generator = torch.Generator().manual_seed(7)
    several = "classes" in case.kind
    logits = torch.randn(*shape, *[3] * several, generator=generator).requires_grad_()
    target = torch.randint(3 if several else 2, shape, generator=generator)
    target[:, 0], target[:, 1] = 0, 1  # of each label some
    larger_is_better = not case.name.endswith(tuple(LOSSES))
    metric = from_torchmetrics(
        case.call(),
        larger_is_better=larger_is_better,
        as_float=case.as_float,
        item_axes=len(shape) - 1,
        batch_axis=case.kind == "image",
    )
    criterion = MetricLoss(
        metric,
        score_function(draws=4),
        policy=Categorical if several else Bernoulli,
        generator=torch.Generator().manual_seed(8),
        reduction="none",
    )
    loss = criterion(logits, target)
    loss.sum().backward()

    flat = logits.detach().flatten(1) if not several else logits.detach()
    drawn = (Categorical if several else Bernoulli)(flat).sample(4, generator=torch.Generator().manual_seed(8))
    drawn = drawn.reshape(4, *shape).float() if case.as_float else drawn.reshape(4, *shape).long()
    values = [[_direct(case, decision, row) for decision, row in zip(draw, target, strict=True)] for draw in drawn]
    rewards = torch.tensor(values, dtype=torch.float64) * (1 if larger_is_better else -1)
    torch.testing.assert_close(loss.double().detach(), 1 - rewards.mean(0), rtol=0, atol=1e-6)
    assert logits.grad.isfinite().all()
    assert (logits.grad.flatten(1) != 0).any(1).tolist() == (rewards != rewards[0]).any(0).tolist()


def _direct(case: Case, decision: Tensor, target: Tensor) -> float:
    if case.kind == "image":
        decision, target = decision[None], target[None]
    return float(case.call()(decision, target))


@pytest.mark.filterwarnings("ignore:dice_score metric currently defaults")
def test_a_single_row_of_labels_and_one_hot_images_get_a_batch_of_one() -> None:
    labels = partial(classification.multilabel_f1_score, num_labels=12, average="micro")
    metric = from_torchmetrics(labels, larger_is_better=True, batch_axis=True)
    torch.testing.assert_close(metric(DECISION, TARGET), f1(DECISION, TARGET), rtol=0, atol=1e-6)
    one_hot = partial(segmentation.dice_score, num_classes=2, average="micro")
    images, masks = DECISION.reshape(3, 2, 2, 2, 3), TARGET.reshape(2, 2, 2, 3)  # classes, height, width
    metric = from_torchmetrics(one_hot, larger_is_better=True, item_axes=3, batch_axis=True)
    torch.testing.assert_close(metric(images, masks), f1.over(3)(images, masks), rtol=0, atol=1e-6)


def test_metric_classes_know_their_orientation_and_start_afresh() -> None:
    score = BinaryF1Score()
    score.update(torch.ones(50), torch.zeros(50).long())  # what it has seen before is nobody's business
    metric = from_torchmetrics(score)
    torch.testing.assert_close(metric(DECISION, TARGET), f1(DECISION, TARGET), rtol=0, atol=1e-6)
    torch.testing.assert_close(metric(DECISION, TARGET), f1(DECISION, TARGET), rtol=0, atol=1e-6)
    assert float(score.compute()) == 0.0
    loss = from_torchmetrics(BinaryHammingDistance())
    torch.testing.assert_close(loss(DECISION, TARGET), -(DECISION != TARGET).double().mean(-1), rtol=0, atol=1e-6)
    assert repr(loss) == "OpaqueMetric(BinaryHammingDistance)"
    classes = torch.randint(3, (4, 12), generator=torch.Generator().manual_seed(9))
    macro = from_torchmetrics(MulticlassF1Score(num_classes=3), larger_is_better=True)
    assert macro(classes[:3], classes[3]).shape == (3,)


def test_a_metric_of_images_together() -> None:
    images, masks = DECISION.reshape(3, 2, 3, 4), TARGET.reshape(2, 3, 4)
    iou = MeanIoU(num_classes=2, input_format="index")
    together = from_torchmetrics(iou, larger_is_better=True, item_axes=3)(images, masks)
    apart = from_torchmetrics(iou, larger_is_better=True, item_axes=2, batch_axis=True)(images, masks)
    for draw in range(3):
        fresh = MeanIoU(num_classes=2, input_format="index")
        assert math.isclose(together[draw], float(fresh(images[draw].long(), masks)), abs_tol=1e-6)
    torch.testing.assert_close(apart.mean(-1), together, rtol=0, atol=1e-6)


@pytest.mark.parametrize("target", [TARGET, TARGET.bool(), TARGET.double(), TARGET.to(torch.uint8)], ids=str)
def test_targets_of_any_dtype_arrive_as_integers(target: Tensor) -> None:
    for metric in (
        from_torchmetrics(classification.binary_f1_score, larger_is_better=True),
        from_sklearn(sklearn.metrics.f1_score, larger_is_better=True),
    ):
        torch.testing.assert_close(metric(DECISION, target), f1(DECISION, target), rtol=0, atol=1e-6)


def test_ignored_items_are_taken_out_before_torchmetrics_sees_them() -> None:
    target = TARGET.clone()
    target[:, :4] = -1
    metric = from_torchmetrics(classification.binary_f1_score, larger_is_better=True).ignoring(-1)
    torch.testing.assert_close(metric(DECISION, target), f1(DECISION[..., 4:], TARGET[:, 4:]), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("as_a_user")
def test_orientation_is_never_guessed() -> None:
    with pytest.raises(ValueError, match="needed larger_is_better, which binary_f1_score does not state"):
        from_torchmetrics(partial(classification.binary_f1_score, threshold=0.5))
    with pytest.raises(ValueError, match="needed larger_is_better, which BinaryStatScores does not state"):
        from_torchmetrics(BinaryStatScores())
    with pytest.raises(ValueError, match=r"BinaryF1Score states, higher_is_better=True, got larger_is_better=False"):
        from_torchmetrics(BinaryF1Score(), larger_is_better=False)
    with pytest.raises(ValueError, match=r"BinaryHingeLoss states, higher_is_better=False"):
        from_torchmetrics(BinaryHingeLoss(), larger_is_better=True)
    with pytest.raises(TypeError, match="needed an instance, got the class BinaryF1Score"):
        from_torchmetrics(BinaryF1Score, larger_is_better=True)
    with pytest.raises(TypeError, match="needed a metric function, got 'f1'"):
        from_torchmetrics("f1", larger_is_better=True)
    with pytest.raises(TypeError, match="needed True or False for larger_is_better, got 1"):
        from_sklearn(sklearn.metrics.f1_score, larger_is_better=1)
    with pytest.raises(TypeError, match="needed a metric function, got None"):
        from_sklearn(None, larger_is_better=True)


@pytest.mark.usefixtures("as_a_user")
def test_a_result_of_several_numbers_is_refused() -> None:
    metric = from_torchmetrics(classification.binary_stat_scores, larger_is_better=True)
    with pytest.raises(ValueError, match=r"^needed a number from binary_stat_scores, got .* at draw and row \(0, 0\)"):
        metric(DECISION, TARGET)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("broken", [ImportError("no such"), RuntimeError("operator torchvision::nms does not exist")])
def test_an_import_that_fails_in_any_way_is_one_clear_error(broken: Exception, monkeypatch) -> None:
    known = builtins.__import__

    def fails(name: str, *rest: Any, **options: Any) -> Any:
        if name == "torchmetrics":
            raise broken
        return known(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", fails)
    with pytest.raises(ImportError, match=rf"^needed torchmetrics, whose import failed with .*: {broken}") as caught:
        from_torchmetrics(lambda decision, target: 0.0, larger_is_better=True)
    assert caught.value.__cause__ is broken


@pytest.mark.parametrize("file", ["adapters.py", "calling.py"])
def test_heavy_packages_are_imported_only_when_asked_for(file: str) -> None:
    source = (Path(rlgrad.metrics.__file__).parent / file).read_text(encoding="utf-8")
    imports = [ast.unparse(node) for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports
    assert not [line for line in imports if "torchmetrics" in line or "joblib" in line or "sklearn" in line]


def test_torchmetrics_needs_no_torchvision() -> None:
    assert "torchmetrics" in sys.modules
    assert "torchvision" not in sys.modules


# scikit-learn.

SKLEARN = [
    (sklearn.metrics.accuracy_score, True),
    (sklearn.metrics.adjusted_mutual_info_score, True),
    (sklearn.metrics.adjusted_rand_score, True),
    (sklearn.metrics.average_precision_score, True),
    (sklearn.metrics.balanced_accuracy_score, True),
    (sklearn.metrics.brier_score_loss, False),
    (sklearn.metrics.cohen_kappa_score, True),
    (sklearn.metrics.completeness_score, True),
    (sklearn.metrics.f1_score, True),
    (partial(sklearn.metrics.fbeta_score, beta=2.0), True),
    (sklearn.metrics.fowlkes_mallows_score, True),
    (sklearn.metrics.hamming_loss, False),
    (sklearn.metrics.hinge_loss, False),
    (sklearn.metrics.homogeneity_score, True),
    (sklearn.metrics.jaccard_score, True),
    (sklearn.metrics.log_loss, False),
    (sklearn.metrics.matthews_corrcoef, True),
    (sklearn.metrics.max_error, False),
    (sklearn.metrics.mean_absolute_error, False),
    (sklearn.metrics.mean_squared_error, False),
    (sklearn.metrics.mutual_info_score, True),
    (sklearn.metrics.normalized_mutual_info_score, True),
    (sklearn.metrics.precision_score, True),
    (sklearn.metrics.r2_score, True),
    (sklearn.metrics.rand_score, True),
    (sklearn.metrics.recall_score, True),
    (sklearn.metrics.roc_auc_score, True),
    (sklearn.metrics.v_measure_score, True),
    (sklearn.metrics.zero_one_loss, False),
]


@pytest.mark.parametrize(("function", "larger_is_better"), SKLEARN)
def test_a_scikit_learn_function_is_a_reward(function: Callable[..., Any], larger_is_better: bool) -> None:
    scores = from_sklearn(function, larger_is_better=larger_is_better)(DECISION, TARGET)
    for draw, row in itertools.product(range(3), range(2)):
        value = function(TARGET[row].numpy(), DECISION[draw, row].numpy().astype(int))
        assert math.isclose(scores[draw, row].item(), value if larger_is_better else -value, abs_tol=1e-12)


def test_scikit_learn_on_classes_and_on_tables_of_labels() -> None:
    macro = from_sklearn(partial(sklearn.metrics.f1_score, average="macro"), larger_is_better=True)
    classes = torch.randint(3, (4, 12), generator=torch.Generator().manual_seed(9))
    expected = sklearn.metrics.f1_score(classes[3].numpy(), classes[0].numpy(), average="macro")
    assert math.isclose(macro(classes[:3], classes[3])[0], expected)
    tables, truth = DECISION.reshape(3, 2, 4, 3), TARGET.reshape(2, 4, 3)
    expected = sklearn.metrics.f1_score(truth[1].numpy(), tables[2, 1].numpy(), average="macro")
    assert math.isclose(macro.over(2)(tables, truth)[2, 1], expected)
    assert macro.name == "f1_score"


# Programs.


def program(body: str) -> list[str]:
    head = "import os, sys, time, numpy as np\ndecision, target = sys.argv[1:]\n"
    return [sys.executable, "-c", head + textwrap.dedent(body)]


MCC = program(
    """
    a, b = np.load(decision).astype(bool), np.load(target).astype(bool)
    print("a banner with the number 7")
    print(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    print()
    """
)


def test_a_program_prints_the_score(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    metric = from_program(MCC, name="mcc")
    torch.testing.assert_close(metric(DECISION[0], TARGET), mcc(DECISION[0], TARGET))
    loss = from_program(MCC, larger_is_better=False)
    assert math.isclose(loss(DECISION[0, 0], TARGET[0]), -mcc(DECISION[0, 0], TARGET[0]))
    assert list(tmp_path.iterdir()) == []  # nothing is left
    assert repr(metric) == "OpaqueMetric(mcc)"


def test_a_program_reads_text_too() -> None:
    code = """
    rows = [[line.split() for line in open(name)] for name in (decision, target)]
    assert len(rows[0]) == 4 and len(rows[0][0]) == 3 and set(sum(rows[0], [])) <= {"0", "1"}, rows
    print(sum(a == b for x, y in zip(*rows) for a, b in zip(x, y)) / 12)
    """
    metric = from_program(program(code), files="txt").over(2)
    scores = metric(DECISION[0].reshape(2, 4, 3), TARGET.reshape(2, 4, 3))
    torch.testing.assert_close(scores, (DECISION[0] == TARGET).double().mean(-1))


def test_any_executable_will_do(tmp_path: Path) -> None:
    script = tmp_path / "score.sh"
    script.write_text('#!/bin/sh\ncmp -s "$1" "$2" && echo 1 || echo 0\n')
    script.chmod(0o755)
    metric = from_program([str(script)], files="txt")
    assert metric(torch.stack([TARGET[0], 1 - TARGET[0]]), TARGET[0]).tolist() == [1.0, 0.0]
    assert metric.name == "score.sh"


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit('disk full')", r"RuntimeError at .*: the program ended with status 1; the end of its stderr: disk"),
        ("print('score: 0.5')", r"RuntimeError at .*: needed a number on its last line, got 'score: 0.5'; it wrote no"),
        ("", r"RuntimeError at .*: needed a number on its last line, got ''; it wrote nothing to stderr"),
        ("os.kill(os.getpid(), 9)", r"RuntimeError at .*: the program ended with status -9"),
    ],
)
def test_a_program_that_fails_is_an_error_with_its_last_words(body: str, message: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RuntimeError, match=rf"^mine raised {message}"):
        from_program(program(body), name="mine")(DECISION[0, 0], TARGET[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("as_a_user")
def test_a_number_that_is_not_finite_is_refused_or_penalised() -> None:
    metric = from_program(program("print('nan')"), name="mine")
    with pytest.raises(ValueError, match=r"^needed a finite score from mine, got nan at draw and row \(\)"):
        metric(DECISION[0, 0], TARGET[0])
    with pytest.warns(UserWarning, match="1 of 1 calls of mine failed and count as 0.0"):
        assert metric.calling(on_error=0.0)(DECISION[0, 0], TARGET[0]) == 0


@pytest.mark.usefixtures("as_a_user")
def test_a_program_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    script = tmp_path / "hangs.sh"
    script.write_text(f"#!/bin/sh\necho working >&2\nsleep 60 & echo $! > {tmp_path}/child\nwait\n")
    script.chmod(0o755)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"TimeoutError at .*: no answer in 0.5 s; the end of its stderr: working"):
        from_program([str(script)], timeout=0.5)(DECISION[0, 0], TARGET[0])
    assert time.monotonic() - start < 10
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        if _ended(child):
            break
        time.sleep(0.02)
    assert _ended(child)


def _ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return "State:\tZ" in Path(f"/proc/{pid}/status").read_text() if sys.platform == "linux" else False


@pytest.mark.usefixtures("as_a_user")
def test_bad_commands_are_refused() -> None:
    with pytest.raises(TypeError, match=r"needed a command as a list of words, got 'score'"):
        from_program("score")
    with pytest.raises(TypeError, match="needed a command as a list of words"):
        from_program(["score", 1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="got an empty command"):
        from_program([])
    with pytest.raises(ValueError, match="needed files npy or txt, got 'csv'"):
        from_program(["score"], files="csv")
    with pytest.raises(RuntimeError, match=r"raised FileNotFoundError at draw and row"):
        from_program(["/no/such/program"])(DECISION[0, 0], TARGET[0])
    with pytest.raises(RuntimeError, match=r"raised ValueError at .*: needed at most two axes for files='txt'"):
        from_program(["true"], files="txt").over(3)(DECISION[0].reshape(2, 3, 4), TARGET.reshape(2, 3, 4))


def test_what_adapters_give_is_an_opaque_metric() -> None:
    assert isinstance(from_sklearn(sklearn.metrics.f1_score, larger_is_better=True), OpaqueMetric)
    assert np.isclose(from_sklearn(sklearn.metrics.f1_score, larger_is_better=True)(TARGET[0], TARGET[0]), 1.0)
