"""Independent choices among classes."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from rlgrad.checks import check_logits, describe, first_index, values_visible
from rlgrad.metrics.counts import count_dtype
from rlgrad.policies.shared import check_shape, open_uniform, per_item, wide


class Categorical:
    """Independent choices among classes: P(decision = c) = softmax(logits)[c].

    A logit of -inf masks its class: it is never drawn and has no gradient.

    Args:
        logits: ``*batch items classes``.

    Raises:
        TypeError: logits are not floating point.
        ValueError: logits hold NaN or +inf, lack an axis, or an item has every class masked.

    Example:
        >>> policy = Categorical(torch.tensor([[0.0, 1.0, float("-inf")]]))
        >>> policy.probs
        tensor([[0.2689, 0.7311, 0.0000]])
        >>> policy.mode
        tensor([1])
    """

    axes: ClassVar[tuple[int, ...]] = (-2, -1)
    """Those of the logits that stand for one row: its items and their classes."""

    def __init__(self, logits: Float[Tensor, "*batch items classes"]) -> None:
        check_logits(logits, axes=2)
        if values_visible() and (bad := ~torch.isfinite(logits.amax(-1))).any():
            raise ValueError(
                f"needed logits below +inf and a class that is not masked for each item, got {describe(logits)} "
                f"without at {first_index(bad)}; unmask a class there"
            )
        self.logits = wide(logits)

    @property
    def probs(self) -> Float[Tensor, "*batch items classes"]:
        """P(decision = c), for each class c."""
        return torch.softmax(self.logits, -1)

    @property
    def mode(self) -> Int[Tensor, "*batch items"]:
        """The most probable class."""
        return self.logits.argmax(-1)

    def sample(self, draws: int, *, generator: torch.Generator | None = None) -> Int[Tensor, "draws *batch items"]:
        """Classes drawn independently, by inversion: the first class whose cumulative probability exceeds a uniform.

        One random number a decision whatever the number of classes, and no limit on them.
        """
        return self.decide(self.uniform(draws, generator=generator))

    def uniform(self, draws: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "draws *batch items"]:
        """The noise of ``sample``: one number strictly between 0 and 1 for each decision."""
        like = torch.empty(0, dtype=count_dtype(self.logits.device), device=self.logits.device)
        return open_uniform((draws, *self.logits.shape[:-1]), like=like, generator=generator)

    def decide(self, uniform: Float[Tensor, "draws *batch items"]) -> Int[Tensor, "draws *batch items"]:
        """The decisions that this noise makes."""
        cumulative = self.probs.detach().to(uniform.dtype).cumsum(-1)
        cumulative = cumulative / cumulative[..., -1:]
        return torch.searchsorted(cumulative, uniform.movedim(0, -1).contiguous(), right=True).movedim(-1, 0)

    def encode(self, decision: Int[Tensor, "draws *batch items"]) -> Float[Tensor, "draws *batch items classes"]:
        """Decisions one-hot, in the logits' dtype."""
        return F.one_hot(decision, self.logits.shape[-1]).to(self.logits.dtype)

    def surprise(self, decision: Int[Tensor, "draws *batch items"]) -> Float[Tensor, "draws *batch items classes"]:
        """One-hot decision less probabilities, which is d log P(decision) / d logits, detached."""
        probs = self.probs.detach().expand(*decision.shape, -1)
        others = probs.scatter(-1, decision[..., None], 0.0)
        return (-others).scatter(-1, decision[..., None], others.sum(-1, keepdim=True))

    def log_prob(self, decision: Int[Tensor, "... items"]) -> Float[Tensor, "... items"]:
        """Log P(decision), for each decision, with or without a draws axis.

        Raises:
            ValueError: the decision's trailing axes are not those of the logits, or name no class.
        """
        self._check(decision)
        log_probs = torch.log_softmax(self.logits, -1).expand(*decision.shape, -1)
        return log_probs.gather(-1, decision[..., None]).squeeze(-1)

    def entropy(self) -> Float[Tensor, "*batch items"]:
        """- sum over classes of p log p, for each decision, in nats."""
        log_probs = self.finite_log_probs()
        return -(log_probs.exp() * log_probs).sum(-1)

    def log_likelihood(
        self, decision: Int[Tensor, "draws *batch items"], weight: Float[Tensor, "draws ..."]
    ) -> Float[Tensor, "*batch"]:
        """Sum over draws and items of weight times log P(decision); see ``Bernoulli.log_likelihood``."""
        self._check(decision)
        weight = per_item(weight, decision).expand(decision.shape)
        of_class = torch.zeros_like(self.logits)
        of_class.scatter_add_(-1, decision.movedim(0, -1), weight.movedim(0, -1).to(of_class.dtype))
        return (of_class * self.finite_log_probs()).sum((-1, -2))

    def finite_log_probs(self) -> Float[Tensor, "*batch items classes"]:
        """Log-probabilities of the classes; of masked ones a finite constant, whose product with zero is zero."""
        log_probs = torch.log_softmax(self.logits, -1)
        return torch.where(torch.isfinite(log_probs), log_probs, torch.finfo(log_probs.dtype).min)

    def _check(self, decision: Tensor) -> None:
        classes = self.logits.shape[-1]
        check_shape(decision, self.logits.shape[:-1])
        if values_visible() and (bad := (decision < 0) | (decision >= classes)).any():
            where = first_index(bad)
            raise ValueError(
                f"needed classes from 0 to {classes - 1}, got {int(decision[where])} at {where}; "
                "check the number of classes"
            )
