"""The true metric of all decisions together: scikit-learn is the judge."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score, matthews_corrcoef
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from rlgrad import Categorical, evaluate
from rlgrad.metrics import CountMetric, OpaqueMetric, f1, iou, mcc

Toy = tuple[Tensor, Tensor]
Make = Callable[..., nn.Module]
JUDGES: dict[str, tuple[CountMetric, Callable[..., float]]] = {
    "f1": (f1, f1_score),
    "iou": (iou, jaccard_score),
    "mcc": (mcc, matthews_corrcoef),
}


def decisions(model: nn.Module, x: Tensor, threshold: float = 0.0) -> np.ndarray:
    with torch.no_grad():
        return (model(x) > threshold).numpy()


def agreement(decision: Tensor, target: Tensor) -> float:
    return float((decision == target).double().mean())


@pytest.mark.parametrize("batch_size", [1, 7, 120, 121, 4096])
@pytest.mark.parametrize("name", JUDGES)
def test_all_batches_are_scored_together(toy: Toy, network: Make, name: str, batch_size: int) -> None:
    metric, judge = JUDGES[name]
    model, (x, y) = network(), toy
    result = evaluate(model, (x, y), metric, batch_size=batch_size)
    assert result.value == pytest.approx(judge(y.numpy(), decisions(model, x)), abs=1e-12)
    assert result.counts is not None
    tn, fp, fn, tp = confusion_matrix(y, decisions(model, x)).ravel().tolist()
    assert [int(count) for count in result.counts] == [tp, fp, fn, tn]


def test_a_mean_over_batches_would_be_another_number(toy: Toy, network: Make) -> None:
    # Without this the test above could pass on data where the two happen to agree.
    model, (x, y) = network(), toy
    mean = np.mean([evaluate(model, part, f1).value for part in zip(x.split(7), y.split(7), strict=True)])
    assert abs(evaluate(model, toy, f1, batch_size=7).value - mean) > 0.01


@pytest.mark.parametrize("batch_size", [1, 8, 200])
def test_a_loader_gives_what_tensors_give(toy: Toy, network: Make, batch_size: int) -> None:
    model, expected = network(), evaluate(network(), toy, f1)
    shuffled = torch.Generator().manual_seed(0)
    loader = DataLoader(TensorDataset(*toy), batch_size=batch_size, shuffle=True, generator=shuffled)
    for data in (loader, list(loader), iter(loader)):
        assert evaluate(model, data, f1) == expected


@pytest.mark.usefixtures("as_a_user")
def test_arrays_serve(toy: Toy, network: Make) -> None:
    x, y = (part.numpy() for part in toy)
    assert evaluate(network(), (x, y), f1) == evaluate(network(), toy, f1)


def test_logits_of_classes_ask_for_their_policy(network: Make) -> None:
    x, y = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    words = r"got \(5,\) int64; if the logits' last axis is classes, pass policy=rlgrad.Categorical$"
    with pytest.raises(ValueError, match=words):
        evaluate(network(outputs=3), (x, y), agreement)
    evaluate(network(outputs=3), (x, y), agreement, policy=Categorical)
    with pytest.raises(ValueError, match=r"squeeze\(-1\) the logits$"):
        evaluate(nn.Linear(3, 1), (x, y), agreement)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float64])
def test_targets_of_any_type(toy: Toy, network: Make, dtype: torch.dtype) -> None:
    x, y = toy
    assert evaluate(network(), (x, y.to(dtype)), f1) == evaluate(network(), toy, f1)


@pytest.mark.parametrize("threshold", [-1.5, 0.0, 0.3, 100.0])
def test_threshold(toy: Toy, network: Make, threshold: float) -> None:
    model, (x, y) = network(), toy
    result = evaluate(model, toy, f1, threshold=threshold)
    assert result.value == pytest.approx(f1_score(y, decisions(model, x, threshold)), abs=1e-12)
    assert result.threshold == threshold


def test_a_logit_at_the_threshold_is_decided_against() -> None:
    x, y = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 0, 1])
    threshold = float(x[1])
    assert evaluate(nn.Identity(), (x, y), f1, threshold=threshold).value == 1
    just_below = float(torch.nextafter(x[1], torch.tensor(0.0)))
    assert evaluate(nn.Identity(), (x, y), f1, threshold=just_below).value == pytest.approx(2 / 3)


@pytest.mark.parametrize("batch_size", [1, 5, 4096])
def test_rows_scored_apart_are_averaged(network: Make, batch_size: int) -> None:
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(11, 3, generator=generator), torch.rand(11, 4, generator=generator) < 0.4
    y[3] = False  # a row without positives, where a claim costs everything
    model = network(outputs=4)
    decision = decisions(model, x)
    rows = [f1_score(row, chosen, zero_division=1.0) for row, chosen in zip(y.numpy(), decision, strict=True)]
    result = evaluate(model, (x, y), f1, batch_size=batch_size)
    assert result.value == pytest.approx(np.mean(rows), abs=1e-12)
    assert result.counts is not None
    assert [count.shape for count in result.counts] == [()] * 4  # of all rows together
    assert sum(int(count) for count in result.counts) == 44
    assert int(result.counts.tp) == int((decision & y.numpy()).sum())


def test_nothing_to_find_and_nothing_claimed_is_full_marks() -> None:
    assert evaluate(nn.Identity(), (-torch.ones(3), torch.zeros(3)), f1).value == 1
    assert evaluate(nn.Identity(), (torch.ones(3), torch.zeros(3)), f1).value == 0


@pytest.mark.parametrize("batched", [False, True])
def test_opaque_metric(toy: Toy, network: Make, batched: bool) -> None:
    def shares(decision: Tensor, target: Tensor) -> Tensor:
        return (decision == target).double().mean(-1)

    model, (x, y) = network(), toy
    result = evaluate(model, toy, OpaqueMetric(shares, batched=batched), batch_size=7)
    assert result.value == pytest.approx((decisions(model, x) == y.numpy()).mean())
    assert result.counts is not None


def test_a_bare_function_sees_all_rows_at_once(toy: Toy, network: Make) -> None:
    seen = []

    def metric(decision: Tensor, target: Tensor) -> float:
        seen.append((decision.shape, target.shape))
        return float(f1_score(target, decision))

    assert evaluate(network(), toy, metric, batch_size=7).value == pytest.approx(
        evaluate(network(), toy, f1).value, abs=1e-12
    )
    assert seen == [((121,), (121,))]


def test_categorical_policy(network: Make) -> None:
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(20, 3, generator=generator), torch.randint(4, (20,), generator=generator)
    model = network(outputs=4)
    result = evaluate(model, (x, y), agreement, policy=Categorical, batch_size=6)
    with torch.no_grad():
        assert result.value == pytest.approx(agreement(model(x).argmax(-1), y))
    assert result.counts is None


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_put_back(toy: Toy, network: Make, training: bool) -> None:
    model = network(nn.Dropout(0.9)).train(training)
    first = evaluate(model, toy, f1)
    assert first == evaluate(model, toy, f1)  # without dropout
    assert model.training is training


def test_the_mode_of_a_part_is_put_back(toy: Toy, network: Make) -> None:
    model = network(nn.BatchNorm1d(3), nn.Dropout())
    model[0].eval()  # type: ignore[index]  # statistics frozen, as in fine-tuning
    evaluate(model, toy, f1)
    assert [part.training for part in model.children()] == [False, True, True, True]


def test_the_mode_is_put_back_after_an_error(toy: Toy, network: Make) -> None:
    def broken() -> Iterator[Toy]:
        yield toy
        raise OSError("the disk is gone")

    model = network()
    with pytest.raises(OSError, match="the disk is gone"):
        evaluate(model, broken(), f1)
    assert model.training
    assert torch.is_grad_enabled()


def test_no_graph_is_kept_and_nothing_changes(toy: Toy, network: Make) -> None:
    grads = []
    model = network(nn.BatchNorm1d(3))
    model.register_forward_hook(lambda *args: grads.append(args[-1].requires_grad))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, toy, f1, batch_size=50)
    assert grads == [False] * 3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_without_parameters(toy: Toy) -> None:
    x, y = toy
    assert evaluate(nn.Identity(), (x[:, 0] - 0.8, y), f1).value == 1


@pytest.mark.parametrize("empty", [[], iter([]), DataLoader(TensorDataset(torch.zeros(0)), batch_size=2)])
def test_no_data(network: Make, empty: Any) -> None:
    with pytest.raises(ValueError, match="needed data to evaluate on, got no batch; an iterator"):
        evaluate(network(), empty, f1)


def test_an_exhausted_iterator(toy: Toy, network: Make) -> None:
    data = iter([toy])
    evaluate(network(), data, f1)
    with pytest.raises(ValueError, match="can be gone through only once"):
        evaluate(network(), data, f1)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("columns", [1, 3])
def test_a_target_of_another_shape(toy: Toy, network: Make, columns: int) -> None:
    model = network()
    with pytest.raises(ValueError, match=r"needed a target of shape \(121,\) for the logits"):
        evaluate(model, (toy[0], torch.zeros(121, columns)), f1)
    assert model.training


@pytest.mark.usefixtures("as_a_user")
def test_an_output_of_one_column_is_to_be_squeezed(toy: Toy) -> None:
    with pytest.raises(ValueError, match="squeeze"):
        evaluate(nn.Linear(3, 1), toy, f1)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("batch_size", [1, 120, 4096])  # of which the second leaves a batch of one row
def test_single_decisions_are_not_taken_for_rows(toy: Toy, batch_size: int) -> None:
    # The mean of 121 F1 scores of one decision each is an accuracy, not an F1.
    x, y = toy
    with pytest.raises(ValueError, match="squeeze"):
        evaluate(nn.Linear(3, 1), (x, y[:, None]), f1, batch_size=batch_size)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.tensor([0.1, torch.nan]), torch.zeros(2), r"logits without NaN, .* the first at \(1,\)"),
        (torch.tensor([0.1, 0.2]), torch.tensor([0, 2]), "a target of 0 and 1, got 2"),
        (torch.tensor([0.1, 0.2]), torch.tensor([0.5, 1.0]), "a target of 0 and 1, got 0.5"),
    ],
)
def test_bad_values(x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(nn.Identity(), (x, y), f1)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(("data", "metric"), [(None, f1), ((torch.zeros(2), torch.zeros(2)), "f1")])
def test_bad_types(data: Any, metric: Any) -> None:
    with pytest.raises(TypeError, match="needed"):
        evaluate(nn.Identity(), data, metric)


# --- several labels, each with a threshold of its own -----------------------------------------------------------------


def test_a_threshold_for_each_label() -> None:
    logits = torch.tensor([[0.5, -1.0], [2.0, 0.5], [-0.5, -2.0]])
    target = torch.tensor([[1, 1], [0, 0], [1, 0]])
    result = evaluate(nn.Identity(), (logits, target), f1, threshold=(1.0, -1.5))
    decision = np.array([[False, True], [True, True], [False, False]])
    expected = f1_score(target, decision, average="samples", zero_division=1.0)
    assert result.value == pytest.approx(expected, abs=1e-9)
    assert result.threshold == (1.0, -1.5)
    assert result.counts is not None
    assert [int(count) for count in result.counts] == [1, 2, 2, 1]


@pytest.mark.parametrize("threshold", [(0.0,), (0.0, 1.0, 2.0)])
def test_another_number_of_thresholds(threshold: tuple[float, ...]) -> None:
    data = torch.zeros(3, 2), torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"needed a threshold for each label of \(3, 2\) float32, got"):
        evaluate(nn.Identity(), data, f1, threshold=threshold)


def test_thresholds_are_finite() -> None:
    data = torch.zeros(3, 2), torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"needed a finite threshold, .* got \(0.0, inf\)"):
        evaluate(nn.Identity(), data, f1, threshold=(0.0, float("inf")))
