"""The expectation of any formula of a confusion matrix to second order, without sampling."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rlgrad.checks import check_target
from rlgrad.credit import check_classes
from rlgrad.metrics import ConfusionMetric, Score, Scorer, expected_confusion
from rlgrad.metrics.counts import count_dtype
from rlgrad.policies import Categorical, Policy

_MOST_CLASSES = 32  # the moves of one row hold classes^5 numbers, which autograd keeps: a quarter of a gigabyte for 32
_SMALLEST = 1e-6  # expected count below which a move is left out: its share in the sum is smaller still


@dataclass(frozen=True)
class second_order:
    """E[metric] of a formula of classes by its second-order expansion about the expected confusion matrix.

        E[F(C)] = F(m) + 1/2 tr(F''(m) Cov C) + O(items^-2),    m = E[C]
        tr(F'' Cov) = sum over true classes t, classes c != d of  A_t[c, d] (F(m moved from c to d) - F(m)) / h^2

    with A_t[c, d] the sum over items of class t of p_c p_d: the covariance of one item's choice is a sum over pairs of
    classes, and along a pair the second derivative is a second difference, so that the formula is only evaluated. The
    step h is one count, or half the expected count where that is smaller. O(items classes^2 + classes^5), no sampling,
    and a bias that falls with the square of the number of items; ``counterfactual`` has none, and ``exact`` serves
    the averages of a CountMetric over classes.

    Raises:
        TypeError: on use, with anything but a ConfusionMetric under a Categorical policy.
        ValueError: another number of classes, more than 32 of them, or a target of another shape.

    Source: the delta method to second order, as in Bickel, Doksum, Mathematical statistics (2015), section 5.3.

    Example:
        >>> from rlgrad.metrics import class_mcc
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]]).repeat(50, 1).requires_grad_()
        >>> value = second_order()(Categorical(logits), Scorer(class_mcc(3), torch.tensor([0, 1]).repeat(50)))
        >>> print(f"{value:.4f}")
        0.5073
    """

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """E[reward] for each row, differentiable in the policy's logits."""
        if not (isinstance(policy, Categorical) and isinstance(score, Scorer)) or not isinstance(
            score.metric, ConfusionMetric
        ):
            got = score.metric if isinstance(score, Scorer) else score
            raise TypeError(
                f"second_order needed a Categorical policy and a ConfusionMetric, got {type(policy).__name__} and "
                f"{got!r}; use exact for a CountMetric, score_function for a black box"
            )
        metric = score.metric
        if metric.classes > _MOST_CLASSES:
            raise ValueError(
                f"second_order needed at most {_MOST_CLASSES} classes, got {metric!r}; use counterfactual, whose cost "
                "does not grow so"
            )
        check_classes(policy, score)
        check_target(policy.logits, score.flat_target, axes=2)
        true, weight = metric.split(score.target, score.weight)
        probs = torch.softmax(policy.logits.to(count_dtype(true.device)), -1)
        mean = expected_confusion(probs, true, weight)
        pairs = _pairs(probs, true, weight)
        least = torch.minimum(mean[..., :, None], mean[..., None, :]).detach()
        step = (least / 2).clamp(_SMALLEST / 2, 1.0)
        curvature = torch.where(least > _SMALLEST, pairs * metric.of_moves(mean, step) / step**2, 0.0)
        return (metric.of_confusion(mean) + curvature.sum((-3, -2, -1)) / 2).to(policy.logits.dtype)


def _pairs(
    probs: Float[Tensor, "*batch items classes"], true: Tensor, weight: Tensor | None
) -> Float[Tensor, "*batch true claimed other"]:
    """Sum over the items of each true class of p_claimed p_other, with the squares of the weights."""
    of_class = F.one_hot(true.long(), probs.shape[-1]).to(probs)
    if weight is not None:
        of_class = of_class * weight.to(probs)[..., None] ** 2
    sums = [torch.einsum("...i,...ic,...id->...cd", one, probs, probs) for one in of_class.unbind(-1)]
    return torch.stack(sums, -3) * (1 - torch.eye(probs.shape[-1], dtype=probs.dtype, device=probs.device))
