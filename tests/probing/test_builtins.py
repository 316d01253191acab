"""The verdict on every function of the table, and the page that is made of it."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from rlgrad.metrics import accuracy, f1, iou
from rlgrad.probing import BUILTINS, Report, probe_builtins

ROOT = Path(__file__).parents[2]
# Verdict, operation, and words of the reason, for each output.
EXPECTED: dict[str, list[tuple[str, str | None, str]]] = {
    "step": [("cut", "gt", "jumps at x = 0")],
    "heaviside": [("cut", "heaviside", "backward pass fails")],
    "sign": [("flat", "sign", "by jumps only, from sign")],
    "round": [("flat", "round", "jumps at x = 0.5")],
    "floor": [("flat", "floor", "jumps at x = 0")],
    "argmax": [("cut", "argmax", "jumps at x = 0")],
    "sort": [("useful", None, "slope 1 on the left, 0 on the right"), ("cut", "sort", "")],
    "topk": [("useful", None, "slope 0 on the left, 1 on the right"), ("cut", "topk", "")],
    "bernoulli": [("flat", "bernoulli", "by jumps only")],
    "multinomial": [("cut", "multinomial", "")],
    "straight-through": [("pretended", "detach", "where the function is flat")],
    "accuracy": [("cut", "gt", "jumps at x = 0")],
    "f1": [("cut", "gt", "jumps at x = 0")],
    "iou": [("cut", "gt", "jumps at x = 0")],
    "relu": [("useful", None, "kink at x = 0: slope 0 on the left, 1 on the right; torch takes 0 there")],
    "abs": [("useful", None, "kink at x = 0: slope -1 on the left, 1 on the right; torch takes 0 there")],
    "l1": [("useful", None, "kink at x = 1: slope -0.25 on the left, 0.25 on the right; torch takes 0 there")],
    "huber": [("useful", None, "")],
    "clamp": [("useful", None, "kink at x = 1: slope 1 on the left, 0 on the right")],
    "max": [("useful", None, "kink at x = 0: slope 0 on the left, 1 on the right; torch takes 0.25 there")],
    "sqrt": [("non-finite", "sqrt", "infinite gradient at x = 0; undefined (NaN) at x = -1")],
    "log": [("non-finite", "log", "infinite gradient at x = 0; undefined (NaN) at x = -1")],
    "reciprocal": [("non-finite", "reciprocal", "at x = 0")],
    "norm": [("non-finite", "sqrt", "NaN gradient at x = 0")],
    "where": [("non-finite", "sqrt", "NaN gradient at x[1] = -0.7, the example, from sqrt")],
    "double-where": [("useful", None, "")],
    "sigmoid": [("useful", None, "")],
    "softmax": [("useful", None, "")],
    "exp": [("useful", None, "overflows at x = 100 in float32")],
    "cross-entropy": [("useful", None, "")],
    "bce": [("useful", None, "")],
    "l2": [("useful", None, "")],
    "dropout": [("useful", None, "")],
    "detach": [("cut", "detach", "")],
    "no-grad": [("cut", "square", "under torch.no_grad()")],
    "item": [("cut", "item", "leaves torch")],
    "tensor": [("cut", "tensor", "")],
}
SMOOTH = ("huber", "double-where", "sigmoid", "softmax", "cross-entropy", "bce", "l2", "dropout")


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    return probe_builtins()


def test_every_builtin_is_expected() -> None:
    assert EXPECTED.keys() == BUILTINS.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_verdict(reports: dict[str, Report], name: str) -> None:
    findings = reports[name].findings
    assert [(f.verdict, f.operation) for f in findings] == [(verdict, blamed) for verdict, blamed, _ in EXPECTED[name]]
    for finding, (_, _, words) in zip(findings, EXPECTED[name], strict=True):
        assert words in finding.detail


@pytest.mark.parametrize("name", SMOOTH)
def test_nothing_is_to_be_said_of_a_smooth_function(reports: dict[str, Report], name: str) -> None:
    assert [f.detail for f in reports[name].findings] == [""]


@pytest.mark.parametrize("name", EXPECTED)
def test_advice_where_and_only_where_something_is_to_be_done(reports: dict[str, Report], name: str) -> None:
    assert all(bool(f.advice) == (f.verdict != "useful") for f in reports[name].findings)


@pytest.mark.parametrize("name", ["sign", "bernoulli", "straight-through", "sqrt", "where", "dropout", "clamp"])
def test_the_verdict_does_not_hang_on_the_seed(reports: dict[str, Report], name: str) -> None:
    found = BUILTINS[name].probe(seed=7).findings
    assert [f.verdict for f in found] == [f.verdict for f in reports[name].findings]


@pytest.mark.parametrize("name", BUILTINS)
def test_the_code_shown_is_the_code_probed(name: str) -> None:
    builtin = BUILTINS[name]
    y = torch.tensor([1, 0, 0, 1])
    scope = {"torch": torch, "F": F, "x": builtin.inputs[0], "y": y, "accuracy": accuracy, "f1": f1, "iou": iou}
    state = torch.get_rng_state()
    shown = eval(builtin.code, scope)
    torch.set_rng_state(state)
    probed = builtin.function(*builtin.inputs)
    torch.testing.assert_close(shown, probed, check_dtype=False, equal_nan=True)


def test_the_page_is_what_the_code_writes(reports: dict[str, Report]) -> None:
    path = ROOT / "scripts" / "probe_table.py"
    spec = importlib.util.spec_from_file_location("probe_table", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (ROOT / "docs" / "probe.md").read_text(encoding="utf-8")
    assert page == script.page(reports), "run: python scripts/probe_table.py"
