"""Credit to each decision by itself: what would the metric have been, had this one gone the other way?"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.credit import counted
from rlgrad.estimators.surrogate import with_gradient
from rlgrad.metrics import Score
from rlgrad.policies import Policy, slices


@dataclass(frozen=True)
class counterfactual:
    """The counterfactual estimator (local expectation), for a CountMetric.

        dE/dp_i = E[ r(b with b_i = 1) - r(b with b_i = 0) ],  estimated by the mean over draws

    Unbiased: given all other decisions the derivative in p_i is that difference, with no need to draw b_i. Flipping
    one decision changes the counts by one, so each difference costs O(1), and its noise does not grow with the
    number of decisions: one draw is nearly exact for hundreds of them.

    Args:
        draws: how many times all decisions are drawn for each estimate.

    Raises:
        ValueError: fewer draws than 1.
        TypeError: on use, with a policy that is not Bernoulli or a metric that is not a CountMetric.

    Source: Titsias, Lazaro-Gredilla, Local expectation gradients for black box variational inference (2015).

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
        if self.draws < 1:
            raise ValueError(f"needed at least 1 draw, got {self.draws}; raise draws")

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """E[reward] for each row, differentiable in the policy's logits."""
        metric, target = counted(policy, score, who="counterfactual")
        probs = policy.probs
        gain = reward = torch.zeros(())
        for part in slices(self.draws, probs.numel()):
            decision = policy.sample(part.stop - part.start, generator=generator)
            gain = gain + metric.gain(decision, target).sum(0) / self.draws
            reward = reward + metric(decision, target).sum(0) / self.draws
        return with_gradient(reward, (gain.to(probs.dtype) * probs).sum(-1))
