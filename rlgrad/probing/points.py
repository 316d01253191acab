"""Where a function is looked at: the example, random points around it, and the points where functions break."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from rlgrad.probing.subject import Subject

Role = Literal["example", "given", "random", "special", "large"]
# A leaf is moved by these multiples of its size; inputs by a tenth only where parameters are judged.
_STEPS = (1.0, 3.0, 1.0)
# Every input gets the special points up to this many inputs.
_MOST_INPUTS = 8


@dataclass(frozen=True, eq=False)
class Point:
    """Values of all leaves.

    Args:
        label: for the reader: ``x = 0``.
        make: gives the values of the leaves, in their order. They are made anew each time: a large model has many
            points, and memory for few.
        role: why it is looked at.
        concerns: the leaves that are to blame, or to be pitied, if something is not finite here.
        arguments: flat list of all inputs, where those that are no leaves differ from the example's.
        shift: added to the seed, so that what is dropped out at one random point is not at another.
    """

    label: str
    make: Callable[[], list[Tensor]]
    role: Role
    concerns: frozenset[int]
    arguments: list[object] | None = None
    shift: int = 0

    @property
    def values(self) -> list[Tensor]:
        """The values of all leaves."""
        return self.make()


def sizes(values: Sequence[Tensor]) -> list[float]:
    """Root mean square of each leaf, and 1 for one that is zero, empty or not finite."""
    found = [float(value.double().square().mean().sqrt()) if value.numel() else 1.0 for value in values]
    return [size if 0 < size < float("inf") else 1.0 for size in found]


def standard_normal(values: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Standard normal numbers in float64, one for each entry of each leaf."""
    return [torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v.device) for v in values]


def around(subject: Subject, movable: Sequence[bool]) -> Iterator[Point]:
    """Random points: near the example, with the inputs moved far, and with the parameters moved far.

    Near the example inputs are scaled entry by entry, so that a positive one stays positive and a zero zero: whatever
    a parameter does there is its own doing.
    """
    scale = sizes([leaf.value for leaf in subject.leaves])
    inputs, everyone = frozenset(range(subject.inputs)), frozenset(range(len(subject.leaves)))

    def point(number: int, concerns: frozenset[int], *, inputs_by: float | None, parameters_by: float) -> Point:
        def values() -> list[Tensor]:
            generator = torch.Generator().manual_seed(subject.seed + 1000 + number)
            return [moved(at, leaf.value.double(), generator) for at, leaf in enumerate(subject.leaves)]

        def moved(at: int, value: Tensor, generator: torch.Generator) -> Tensor:
            if not movable[at] or (parameters_by == 0 and at not in inputs):
                return value
            (draw,) = standard_normal([value], generator)
            if at in inputs and inputs_by is None:
                return value * (1 + 0.1 * draw)
            return value + (inputs_by if at in inputs and inputs_by else parameters_by) * scale[at] * draw

        return Point("a random point", values, "random", concerns, shift=number)

    yield point(0, everyone, inputs_by=None, parameters_by=0.1)
    for number, step in enumerate(_STEPS, 1):
        if inputs:
            yield point(number, inputs, inputs_by=step, parameters_by=0.0)
        if everyone - inputs:
            yield point(number + len(_STEPS), everyone, inputs_by=None, parameters_by=step)


def special(subject: Subject, movable: Sequence[bool]) -> Iterator[Point]:
    """For each input the points where functions like to break, the other inputs staying at the example."""
    base = [leaf.value for leaf in subject.leaves]
    for at, leaf in enumerate(subject.leaves[: min(subject.inputs, _MOST_INPUTS)]):
        value = leaf.value
        if not movable[at] or not value.numel():
            continue
        first = f"{leaf.name}[{', '.join('0' * value.ndim)}]"
        one_zero = value.clone(memory_format=torch.contiguous_format)
        one_zero.view(-1)[0] = 0.0
        choices: list[tuple[str, Tensor, Role]] = [
            (f"{leaf.name} = 0", torch.zeros_like(value), "special"),
            (f"{leaf.name} = 1", torch.ones_like(value), "special"),
            (f"{leaf.name} = -1", -torch.ones_like(value), "special"),
            (f"{leaf.name} = 0.5", torch.full_like(value, 0.5), "special"),
            (f"{leaf.name} = 100", torch.full_like(value, 100.0), "large"),
            (f"{leaf.name} = -100", torch.full_like(value, -100.0), "large"),
        ]
        if value.numel() > 1:
            choices.append((f"{first} = 0", one_zero, "special"))
        for label, replaced, role in choices:
            values = [*base[:at], replaced, *base[at + 1 :]]
            yield Point(label, partial(list, values), role, frozenset({at}))
