"""What the function itself says: finite differences, to hold against autograd."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlgrad.probing.looking import cotangent
from rlgrad.probing.points import Point, sizes, standard_normal
from rlgrad.probing.subject import Subject


@dataclass(frozen=True)
class _Steps:
    """Steps of finite differences for a floating-point type, the smaller one last, and what rounding does to them."""

    central: tuple[float, float]
    sided: tuple[float, float]
    tolerance: float
    rounding: float

    @staticmethod
    def of(dtype: torch.dtype | None) -> "_Steps":
        if dtype == torch.float64:
            return _Steps((1e-6, 1e-7), (1e-4, 1e-6), 1e-2, 1e-14)
        return _Steps((1e-2, 3e-3), (1e-1, 1e-2), 5e-2, 1e-6)


@dataclass(frozen=True)
class Comparison:
    """The slope along a random direction, by autograd and by finite differences.

    Args:
        autograd: what autograd says.
        measured: central difference.
        agree: None where the difference is no slope, as across a jump.
    """

    autograd: float
    measured: float
    agree: bool | None


def compare(
    subject: Subject, point: Point, dtype: torch.dtype | None, outputs: Sequence[str], moved: Sequence[int]
) -> dict[str, Comparison]:
    """Move some leaves together along a random direction, and compare the slope of each output with autograd's."""
    generator = torch.Generator().manual_seed(subject.seed)
    values = point.values
    scale = sizes(values)
    direction = {at: scale[at] * standard_normal([values[at]], generator)[0] for at in moved}
    weights: dict[str, Tensor] = {}
    slopes: dict[str, float] = {}
    with subject.at(values, dtype=dtype, arguments=point.arguments, seed=subject.seed + point.shift) as run:
        for name in outputs:
            output = run.outputs[name]
            # An infinite entry, such as a masked logit, has no slope to compare.
            weights[name] = torch.where(torch.isfinite(output), cotangent(output, subject.seed), 0).detach()
            targets = [run.leaves[at] for at in moved]
            gradients = torch.autograd.grad(output, targets, weights[name], True, allow_unused=True)
            slopes[name] = sum(
                float((gradient.to_dense().double() * direction[at]).sum())
                for at, gradient in zip(moved, gradients, strict=True)
                if gradient is not None
            )
    steps = _Steps.of(dtype)
    fine = _central(subject, point, dtype, weights, direction, steps.central[1])
    found = {name: _judge(slopes[name], fine[name], fine[name], steps) for name in outputs}
    if all(one.agree for one in found.values()):
        return found
    coarse = _central(subject, point, dtype, weights, direction, steps.central[0])
    return {name: _judge(slopes[name], coarse[name], fine[name], steps) for name in outputs}


def _central(
    subject: Subject,
    point: Point,
    dtype: torch.dtype | None,
    weights: Mapping[str, Tensor],
    direction: Mapping[int, Tensor],
    step: float,
) -> dict[str, tuple[float, float]]:
    """Central difference of each weighted output, and the error that rounding leaves in it."""
    ahead = _weighted(subject, point, dtype, weights, direction, step)
    behind = _weighted(subject, point, dtype, weights, direction, -step)
    rounding = _Steps.of(dtype).rounding
    return {
        name: ((ahead[name][0] - behind[name][0]) / (2 * step), rounding * ahead[name][1] / step) for name in weights
    }


def _weighted(
    subject: Subject,
    point: Point,
    dtype: torch.dtype | None,
    weights: Mapping[str, Tensor],
    direction: Mapping[int, Tensor],
    step: float,
) -> dict[str, tuple[float, float]]:
    """Each output weighted and summed at a distance from the point, and the sum of its absolute values."""
    values = [
        value.double() + step * direction[at] if at in direction else value for at, value in enumerate(point.values)
    ]
    with subject.at(values, dtype=dtype, arguments=point.arguments, seed=subject.seed + point.shift) as run:
        return {name: _sums(run.outputs[name], weight) for name, weight in weights.items()}


def _sums(output: Tensor, weight: Tensor) -> tuple[float, float]:
    if output.shape != weight.shape:
        return float("nan"), float("nan")
    terms = torch.where(weight == 0, 0.0, weight.double() * output.detach().double())
    return float(terms.sum()), float(terms.abs().sum())


def _judge(slope: float, far: tuple[float, float], near: tuple[float, float], steps: _Steps) -> Comparison:
    (coarse, _), (fine, error) = far, near
    measured = coarse if abs(coarse - slope) < abs(fine - slope) else fine
    largest = max(abs(measured), abs(slope))
    if abs(measured - slope) <= steps.tolerance * largest + error:
        return Comparison(slope, measured, True)
    stable = abs(coarse - fine) <= 0.1 * max(largest, abs(fine)) + 2 * error
    return Comparison(slope, 0.0 if abs(fine) <= error else fine, False if stable else None)


