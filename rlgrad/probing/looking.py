"""What autograd says at one point: a slope for each output and leaf, zero or not, finite or not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlgrad.probing.points import Point, sizes
from rlgrad.probing.subject import Run, Subject

Links = Mapping[str, frozenset[int]]  # for each output, the leaves that autograd connects to it
_ZERO = {torch.float64: 1e-12}  # relative to the output's size; anything smaller is rounding
_ZERO_ELSE = 1e-6


@dataclass(frozen=True, eq=False)
class Slope:
    """The gradient of one output, weighted at random, in one leaf.

    Args:
        zero: whether it is zero, but for rounding.
        bad: ``infinite`` or ``NaN`` if it holds such an entry.
        where: the first such entry, as in ``x[2] = -0.3``.
        nonzero: which entries are not exactly zero.
        sample: the first entries, in float64.
    """

    zero: bool
    bad: str | None
    where: str | None
    nonzero: Tensor
    sample: Tensor


@dataclass(eq=False)
class Look:
    """All slopes at a point; an error instead of them where the function refused the point.

    Args:
        point: where.
        slopes: by output and leaf; none for an output whose backward pass failed.
        nan: the outputs that hold NaN.
        failed: what the backward pass of an output raised.
        error: what the function raised.
    """

    point: Point
    slopes: dict[tuple[str, int], Slope] = field(default_factory=dict)
    nan: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    error: str | None = None


def look(subject: Subject, point: Point, links: Links, dtype: torch.dtype | None) -> Look:
    """Evaluate and differentiate every output at a point."""
    found = Look(point)
    values = point.values
    scale = sizes(values)
    try:
        with subject.at(values, dtype=dtype, arguments=point.arguments, seed=subject.seed + point.shift) as run:
            for name, leaves in links.items():
                if name not in run.outputs:
                    continue
                if bool(torch.isnan(run.outputs[name]).any()):
                    found.nan.add(name)
                try:
                    _differentiate(subject, run, name, sorted(leaves), scale, found)
                except (RuntimeError, NotImplementedError) as error:
                    found.failed[name] = _first_line(error)
    except Exception as error:  # the user's function: anything can come
        found.error = f"{type(error).__name__}: {_first_line(error)}"
    return found


def _differentiate(
    subject: Subject, run: Run, name: str, leaves: Sequence[int], scale: Sequence[float], found: Look
) -> None:
    output = run.outputs[name]
    if not leaves or not output.requires_grad:
        return
    weights = cotangent(output, subject.seed)
    gradients = torch.autograd.grad(output, [run.leaves[at] for at in leaves], weights, True, allow_unused=True)
    size = float((weights * output.detach()).nan_to_num(0, 0, 0).abs().sum())
    for at, gradient in zip(leaves, gradients, strict=True):
        leaf = run.leaves[at]
        dense = torch.zeros_like(leaf) if gradient is None else gradient.to_dense()
        limit = _ZERO.get(dense.dtype, _ZERO_ELSE) * size / scale[at]
        found.slopes[name, at] = _slope(subject.leaves[at].name, leaf.detach(), dense.detach(), limit)


def _slope(name: str, leaf: Tensor, gradient: Tensor, limit: float) -> Slope:
    bad = ~torch.isfinite(gradient)
    nonzero, sample = (gradient != 0) & ~bad, gradient.reshape(-1)[:64].double()
    if bad.any():
        index = tuple(int(i) for i in bad.nonzero()[0])
        kind = "NaN" if gradient[index].isnan() else "infinite"
        entry = f"{name}[{', '.join(map(str, index))}]" if index else name
        return Slope(False, kind, f"{entry} = {float(leaf[index]):.3g}", nonzero, sample)
    peak = float(gradient.abs().max()) if gradient.numel() else 0.0
    return Slope(peak <= limit, None, None, nonzero, sample)


def cotangent(output: Tensor, seed: int) -> Tensor:
    """Random weights of either sign, none near zero: a plain sum would hide a softmax, whose outputs add up to one."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand((2, *output.shape), generator=generator, dtype=torch.float64)
    dtype = output.dtype if output.is_floating_point() else torch.float64
    return ((0.5 + draws[0]) * (1 - 2 * (draws[1] < 0.5).double())).to(output.device, dtype)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
