"""Outcomes drawn without replacement: none is paid for twice, and all of them together leave nothing to chance."""

from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlgrad.credit import rewards_of
from rlgrad.estimators.outcomes import all_log_probs, by_score, outcomes
from rlgrad.estimators.surrogate import check_draws, with_logit_gradient
from rlgrad.metrics import Score
from rlgrad.policies import Policy, open_uniform

# The probability of a set sums over the orders it may be drawn in, by way of its subsets: 2^draws of them.
MOST = 12


@dataclass(frozen=True)
class unordered_set:
    """The unordered set estimator: a set S of different outcomes, each weighed as if it had been drawn alone.

        E[r] = E[ sum over s in S of P(s) R(S, s) r(s) ],   R(S, s) = P(S without s, s being gone) / P(S)

    R(S, s) is the probability that the other members are drawn from what is left without s, over that of S, in any
    order. For the gradient each r(s) is taken relative to the same estimate from S without knowledge of s, which costs
    nothing. Unbiased, the Rao-Blackwellization of the importance-weighted and the sum-and-sample estimators alike, and
    without variance when S holds all outcomes.

    Args:
        draws: how many different outcomes of each row are drawn, at most 12; all, if there are no more.

    Raises:
        TypeError: draws are no whole number.
        ValueError: draws below 2 or above 12; on use, more than 65536 outcomes a row.

    Source: Kool, van Hoof, Welling, Estimating gradients for discrete random variables by sampling without
        replacement (2020).

    Example:
        >>> from rlgrad import Bernoulli
        >>> logits = torch.zeros(2, requires_grad=True)
        >>> value = unordered_set(draws=4)(Bernoulli(logits), lambda decision: decision.all(-1).float())  # all four
        >>> value.backward()
        >>> print(f"{value:.4f}", logits.grad)
        0.2500 tensor([0.1250, 0.1250])
    """

    draws: int = 4

    def __post_init__(self) -> None:
        check_draws(self.draws, least=2)
        if self.draws > MOST:
            raise ValueError(f"needed at most {MOST} draws, got {self.draws}; average several estimates")

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """E[reward] for each row, differentiable in the policy's logits."""
        listed = outcomes(policy, who="unordered_set")
        log_p = all_log_probs(policy, listed)
        chosen, _ = without_replacement(log_p, min(self.draws, len(listed)), generator=generator)
        decision = listed[chosen.movedim(-1, 0)]
        reward = rewards_of(score, decision)
        log_chosen, log_rest = log_p.gather(-1, chosen), log_p.scatter(-1, chosen, -torch.inf).logsumexp(-1)
        single, paired = log_set_ratios(log_chosen, log_rest)
        weight = (log_chosen + single).exp().movedim(-1, 0)
        without_me = (log_chosen[..., None, :] + paired).exp()
        baseline = torch.einsum("...st,t...->s...", without_me, reward.detach().to(without_me))
        value = (weight * reward).sum(0)
        return with_logit_gradient(value, policy, by_score(policy, decision, weight * (reward - baseline)))


