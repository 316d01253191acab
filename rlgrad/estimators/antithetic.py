"""Pairs of draws from one uniform noise and its mirror image."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlgrad.credit import rewards_of
from rlgrad.estimators.surrogate import check_draws, with_logit_gradient
from rlgrad.metrics import Score
from rlgrad.policies import Bernoulli, Policy


@dataclass(frozen=True)
class arm:
    """ARM (augment, reinforce, merge): two draws from one noise, and the noise itself as weight.

        dE/dz_i = E[ (r(b') - r(b)) (u_i - 1/2) ],   b = 1[u < p],  b' = 1[1 - u < p]

    Unbiased, for yes/no decisions and any scorer. ``disarm`` integrates the noise out and is never noisier.

    Args:
        draws: rewards asked for, two for each pair.

    Raises:
        TypeError: draws are no whole number; on use, a policy that is not Bernoulli.
        ValueError: draws are odd or below 2.

    Source: Yin, Zhou, ARM: Augment-REINFORCE-merge gradient for stochastic binary networks (2019).

    Example:
        >>> from rlgrad.metrics import Scorer, f1
        >>> logits = torch.zeros(4, requires_grad=True)
        >>> score = Scorer(f1, torch.tensor([1, 0, 1, 0]))
        >>> value = arm(draws=1000)(Bernoulli(logits), score, generator=torch.Generator().manual_seed(0))
        >>> value.backward()
        >>> logits.grad > 0
        tensor([ True, False,  True, False])
    """

    draws: int = 2

    def __post_init__(self) -> None:
        check_draws(self.draws, least=2, pairs=True)

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """E[reward] for each row, differentiable in the policy's logits."""
        uniform, _, reward = _pairs(policy, score, self.draws, generator, who="arm")
        difference = (reward[1] - reward[0]).to(uniform.dtype)
        return with_logit_gradient(reward.mean((0, 1)), policy, (difference[..., None] * (uniform - 0.5)).mean(0))


@dataclass(frozen=True)
class disarm:
    """DisARM (U2G): two draws from one noise, each decision credited where the two differ.

        dE/dz_i = E[ (r(b) - r(b')) / 2 * (b_i - b'_i) max(p_i, 1 - p_i) ],   b = 1[u < p],  b' = 1[1 - u < p]

    It is ``arm`` with the noise integrated out given the two draws: unbiased, and never noisier.

    Args:
        draws: rewards asked for, two for each pair.

    Raises:
        TypeError: draws are no whole number; on use, a policy that is not Bernoulli.
        ValueError: draws are odd or below 2.

    Source: Dong, Mnih, Tucker, DisARM: An antithetic gradient estimator for binary latent variables (2020); the same
        as U2G of Yin, Ho, Yan, Qian, Zhou, Probabilistic best subset selection via gradient-based optimization (2020).

    Example:
        >>> from rlgrad.metrics import Scorer, f1
        >>> logits = torch.zeros(4, requires_grad=True)
        >>> score = Scorer(f1, torch.tensor([1, 0, 1, 0]))
        >>> value = disarm(draws=1000)(Bernoulli(logits), score, generator=torch.Generator().manual_seed(0))
        >>> value.backward()
        >>> logits.grad > 0
        tensor([ True, False,  True, False])
    """

    draws: int = 2

    def __post_init__(self) -> None:
        check_draws(self.draws, least=2, pairs=True)

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """E[reward] for each row, differentiable in the policy's logits."""
        uniform, decision, reward = _pairs(policy, score, self.draws, generator, who="disarm")
        half = (reward[0] - reward[1]).to(uniform.dtype) / 2
        differ = decision[0].to(uniform.dtype) - decision[1].to(uniform.dtype)
        weight = differ * torch.sigmoid(policy.logits.detach().abs())
        return with_logit_gradient(reward.mean((0, 1)), policy, (half[..., None] * weight).mean(0))


def _pairs(
    policy: Policy, score: Score, draws: int, generator: torch.Generator | None, *, who: str
) -> tuple[Float[Tensor, "half *batch items"], Bool[Tensor, "2 half *batch items"], Float[Tensor, "2 half *batch"]]:
    """Noise, the decisions of noise and mirror image, and their rewards."""
    if not isinstance(policy, Bernoulli):
        raise TypeError(
            f"{who} needed a Bernoulli policy, got {type(policy).__name__}; use score_function or unordered_set"
        )
    uniform = policy.uniform(draws // 2, generator=generator)
    decision = torch.cat([policy.decide(uniform), policy.decide(1 - uniform)])
    reward = rewards_of(score, decision)
    return uniform, decision.unflatten(0, (2, -1)), reward.unflatten(0, (2, -1))
