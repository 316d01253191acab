"""Which leaves autograd connects to a tensor, and which operation cut those that it does not."""

import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode, resolve_name

from rlgrad.steps import QPWC, Sign, Staircase, Step
from rlgrad.stochastic import policy_gradient

_TORCH = os.path.dirname(torch.__file__)
_LIBRARIES = (sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"], _TORCH)
_MACHINERY = tuple(str(Path(__file__).with_name(name)) for name in ("tracing.py", "subject.py"))
# These give a tensor its shape and type, not its value: nothing flows through them, so nothing is cut.
_SHAPE_ONLY = {
    *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like"),
    *("new_zeros", "new_ones", "new_empty", "new_full"),
}
# Here a value leaves torch: autograd loses sight of it, and so does the trace.
_LEAVES_TORCH = {
    *("item", "tolist", "numpy", "bool", "float", "int", "index", "complex", "contains", "equal"),
    *("allclose", "is_nonzero", "format"),
}


class Site(NamedTuple):
    """Where an operation was called: a line of the user's code, and the innermost module."""

    line: str | None
    layer: str | None


class Operation(NamedTuple):
    """An operation, how it lost the gradient, and where.

    Args:
        name: ``gt``, ``detach``, ``argmax``, ...
        kind: ``detached``, ``discrete``, ``no_grad``, ``python``, ``copied`` or ``other``; ``custom`` for somebody
            else's autograd function; and for an activation of ``rlgrad.steps`` ``step`` (its derivative is the true
            one), ``drawn`` (by an ExpectedLoss) or ``ruled``.
        site: of the call; None where it is not known.
    """

    name: str
    kind: str
    site: Site | None


class _Flow(NamedTuple):
    """What flows into a tensor, as sets of leaves written as bits: still with a gradient, and cut by what."""

    alive: int = 0
    cuts: Mapping[Operation, int] = {}

    def joined(self, other: "_Flow") -> "_Flow":
        if not other.cuts or other.cuts is self.cuts:
            return _Flow(self.alive | other.alive, self.cuts)
        cuts = dict(self.cuts)
        for cut, leaves in other.cuts.items():
            cuts[cut] = cuts.get(cut, 0) | leaves
        return _Flow(self.alive | other.alive, cuts)

    def without(self, cut: Operation) -> "_Flow":
        """All leaves that still had a gradient lose it here."""
        return _Flow(0, _Flow(0, {cut: self.alive}).joined(_Flow(0, self.cuts)).cuts) if self.alive else self


@dataclass(eq=False)
class Trace(TorchFunctionMode):
    """Watches an evaluation and notes for each tensor which leaves flow into it, and which operation cut which.

    It holds every tensor that it saw: identities would be used again otherwise.

    Args:
        leaves: the leaves, and after them copies of the first ones (the inputs that the function was handed).
        count: how many leaves there are.
        layers: names of modules by identity.
    """

    leaves: Sequence[Tensor]
    count: int
    layers: Mapping[int, str]
    sites: dict[Node, Operation] = field(default_factory=dict)
    leaks: _Flow = field(default_factory=_Flow)

    def __post_init__(self) -> None:
        super().__init__()
        self._bits = {id(leaf): 1 << at for at, leaf in enumerate(self.leaves[: self.count])}
        self._flows: dict[int, tuple[Tensor, _Flow]] = {
            id(leaf): (leaf, _Flow(1 << at % self.count)) for at, leaf in enumerate(self.leaves)
        }

    def __enter__(self) -> "Trace":
        """Watch operations, and the steps of this library, which are none that torch would tell of."""
        self._handle = register_module_forward_hook(self._see)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        """Watch no more."""
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._handle.remove()

    def _see(self, module: nn.Module, inputs: object, result: object) -> None:
        node = result.grad_fn if isinstance(result, Tensor) else None
        if node is not None and isinstance(module, Step | Sign | Staircase | QPWC):
            self.sites[node] = Operation(type(module).__name__, _step_kind(module), self._site())

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = list(_tensors((args, kwargs)))
        flow = _Flow()
        for tensor in given:
            flow = flow.joined(self.flow(tensor))
        result = func(*args, **(kwargs or {}))
        name = _name(func)
        if name not in _SHAPE_ONLY:
            self._note(name, flow, [*_tensors(result), *_changed(name, args)], sees_tensor=bool(given))
        return result

    def _note(self, name: str, flow: _Flow, results: Sequence[Tensor], *, sees_tensor: bool) -> None:
        lost = bool(flow.alive) and any(not tensor.requires_grad for tensor in results)
        leaks = name in _LEAVES_TORCH and not results and sees_tensor
        fresh = any(tensor.grad_fn is not None and tensor.grad_fn not in self.sites for tensor in results)
        site = self._site() if lost or fresh or (leaks and (flow.alive or flow.cuts)) else None
        if leaks:
            self.leaks = self.leaks.joined(flow.without(Operation(name, "python", site)))
        for tensor in results:
            if tensor.grad_fn is not None:
                self.sites.setdefault(tensor.grad_fn, Operation(name, "other", site))
            kept = flow if tensor.requires_grad else flow.without(Operation(name, _kind(name, tensor), site))
            self._flows[id(tensor)] = (tensor, kept)

    def flow(self, tensor: Tensor) -> _Flow:
        """What flows into a tensor, as far as it was seen; its gradient's graph tells where it was not."""
        flow = self._flows.get(id(tensor), (tensor, _Flow()))[1]
        if tensor.requires_grad and not flow.alive:  # made out of sight, as by a custom autograd function
            flow = _Flow(self.connected(tensor), {})
            self._flows[id(tensor)] = (tensor, flow)
        return flow

    def connected(self, tensor: Tensor) -> int:
        """The leaves that autograd connects to the tensor, as bits: the truth, from the graph itself."""
        reached = self._bits.get(id(tensor), 0)
        for node in graph(tensor.grad_fn):
            reached |= self._bits.get(id(getattr(node, "variable", None)), 0)
        return reached

    def _site(self) -> Site:
        frame: FrameType | None = sys._getframe(2)
        line: str | None = None
        layer: str | None = None
        while frame is not None and not (frame.f_code.co_filename == _MACHINERY[1] and frame.f_code.co_name == "at"):
            file = frame.f_code.co_filename
            owner = frame.f_locals.get("self") if "self" in frame.f_code.co_varnames[:1] else None
            if layer is None and isinstance(owner, nn.Module):
                layer = self.layers.get(id(owner))
            if line is None and file not in _MACHINERY and not file.startswith((*_LIBRARIES, "<@", "<frozen")):
                line = f"{_short(file)}:{frame.f_lineno}"
            frame = frame.f_back
        return Site(line, layer)


def graph(root: Node | None) -> list[Node]:
    """All nodes of a gradient's graph, the root first."""
    found = {} if root is None else {root: None}
    waiting = list(found)
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None and node not in found:
                found[node] = None
                waiting.append(node)
    return list(found)


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def _changed(name: str, args: Sequence[object]) -> list[Tensor]:
    """The tensors that an operation changed in place: its first argument, and what that is a view of."""
    if not (name.endswith("_") or name == "setitem") or not args or not isinstance(args[0], Tensor):
        return []
    base = args[0]._base
    return [args[0]] if base is None else [args[0], base]


def _name(func: Callable[..., Any]) -> str:
    name = str(getattr(func, "__name__", func))
    if name == "__get__":  # of an attribute, such as torch.Tensor.data.__get__
        name = str(resolve_name(func)).split(".")[-2]
    name = name[2:-2] if name.startswith("__") and name.endswith("__") else name
    return "numpy" if name in ("array", "array_wrap", "dlpack") else name


def _kind(name: str, result: Tensor) -> str:
    if name in _LEAVES_TORCH:
        return "python"
    if name in ("detach", "detach_", "data"):
        return "detached"
    if not (result.is_floating_point() or result.is_complex()):
        return "discrete"
    if not torch.is_grad_enabled():
        return "no_grad"
    return "copied" if name in ("tensor", "asarray", "from_numpy") else "other"


def _step_kind(step: Step | Sign | Staircase | QPWC) -> str:
    if isinstance(step, QPWC):
        return "ruled"
    if isinstance(step.backward, policy_gradient):
        return "drawn"
    return "step" if step.backward is None else "ruled"


def _short(file: str) -> str:
    """A path as seen from here, or its last part where it lies elsewhere."""
    relative = os.path.relpath(file) if os.path.splitdrive(file)[0] == os.path.splitdrive(os.getcwd())[0] else ".."
    return os.path.basename(file) if relative.startswith("..") else relative
