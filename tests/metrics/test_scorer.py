"""What estimators call: the metric with its target, and what stands downstream of hidden decisions."""

import dataclasses
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from rlgrad.estimators.surrogate import is_differentiable
from rlgrad.metrics import CATALOGUE, Differentiable, Downstream, OpaqueMetric, Scorer, as_metric, f1, iou

TARGET = torch.tensor([[1, 0, 1], [0, 0, 0]])
CORNERS = torch.tensor(list(product([False, True], repeat=3)))[:, None].expand(8, 2, 3)


def equal_share(decision: Tensor, target: Tensor) -> Tensor:
    return (decision == target).double().mean()


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=CATALOGUE)
def test_a_scorer_is_the_metric_with_its_target(metric) -> None:
    assert torch.equal(Scorer(metric, TARGET)(CORNERS), metric(CORNERS, TARGET))


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=CATALOGUE)
def test_relaxed_is_the_same_at_the_corners(metric) -> None:
    score = Scorer(metric, TARGET)
    torch.testing.assert_close(score.relaxed(CORNERS.double()), score(CORNERS), rtol=1e-12, atol=1e-12)


def test_relaxed_is_the_formula_of_fractional_counts() -> None:
    b = torch.tensor([[0.2, 0.7, 0.4], [0.1, 0.0, 0.5]], dtype=torch.float64, requires_grad=True)
    value = Scorer(f1, TARGET).relaxed(b[None])
    assert value.shape == (1, 2)
    assert value[0].tolist() == pytest.approx([2 * 0.6 / (1.3 + 2), 0.0])
    (gradient,) = torch.autograd.grad(value.sum(), b)
    # d/db of 2 tp / (claimed + 2), with tp = .6 and claimed = 1.3
    hit, miss = (2 * 3.3 - 1.2) / 3.3**2, -1.2 / 3.3**2
    assert gradient[0].tolist() == pytest.approx([hit, miss, hit])
    assert gradient[1].tolist() == [0.0, 0.0, 0.0]


def test_a_black_box_has_no_values_between() -> None:
    score = Scorer(OpaqueMetric(equal_share), TARGET[0])
    assert score(torch.tensor([[True, False, False]])).tolist() == pytest.approx([2 / 3])
    with pytest.raises(TypeError, match=r"^needed a score that is differentiable in the decision, got a Scorer of "):
        score.relaxed(torch.ones(1, 3))


def test_downstream_hears_of_decisions_as_numbers() -> None:
    heard: list[Tensor] = []

    def function(decision: Tensor) -> Tensor:
        heard.append(decision)
        return decision.sum(-1)

    score = Downstream(function)
    assert score(torch.tensor([[True, False, True]])).tolist() == [2.0]
    assert heard[-1].tolist() == [[1.0, 0.0, 1.0]]
    assert heard[-1].dtype == torch.float32
    assert score.relaxed(torch.tensor([[0.25, 0.5]], dtype=torch.float64)).tolist() == [0.75]
    assert heard[-1].dtype == torch.float32
    Downstream(function, dtype=torch.float64)(torch.tensor([[True, False]]))
    assert heard[-1].dtype == torch.float64
    Downstream(function, dtype=torch.float64).relaxed(torch.ones(1, 2))
    assert heard[-1].dtype == torch.float64


def test_downstream_hears_of_classes_one_hot() -> None:
    heard: list[Tensor] = []

    def function(decision: Tensor) -> Tensor:
        heard.append(decision)
        return decision[..., 0].sum(-1)

    score = Downstream(function, classes=3)
    assert score(torch.tensor([[0, 2], [0, 0]])).tolist() == [1.0, 2.0]
    assert heard[-1].tolist() == [[[1, 0, 0], [0, 0, 1]], [[1, 0, 0], [1, 0, 0]]]
    assert score.relaxed(torch.full((1, 2, 3), 1 / 3)).tolist() == pytest.approx([2 / 3])


