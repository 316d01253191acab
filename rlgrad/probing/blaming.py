"""Who made a gradient zero, or not finite: what went into and out of each step of a backward pass."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from rlgrad.probing.looking import cotangent
from rlgrad.probing.points import Point
from rlgrad.probing.subject import Run, Subject
from rlgrad.probing.tracing import Operation, Trace, graph

Wrong = Literal["zero", "bad"]


@dataclass(frozen=True)
class Blame:
    """The operation whose backward pass made a gradient zero or not finite.

    Args:
        operation: which.
        masked: the gradient that came in was zero where the one that went out is NaN: a branch not taken.
    """

    operation: Operation
    masked: bool


@dataclass(eq=False)
class Passages:
    """A backward pass that was watched.

    Args:
        nodes: of the gradient's graph, the output's first.
        leaves: in the subject's order.
        passed: what went through each node.
        sites: the operations that the nodes were made by, as far as they were seen.
    """

    nodes: list[Node]
    leaves: list[Tensor]
    passed: dict[Node, "_Passage"]
    sites: Mapping[Node, Operation]

    def blame(self, leaf: int, wrong: Wrong) -> Blame | None:
        """Follow the gradient from the output towards a leaf up to the operation where it goes wrong.

        Returns:
            The operation, or None where there is none, as when the output's own gradient is wrong already.
        """
        ends = [node for node in self.nodes if getattr(node, "variable", None) is self.leaves[leaf]]
        guilty = self._first_wrong(_above(ends, self.parents), wrong)
        return None if guilty is None else Blame(self._operation(guilty), self.passed[guilty].masked)

    @cached_property
    def parents(self) -> dict[Node, list[Node]]:
        """The nodes that pass a gradient on to each."""
        found: dict[Node, list[Node]] = {}
        for node in self.nodes:
            for child, _ in node.next_functions:
                if child is not None:
                    found.setdefault(child, []).append(node)
        return found

    def _first_wrong(self, leading: Mapping[Node, None], wrong: Wrong) -> Node | None:
        """The node that turned a right gradient into a wrong one, on an edge that leads to the leaf."""
        for node in self.nodes:
            if node not in self.passed or self.passed[node].before[wrong]:
                continue
            for (child, _), after in zip(node.next_functions, self.passed[node].after, strict=False):
                if child in leading and after[wrong]:
                    return node
        return None

    def _operation(self, node: Node) -> Operation:
        if node in self.sites:
            return self.sites[node]
        name = re.sub(r"Backward\d*$", "", node.name())
        if isinstance(node, BackwardCFunction):
            return Operation(name, "custom", None)
        # One call may make several nodes, of which only the last was seen: it is the nearest above.
        known = next((above for above in _above([node], self.parents) if above in self.sites), None)
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
        return Operation(snake, "other", None if known is None else self.sites[known].site)


def watch(subject: Subject, point: Point, dtype: torch.dtype | None, output: str, leaves: Sequence[int]) -> Passages:
    """Differentiate an output in some leaves, with a hook on every node of the graph."""
    traces: list[Trace] = []

    def mode(seen: Run) -> Trace:
        traces.append(Trace(seen.leaves, len(subject.leaves), subject.layer_names()))
        return traces[0]

    with subject.at(
        point.values, dtype=dtype, arguments=point.arguments, seed=subject.seed + point.shift, mode=mode
    ) as run:
        tensor = run.outputs[output]
        found = Passages(graph(tensor.grad_fn), run.leaves, {}, traces[0].sites)
        handles = [node.register_hook(_recorder(node, found.passed)) for node in found.nodes]
        weights = cotangent(tensor, subject.seed)
        torch.autograd.grad(tensor, [run.leaves[at] for at in leaves], weights, allow_unused=True)
        for handle in handles:
            handle.remove()
        return found


@dataclass(frozen=True)
class _Passage:
    """What went through a node: was it zero or bad before, and is it, for each edge, after."""

    before: Mapping[str, bool]
    after: Sequence[Mapping[str, bool]]
    masked: bool


def _recorder(node: Node, passed: dict[Node, _Passage]) -> Any:
    def record(outgoing: Sequence[Tensor | None], incoming: Sequence[Tensor | None]) -> None:
        before = [_state(tensor) for tensor in incoming]
        joined = {"zero": all(s["zero"] for s in before), "bad": any(s["bad"] for s in before)}
        masked = any(_masked(out, came) for out in outgoing for came in incoming)
        passed[node] = _Passage(joined, [_state(tensor) for tensor in outgoing], masked)

    return record


def _state(gradient: Tensor | None) -> dict[str, bool]:
    if gradient is None:
        return {"zero": True, "bad": False}
    return {"zero": not bool(gradient.count_nonzero()), "bad": not bool(torch.isfinite(gradient).all())}


def _masked(outgoing: Tensor | None, incoming: Tensor | None) -> bool:
    if outgoing is None or incoming is None or outgoing.shape != incoming.shape:
        return False
    bad = ~torch.isfinite(outgoing)
    return bool(bad.any()) and bool((incoming[bad] == 0).any())


def _above(nodes: Sequence[Node], parents: Mapping[Node, Sequence[Node]]) -> dict[Node, None]:
    """The nodes and all above them, the nearest first."""
    found = dict.fromkeys(nodes)
    waiting = list(nodes)
    for node in waiting:
        for parent in parents.get(node, []):
            if parent not in found:
                found[parent] = None
                waiting.append(parent)
    return found
