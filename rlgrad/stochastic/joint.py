"""A metric of a whole batch, as losses of its rows."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from rlgrad.credit import gain, rewards_of
from rlgrad.metrics import Scorer
from rlgrad.objective import MetricLoss
from rlgrad.policies import Bernoulli, Categorical, independent


@dataclass(frozen=True)
class Joint:
    """One minus a metric of the whole batch, split into what each row adds to it.

        loss_i = 1 - reward - rows * sum over c of gain_i(c) (P(decision_i = c) - mean_i(c))

    The mean over rows has the gradient of 1 - E[metric]: given what all others decide, the expected metric is linear in
    the probabilities of one decision, with slopes that are the gains. They come from draws of the others that are
    independent of what the row itself is asked next.

    Args:
        policy: from logits to decisions.
        gain: what a decision adds to the metric, ``rows [classes]``.
        mean: of its probabilities, in the draws that the gains are from.
        reward: the metric in those draws.

    Source: the local expectation of Titsias, Lazaro-Gredilla (2015), with rows for variables.
    """

    policy: type[Bernoulli] | type[Categorical]
    gain: Float[Tensor, "rows *classes"]
    mean: Float[Tensor, "rows *classes"]
    reward: Float[Tensor, ""]

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        loss: MetricLoss,
        outputs: Float[Tensor, "draws rows *classes"],
        target: Shaped[Tensor, " rows"],
        *,
        generator: torch.Generator | None,
    ) -> "Joint":
        """From draws of the network.

        Raises:
            ValueError: the target is not one for each row, or not in the form that the metric takes.
        """
        loss.check(outputs[0], target)
        policy = independent(loss.policy(outputs), who="ExpectedLoss")
        score = Scorer(loss.metric, target.expand(len(outputs), -1))
        decision = policy.sample(1, generator=generator)
        reward = rewards_of(score, decision)
        added = gain(policy, score, decision, reward=reward)
        return cls(type(policy), added.mean((0, 1)), policy.probs.mean(0), reward.mean())

    def __call__(self, output: Float[Tensor, "outputs *classes"], target: Tensor) -> Float[Tensor, " outputs"]:
        """The loss of each row, where outputs are those of all rows, once or several times over."""
        rows = len(self.gain)
        probs = self.policy(output).probs
        times = len(probs) // max(1, rows)
        added = rows * self.gain.to(probs.dtype) * (probs.reshape(times, *self.gain.shape) - self.mean)
        of_rows = added.flatten(2).sum(-1) if added.ndim > 2 else added
        return (1 - self.reward.to(probs.dtype) - of_rows).flatten()