def test_downstream_follows_the_default_dtype() -> None:
    score = Downstream(lambda decision: decision.sum(-1))
    torch.set_default_dtype(torch.float64)
    try:
        assert score(torch.tensor([[True]])).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(4, 1),
        nn.Sequential(nn.Unflatten(-1, (1, 4)), nn.Conv1d(1, 1, 1), nn.Flatten(-2)),
        nn.Bilinear(4, 4, 1),
        nn.LayerNorm(4),
        nn.GRU(4, 3),
        nn.BatchNorm1d(4),
    ],
    ids=["linear", "convolution", "bilinear", "layer norm", "gru", "batch norm"],
)
def test_downstream_of_weights_in_another_dtype_is_told_to_name_it(layer: nn.Module) -> None:
    def function(hidden: Tensor) -> Tensor:
        output = layer.double()(*([hidden, hidden] if isinstance(layer, nn.Bilinear) else [hidden]))
        return (output[0] if isinstance(output, tuple) else output).sum(-1)

    decision = torch.zeros(2, 4, dtype=torch.bool)
    words = r"^needed decisions in the dtype of the function's weights, got \(2, 4\) float32: .*dtype=torch.float64\)$"
    for ask in (Downstream(function), lambda decision: Downstream(function).relaxed(decision.double())):
        with pytest.raises(TypeError, match=words):
            ask(decision)
    assert Downstream(function, dtype=torch.float64)(decision).dtype == torch.float64


def test_downstream_leaves_other_errors_alone() -> None:
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2 shapes cannot be multiplied"):
        Downstream(nn.Linear(3, 1))(torch.zeros(2, 4, dtype=torch.bool))


def test_downstream_keeps_the_graph_of_what_follows() -> None:
    decoder = nn.Linear(3, 1)
    score = Downstream(lambda decision: decoder(decision).squeeze(-1))
    score(torch.tensor([[True, False, True], [False, False, True]])).mean().backward()
    assert decoder.weight.grad.tolist() == [[0.5, 0.0, 1.0]]
    soft = torch.full((1, 3), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(score.relaxed(soft).sum(), soft)
    assert torch.equal(gradient, decoder.weight.detach())


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("function", [None, 3, "f1", torch.ones(3)])
def test_downstream_needs_a_function(function: object) -> None:
    with pytest.raises(TypeError, match=r"^needed a function of the decisions as numbers, got "):
        Downstream(function)


def test_what_is_defined_between_the_decisions() -> None:
    def bare(decision: Tensor) -> Tensor:
        return decision.sum(-1)

    class Own:
        def __call__(self, decision: Tensor) -> Tensor:
            return decision.sum(-1)

        def relaxed(self, decision: Tensor) -> Tensor:
            return decision.sum(-1)

    for score in (Downstream(bare), Scorer(f1, TARGET), Own()):
        assert isinstance(score, Differentiable)
        assert is_differentiable(score)
    for black_box in (bare, Scorer(OpaqueMetric(equal_share), TARGET)):
        assert not is_differentiable(black_box)


def test_a_scorer_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Scorer(f1, TARGET).metric = iou
    with pytest.raises(dataclasses.FrozenInstanceError):
        Downstream(torch.sum).classes = 3


@pytest.mark.usefixtures("as_a_user")
def test_a_bare_function_becomes_a_black_box() -> None:
    assert as_metric(f1) is f1
    opaque = OpaqueMetric(equal_share)
    assert as_metric(opaque) is opaque
    made = as_metric(equal_share)
    assert isinstance(made, OpaqueMetric)
    assert made.name == "equal_share"
    with pytest.raises(TypeError, match=r"^needed a function"):
        as_metric(3)
    with pytest.raises(TypeError, match=r"needed a metric, got 'f1'; pass the object, such as rlgrad\.metrics\.f1"):
        as_metric("f1")
    with pytest.raises(TypeError, match=r"needed a metric, got \(3,\) float32"):
        as_metric(torch.zeros(3))