@dataclass(frozen=True)
class Break:
    """A kink or a jump of an output along one entry of an input.

    Args:
        where: the point.
        left: slope on the left; for a jump the change from the left.
        right: slope on the right; for a jump the change to the right.
        autograd: what autograd says there; None if it is not connected.
        jump: whether the value itself jumps.
    """

    where: str
    left: float
    right: float
    autograd: float | None
    jump: bool


def find_break(subject: Subject, point: Point, dtype: torch.dtype | None, output: str, leaf: int) -> Break | None:
    """Compare one-sided differences at a point, moving the first entry of an input.

    The output is summed; where that shows nothing its first entry alone is looked at, as sorting hides in a sum.
    """
    base = point.values
    direction = torch.zeros(base[leaf].shape, dtype=torch.float64, device=base[leaf].device)
    direction.view(-1)[0] = 1.0
    coarse, fine = _Steps.of(dtype).sided
    values: dict[float, Tensor] = {}
    for step in (0.0, coarse, -coarse, fine, -fine):
        moved = [value.double() + step * direction if at == leaf else value for at, value in enumerate(base)]
        with subject.at(moved, dtype=dtype) as run:
            values[step] = run.outputs[output].detach().double()
    if len({value.shape for value in values.values()}) > 1 or not all(v.isfinite().all() for v in values.values()):
        return None
    for weight in _plain_weights(values[0.0]):
        largest = max(float((weight * value).abs().sum()) for value in values.values())
        noise = 100 * _Steps.of(dtype).rounding * largest
        found = _broken({step: float((weight * v).sum()) for step, v in values.items()}, coarse, fine, noise)
        if found is not None:
            left, right, jump = found
            return Break(point.label, left, right, _slope_at(subject, point, dtype, output, leaf, weight), jump)
    return None


def _plain_weights(output: Tensor) -> list[Tensor]:
    first = torch.zeros_like(output)
    first.view(-1)[:1] = 1.0
    return [torch.ones_like(output), first]


def _broken(s: Mapping[float, float], coarse: float, fine: float, noise: float) -> tuple[float, float, bool] | None:
    """The slopes on both sides if they differ, or the changes if it jumps.

    The difference of two slopes shrinks with the step where a function is smooth and stays where it has a kink; a
    change of value shrinks with the step, unless it is a jump.
    """
    right, left = s[fine] - s[0.0], s[0.0] - s[-fine]
    far_right, far_left = s[coarse] - s[0.0], s[0.0] - s[-coarse]
    for near, far in ((right, far_right), (left, far_left)):
        if abs(near) > max(noise, 0.5 * abs(far)):
            return left, right, True
    gap, far_gap = (right - left) / fine, (far_right - far_left) / coarse
    if abs(gap) <= max(noise / fine, 0.5 * abs(far_gap)):
        return None
    # A slope that grows without bound towards the point, as that of a root, is no kink.
    if abs(gap) > 2 * abs(far_gap):
        return None
    return left / fine, right / fine, False


def _slope_at(
    subject: Subject, point: Point, dtype: torch.dtype | None, output: str, leaf: int, weight: Tensor
) -> float | None:
    with subject.at(point.values, dtype=dtype) as run:
        tensor = run.outputs[output]
        if not tensor.requires_grad:
            return None
        try:
            (gradient,) = torch.autograd.grad(tensor, [run.leaves[leaf]], weight.to(tensor.dtype), allow_unused=True)
        except RuntimeError:
            return None
        return None if gradient is None else float(gradient.to_dense().reshape(-1)[0])


def depends(subject: Subject, point: Point, dtype: torch.dtype | None, outputs: Sequence[str], leaf: int) -> set[str]:
    """The outputs that change when a leaf moves far; a function that refuses the move tells nothing."""
    generator = torch.Generator().manual_seed(subject.seed)
    base = point.values
    size = sizes(base)[leaf]
    with subject.at(base, dtype=dtype) as run:
        before = {name: run.outputs[name].detach().clone() for name in outputs}
    changed: set[str] = set()
    for step in (0.1, *(1.0, -1.0, 3.0, -3.0) * 3):  # a rank statistic of a few numbers takes few values
        if len(changed) == len(outputs):
            break
        move = step * size * standard_normal([base[leaf]], generator)[0]
        values = [value + move if at == leaf else value for at, value in enumerate(v.double() for v in base)]
        try:
            with subject.at(values, dtype=dtype) as run:
                changed |= {name for name in outputs if _differs(before[name], run.outputs.get(name), dtype)}
        except Exception:  # outside the function's domain
            continue
    return changed


def _differs(before: Tensor, after: Tensor | None, dtype: torch.dtype | None) -> bool:
    if after is None or after.shape != before.shape:
        return True
    one, other = before.double(), after.detach().double()
    largest = float(one.abs().nan_to_num(0, 0, 0).max()) if one.numel() else 0.0
    limit = 1e3 * _Steps.of(dtype).rounding
    return not torch.allclose(one, other, rtol=limit, atol=limit * largest, equal_nan=True)
