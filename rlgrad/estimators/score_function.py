"""REINFORCE: the gradient of an expectation from nothing but rewards."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.credit import Credit, Play, leave_one_out, leaves_one_out, rewards_of
from rlgrad.estimators.surrogate import check_draws, with_gradient
from rlgrad.metrics import Score
from rlgrad.policies import Policy


@dataclass(frozen=True)
class score_function:
    """The score-function estimator (REINFORCE, likelihood ratio), for any scorer.

        grad E[r(b)] = E[ A(b) grad log p(b) ],  estimated by the mean over draws

    Unbiased for each credit A of this library: they subtract from the reward only what the draw does not decide. Its
    variance grows with the number of decisions that share one reward.

    Args:
        draws: how many times all decisions are drawn for each estimate.
        credit: from rewards to advantages; the default leaves one out.

    Raises:
        TypeError: draws are no whole number.
        ValueError: fewer draws than 1, or than the 2 that leave_one_out and reward_to_go need.

    Source: Williams (1992); Kool et al. (2019) for the default credit.

    Example:
        >>> from rlgrad import Bernoulli
        >>> from rlgrad.metrics import Scorer, f1
        >>> logits = torch.zeros(4, requires_grad=True)
        >>> target = torch.tensor([1, 0, 1, 0])
        >>> estimate = score_function(draws=1000)
        >>> value = estimate(Bernoulli(logits), Scorer(f1, target), generator=torch.Generator().manual_seed(0))
        >>> value.backward()
        >>> logits.grad > 0
        tensor([ True, False,  True, False])
    """

    draws: int = 16
    credit: Credit = leave_one_out

    def __post_init__(self) -> None:
        check_draws(self.draws, least=2 if leaves_one_out(self.credit) else 1)

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """E[reward] for each row, differentiable in the policy's logits."""
        decision = policy.sample(self.draws, generator=generator)
        reward = rewards_of(score, decision)
        advantage = self.credit(reward.detach(), Play(policy, decision, score))
        weight = advantage.detach().to(policy.logits.dtype) / self.draws
        surrogate = policy.log_likelihood(decision, weight)
        if advantage.requires_grad:  # a baseline that learns, by least squares
            surrogate = surrogate - (advantage.square() / 2).mean(0)
        return with_gradient(reward.mean(0), surrogate)
