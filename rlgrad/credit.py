"""Rewards in, advantages out: what each draw, or each single decision, is given credit for.

A credit is a function ``credit(reward, play)`` from rewards ``draws *batch`` to advantages, ``draws *batch`` or, where
credit goes to single decisions, ``draws *batch items``. The play tells who decided what; most do without it. Each
subtracts from a draw's reward only what does not depend on that draw (or that decision), which leaves the expected
gradient as it is and takes away variance.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from rlgrad.checks import as_binary, check_target
from rlgrad.metrics import CountMetric, Score, Scorer
from rlgrad.policies import Bernoulli, Policy


@dataclass(frozen=True)
class Play:
    """What was decided, by whom, and how it is scored.

    Args:
        policy: the distribution that was drawn from.
        decision: ``draws *batch items``.
        score: function from decisions ``draws *batch items`` to rewards ``draws *batch``.
    """

    policy: Policy
    decision: Shaped[Tensor, "draws *batch items"]
    score: Score


Credit = Callable[[Tensor, Play | None], Tensor]


def none(reward: Float[Tensor, "draws *batch"], play: Play | None = None) -> Float[Tensor, "draws *batch"]:
    """The reward itself: plain REINFORCE.

    Source: Williams, Simple statistical gradient-following algorithms for connectionist reinforcement learning (1992).
    """
    return reward


def leave_one_out(reward: Float[Tensor, "draws *batch"], play: Play | None = None) -> Float[Tensor, "draws *batch"]:
    """Each draw's reward less the mean of the other draws' rewards (RLOO, VIMCO's arithmetic form).

    A_d = r_d - (sum of r_e over e != d) / (draws - 1), and exactly zero where all rewards are equal.

    Raises:
        ValueError: there is a single draw, hence no other.

    Source: Kool, van Hoof, Welling, Buy 4 REINFORCE samples, get a baseline for free! (2019).

    Example:
        >>> leave_one_out(torch.tensor([1.0, 0.0, 0.5]))
        tensor([ 0.7500, -0.7500,  0.0000])
    """
    draws = len(reward)
    if draws < 2:
        raise ValueError(f"needed at least 2 draws to leave one out, got {draws}; raise draws")
    # Relative to the first draw, so that equal rewards cancel without a rounding error.
    relative = reward - reward[:1]
    return (relative - relative.mean(0)) * (draws / (draws - 1))


class MovingAverage(nn.Module):
    """The reward less an exponential moving average of the rewards of earlier calls.

    The average is over all draws and rows of a call, and corrected for its start at zero as Adam's moments are; the
    first call has nothing to subtract. It is the state of this module: two buffers that ``state_dict`` saves, as those
    of a ``MetricLoss`` that holds it do.

    Args:
        decay: weight of the past, in [0, 1).

    Raises:
        ValueError: ``decay`` lies outside [0, 1).

    Source: Williams (1992), reinforcement comparison.

    Example:
        >>> credit = MovingAverage(decay=0.9)
        >>> credit(torch.tensor([1.0, 0.0]))
        tensor([1., 0.])
        >>> credit(torch.tensor([1.0, 0.0]))
        tensor([ 0.5000, -0.5000])
    """

    average: Tensor
    weight: Tensor

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"needed a decay in [0, 1), got {decay}; 0.9 averages over about ten calls")
        self.decay = decay
        self.register_buffer("average", torch.zeros((), dtype=torch.float32))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float32))

    def extra_repr(self) -> str:
        """The decay, for ``repr``."""
        return f"decay={self.decay}"

    def forward(self, reward: Float[Tensor, "draws *batch"], play: Play | None = None) -> Float[Tensor, "draws *batch"]:
        """Advantages against the average of earlier calls, which takes in these rewards in training mode."""
        past = torch.where(self.weight > 0, self.average / self.weight, 0.0)
        if self.training and reward.numel():
            self.average.lerp_(reward.detach().mean().to(self.average), 1 - self.decay)
            self.weight.lerp_(torch.ones_like(self.weight), 1 - self.decay)
        return reward - past.to(reward)


def greedy(reward: Float[Tensor, "draws *batch"], play: Play | None) -> Float[Tensor, "draws *batch"]:
    """The reward less that of the most probable decision (self-critical): better than what would be done at test time.

    Raises:
        ValueError: there is no play to take the most probable decision from.

    Source: Rennie, Marcheret, Mroueh, Ross, Goel, Self-critical sequence training for image captioning (2017).
    """
    if play is None:
        raise ValueError("needed a play to find the greedy decision, got none; pass Play(policy, decision, score)")
    return reward - play.score(play.policy.mode[None]).to(reward)


def counterfactual(reward: Float[Tensor, "draws *batch"], play: Play | None) -> Float[Tensor, "draws *batch items"]:
    """Each decision's own share: the reward less its mean over this one decision drawn anew, all others as they are.

    A_i = r(b) - E[r(b with b_i drawn again)] = (b_i - p_i) (r(b with b_i = 1) - r(b with b_i = 0)). For a CountMetric
    the counts change by one, so each costs O(1).

    Raises:
        TypeError: the policy is not Bernoulli or the metric not a CountMetric, which alone can be asked "what if".

    Source: Foerster, Farquhar, Afouras, Nardelli, Whiteson, Counterfactual multi-agent policy gradients (2018).
    """
    if play is None:
        raise ValueError("needed a play to ask what if, got none; pass Play(policy, decision, score)")
    metric, target = counted(play.policy, play.score, who="counterfactual credit")
    gain = metric.gain(play.decision, target)
    return (play.decision.to(gain) - play.policy.probs.detach().to(gain)) * gain


def counted(policy: Policy, score: Score, *, who: str) -> tuple[CountMetric, Bool[Tensor, "*batch items"]]:
    """The metric and target of a scorer, where decisions are yes or no and the metric is a formula of their counts.

    Args:
        policy: must be Bernoulli.
        score: must be a Scorer of a CountMetric, with a target of the policy's shape.
        who: what asks, for the message.

    Raises:
        TypeError: one of them is something else.
        ValueError: the target's shape is not that of the logits, or it holds something other than 0 and 1.
    """
    if not isinstance(policy, Bernoulli):
        raise TypeError(f"{who} needed a Bernoulli policy, got {type(policy).__name__}; use score_function")
    if not isinstance(score, Scorer) or not isinstance(score.metric, CountMetric):
        got = repr(score.metric) if isinstance(score, Scorer) else repr(score)
        raise TypeError(
            f"{who} needed a Scorer of a CountMetric, got {got}; write the metric as a formula of counts, "
            "or use score_function with leave_one_out"
        )
    check_target(policy.logits, score.target)
    return score.metric, as_binary(score.target, what="target")
