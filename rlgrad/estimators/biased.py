"""What back-propagation does in place of a policy gradient: quiet, cheap and biased; here for comparison."""

from dataclasses import dataclass
from math import inf
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.estimators.perturbed import perturbed_logits, soft_decision
from rlgrad.estimators.surrogate import check_draws, relaxed_rewards
from rlgrad.metrics import Score
from rlgrad.policies import Policy, independent


@dataclass(frozen=True)
class straight_through:
    """Straight-through: hard decisions forward, and the derivative of the probabilities in their place backward.

        dE/dz ~ E[ r'(b) ] dp/dz

    Biased: it takes the reward's slope at a decision for the difference between two of them. Exact where the reward is
    linear in each decision alone, and here and there by symmetry, as for a quadratic at p = 1/2.

    Args:
        draws: rewards asked for.
        through: backward as if the decision were its "probs", or its "logits" themselves (the identity).

    Raises:
        TypeError: draws are no whole number; on use, a score that is not differentiable in the decision.
        ValueError: fewer draws than 1, an unknown way through.

    Source: Bengio, Leonard, Courville, Estimating or propagating gradients through stochastic neurons for conditional
        computation (2013). For hard steps without noise: Yin, Lyu, Zhang, Osher, Qi, Xin, Understanding
        straight-through estimator in training activation quantized neural nets (2019).

    Example:
        >>> from rlgrad import Bernoulli
        >>> from rlgrad.metrics import Downstream
        >>> logits = torch.ones(1, requires_grad=True)
        >>> square = Downstream(
        ...     lambda b: b.square().sum(-1)
        ... )  # b^2 = b for 0 and 1: the true gradient is p (1 - p) = .20
        >>> value = straight_through(draws=1000)(Bernoulli(logits), square, generator=torch.Generator().manual_seed(0))
        >>> value.backward()
        >>> print(f"{logits.grad.item():.1f}")  # 2 p^2 (1 - p)
        0.3
    """

    draws: int = 1
    through: Literal["probs", "logits"] = "probs"

    def __post_init__(self) -> None:
        check_draws(self.draws, least=1)
        if self.through not in ("probs", "logits"):
            raise ValueError(f'needed through "probs" or "logits", got {self.through!r}')

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """The mean reward of the draws for each row, with the straight-through gradient."""
        policy = independent(policy, who="straight_through")
        hard = policy.encode(policy.sample(self.draws, generator=generator))
        soft = policy.probs if self.through == "probs" else policy.logits.masked_fill(policy.logits.isinf(), 0.0)
        reward = relaxed_rewards(score, policy, _forward_backward(hard, soft), who="straight_through")
        return reward.mean(0).to(policy.logits.dtype)


@dataclass(frozen=True)
class gumbel_softmax:
    """Gumbel-softmax (the concrete distribution): the gradient of the reward of relaxed decisions.

        dE/dz ~ E[ d r(soft((z + noise) / temperature)) / dz ]

    Biased: the reward between the decisions is not the reward of the decisions. The bias falls, and the noise rises, as
    the temperature nears 0. Binary concrete for yes/no decisions.

    Args:
        draws: rewards asked for.
        temperature: of the relaxation, above 0.
        hard: score hard decisions and relax on the way back alone (straight-through Gumbel-softmax); otherwise the
            value is that of relaxed decisions, and biased as well.

    Raises:
        TypeError: draws are no whole number; on use, a score that is not differentiable in the decision.
        ValueError: fewer draws than 1, a temperature that is not above 0.

    Source: Jang, Gu, Poole, Categorical reparameterization with Gumbel-softmax (2017); Maddison, Mnih, Teh, The
        concrete distribution (2017).

    Example:
        >>> from rlgrad.metrics import Downstream
        >>> logits = torch.zeros(2, 3, requires_grad=True)
        >>> score = Downstream(lambda one_hot: one_hot[..., 0].mean(-1), classes=3)
        >>> from rlgrad import Categorical
        >>> gumbel_softmax(draws=8, hard=True)(Categorical(logits), score).backward()
        >>> (logits.grad[:, 0] > 0).all()
        tensor(True)
    """

    draws: int = 1
    temperature: float = 0.5
    hard: bool = False

    def __post_init__(self) -> None:
        check_draws(self.draws, least=1)
        if not 0 < self.temperature < inf:
            raise ValueError(f"needed a temperature above 0, got {self.temperature}; 0.5 is usual")

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """The mean reward of the draws for each row, with the relaxation's gradient."""
        policy = independent(policy, who="gumbel_softmax")
        perturbed, decision = perturbed_logits(policy, self.draws, generator=generator)
        soft = soft_decision(perturbed, policy, self.temperature)
        scored = _forward_backward(policy.encode(decision), soft) if self.hard else soft
        return relaxed_rewards(score, policy, scored, who="gumbel_softmax").mean(0).to(policy.logits.dtype)


def _forward_backward(hard: Tensor, soft: Tensor) -> Tensor:
    """The hard value forward, exactly, and the soft derivative backward."""
    return hard + (soft - soft.detach())
