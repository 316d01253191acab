"""Independent yes/no decisions."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from rlgrad.checks import check_logits
from rlgrad.policies.shared import check_shape, finite, open_uniform, per_item, slices, wide


class Bernoulli:
    """Independent yes/no decisions: P(decision = 1) = sigmoid(logit).

    Everything is written with log-sigmoid, so log-probabilities and gradients are finite for any finite logit. An
    infinite logit is a sure decision, with log-probability 0 and no gradient.

    Args:
        logits: ``*batch items``.

    Raises:
        TypeError: logits are not floating point.
        ValueError: logits hold NaN or have no items axis.

    Example:
        >>> policy = Bernoulli(torch.tensor([2.0, -1.0]))
        >>> policy.mode
        tensor([ True, False])
        >>> policy.log_prob(policy.mode)
        tensor([-0.1269, -0.3133])
        >>> policy.sample(3, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3, 2])
    """

    axes: ClassVar[tuple[int, ...]] = (-1,)
    """Those of the logits that stand for one row: its items."""

    def __init__(self, logits: Float[Tensor, "*batch items"]) -> None:
        check_logits(logits)
        self.logits = finite(wide(logits))

    @property
    def probs(self) -> Float[Tensor, "*batch items"]:
        """P(decision = 1)."""
        return torch.sigmoid(self.logits)

    @property
    def mode(self) -> Bool[Tensor, "*batch items"]:
        """The more probable decision; 0 on a tie."""
        return self.logits > 0

    def sample(self, draws: int, *, generator: torch.Generator | None = None) -> Bool[Tensor, "draws *batch items"]:
        """Decisions drawn independently."""
        return self.decide(self.uniform(draws, generator=generator))

    def uniform(self, draws: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "draws *batch items"]:
        """The noise of ``sample``: one number strictly between 0 and 1 for each decision."""
        return open_uniform((draws, *self.logits.shape), like=self.logits, generator=generator)

    def decide(self, uniform: Float[Tensor, "draws *batch items"]) -> Bool[Tensor, "draws *batch items"]:
        """The decisions that this noise makes: 1 where it lies below the probability."""
        return uniform < self.probs.detach()

    def encode(self, decision: Bool[Tensor, "draws *batch items"]) -> Float[Tensor, "draws *batch items"]:
        """Decisions as the numbers 0 and 1, in the logits' dtype."""
        return decision.to(self.logits.dtype)

    def surprise(self, decision: Bool[Tensor, "draws *batch items"]) -> Float[Tensor, "draws *batch items"]:
        """Decision less probability, which is d log P(decision) / d logits; detached, and exact for sure ones."""
        logits = self.logits.detach()
        return torch.where(decision, torch.sigmoid(-logits), -torch.sigmoid(logits))

    def log_prob(self, decision: Bool[Tensor, "... items"]) -> Float[Tensor, "... items"]:
        """Log P(decision), for each decision, with or without a draws axis.

        Raises:
            ValueError: the decision's trailing axes are not those of the logits.
        """
        check_shape(decision, self.logits.shape)
        return F.logsigmoid(torch.where(decision, self.logits, -self.logits))

    def entropy(self) -> Float[Tensor, "*batch items"]:
        """- p log p - (1 - p) log(1 - p), for each decision, in nats."""
        z = self.logits
        return -(torch.sigmoid(z) * F.logsigmoid(z) + torch.sigmoid(-z) * F.logsigmoid(-z))

    def log_likelihood(
        self, decision: Bool[Tensor, "draws *batch items"], weight: Float[Tensor, "draws ..."]
    ) -> Float[Tensor, "*batch"]:
        """Sum over draws and items of weight times log P(decision).

        The draws' weights are added up for each outcome first, so autograd keeps O(items), however many draws.

        Args:
            decision: what was drawn.
            weight: constants, ``draws *batch``, or ``draws *batch items`` for credit to single decisions.
        """
        check_shape(decision, self.logits.shape)
        weight = per_item(weight, decision)
        ones = sum((weight[part] * decision[part]).sum(0) for part in slices(len(decision), self.logits.numel()))
        zeros = weight.sum(0) - ones
        return (ones * F.logsigmoid(self.logits) + zeros * F.logsigmoid(-self.logits)).sum(-1)
