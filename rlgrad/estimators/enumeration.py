"""The expectation over every outcome, or over the likeliest and draws of the rest."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.credit import rewards_of
from rlgrad.estimators.outcomes import all_log_probs, by_score, log_probs, outcomes, rows_of
from rlgrad.estimators.surrogate import check_draws, check_whole, with_logit_gradient
from rlgrad.metrics import Score
from rlgrad.policies import Policy, slices


@dataclass(frozen=True)
class enumeration:
    """The exact expectation of any scorer, by asking for the reward of every outcome.

        E[r] = sum over outcomes o of P(o) r(o)

    No sampling and no variance, for up to 65536 outcomes a row, such as 16 yes/no decisions or rankings of 8 items.

    Raises:
        ValueError: on use, with more outcomes.

    Source: by definition.

    Example:
        >>> from rlgrad import Bernoulli
        >>> logits = torch.zeros(2, requires_grad=True)
        >>> both = enumeration()(Bernoulli(logits), lambda decision: decision.all(-1).float())
        >>> both.backward()
        >>> both.item(), logits.grad
        (0.25, tensor([0.1250, 0.1250]))
    """

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """E[reward] for each row, differentiable in the policy's logits."""
        listed = outcomes(policy, who="enumeration")
        value = gradient = torch.zeros(())
        for part in slices(len(listed), policy.logits.numel()):
            decision = rows_of(listed[part], policy)
            reward = rewards_of(score, decision)
            share = log_probs(policy, decision).exp() * reward
            value, gradient = value + share.sum(0), gradient + by_score(policy, decision, share)
        return with_logit_gradient(value, policy, gradient)


@dataclass(frozen=True)
class sum_and_sample:
    """The likeliest outcomes summed exactly, and draws of the others, for up to 65536 outcomes a row.

        E[r] = sum over likely o of P(o) r(o)  +  P(others) E[r | others]

    Unbiased: only the part that is left to chance is noisy. For the gradient each reward is taken relative to the mean
    reward of the likely outcomes.

    Args:
        summed: how many of the likeliest outcomes are summed.
        draws: how often the others are drawn.

    Raises:
        TypeError: draws are no whole number.
        ValueError: fewer than 1 draw or 1 summed; on use, more outcomes than can be listed.

    Source: Liu, Regier, Tripuraneni, Jordan, McAuliffe, Rao-Blackwellized stochastic gradients for discrete
        distributions (2019).

    Example:
        >>> from rlgrad import Bernoulli
        >>> logits = torch.tensor([3.0, -3.0], requires_grad=True)
        >>> estimate = sum_and_sample(summed=3, draws=1)  # of four outcomes: a single one is left
        >>> value = estimate(Bernoulli(logits), lambda decision: decision[..., 0].float())
        >>> print(f"{value:.4f} {torch.sigmoid(logits[0]):.4f}")
        0.9526 0.9526
    """

    summed: int = 1
    draws: int = 1

    def __post_init__(self) -> None:
        check_draws(self.draws, least=1)
        check_whole(self.summed, what="outcomes to sum")
        if self.summed < 1:
            raise ValueError(f"needed at least 1 outcome to sum, got {self.summed}; score_function sums none")

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """E[reward] for each row, differentiable in the policy's logits."""
        listed = outcomes(policy, who="sum_and_sample")
        probs = all_log_probs(policy, listed).exp()
        likely = probs.topk(min(self.summed, len(listed)), -1).indices
        others = probs.scatter(-1, likely, 0.0)
        left = others.sum(-1)
        # Where all outcomes are summed nothing is left, and what is drawn has weight zero.
        drawn = _drawn(torch.where(left[..., None] > 0, others, 1.0), self.draws, generator)
        weight = torch.cat([probs.gather(-1, likely), (left[..., None] / self.draws).expand(drawn.shape)], -1)
        decision = listed[torch.cat([likely, drawn], -1).movedim(-1, 0)]
        weight = weight.movedim(-1, 0)
        reward = rewards_of(score, decision)
        # The mean reward of the likely ones is no matter of chance, hence a baseline.
        baseline = (weight * reward)[: -self.draws].sum(0) / weight[: -self.draws].sum(0)
        gradient = by_score(policy, decision, weight * (reward - baseline))
        return with_logit_gradient((weight * reward).sum(0), policy, gradient)


def _drawn(weights: Tensor, draws: int, generator: torch.Generator | None) -> Tensor:
    flat = weights.reshape(-1, weights.shape[-1])
    return torch.multinomial(flat, draws, replacement=True, generator=generator).reshape(*weights.shape[:-1], draws)
