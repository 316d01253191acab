"""Functions that everybody asks about, ready to be probed, and the table of what is found."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rlgrad.metrics import accuracy, f1, iou
from rlgrad.probing.judging import probe
from rlgrad.probing.reports import Report
from rlgrad.text import aligned, code, markdown

_LOGITS = torch.tensor([1.3, -0.7, 0.4, -2.1])
_POSITIVE = torch.tensor([0.6, 1.7, 2.2, 0.9])
_TARGET = torch.tensor([1, 0, 0, 1])
_NUMBERS = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)


class Builtin(NamedTuple):
    """A function with inputs to probe it at.

    Args:
        code: the function of ``x``, for the reader; ``y`` is a fixed target.
        function: the same.
        inputs: the example.
        at: further points.
    """

    code: str
    function: Callable[..., object]
    inputs: tuple[Tensor, ...] = (_LOGITS,)
    at: Sequence[tuple[Tensor, ...]] = ()

    def probe(self, *, seed: int = 0) -> Report:
        """What the probe finds."""
        return probe(self.function, *self.inputs, at=self.at, seed=seed)


def _straight_through(x: Tensor) -> Tensor:
    return x + ((x > 0).to(x.dtype) - x).detach()


BUILTINS: dict[str, Builtin] = {
    # Hard decisions.
    "step": Builtin("(x > 0).float()", lambda x: (x > 0).float()),
    "heaviside": Builtin("torch.heaviside(x, torch.zeros_like(x))", lambda x: torch.heaviside(x, torch.zeros_like(x))),
    "sign": Builtin("x.sign()", lambda x: x.sign()),
    "round": Builtin("x.round()", lambda x: x.round()),
    "floor": Builtin("x.floor()", lambda x: x.floor()),
    "argmax": Builtin("x.argmax()", lambda x: x.argmax()),
    "sort": Builtin("x.sort()", lambda x: x.sort()),
    "topk": Builtin("x.topk(2)", lambda x: x.topk(2)),
    "bernoulli": Builtin("torch.bernoulli(x.sigmoid())", lambda x: torch.bernoulli(x.sigmoid())),
    "multinomial": Builtin("torch.multinomial(x.softmax(0), 1)", lambda x: torch.multinomial(x.softmax(0), 1)),
    "straight-through": Builtin("x + ((x > 0).to(x.dtype) - x).detach()", _straight_through),
    # Metrics of thresholded outputs.
    "accuracy": Builtin("accuracy(x > 0, y)", lambda x: accuracy(x > 0, _TARGET)),
    "f1": Builtin("f1(x > 0, y)", lambda x: f1(x > 0, _TARGET)),
    "iou": Builtin("iou(x > 0, y)", lambda x: iou(x > 0, _TARGET)),
    # Kinks.
    "relu": Builtin("x.relu()", lambda x: x.relu()),
    "abs": Builtin("x.abs()", lambda x: x.abs()),
    "l1": Builtin("F.l1_loss(x, y.double())", lambda x: F.l1_loss(x, _NUMBERS.to(x.dtype))),
    "huber": Builtin("F.huber_loss(x, y.double())", lambda x: F.huber_loss(x, _NUMBERS.to(x.dtype))),
    "clamp": Builtin("x.clamp(-1, 1)", lambda x: x.clamp(-1, 1)),
    "max": Builtin("x.max()", lambda x: x.max()),
    # Holes.
    "sqrt": Builtin("x.sqrt()", lambda x: x.sqrt(), (_POSITIVE,)),
    "log": Builtin("x.log()", lambda x: x.log(), (_POSITIVE,)),
    "reciprocal": Builtin("1 / x", lambda x: 1 / x, (_POSITIVE,)),
    "norm": Builtin("x.square().sum().sqrt()", lambda x: x.square().sum().sqrt()),
    "where": Builtin("torch.where(x > 0, x.sqrt(), 0.0)", lambda x: torch.where(x > 0, x.sqrt(), 0.0)),
    "double-where": Builtin(
        "torch.where(x > 0, torch.where(x > 0, x, 1.0).sqrt(), 0.0)",
        lambda x: torch.where(x > 0, torch.where(x > 0, x, 1.0).sqrt(), 0.0),
    ),
    # Smooth.
    "sigmoid": Builtin("x.sigmoid()", lambda x: x.sigmoid()),
    "softmax": Builtin("x.softmax(0)", lambda x: x.softmax(0)),
    "exp": Builtin("x.exp()", lambda x: x.exp()),
    "cross-entropy": Builtin("F.cross_entropy(x, y[0])", lambda x: F.cross_entropy(x, _TARGET[0])),
    "bce": Builtin(
        "F.binary_cross_entropy_with_logits(x, y.double())",
        lambda x: F.binary_cross_entropy_with_logits(x, _NUMBERS.to(x.dtype)),
    ),
    "l2": Builtin("F.mse_loss(x, y.double())", lambda x: F.mse_loss(x, _NUMBERS.to(x.dtype))),
    "dropout": Builtin("F.dropout(x)", lambda x: F.dropout(x)),
    # Lost on the way.
    "detach": Builtin("x.detach().square()", lambda x: x.detach().square()),
    "no-grad": Builtin("torch.no_grad()(torch.square)(x)", torch.no_grad()(lambda x: torch.square(x))),
    "item": Builtin("x.sum().item()", lambda x: x.sum().item()),
    "tensor": Builtin("torch.tensor([x[0], x[1]])", lambda x: torch.tensor([x[0], x[1]])),
}


def probe_builtins(*, seed: int = 0) -> dict[str, Report]:
    """The reports on all built-in functions, by name."""
    return {name: builtin.probe(seed=seed) for name, builtin in BUILTINS.items()}


def builtins_table(reports: Mapping[str, Report]) -> str:
    """The verdicts on built-in functions, from `probe_builtins`, as a Markdown table: one row for each output."""
    rows = [[code(name), code(text), verdict, why.replace("|", "\\|")] for name, text, verdict, why in _rows(reports)]
    return markdown([_HEADER, *rows], left=4)


def builtins_text(reports: Mapping[str, Report]) -> str:
    """The same table for the terminal."""
    return aligned([_HEADER, *_rows(reports)], left=4)


_HEADER = ["name", "function", "verdict", "why"]


def _rows(reports: Mapping[str, Report]) -> list[list[str]]:
    # Lines of this file, where the functions are, mean nothing to a reader.
    return [
        [name, BUILTINS[name].code, _part(each.output) + each.verdict, each.detail.replace(f" ({each.line})", "")]
        for name, report in reports.items()
        for each in report.findings
    ]


def _part(output: str) -> str:
    part = output.removeprefix("output")
    return f"{part.removeprefix('.')}: " if part else ""
