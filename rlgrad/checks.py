"""What every entrance asks of its input, with one wording: needed, got, do.

The checks look at values, so they are skipped where looking is impossible: while ``torch.compile`` traces, and while
a CUDA graph is captured.
"""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


def describe(tensor: Tensor) -> str:
    """Shape and dtype, as every message names them: ``(4, 2) float32``."""
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def values_visible() -> bool:
    """Whether Python may look at values now."""
    if torch.compiler.is_compiling():
        return False
    return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def first_index(mask: Bool[Tensor, "..."]) -> tuple[int, ...]:
    """Index of the first true entry, for messages."""
    return tuple(int(i) for i in mask.nonzero()[0])


def check_logits(logits: Shaped[Tensor, "..."], *, axes: int = 1) -> None:
    """Logits are floating point, have the axes of the shape rule, and hold no NaN.

    Args:
        logits: what a model put out.
        axes: how many trailing axes are needed: 1 (items), or 2 (items, classes).
    """
    if not logits.is_floating_point():
        raise TypeError(f"needed floating-point logits, got {describe(logits)}; pass the model's output, not decisions")
    if logits.ndim < axes:
        names = "*batch items" if axes == 1 else "*batch items classes"
        raise ValueError(
            f"needed logits of shape ({names}), got {describe(logits)}; a bare squeeze() also drops a batch of one, "
            "use squeeze(-1)"
        )
    # The sum is NaN where an entry is, and costs less than isnan; +inf - inf is NaN too, hence the second look.
    if values_visible() and torch.isnan(logits.detach().sum()) and (bad := torch.isnan(logits)).any():
        raise ValueError(
            f"needed logits without NaN, got {int(bad.sum())} of {logits.numel()}, the first at {first_index(bad)}; "
            "look for a diverged weight or a NaN in the input"
        )


def check_decision(decision: Shaped[Tensor, "..."]) -> None:
    """Decisions are bool or integer: scores or probabilities are never thresholded by guess."""
    if decision.is_floating_point() or decision.is_complex():
        raise TypeError(
            f"needed bool or integer decisions, got {describe(decision)}; decide first, for instance logits > 0"
        )


def as_binary(values: Shaped[Tensor, "*shape"], *, what: str) -> Bool[Tensor, "*shape"]:
    """The same values as bool, where they are exactly 0 or 1; else a ValueError that names the first other one.

    Args:
        values: bool, integer or floating point.
        what: the word for the message, ``target`` or ``decision``.
    """
    if values.dtype == torch.bool:
        return values
    binary = values == 1
    if values_visible() and (bad := ~(binary | (values == 0))).any():
        where = first_index(bad)
        raise ValueError(
            f"needed a {what} of 0 and 1, got {values[where].item()} at {where} in {describe(values)}; "
            "map the two classes to 0 and 1"
        )
    return binary


def check_rows(decision: Shaped[Tensor, "..."], target: Shaped[Tensor, "..."]) -> None:
    """The decision's trailing axes are the target's, exactly: nothing is broadcast."""
    rows = decision.shape[decision.ndim - target.ndim :] if decision.ndim >= target.ndim else decision.shape
    if target.ndim == 0 or rows != target.shape:
        raise ValueError(
            f"needed a decision of shape (*draws, *{tuple(target.shape)}) for the target {describe(target)}, "
            f"got {describe(decision)}; nothing is broadcast, reshape one of them"
        )


def check_target(logits: Float[Tensor, "..."], target: Shaped[Tensor, "..."], *, axes: int = 1) -> None:
    """The target is a tensor and has the logits' shape (less the classes), exactly."""
    if not isinstance(target, Tensor):
        raise TypeError(f"needed a tensor as target, got {type(target).__name__}; torch.as_tensor makes one")
    needed = logits.shape if axes == 1 else logits.shape[:-1]
    if target.shape != needed:
        raise ValueError(
            f"needed a target of shape {tuple(needed)} for the logits {describe(logits)}, got {describe(target)}; "
            f"nothing is broadcast, {_advice(logits.shape, target.shape, axes)}"
        )


def _advice(logits: torch.Size, target: torch.Size, axes: int) -> str:
    """What to do about a target that does not fit: which usual slip it looks like."""
    if axes == 1 and logits == (*target, 1):
        return "squeeze(-1) the logits"
    if axes == 1 and len(logits) > 2 and (logits[0], 1, *target[1:]) == logits:
        return "squeeze(1) the logits"
    if axes == 2 and logits == target:
        return "pass the numbers of the classes: target.argmax(-1) where it is one-hot"
    if axes == 1 and logits[:-1] == target:
        return "for a choice among classes take a metric of classes, or policy=Categorical"
    if axes == 2 and len(logits) > 2 and (*logits[:1], *logits[2:]) == target:
        return "the classes are the last axis: logits.movedim(1, -1)"
    return "reshape one of them"


def counted_logits(
    logits: Float[Tensor, "..."],
    target: Shaped[Tensor, "..."],
    ignore_index: int | None,
    *,
    axes: int = 1,
    instead: float = 0.0,
) -> Float[Tensor, "..."]:
    """Checked logits, constant where the target is ignored: there nothing has a gradient, and NaN does no harm.

    Args:
        logits: ``*batch *items [classes]``.
        target: ``*batch *items``.
        ignore_index: target value of items that count for nothing.
        axes: 2 where there are classes.
        instead: the constant.

    Raises:
        TypeError: logits are not floating point.
        ValueError: the shapes differ, or logits that count hold NaN.
    """
    check_target(logits, target, axes=axes)
    if ignore_index is not None and logits.is_floating_point():
        counts = target != ignore_index
        logits = torch.where(counts if axes == 1 else counts[..., None], logits, instead)
    check_logits(logits, axes=axes)
    return logits


def check_rows_of_several(target: Shaped[Tensor, "*batch items"]) -> None:
    """Rows are not of a single item: a trailing axis of one, as ``nn.Linear(n, 1)`` leaves it, is no batch of rows."""
    if target.ndim > 1 and target.shape[-1] == 1 and target.numel() > 1:
        raise ValueError(
            f"needed rows of several items, got {describe(target)}, which would score each single decision by "
            "itself; squeeze(-1) logits and target to score the batch as one"
        )


def check_generator(generator: object) -> None:
    """Randomness comes from a generator, or None for torch's own; a bare seed is not one.

    Raises:
        TypeError: it is neither.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"needed a generator, got {generator!r}; pass torch.Generator().manual_seed(0)")
