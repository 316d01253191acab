"""Independent real-valued decisions."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.checks import check_logits, describe, first_index, values_visible
from rlgrad.metrics.counts import count_dtype
from rlgrad.policies.shared import check_shape, open_uniform, per_item, wide

# A standard deviation lies in [2e-9, 5e8]: its square, and the ratio of two such squares, are numbers in float32.
_LOG_STD = 20.0
# Beyond as many standard deviations from the mean a decision counts as that far: sums of its squares are numbers.
_FAR = 1e12


class Gaussian:
    """Independent real-valued decisions: decision ~ N(mean, exp(log_std)^2), where logits hold (mean, log_std).

    log p(x) = -(x - mean)^2 / (2 std^2) - log std - log(2 pi) / 2, a density: it may be above 0.

    The log of the standard deviation is held within [-20, 20], and has no gradient beyond. A standard deviation below
    the rounding of its mean, 1e-7 of it in float32, cannot be drawn from faithfully.

    Args:
        logits: ``*batch items 2``, mean and log of the standard deviation of each decision.

    Raises:
        TypeError: logits are not floating point.
        ValueError: logits are not finite, or the last axis is not of two.

    Source: Williams (1992), section 6.

    Example:
        >>> policy = Gaussian(torch.tensor([[0.0, 0.0], [3.0, -1.0]]))
        >>> policy.mode
        tensor([0., 3.])
        >>> policy.log_prob(torch.tensor([1.0, 3.0]))
        tensor([-1.4189,  0.0811])
        >>> policy.sample(4, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([4, 2])
    """

    axes: ClassVar[tuple[int, ...]] = (-2, -1)
    """Those of the logits that stand for one row: its items, and the two numbers of each."""

    def __init__(self, logits: Float[Tensor, "*batch items 2"]) -> None:
        if logits.ndim < 2 or logits.shape[-1] != 2:
            raise ValueError(
                f"needed logits of shape (*batch items 2), got {describe(logits)}; "
                "stack mean and log of the standard deviation, torch.stack([mean, log_std], -1)"
            )
        check_logits(logits, axes=2)
        if values_visible() and (bad := torch.isinf(logits)).any():
            where = first_index(bad)
            raise ValueError(f"needed finite logits, got {logits[where].item()} at {where}; look for a diverged weight")
        self.logits = wide(logits)

    @property
    def mean(self) -> Float[Tensor, "*batch items"]:
        """E[decision]."""
        return self.logits[..., 0]

    @property
    def log_std(self) -> Float[Tensor, "*batch items"]:
        """Log of the standard deviation, within its bounds."""
        return self.logits[..., 1].clamp(-_LOG_STD, _LOG_STD)

    @property
    def std(self) -> Float[Tensor, "*batch items"]:
        """Standard deviation of the decision."""
        return self.log_std.exp()

    @property
    def mode(self) -> Float[Tensor, "*batch items"]:
        """The decision of the highest density: the mean, detached."""
        return self.mean.detach()

    def sample(self, draws: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "draws *batch items"]:
        """Decisions drawn independently, detached."""
        return self.decide(self.uniform(draws, generator=generator))

    def uniform(self, draws: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "draws *batch items"]:
        """The noise of ``sample``: one number strictly between 0 and 1 for each decision.

        In double precision where there is one: single precision knows no number above the 5.3rd standard deviation.
        """
        like = torch.empty(0, dtype=count_dtype(self.logits.device), device=self.logits.device)
        return open_uniform((draws, *self.logits.shape[:-1]), like=like, generator=generator)

    def decide(self, uniform: Float[Tensor, "draws *batch items"]) -> Float[Tensor, "draws *batch items"]:
        """The decisions that this noise makes: by inversion, mean + std times the normal quantile of the noise."""
        quantile: Tensor = torch.special.ndtri(uniform)
        return self.mode + self.std.detach() * quantile.to(self.logits.dtype)

    def surprise(self, decision: Float[Tensor, "draws *batch items"]) -> Float[Tensor, "draws *batch items 2"]:
        """The derivative d log p(decision) / d logits, detached: z / std and z^2 - 1, z in standard deviations."""
        with torch.no_grad():
            z = self._standardized(decision)
            inside = self.logits[..., 1].abs() <= _LOG_STD
            return torch.stack([z / self.std, torch.where(inside, z.square() - 1, 0.0)], -1)

    def distance(self, value: Float[Tensor, "... items"]) -> Float[Tensor, "... items"]:
        """How many standard deviations a value lies above the mean."""
        far = _FAR * self.std.detach()
        # Not divided by std, whose derivative would square a small one.
        return (value - self.mean).clamp(-far, far) * torch.exp(-self.log_std)

    def log_prob(self, decision: Float[Tensor, "... items"]) -> Float[Tensor, "... items"]:
        """Log of the density of each decision, with or without a draws axis.

        Raises:
            TypeError: decisions are not floating point.
            ValueError: the decision's trailing axes are not those of the mean, or it is not finite.
        """
        return -self._standardized(decision).square() / 2 - self.log_std - math.log(2 * math.pi) / 2

    def entropy(self) -> Float[Tensor, "*batch items"]:
        """Log std + log(2 pi e) / 2, the differential entropy of each decision, in nats; it may be below 0."""
        return self.log_std + math.log(2 * math.pi * math.e) / 2

    def log_likelihood(
        self, decision: Float[Tensor, "draws *batch items"], weight: Float[Tensor, "draws ..."]
    ) -> Float[Tensor, "*batch"]:
        """Sum over draws and items of weight times log p(decision); see ``Bernoulli.log_likelihood``."""
        return (per_item(weight, decision) * self.log_prob(decision)).sum((0, -1))

    def _standardized(self, decision: Tensor) -> Tensor:
        if not decision.is_floating_point():
            raise TypeError(f"needed floating-point decisions, got {describe(decision)}; pass what the policy drew")
        check_shape(decision, self.logits.shape[:-1])
        if values_visible() and (bad := ~torch.isfinite(decision)).any():
            where = first_index(bad)
            raise ValueError(f"needed finite decisions, got {decision[where].item()} at {where}; pass what was drawn")
        return self.distance(decision.to(self.logits.dtype))
