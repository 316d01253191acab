"""Rewards in, advantages out: what each draw, or each single decision, is given credit for.

A credit is a function ``credit(reward, play)`` from rewards ``draws *batch`` to advantages, ``draws *batch`` or, where
credit goes to single decisions, ``draws *batch items``. The play tells who decided what; most do without it. Each
subtracts from a draw's reward only what does not depend on that draw (or that decision), which leaves the expected
gradient as it is and takes away variance. Advantages that carry a graph are a baseline that learns: estimators fit it
by least squares, as the gradient of half the squared advantage.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from rlgrad.checks import check_target, describe, first_index, values_visible
from rlgrad.metrics import ConfusionMetric, CountMetric, RankingMetric, Score, Scorer
from rlgrad.policies import Bernoulli, Categorical, PlackettLuce, Policy, independent, slices


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


def counterfactual(reward: Float[Tensor, "draws *batch"], play: Play | None) -> Float[Tensor, "draws *batch items"]:
    """Each decision's own share: the reward less its mean over this one decision drawn anew, all others as they are.

    A_i = r(b) - E[r(b with b_i drawn again)] = (b_i - p_i) (r(b with b_i = 1) - r(b with b_i = 0)), and for classes
    minus the mean of what each alternative would have added; see ``gain`` for what that costs.

    Raises:
        TypeError: decisions are not independent, as those of a ranking.
        ValueError: there is no play to ask.

    Source: Foerster, Farquhar, Afouras, Nardelli, Whiteson, Counterfactual multi-agent policy gradients (2018).
    """
    if play is None:
        raise ValueError("needed a play to ask what if, got none; pass Play(policy, decision, score)")
    policy = independent(play.policy, who="counterfactual")
    added = gain(policy, play.score, play.decision, reward=reward)
    probs = policy.probs.detach().to(added)
    if isinstance(policy, Bernoulli):
        return (play.decision.to(added) - probs) * added
    return -(probs * added).sum(-1)


def leaves_one_out(credit: Credit) -> bool:
    """Whether a credit compares a draw with the others, and needs another."""
    return credit in (leave_one_out, reward_to_go)


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


def gain(
    policy: Policy,
    score: Score,
    decision: Shaped[Tensor, "draws *batch items"],
    *,
    reward: Float[Tensor, "draws *batch"] | None = None,
) -> Float[Tensor, "draws *logits"]:
    """What each single decision is worth, with all others as they are.

    A scorer of a CountMetric or a ConfusionMetric knows: changing one decision moves the counts by one, O(1) a
    decision. So does a score with a method ``gain(decision)`` that returns this. Any other is asked: it scores
    items x (classes - 1) further decisions for each draw.

    Args:
        policy: whose decisions they are.
        score: of the decisions.
        decision: what was drawn.
        reward: of the decisions, where it is known.

    Returns:
        Under a Bernoulli policy, ``draws *batch items``: the reward with a 1 there less that with a 0. Under a
        Categorical one, ``draws *batch items classes``: the reward with this class there less that of the decision.

    Raises:
        TypeError: decisions are not independent, as those of a ranking.
        ValueError: a reward, or what the score's own ``gain`` returns, is not finite or of another shape.
    """
    policy = independent(policy, who="counterfactual")
    if isinstance(policy, Bernoulli) and isinstance(score, Scorer) and isinstance(score.metric, CountMetric):
        metric, target, weight = counted(policy, score, who="counterfactual")
        return metric.gain(decision, target, weight).detach()
    if isinstance(policy, Categorical) and isinstance(score, Scorer) and isinstance(score.metric, ConfusionMetric):
        check_classes(policy, score)
        return score.metric.gain(decision, *score.metric.split(score.target, score.weight)).detach()
    shape = decision.shape if isinstance(policy, Bernoulli) else (*decision.shape, policy.logits.shape[-1])
    if own := getattr(score, "gain", None):
        return checked(own(decision), shape, what="gains").detach()
    with torch.no_grad():
        now = (rewards_of(score, decision) if reward is None else reward.detach())[..., None]
        if isinstance(policy, Bernoulli):
            return (_if_changed(score, decision, ~decision) - now) * torch.where(decision, -1, 1)
        added = torch.zeros(shape, dtype=now.dtype, device=now.device)
        for step in range(1, shape[-1]):
            other = (decision + step) % shape[-1]
            possible = policy.log_prob(other) > -torch.inf
            change = _if_changed(score, decision, torch.where(possible, other, decision)) - now
            added.scatter_(-1, other[..., None], change.to(added)[..., None])
        return added


def _if_changed(score: Score, decision: Tensor, other: Tensor) -> Float[Tensor, "draws *batch items"]:
    """The reward with each single decision replaced by the other, asked for as many at once as fit."""
    items = decision.shape[-1]
    rewards = []
    for part in slices(items, decision.numel()):
        here = torch.eye(items, dtype=torch.bool, device=decision.device)[part]
        here = here.reshape(-1, *[1] * (decision.ndim - 1), items)
        changed = torch.where(here, other, decision)
        reward = rewards_of(score, changed.flatten(0, 1))
        rewards.append(reward.unflatten(0, changed.shape[:2]))
    return torch.cat(rewards).movedim(0, -1) if rewards else decision.to(torch.get_default_dtype())


def rewards_of(score: Score, decision: Shaped[Tensor, "draws *batch items"]) -> Float[Tensor, "draws *batch"]:
    """The decisions' rewards, checked to be one finite number for each draw and row.

    Raises:
        TypeError: the scorer did not return a tensor.
        ValueError: the rewards have another shape, or one is not finite; draw and row are named.
    """
    if isinstance(score, Scorer) and score.flat_target.shape != decision.shape[1:]:
        raise ValueError(
            f"needed a target of shape {tuple(decision.shape[1:])}, as the decisions have, got "
            f"{describe(score.target)}; nothing is broadcast"
        )
    return checked(score(decision), decision.shape[:-1], what="rewards")


def checked(reward: object, shape: tuple[int, ...], *, what: str) -> Float[Tensor, "*shape"]:
    """A scorer's answer, where it is a finite tensor of this shape.

    Raises:
        TypeError: it is no tensor.
        ValueError: it has another shape, or an entry is not finite; where is named.
    """
    if not isinstance(reward, Tensor):
        raise TypeError(f"needed a tensor of {what}, got {reward!r}; wrap a plain function in OpaqueMetric")
    axes = {"values": "*batch", "gains": "draws *batch items [classes]"}.get(what, "draws *batch")
    if reward.shape != shape:
        raise ValueError(
            f"needed {what} of shape {tuple(shape)} ({axes}), got {describe(reward)}; reduce the items axis alone"
        )
    if values_visible() and (bad := ~torch.isfinite(reward)).any():
        first, *rest = first_index(bad) or (0,)
        where = f"row {(first, *rest)}" if what == "values" else f"draw {first}, row {tuple(rest)}"
        raise ValueError(
            f"needed finite {what}, got {reward[bad][0].item()} for {where}; "
            "return the worst value of the metric instead"
        )
    return reward if reward.is_floating_point() else reward.to(torch.get_default_dtype())


def counted(
    policy: Policy, score: Score, *, who: str
) -> tuple[CountMetric, Bool[Tensor, "*batch items"], Shaped[Tensor, "*batch items"] | None]:
    """The metric, truth and weights of a scorer, where decisions are yes or no and the metric is a formula of counts.

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
    true, weight = score.metric.split(score.target, score.weight)
    check_target(policy.logits, true)
    return score.metric, true, weight


def check_classes(policy: Categorical, score: Scorer) -> None:
    """A ConfusionMetric is of as many classes as the policy.

    Raises:
        ValueError: it is not.
    """
    assert isinstance(score.metric, ConfusionMetric)
    if policy.logits.shape[-1] != score.metric.classes:
        raise ValueError(
            f"needed logits of {score.metric.classes} classes for {score.metric!r}, got {describe(policy.logits)}; "
            "name the policy's number of classes"
        )
