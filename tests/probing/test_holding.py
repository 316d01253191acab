"""Modules that a function has from anywhere are found, and left as they were."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from rlgrad.probing import probe
from rlgrad.probing.holding import held

X = torch.tensor([1.3, -0.7, 0.4, -2.1])
BATCH = torch.randn((8, 4), generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1, bias=False))


class Trainer:
    def __init__(self, model: Callable[..., Any]) -> None:
        self.model = model

    def loss(self, x: Tensor) -> Tensor:
        return self.model(x).square().mean()

    def direct(self, x: Tensor) -> Tensor:
        hidden = self.model.forward(x) if isinstance(self.model, nn.Module) else x
        return hidden.square().mean()

    def fit(self, x: Tensor) -> Tensor:
        if isinstance(self.model, nn.Module):
            self.model.eval()
        return self.loss(x)

    __call__ = loss


class Listed(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.models = [model]  # not registered

    def forward(self, x: Tensor) -> Tensor:
        return self.models[0](x)


def calling(model: nn.Module) -> Callable[[Tensor], Tensor]:
    def inner(x: Tensor) -> Tensor:
        return model(x)

    def outer(x: Tensor) -> Tensor:
        return inner(x)

    return outer


CASES: dict[str, tuple[Callable[[nn.Module], Callable[..., object]], str]] = {
    "method": (lambda net: Trainer(net).loss, "self.model"),
    "object": (lambda net: Trainer(net), "self.model"),
    "nested": (lambda net: Trainer(Trainer(net)).loss, "self.model.model"),
    "forward": (lambda net: Trainer(net).direct, "self.model"),
    "mode": (lambda net: Trainer(net).fit, "self.model"),
    "partial": (lambda net: functools.partial(net.forward), "self"),
    "function": (calling, "model"),
    "list": (lambda net: (lambda nets: lambda x: nets[0](x))([net]), "nets[0]"),
    "dict": (lambda net: (lambda nets: lambda x: nets["a"](x))({"a": net, "b": nn.Linear(4, 2)}), "nets['a']"),
    "generator": (lambda net: (lambda nets: lambda x: next(iter(nets()))(x))(lambda: iter([net])), "net"),
    "unregistered": (Listed, ""),
}


def state(module: nn.Module) -> list[Any]:
    modes = [part.training for part in module.modules()]
    return [*modes, *(t.clone() for t in module.state_dict().values()), *(p.grad for p in module.parameters())]


def same(one: list[Any], other: list[Any]) -> bool:
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a is b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_modules_are_found_and_left_as_they_were(name: str) -> None:
    make, prefix = CASES[name]
    net = network()
    before, parameters = state(net), list(net.parameters())
    report = probe(make(net), BATCH)
    assert same(before, state(net))
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    parts = ("0.weight", "0.bias", "1.weight")
    found = {f.leaf: f.verdict for f in report.findings if f.kind == "parameter"}
    if prefix:
        assert list(found) == [f"{prefix}.{part}" for part in parts]
    assert list(found.values()) == ["useful"] * 3
    assert not any("No leaves" in note for note in report.notes)


def test_a_module_whose_weights_are_read_but_that_does_not_run_is_found() -> None:
    trainer = Trainer(nn.Linear(4, 1))
    found = probe(lambda x: F.linear(x, trainer.model.weight), BATCH).findings  # type: ignore[attr-defined]
    assert [(f.leaf, f.verdict) for f in found][1:] == [
        ("trainer.model.weight", "useful"),
        ("trainer.model.bias", "unused"),
    ]


def test_a_module_that_no_search_finds_is_called_by_its_class() -> None:
    net = network()
    before = state(net)

    class Closed:
        __slots__ = ("net",)

        def __init__(self) -> None:
            self.net = net

        def loss(self, x: Tensor) -> Tensor:
            return self.net(x).mean()

    found = probe(Closed().loss, BATCH).findings
    assert [f.leaf for f in found][1:3] == ["Sequential.0.weight", "Sequential.0.bias"]
    assert same(before, state(net))


def test_a_cut_in_a_module_that_was_found_is_placed() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Threshold(0.0, 0.0), nn.Linear(3, 1))
    report = probe(Trainer(lambda x: (net(x) > 0).float()).loss, BATCH)
    assert report.dead_layers == ("net.0", "net.2")


def test_modules_made_by_the_function_are_no_leaves() -> None:
    report = probe(lambda x: nn.Linear(4, 1)(x).sum(), BATCH)
    assert [f.leaf for f in report.findings] == ["x"]
    assert report.notes[-1].startswith("No leaves are the parameters of Linear")
    plain = probe(lambda x: nn.MSELoss()(x, torch.zeros(8, 4)), BATCH)
    assert plain.notes == ()


def test_a_module_that_runs_elsewhere_only_is_left_as_it_was() -> None:
    norm = nn.BatchNorm1d(4)
    trainer = Trainer(norm)
    before = state(norm)
    report = probe(lambda x: x.square() if torch.equal(x.float(), BATCH) else trainer.loss(x), BATCH)
    assert same(before, state(norm))
    assert any("No leaves are the parameters of BatchNorm1d" in note for note in report.notes)


@pytest.mark.filterwarnings("ignore")  # torch's own, of its compiler
@pytest.mark.usefixtures("as_a_user")  # its nodes are of a class beside torch.autograd.graph.Node
def test_a_compiled_module_is_left_as_it_was_and_said() -> None:
    net = torch.jit.trace(network(), BATCH, check_trace=False)
    before = state(net)
    report = probe(Trainer(net).loss, BATCH)
    assert same(before, state(net))
    assert [f.leaf for f in report.findings] == ["x"]
    assert any("No leaves" in note for note in report.notes)


def test_a_backward_pass_inside_leaves_no_gradients() -> None:
    net = network()

    def step(x: Tensor) -> Tensor:
        loss = Trainer(net).loss(x)
        loss.backward(retain_graph=True)
        return loss

    probe(step, BATCH)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_no_hook_stays() -> None:
    hooks = torch.nn.modules.module._global_forward_pre_hooks
    with pytest.raises(RuntimeError):
        probe(Trainer(nn.Linear(3, 1)).loss, BATCH)
    probe(Trainer(nn.Linear(4, 1)).loss, BATCH)
    assert not hooks


def test_the_search_takes_names_from_arguments_too_and_ends() -> None:
    endless: list[Any] = []
    endless.append(endless)
    generator, net = torch.Generator(), nn.Linear(1, 1)
    found = held(torch.sign, {"x": X, "nets": {"a": net}, "rest": [endless, generator, net]})
    assert found == {"rest[1]": generator, "nets['a']": net}


# NumPy.


@pytest.mark.parametrize(
    ("function", "verdict"),
    [
        (lambda x: torch.from_numpy(x.numpy() * 2).sum(), "cut"),
        (lambda x: np.sin(x.numpy()).sum(), "cut"),
        (lambda x: np.sin(x).sum(), "cut"),
        (lambda x: np.from_dlpack(x).sum(), "cut"),
        (lambda x: roc_auc_score(torch.tensor([1, 0, 0, 1]), x), "cut"),
    ],
)
def test_a_value_that_leaves_for_numpy_is_cut(function: Callable[..., object], verdict: str) -> None:
    report = probe(function, X)
    (found,) = report.findings
    assert (found.verdict, found.operation) == (verdict, "numpy")
    assert "the value leaves torch" in found.detail
    assert "rlgrad.MetricLoss" in found.advice
    assert any(note.startswith("NumPy was given detached copies") for note in report.notes)


def test_numpy_beside_torch_takes_nothing_from_the_other_output() -> None:
    net = network()
    before = state(net)
    report = probe(lambda x: (F.softplus(Trainer(net).loss(x)), float(x.numpy().max())), BATCH)
    found = {(f.output, f.leaf): f.verdict for f in report.findings}
    assert found["output[0]", "x"] == "useful"
    assert found["output[1]", "x"] == "cut"
    assert same(before, state(net))


# Advice.


def test_a_router_is_told_how_a_choice_inside_a_network_is_trained() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.first, self.second = nn.Linear(4, 2), nn.Linear(4, 1), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            pick = self.router(x).argmax(-1, keepdim=True)
            return torch.where(pick == 0, self.first(x), self.second(x))

    torch.manual_seed(0)
    report = probe(Experts(), BATCH)
    assert report.dead_layers == ("router",)
    advice = next(f.advice for f in report.findings if f.leaf == "router.weight")
    assert "MetricLoss(metric, policy=rlgrad.Categorical)" in advice
    assert "Inside a network" in advice
    assert "rlgrad.metrics.Downstream(function, classes=K)" in advice
