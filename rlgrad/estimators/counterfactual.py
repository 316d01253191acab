"""Credit to each decision by itself: what would the reward have been, had this one gone the other way?"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.credit import gain, rewards_of
from rlgrad.estimators.surrogate import check_draws, with_gradient
from rlgrad.metrics import Score
from rlgrad.policies import Policy, independent, slices


@dataclass(frozen=True)
class counterfactual:
    """The counterfactual estimator (local expectation), for any scorer.

        dE/dp_i(c) = E[ r(b with b_i = c) ],  estimated by the mean over draws

    Unbiased: given all other decisions the expected reward is linear in the probabilities of this one, so that it
    need not be drawn. For a CountMetric each answer costs O(1), and its noise does not grow with the number of
    decisions: one draw is nearly exact for hundreds of them. Any other scorer is asked for the reward of each single
    change, items x (classes - 1) rewards a draw; see ``credit.gain``.

    Args:
        draws: how many times all decisions are drawn for each estimate.

    Raises:
        TypeError: draws are no whole number; on use, decisions that are not independent, as those of a ranking.
        ValueError: fewer draws than 1.

    Source: Titsias, Lazaro-Gredilla, Local expectation gradients for black box variational inference (2015). For yes
        or no decisions this is the measure-valued derivative too (Pflug 1996).

    Example:
        >>> from rlgrad import Bernoulli
        >>> from rlgrad.metrics import Scorer, f1
        >>> logits = torch.zeros(4, requires_grad=True)
        >>> score = Scorer(f1, torch.tensor([1, 0, 1, 0]))
        >>> value = counterfactual(draws=1)(Bernoulli(logits), score, generator=torch.Generator().manual_seed(0))
        >>> value.backward()
        >>> logits.grad > 0
        tensor([ True, False,  True, False])
    """

    draws: int = 1

    def __post_init__(self) -> None:
        check_draws(self.draws, least=1)

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """E[reward] for each row, differentiable in the policy's logits."""
        policy = independent(policy, who="counterfactual")
        probs = policy.probs
        added = reward = torch.zeros(())
        for part in slices(self.draws, probs.numel()):
            decision = policy.sample(part.stop - part.start, generator=generator)
            rewards = rewards_of(score, decision)
            reward = reward + rewards.sum(0) / self.draws
            added = added + gain(policy, score, decision, reward=rewards).sum(0) / self.draws
        return with_gradient(reward, (added.to(probs.dtype) * probs).sum(policy.axes))