@dataclass(frozen=True)
class inclusion_weighted:
    """Different outcomes, each divided by its probability of being among them (the importance-weighted estimator).

        E[r] = E[ sum over s in S of P(s) / q(s) r(s) ],   q(s) = P(G_s > k),  k the largest perturbed log-probability
                                                                              outside of S

    The classical estimate from a sample without replacement; ``unordered_set`` is its Rao-Blackwellization, and better
    for the few draws that it takes. Unbiased, with a baseline from the same outcomes.

    Args:
        draws: how many different outcomes of each row are drawn; where all would be, the estimate is exact.

    Raises:
        TypeError: draws are no whole number.
        ValueError: fewer draws than 2; on use, more than 65536 outcomes a row.

    Source: Kool, van Hoof, Welling, Buy 4 REINFORCE samples, get a baseline for free! (2019); Duffield, Lund, Thorup,
        Priority sampling for estimation of arbitrary subset sums (2007).

    Example:
        >>> from rlgrad import Bernoulli
        >>> logits = torch.zeros(2, requires_grad=True)
        >>> value = inclusion_weighted(draws=4)(Bernoulli(logits), lambda decision: decision.all(-1).float())
        >>> print(f"{value:.4f}")
        0.2500
    """

    draws: int = 4

    def __post_init__(self) -> None:
        check_draws(self.draws, least=2)

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """E[reward] for each row, differentiable in the policy's logits."""
        listed = outcomes(policy, who="inclusion_weighted")
        log_p = all_log_probs(policy, listed)
        chosen, threshold = without_replacement(log_p, min(self.draws, len(listed)), generator=generator)
        decision = listed[chosen.movedim(-1, 0)]
        reward = rewards_of(score, decision)
        log_chosen = log_p.gather(-1, chosen)
        # P(log p + Gumbel > k) = 1 - exp(-exp(log p - k)), one where nothing is left outside.
        included = -torch.expm1(-torch.exp(log_chosen - threshold[..., None]))
        probs = log_chosen.exp().movedim(-1, 0)
        ratio = torch.where(probs > 0, probs / included.movedim(-1, 0), 0.0)
        value = (ratio * reward).sum(0)
        advantage = reward * (1 - probs + ratio) - value
        return with_logit_gradient(value, policy, by_score(policy, decision, ratio * advantage))


def without_replacement(
    log_p: Float[Tensor, "*batch outcomes"], draws: int, *, generator: torch.Generator | None = None
) -> tuple[Int[Tensor, "*batch draws"], Float[Tensor, "*batch"]]:
    """Indices of different outcomes, and the largest perturbed log-probability among the others (-inf for none).

    The top of log-probabilities perturbed by Gumbel noise is a sample without replacement (Vieira 2014).
    """
    perturbed = log_p - torch.log(-torch.log(open_uniform(log_p.shape, like=log_p, generator=generator)))
    top = perturbed.topk(min(draws + 1, log_p.shape[-1]), -1)
    nothing = torch.full_like(top.values[..., 0], -torch.inf)
    return top.indices[..., :draws], top.values[..., draws] if top.values.shape[-1] > draws else nothing


def log_set_ratios(
    members: Float[Tensor, "*batch draws"], rest: Float[Tensor, "*batch"]
) -> tuple[Float[Tensor, "*batch draws"], Float[Tensor, "*batch draws draws"]]:
    """Logarithms of R(S, s), and of R(S, s, t) = P(S without s, t | s, t gone) / P(S without s | s gone), 1 for t = s.

    With Q(C) the probability that, the members C being gone, the next draws are the other members in any order,

        Q(S) = 1,   Q(C) = sum over s in S without C of  p(s) / (rest + p(S without C)) Q(C and s),

    R(S, s) = Q({s}) / Q({}) and R(S, s, t) = Q({s, t}) / Q({s}). In logarithms, as an outcome may be rarer than the
    smallest number there is.

    Args:
        members: log-probabilities of the members of S.
        rest: that of all other outcomes together.
    """
    draws = members.shape[-1]
    everyone = frozenset(range(draws))
    log_q = {everyone: torch.zeros_like(rest)}
    for size in range(draws - 1, -1, -1):
        for gone in map(frozenset, combinations(range(draws), size)):
            here = sorted(everyone - gone)
            total = torch.cat([members[..., here], rest[..., None]], -1).logsumexp(-1)
            ways = torch.stack([members[..., s] + log_q[gone | {s}] for s in here]).logsumexp(0)
            # Where no probability is left, what remains is drawn in some order.
            log_q[gone] = torch.where(total > -torch.inf, ways - total, 0.0)
    singles = [log_q[frozenset({s})] for s in range(draws)]
    pairs = [torch.stack([log_q[frozenset({s, t})] - singles[s] for t in range(draws)], -1) for s in range(draws)]
    return torch.stack(singles, -1) - log_q[frozenset()][..., None], torch.stack(pairs, -2)
