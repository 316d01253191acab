"""REINFORCE on draws of an earlier policy: rewards that were dear are used for several steps."""

from dataclasses import dataclass
from math import inf, log

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.checks import describe
from rlgrad.credit import Credit, Play, leave_one_out, leaves_one_out, rewards_of
from rlgrad.estimators.surrogate import check_draws, with_gradient
from rlgrad.metrics import Score, Scorer
from rlgrad.policies import Policy, kind_of


@dataclass(frozen=True, eq=False)
class importance_weighted:
    """The score-function estimator on remembered draws, weighed by how much likelier they have become.

        grad E[r(b)] = E_old[ w(b) A(b) grad log P(b) ],   w(b) = P(b) / P_old(b)

    Made by ``importance_weighted.draw``, which asks for the rewards once; called with the policy of each later step.
    Without a clip it is unbiased at any policy chosen without these draws, and the same as ``score_function`` at the
    policy that drew; a policy that has learned from the draws makes it biased, as it does every reuse. With a clip, a
    draw whose weight has left [1 - clip, 1 + clip] in the direction that its advantage asks for is left out (proximal
    policy optimization), so that a few steps cannot go far astray. The rewards are remembered as numbers: weights in a
    score's graph do not learn here.

    Args:
        play: decisions, who drew them, and how they are scored.
        reward: of each draw and row, ``draws *batch``.
        advantage: that of each draw, ``draws *batch``, or of each decision, ``draws *batch items``.
        clip: None for none.
        critic: a credit that learns, and goes on doing so; None for all others.
        per_decision: weigh and clip each decision by its own ratio, as is usual where a row holds many: the product of
            many ratios is soon 0 or infinite. Biased as soon as the policy has moved.

    Raises:
        TypeError: on use, a policy of another kind.
        ValueError: a clip that is not above 0; on use, a policy of another shape or another score than was drawn for.

    Source: Schulman, Wolski, Dhariwal, Radford, Klimov, Proximal policy optimization algorithms (2017).

    Example:
        >>> from rlgrad import Bernoulli
        >>> from rlgrad.metrics import Scorer, f1
        >>> logits = torch.zeros(4, requires_grad=True)
        >>> score = Scorer(f1, torch.tensor([1, 0, 1, 0]))
        >>> again = importance_weighted.draw(
        ...     Bernoulli(logits), score, draws=100, clip=0.2, generator=torch.Generator().manual_seed(0)
        ... )
        >>> optimizer = torch.optim.SGD([logits], lr=1.0)
        >>> for _ in range(3):  # one hundred rewards, three steps
        ...     optimizer.zero_grad()
        ...     (-again(Bernoulli(logits), score)).backward()
        ...     optimizer.step()
        >>> logits > 0
        tensor([ True, False,  True, False])
    """

    play: Play
    reward: Float[Tensor, "draws *batch"]
    advantage: Float[Tensor, "draws *rest"]
    clip: float | None = None
    per_decision: bool = False
    critic: Credit | None = None

    def __post_init__(self) -> None:
        if self.clip is not None and not 0 < self.clip < inf:
            raise ValueError(f"needed a clip above 0 or None, got {self.clip}; 0.2 is usual")

    @classmethod
    def draw(
        cls,
        policy: Policy,
        score: Score,
        *,
        draws: int = 16,
        clip: float | None = None,
        credit: Credit = leave_one_out,
        per_decision: bool = False,
        generator: torch.Generator | None = None,
    ) -> "importance_weighted":
        """Draw from a policy, ask for the rewards, and remember both, and the advantages that ``credit`` finds."""
        check_draws(draws, least=2 if leaves_one_out(credit) else 1)
        # A copy: an optimizer changes weights, and maybe logits, in place.
        behaviour = kind_of(policy)(policy.logits.detach().clone())
        decision = policy.sample(draws, generator=generator)
        play = Play(behaviour, decision, score)
        reward = rewards_of(score, decision).detach()
        advantage = credit(reward, play)
        critic = credit if advantage.requires_grad else None
        return cls(play, reward, advantage.detach(), clip, per_decision, critic)

    def __repr__(self) -> str:
        return f"importance_weighted({len(self.reward)} draws, clip={self.clip}, per_decision={self.per_decision})"

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """E[reward] for each row, differentiable in the policy's logits; nothing is drawn."""
        self._check(policy, score)
        log_p = policy.log_prob(self.play.decision)
        log_ratio = (log_p - self.play.policy.log_prob(self.play.decision)).detach()
        joint = _weight(log_ratio.sum(-1))
        advantage = self.advantage.to(log_p.dtype)
        # Each decision's factor: as large as the weight, and with the derivative weight x d log P.
        weight = _weight(log_ratio) if self.per_decision else joint[..., None]
        ratio = weight * (1 + log_p - log_p.detach())
        worth = advantage if advantage.shape == log_p.shape else advantage[..., None]
        surrogate = ratio * worth
        if self.clip is not None:
            surrogate = torch.minimum(surrogate, ratio.clamp(1 - self.clip, 1 + self.clip) * worth)
        surrogate = surrogate.sum(-1).mean(0)
        if self.critic is not None:  # a baseline that learns, by least squares
            surrogate = surrogate - (self.critic(self.reward, self.play).square() / 2).mean(0)
        return with_gradient((joint * self.reward).mean(0), surrogate)

    def _check(self, policy: Policy, score: Score) -> None:
        drew = self.play.policy
        if not isinstance(policy, type(drew)):
            raise TypeError(f"needed the {type(drew).__name__} that drew, later on, got {type(policy).__name__}")
        if policy.logits.shape != drew.logits.shape:
            raise ValueError(
                f"needed logits of shape {tuple(drew.logits.shape)}, as those that drew, got "
                f"{describe(policy.logits)}; draw again for another batch"
            )
        if not _same(score, self.play.score):
            raise ValueError("needed the score that the draws were rewarded by, got another; draw again for it")


def _weight(log_ratio: Tensor) -> Tensor:
    # Bounded, as an infinite weight times a reward of 0 would be NaN.
    largest = log(torch.finfo(log_ratio.dtype).max) / 2
    return log_ratio.clamp(-largest, largest).exp()


def _same(score: Score, other: Score) -> bool:
    if not isinstance(score, Scorer) or not isinstance(other, Scorer):
        return score is other
    one, two = score.weight, other.weight
    weighed_alike = one is two if one is None or two is None else torch.equal(one, two)
    return score.metric is other.metric and torch.equal(score.target, other.target) and weighed_alike
