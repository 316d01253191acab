"""Credit to a whole draw: its reward, less a baseline that takes variance away."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad.credit.play import Credit, Play, checked, rewards_of
from rlgrad.metrics import RankingMetric, Scorer
from rlgrad.policies import PlackettLuce


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


class LearnedValue(nn.Module):
    """The reward less a value that a network expects from the logits alone: the critic of an actor-critic.

    The network learns with the policy: the loss of an estimator that uses this credit also carries the gradient of
    (reward - value)^2 / 2 for its weights. Give those to the optimizer: ``MetricLoss.parameters()`` holds them.

    Args:
        network: from logits ``*batch items [classes]``, detached, to values ``*batch``. Where the items are the rows of
            a minibatch, whose last may be smaller, it must take any number of them.

    Raises:
        TypeError: ``network`` is not a module.
        ValueError: on use without a play, or when the network's values have another shape than the rows.

    Source: Sutton, McAllester, Singh, Mansour, Policy gradient methods for reinforcement learning with function
        approximation (1999); Mnih, Gregor, Neural variational inference and learning in belief networks (2014).

    Example:
        >>> from rlgrad.policies import Bernoulli
        >>> credit = LearnedValue(nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)))
        >>> policy = Bernoulli(torch.zeros(2, 4))
        >>> decision = policy.sample(3)
        >>> credit(torch.ones(3, 2), Play(policy, decision, lambda b: b.sum(-1))).shape
        torch.Size([3, 2])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"needed a network that gives values, got {network!r}; pass an nn.Module")
        self.network = network

    def forward(self, reward: Float[Tensor, "draws *batch"], play: Play | None) -> Float[Tensor, "draws *batch"]:
        """Advantages against the network's value, with the graph of the network's weights."""
        if play is None:
            raise ValueError("needed a play to find the value of, got none; pass Play(policy, decision, score)")
        logits = play.policy.logits.detach()
        seen = logits.masked_fill(logits.isinf(), 0.0)  # masked classes
        value = checked(self.network(seen), reward.shape[1:], what="values")
        return reward - value.to(reward.dtype)


def greedy(reward: Float[Tensor, "draws *batch"], play: Play | None) -> Float[Tensor, "draws *batch"]:
    """The reward less that of the most probable decision (self-critical): better than what would be done at test time.

    Raises:
        ValueError: there is no play to take the most probable decision from.

    Source: Rennie, Marcheret, Mroueh, Ross, Goel, Self-critical sequence training for image captioning (2017).
    """
    if play is None:
        raise ValueError("needed a play to find the greedy decision, got none; pass Play(policy, decision, score)")
    return reward - rewards_of(play.score, play.policy.mode[None]).detach().to(reward)


def reward_to_go(reward: Float[Tensor, "draws *batch"], play: Play | None) -> Float[Tensor, "draws *batch items"]:
    """To each position of a ranking, what is gained at its rank and after, less the mean of that over the other draws.

    A_dj = G_dj - (sum of G_ej over e != d) / (draws - 1),   G_dj = sum over ranks l >= j of gain of draw d at l

    An item that is chosen does not change what was gained before, nor what the other draws gain, so that both may be
    taken from its reward and the gradient is unbiased. Where all draws agree, as after the last rank that counts (k of
    an nDCG@k), it is exactly zero. Against the whole reward for all positions (``leave_one_out``), the variance of an
    nDCG@5's gradient is a third for lists of 10 items, a hundredth for 200; for all of a list of five it is about the
    same, as what comes early makes up for what comes late.

    Raises:
        TypeError: rewards that are no sums over ranks: anything but a Scorer of a RankingMetric, and PlackettLuce.
        ValueError: there is no play to ask, or a single draw.

    Source: Sutton, McAllester, Singh, Mansour (1999); for rankings: Singh, Joachims, Policy learning for fairness in
        ranking (2019), Oosterhuis, Computationally efficient optimization of Plackett-Luce ranking models for relevance
        and fairness (2021).

    Example:
        >>> from rlgrad.metrics import mrr
        >>> score = Scorer(mrr(), torch.tensor([1, 0, 0]))
        >>> play = Play(PlackettLuce(torch.zeros(3)), torch.tensor([[0, 1, 2], [1, 0, 2]]), score)
        >>> reward_to_go(score(play.decision), play)
        tensor([[ 0.5000, -0.5000,  0.0000],
                [-0.5000,  0.5000,  0.0000]], dtype=torch.float64)
    """
    if play is None:
        raise ValueError("needed a play to find gains in, got none; pass Play(policy, decision, score)")
    score, policy = play.score, play.policy
    if (
        not isinstance(score, Scorer)
        or not isinstance(score.metric, RankingMetric)
        or not isinstance(policy, PlackettLuce)
    ):
        got = score.metric if isinstance(score, Scorer) else score
        raise TypeError(
            "reward_to_go needed a PlackettLuce policy and a Scorer of a RankingMetric, got "
            f"{type(policy).__name__} and {got!r}; use leave_one_out"
        )
    gains = score.metric.gains_of(play.decision, score.target)
    return leave_one_out(gains.flip(-1).cumsum(-1).flip(-1))


def leaves_one_out(credit: Credit) -> bool:
    """Whether a credit compares a draw with the others, and needs another."""
    return credit in (leave_one_out, reward_to_go)
