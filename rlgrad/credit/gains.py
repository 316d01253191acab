"""Credit to single decisions: what each has added, with all others as they are."""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from rlgrad.checks import check_target, describe
from rlgrad.credit.play import Play, checked, rewards_of
from rlgrad.metrics import ConfusionMetric, CountMetric, Score, Scorer
from rlgrad.policies import Bernoulli, Categorical, Policy, independent, slices


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
