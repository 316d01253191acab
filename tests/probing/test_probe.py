"""What the probe says of models and functions of a user, and that it leaves them as they were."""

import copy
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlgrad import steps
from rlgrad.metrics import f1
from rlgrad.objective import MetricLoss
from rlgrad.probing import Finding, Report, probe
from rlgrad.stochastic import policy_gradient

X = torch.tensor([1.3, -0.7, 0.4, -2.1])


def batch(rows: int = 8, columns: int = 4) -> Tensor:
    return torch.randn((rows, columns), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(0)


def only(report: Report) -> Finding:
    (finding,) = report.findings
    return finding


def verdicts(report: Report) -> dict[str, str]:
    return {f.leaf: f.verdict for f in report.findings}


def line_of(needle: str) -> str:
    """Where this file holds a text for the first time, as a report writes it."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return f"test_probe.py:{next(at for at, line in enumerate(lines, 1) if needle in line)}"


class Step(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).float()  # the hard step


class Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return torch.zeros_like(grads[0])


# Models.


def test_a_hard_step_cuts_the_layers_before_it() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), Step(), nn.Linear(5, 2))
    report = probe(model, batch())
    assert report.dead_layers == ("0", "2")
    assert verdicts(report) == {
        **dict.fromkeys(("input", "0.weight", "0.bias", "2.weight", "2.bias"), "cut"),
        **dict.fromkeys(("4.weight", "4.bias"), "useful"),
    }
    cut = report.findings[0]
    assert cut.operation == "gt"
    assert cut.line is not None
    assert cut.line.endswith(line_of("# the hard step"))
    assert "layer 3" in cut.detail
    assert all(word in cut.advice for word in ("MetricLoss", "rlgrad.steps.Step", "ExpectedLoss"))
    assert report.notes == ()  # .float() in its midst does not keep it from float64


def test_a_flat_unit_starves_the_layers_before_it() -> None:
    class Sign(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sign(x)

    report = probe(nn.Sequential(nn.Linear(4, 5), Sign(), nn.Linear(5, 2)), batch())
    assert report.dead_layers == ("0",)
    assert [f.operation for f in report.findings] == ["sign"] * 3 + [None] * 2
    assert "layer 1" in report.findings[0].detail


@pytest.mark.parametrize(
    ("step", "name", "advice"),
    [
        (steps.Step(), "Step", r"^Step has the true derivative, zero: .*ExpectedLoss"),
        (steps.Staircase([0.0, 1.0, 3.0], [0.0, 1.0]), "Staircase", "^Staircase has the true derivative, zero"),
        (steps.Step(backward=policy_gradient()), "Step", "^Step with policy_gradient.. is for rlgrad.ExpectedLoss"),
        (steps.Sign(backward=policy_gradient()), "Sign", "^Sign with policy_gradient.. is for rlgrad.ExpectedLoss"),
        (steps.Step(backward=lambda x: 0 * x), "Step", "^Its input lies where Step passes no gradient back"),
    ],
)
def test_a_step_of_this_library_is_called_by_its_name(step: nn.Module, name: str, advice: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.unit, self.last = nn.Linear(4, 5), step, nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.unit(self.first(x))  # the unit
            return self.last(hidden)

    report = probe(Net(), batch())
    assert report.dead_layers == ("first",)
    flat = report.findings[0]
    assert (flat.verdict, flat.operation) == ("flat", name)
    assert f"from {name} (layer unit, tests/probing/{line_of('# the unit')})" in flat.detail
    assert re.search(advice, flat.advice)
    assert "Replaced" not in str(report)


def test_a_step_with_a_rule_is_not_flat() -> None:
    found = verdicts(probe(nn.Sequential(nn.Linear(4, 5), steps.Step(backward="arctan"), nn.Linear(5, 2)), batch()))
    assert found["0.weight"] == "pretended"


def test_the_kinks_of_a_network_are_not_told() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))
    images = torch.randn((4, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    assert {f.detail for f in probe(model, images).findings} == {""}
    assert probe(model.requires_grad_(False), images).findings[0].detail == ""
    weight = model.get_parameter("0.weight").detach()
    assert "kink at x = 0: slope" in only(probe(lambda x: F.conv2d(x, weight).relu(), images)).detail


def test_the_jumps_of_a_network_are_told() -> None:
    model = nn.Sequential(Step(), nn.Linear(4, 2))
    assert "jumps at input = 0" in probe(model, batch()).findings[0].detail


def test_a_convention_lies_between_the_slopes() -> None:
    assert only(probe(lambda x: x.max(), X)).detail.endswith("on the right; torch takes 0.25 there, by convention")
    several = only(probe(lambda x: 3 * x.relu() - 3 * (-x).relu() + x.abs(), X)).detail
    assert "slope 2 on the left, 4 on the right; torch takes 0 there, which is neither" in several


def test_a_dead_unit_rests_and_is_not_flat() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    nn.init.constant_(model[0].bias, -100.0)
    report = probe(model, batch())
    assert report.dead_layers == ()
    first = next(f for f in report.findings if f.leaf == "0.weight")
    assert first.verdict == "useful"
    assert first.detail.startswith("rests: zero at the example")
    assert "leaky" in first.advice


def test_nothing_is_wrong_with_a_sound_model() -> None:
    report = probe(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), batch())
    assert {(f.verdict, f.detail, f.advice) for f in report.findings} == {("useful", "", "")}
    assert report.notes == ()


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.LSTM(4, 3), (5, 2, 4)),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 3, 8)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.AdaptiveAvgPool2d(1)), (2, 3, 6, 6)),
    ],
)
def test_the_usual_layers_are_useful(model: nn.Module, shape: tuple[int, ...]) -> None:
    assert set(verdicts(probe(model, torch.randn(shape))).values()) == {"useful"}


def test_a_bias_before_a_normalisation_changes_nothing() -> None:
    report = probe(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)), batch())
    bias = next(f for f in report.findings if f.leaf == "0.bias")
    assert (bias.verdict, "changes nothing" in bias.detail) == ("flat", True)
    assert report.dead_layers == ()  # its weights do get a gradient


def test_outputs_and_inputs_by_name() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.spare = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
            hidden = self.body(batch["x"]).detach()  # the stop
            return {"logits": hidden + self.head(batch["x"]), "rest": (hidden.sigmoid(), batch["n"])}

    report = probe(Heads(), {"x": batch(), "n": 3})
    found = {(f.output, f.leaf): f for f in report.findings}
    assert found["output['logits']", "head.weight"].verdict == "useful"
    assert found["output['logits']", "body.weight"].operation == "detach"
    assert found["output['rest'][0]", "batch['x']"].verdict == "cut"
    assert found["output['rest'][1]", "batch['x']"].verdict == "unused"
    assert found["output['logits']", "spare.bias"].verdict == "unused"
    partly = found["output['logits']", "batch['x']"]
    assert partly.verdict == "pretended"
    assert f"part of it is cut by detach (tests/probing/{line_of('# the stop')})" in partly.detail
    assert report.dead_layers == ("body", "spare")


def test_named_tuples_and_torch_return_types_by_name() -> None:
    class Pair(NamedTuple):
        mean: Tensor
        top: Any

    report = probe(lambda x: Pair(x.mean(), x.topk(2)), X)
    assert [f.output for f in report.findings] == ["output.mean", "output.top.values", "output.top.indices"]


def test_a_frozen_parameter_is_not_cut() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)).requires_grad_(True)
    model[0].requires_grad_(False)
    report = probe(model, batch())
    assert verdicts(report)["0.weight"] == "frozen"
    assert report.dead_layers == ()


def test_integer_input_of_an_embedding() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))
    report = probe(model, torch.tensor([[0, 2, 3], [4, 5, 1]]))
    assert set(verdicts(report).values()) == {"useful"}
    assert "entries have zero gradient everywhere" in report.findings[0].detail  # rows that are not used


def test_modules_that_a_function_closes_over_are_probed() -> None:
    model, target = nn.Linear(4, 1), torch.tensor([1.0, 0, 0, 1, 1, 0, 1, 0])
    criterion = MetricLoss(f1)
    report = probe(lambda x, y: criterion(model(x).squeeze(-1), y), batch(), target)
    assert verdicts(report) == {"x": "useful", "y": "cut", "model.weight": "useful", "model.bias": "useful"}
    assert any("Not moved, since the function refuses other values: y." in note for note in report.notes)


def test_a_metric_on_hard_decisions_starves_the_whole_model() -> None:
    model, target = nn.Linear(4, 1), torch.tensor([1, 0, 0, 1, 1, 0, 1, 0])
    report = probe(lambda x: 1 - f1(model(x).squeeze(-1) > 0, target), batch())
    assert report.dead_layers == ("model",)
    assert {f.operation for f in report.findings} == {"gt"}


def test_a_bound_method_is_a_function_of_its_module() -> None:
    class Net(nn.Linear):
        def loss(self, x: Tensor) -> Tensor:
            return self(x).square().mean()

    assert verdicts(probe(Net(4, 1).loss, batch())) == {"x": "useful", "weight": "useful", "bias": "useful"}


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.first, self.last, self.reentrant = nn.Linear(4, 4), nn.Linear(4, 4), reentrant
        self.last.weight = self.first.weight  # tied

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(lambda v: self.first(v).tanh(), x, use_reentrant=self.reentrant)
        return self.last(hidden)


def test_checkpoints_and_tied_weights() -> None:
    found = verdicts(probe(Checkpointed(reentrant=False), batch()))
    assert found == dict.fromkeys(("x", "first.weight", "first.bias", "last.bias"), "useful")
    with pytest.raises(RuntimeError, match="set use_reentrant=False"):
        probe(Checkpointed(reentrant=True), batch())


def test_half_precision_and_parametrized_weights() -> None:
    assert set(verdicts(probe(nn.Linear(4, 3).bfloat16(), batch().bfloat16())).values()) == {"useful"}
    assert set(verdicts(probe(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), batch())).values()) == {"useful"}


def test_a_vanishing_gradient_is_not_called_flat() -> None:
    model = nn.Sequential(nn.Linear(4, 4), *[nn.Linear(4, 4, bias=False) for _ in range(6)], nn.Linear(4, 1))
    for layer in list(model)[1:-1]:
        nn.init.constant_(layer.get_parameter("weight"), 1e-3)
    found = next(f for f in probe(model, batch()).findings if f.leaf == "0.weight")
    assert (found.verdict, found.detail) == ("useful", "vanishes: not zero, but all but nothing")


# Functions.


def test_custom_backward_rules() -> None:
    def straight(x: Tensor) -> Tensor:
        return Pass.apply(x)

    def blocked(x: Tensor) -> Tensor:
        return Block.apply(x).sum()

    assert (only(probe(straight, X)).verdict, only(probe(blocked, X)).verdict) == ("pretended", "pretended")
    assert "where the function is flat" in only(probe(straight, X)).detail
    assert "autograd's slope is 0" in only(probe(blocked, X)).detail


def test_a_cut_behind_a_custom_function_is_the_one_named() -> None:
    assert only(probe(lambda x: Pass.apply(x).detach() + 1, X)).operation == "detach"


def test_a_flat_custom_function_is_named() -> None:
    class Zero(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return torch.sign(x)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return 0 * grads[0]

    found = only(probe(lambda x: Zero.apply(x).sum(), X))
    assert (found.verdict, found.operation) == ("flat", "Zero")
    assert "a custom autograd function" in found.detail


def fills(x: Tensor) -> Tensor:
    x.mul_(2)
    out = torch.zeros(4, dtype=x.dtype)
    out[:2] = x[:2]
    return out.add_(x.clamp_(min=-5))


def test_in_place_operations_are_followed() -> None:
    assert only(probe(fills, X)).verdict == "useful"


def test_a_cut_is_followed_through_in_place_operations() -> None:
    def function(x: Tensor) -> Tensor:
        out = torch.zeros(4)
        out[1:] = (x[1:] > 0).float()
        return out

    assert only(probe(function, X)).operation == "gt"


@pytest.mark.parametrize(
    ("function", "operation", "kind"),
    [
        (lambda x: (x >= 0).double(), "ge", "cut"),
        (lambda x: x.long(), "long", "cut"),
        (lambda x: x.to(torch.int32) * 2.0, "to", "cut"),
        (lambda x: x.data * 2, "data", "cut"),
        (lambda x: torch.from_numpy(x.detach().numpy() * 2), "detach", "cut"),
        (lambda x: [value * 2 for value in x.tolist()], "tolist", "cut"),
        (lambda x: float(x.sum()), "float", "cut"),
        (lambda x: torch.ones(2) if x.sum() > 0 else torch.zeros(2), "gt", "cut"),
        (lambda x: x.max(0).indices, "max", "cut"),
        (lambda x: torch.distributions.Categorical(logits=x).sample(), "multinomial", "cut"),
        (lambda x: torch.zeros_like(x), None, "unused"),
        (lambda x: torch.full((2,), float(len(x))), None, "unused"),
        (lambda x: x * 0, "mul", "flat"),
        (lambda x: x.softmax(0).sum(), "softmax", "flat"),
        (lambda x: x.trunc(), "trunc", "flat"),
        (lambda x: x * x.detach().cos(), "detach", "pretended"),
        (lambda x: F.one_hot(x.argmax(), 4) + x.softmax(0) - x.softmax(0).detach(), "argmax", "pretended"),
        (lambda x: F.gumbel_softmax(x, hard=True), None, "pretended"),
        (lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127), None, "pretended"),
        (lambda x: torch.unique(x), "_unique2", "cut"),
        (lambda x: x[:0].sum() + 1, "sum", "flat"),
        (lambda x: torch.fft.fft(x), None, "useful"),
        (lambda x: torch.autograd.grad(x.pow(3).sum(), x, create_graph=True)[0], None, "useful"),
        (lambda x: torch.cat([x, torch.full((1,), -torch.inf)]), None, "useful"),
        (lambda x: x.clamp_min(0).pow(0.5), "pow", "non-finite"),
        (lambda x: torch.linalg.vector_norm(x, dim=0).log() + (x - 9).sqrt(), "sqrt", "non-finite"),
    ],
)
def test_the_operation_to_blame(function: Callable[..., object], operation: str | None, kind: str) -> None:
    found = probe(function, X).findings[0]
    assert (found.verdict, found.operation) == (kind, operation)


def test_a_branch_not_taken_is_told_from_one_that_is() -> None:
    untaken = only(probe(lambda x: torch.where(x > 0, x.sqrt(), 0.0), X))
    assert "in a branch that is not taken" in untaken.detail
    assert "torch.where(ok, f(torch.where(ok, x, 1.0)), 0.0)" in untaken.advice
    assert "branch" not in only(probe(torch.sqrt, X.abs())).detail


def test_further_points_are_looked_at() -> None:
    def hole(x: Tensor) -> Tensor:
        return (x - 3.25).abs().sqrt()

    assert only(probe(hole, X)).verdict == "useful"
    found = only(probe(hole, X, at=[(torch.full((4,), 3.25),)]))
    assert found.verdict == "non-finite"
    assert "x[0] = 3.25 in at[0]" in found.detail


def test_randomness_is_held_still_and_said() -> None:
    report = probe(lambda x: x * torch.rand(4) + float(np.random.rand()) + random.random(), X)
    assert only(report).verdict == "useful"
    assert report.notes == ("Random: compared under the same seed.",)


def test_randomness_that_no_seed_holds_is_said() -> None:
    calls = iter(range(1000))
    report = probe(lambda x: x * next(calls), X)
    assert "differ: finite differences were left out" in report.notes[0]
    assert only(report).verdict == "useful"


def test_a_generator_of_the_function_is_put_back() -> None:
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    report = probe(lambda x: (x + torch.randn(4, generator=generator)).exp(), X)
    assert only(report).verdict == "useful"
    assert torch.equal(before, generator.get_state())


def test_constants_of_another_type_do_not_stop_finite_differences() -> None:
    weight = torch.randn(4, 4)
    report = probe(lambda x: F.linear(x.float(), weight), X)
    assert only(report).verdict == "useful"
    assert report.notes == ()
    hidden = probe(lambda x: x.float() + ((x > 0).float() - x.float()).detach(), X)
    assert only(hidden).verdict == "pretended"


def test_a_function_of_single_precision_only_is_probed_in_it() -> None:
    def picky(x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise TypeError("float32 only")
        return torch.tanh(x)

    report = probe(picky, X)
    assert only(report).verdict == "useful"
    assert any("does not run in float64" in note for note in report.notes)
    assert only(probe(lambda x: picky(x) * 0 + x.sign(), X)).verdict == "flat"


# Nothing is changed.


@pytest.mark.usefixtures("as_a_user")  # the checks of the test run themselves draw from random
def test_a_model_is_left_as_it_was() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[int] = []

        def forward(self, x: Tensor) -> Tensor:
            self.calls.append(1)
            return x

    counter = Counter()
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(), counter, nn.Linear(5, 2))
    model[4].eval()
    random.seed(123)
    np.random.seed(123)
    model[0].weight.grad = torch.ones(5, 4)
    x = batch().requires_grad_()
    kept, version, modes = copy.deepcopy(model.state_dict()), x._version, [m.training for m in model.modules()]
    weight = model[0].weight
    states = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)["state"]["key"].copy()
    probe(model, x)
    assert counter.calls == []
    probe(lambda x: model(x).sum(), x)
    assert all(torch.equal(kept[key], value) for key, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert model[0].weight is weight
    assert torch.equal(weight.grad, torch.ones(5, 4))
    assert (x.grad, x._version) == (None, version)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], states[2])
    assert torch.get_default_dtype() == torch.float32


def test_a_function_that_fails_midway_leaves_its_module_as_it_was() -> None:
    model = nn.Linear(4, 1)
    weight = model.weight

    def picky(x: Tensor) -> Tensor:
        if not torch.equal(x.float(), X):
            raise ValueError("only this")
        return model(x)

    report = probe(picky, X)
    assert model.weight is weight
    assert model.weight.dtype == torch.float32
    assert verdicts(report)["model.weight"] == "useful"


def test_it_works_without_grad_mode_and_in_inference_mode() -> None:
    with torch.no_grad():
        assert only(probe(torch.tanh, X)).verdict == "useful"
    with torch.inference_mode():
        assert set(verdicts(probe(nn.Linear(4, 1), X)).values()) == {"useful"}


def test_the_same_seed_gives_the_same_report() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(), nn.ReLU(), nn.Linear(5, 2))
    assert probe(model, batch(), seed=3) == probe(model, batch(), seed=3)
    assert str(probe(model, batch())) == str(probe(model, batch()))


# The report.


def test_a_printed_report() -> None:
    model = nn.Sequential(nn.Linear(4, 5), Step(), nn.Linear(5, 2))
    text = str(probe(model, batch()))
    assert text.startswith("Sequential: 5 leaves, 1 output: 2 useful, 3 cut. No gradient reaches the weights of: 0.")
    assert "output  0.bias    cut      cut by gt (layer 1, tests/probing/test_probe.py:" in text
    assert text.count("A hard decision has no slope") == 1


def test_a_long_report_is_condensed() -> None:
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(20)], Step(), nn.Linear(4, 2))
    report = probe(model, batch())
    assert len(report.findings) == 43
    assert len(report.dead_layers) == 20
    text = str(report)
    assert "input ... 19.bias (41)" in text
    assert len(text.splitlines()) < 20


def test_json() -> None:
    report = probe(torch.sign, X)
    found = json.loads(report.to_json())
    assert found == json.loads(json.dumps(report.to_dict()))
    assert found["findings"][0]["verdict"] == "flat"
    assert found["name"] == "sign"


# Bad input.


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (TypeError, "needed a function or a module, got 3", lambda: probe(3, X)),
        (ValueError, "needed a floating-point tensor among the inputs", lambda: probe(torch.neg, torch.tensor([1]))),
        (ValueError, "needed a floating-point tensor among the inputs", lambda: probe(lambda: 1.0)),
        (RuntimeError, "runs at the example inputs, got RuntimeError: mat", lambda: probe(nn.Linear(3, 1), X)),
        (TypeError, "returns tensors or numbers", lambda: probe(lambda x: "text", X)),
        (TypeError, "needed points `at` as tuples", lambda: probe(torch.neg, X, at=[X])),  # type: ignore[list-item]
        (ValueError, "needed points `at` built like", lambda: probe(torch.neg, X, at=[(X, X)])),
        (ValueError, r"needed input of shape \(4,\) in every point", lambda: probe(torch.neg, X, at=[(X[:2],)])),
        (ValueError, "needed initialised parameters", lambda: probe(nn.LazyLinear(2), X)),
    ],
)
@pytest.mark.usefixtures("as_a_user")
def test_bad_input_gets_one_clear_error(error: type[Exception], words: str, call: Callable[[], object]) -> None:
    with pytest.raises(error, match=words):
        call()


def test_the_cause_of_a_failure_is_kept() -> None:
    with pytest.raises(RuntimeError) as caught:
        probe(lambda x: x["nothing"], {"x": X})
    assert isinstance(caught.value.__cause__, KeyError)
