"""Cross-entropy, plain, weighted and focal: losses of each decision by itself, averaged over all that count."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from rlgrad.checks import as_binary, counted_logits
from rlgrad.metrics.confusion import check_class_numbers
from rlgrad.metrics.items import split_ignored
from rlgrad.policies import wide
from rlgrad.surrogates.inputs import mean


def bce(
    logits: Float[Tensor, "*batch items"], target: Shaped[Tensor, "*batch items"], *, ignore_index: int | None = None
) -> Float[Tensor, ""]:
    """Cross-entropy of yes/no decisions: the mean of -log P(target).

    Args:
        logits: any floating-point type; images too, as every loss of single decisions.
        target: 0 and 1 in any dtype.
        ignore_index: target value of decisions that count for nothing: they have no gradient and are left out of the
            mean. As a criterion: ``functools.partial(bce, ignore_index=255)``.

    Raises:
        TypeError, ValueError: as every criterion here: logits that are not floating point or hold NaN, shapes that
            differ, a target other than 0 and 1.

    Example:
        >>> bce(torch.tensor([0.0, 0.0]), torch.tensor([1, 0]))
        tensor(0.6931)
    """
    logits, true, kept = _binary(logits, target, ignore_index)
    return mean(F.binary_cross_entropy_with_logits(logits, true.to(logits), reduction="none"), kept)


def cross_entropy(
    logits: Float[Tensor, "*batch items classes"],
    target: Shaped[Tensor, "*batch items"],
    *,
    ignore_index: int | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of choices among classes: the mean of -log P(target).

    The classes are the last axis, as everywhere here; ``logits.movedim(1, -1)`` makes it so for a network of images.

    Args:
        logits: any floating-point type.
        target: classes, integers.
        ignore_index: as for ``bce``.

    Raises:
        TypeError, ValueError: as every criterion here; a target that is not one of the classes.

    Example:
        >>> cross_entropy(torch.zeros(2, 3), torch.tensor([0, 2]))
        tensor(1.0986)
    """
    logits = wide(counted_logits(logits, target, ignore_index, axes=2))
    true, kept = split_ignored(target, ignore_index)
    check_class_numbers(true, logits.shape[-1], "target")
    losses = F.cross_entropy(logits.flatten(0, -2), true.flatten().long(), reduction="none")
    return mean(losses.view(target.shape), kept)


@dataclass(frozen=True)
class weighted_bce:
    """Cross-entropy in which a positive weighs ``positive_weight`` times as much as a negative.

    Args:
        positive_weight: "balanced" gives both classes of a batch the same total weight, negatives / positives; a batch
            without one class is left unweighted.
        ignore_index: as for ``bce``.

    Raises:
        ValueError: ``positive_weight`` is neither "balanced" nor a positive finite number.

    Source: King, Zeng, Logistic regression in rare events data (2001); scikit-learn's class_weight="balanced".

    Example:
        >>> weighted_bce(positive_weight=3.0)(torch.tensor([0.0, 0.0]), torch.tensor([1, 0]))
        tensor(0.6931)
    """

    positive_weight: float | str = "balanced"
    ignore_index: int | None = None

    def __post_init__(self) -> None:
        weight = self.positive_weight
        if weight != "balanced" and not (isinstance(weight, int | float) and 0 < weight < float("inf")):
            raise ValueError(f'needed "balanced" or a positive weight, got {weight!r}')

    def __call__(self, logits: Float[Tensor, "*batch items"], target: Shaped[Tensor, "*batch items"]) -> Tensor:
        """The loss, a scalar."""
        logits, true, kept = _binary(logits, target, self.ignore_index)
        weight = torch.where(true, self._of_positives(true, kept), 1.0).to(logits.dtype)
        weight = weight if kept is None else weight * kept
        losses = F.binary_cross_entropy_with_logits(logits, true.to(logits), reduction="none")
        return (weight * losses).sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)

    def _of_positives(self, true: Tensor, kept: Tensor | None) -> Tensor:
        if isinstance(self.positive_weight, str):
            positives = true.sum()
            negatives = (true.numel() if kept is None else kept.sum()) - positives
            return torch.where((positives > 0) & (negatives > 0), negatives / positives, 1.0)
        return torch.tensor(float(self.positive_weight), device=true.device)


@dataclass(frozen=True)
class focal:
    """Cross-entropy turned down on decisions that are already right: mean of -alpha_t (1 - p_t)^gamma log p_t.

    p_t is the probability of the true class; alpha_t is ``alpha`` for positives and 1 - alpha for negatives.

    Args:
        gamma: how strongly; 0 gives cross-entropy.
        alpha: weight of positives against negatives in [0, 1], or None for no weights.
        ignore_index: as for ``bce``.

    Raises:
        ValueError: ``gamma`` is negative, or ``alpha`` lies outside [0, 1].

    Source: Lin, Goyal, Girshick, He, Dollar, Focal loss for dense object detection (2017).

    Example:
        >>> focal(gamma=2.0)(torch.tensor([0.0, 0.0]), torch.tensor([1, 0]))
        tensor(0.1733)
    """

    gamma: float = 2.0
    alpha: float | None = None
    ignore_index: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < float("inf"):
            raise ValueError(f"needed gamma of at least 0 and finite, got {self.gamma}")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ValueError(f"needed alpha in [0, 1] or None, got {self.alpha}")

    def __call__(self, logits: Float[Tensor, "*batch items"], target: Shaped[Tensor, "*batch items"]) -> Tensor:
        """The loss, a scalar."""
        logits, true, kept = _binary(logits, target, self.ignore_index)
        of_truth = torch.where(true, logits, -logits)
        # (1 - p_t)^gamma through its logarithm, whose gradient is finite where p_t rounds to 1.
        losses = -torch.exp(self.gamma * F.logsigmoid(-of_truth)) * F.logsigmoid(of_truth)
        if self.alpha is not None:
            losses = losses * torch.where(true, self.alpha, 1 - self.alpha).to(losses.dtype)
        return mean(losses, kept)


def _binary(logits: Tensor, target: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits, the truth, and which decisions count: None where all do."""
    logits = wide(counted_logits(logits, target, ignore_index))
    true, kept = split_ignored(target, ignore_index)
    return logits, as_binary(true, what="target"), kept
