"""Every outcome of a row of decisions, for the estimators that list them."""

import math
from itertools import permutations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from rlgrad.estimators.surrogate import per_logit
from rlgrad.metrics.counts import count_dtype
from rlgrad.policies import Bernoulli, PlackettLuce, Policy, independent, slices

LIMIT = 1 << 16


def outcomes(policy: Policy, *, who: str) -> Shaped[Tensor, "outcomes items"]:
    """All lists of decisions that a row may hold, yes/no as bool, classes as integers, rankings as permutations.

    Raises:
        TypeError: they cannot be listed, as real numbers.
        ValueError: there are more than 65536 of them.
    """
    if isinstance(policy, PlackettLuce):
        return _rankings(policy, who)
    policy = independent(policy, who=who)
    yes_no = isinstance(policy, Bernoulli)
    items, classes = (policy.logits.shape[-1], 2) if yes_no else policy.logits.shape[-2:]
    if items * math.log2(max(classes, 1)) > math.log2(LIMIT):
        raise ValueError(
            f"{who} needed at most {LIMIT} outcomes a row, got {classes}^{items}; use counterfactual or score_function"
        )
    # The digits of 0, 1, 2, ... in base `classes`.
    number = torch.arange(classes**items, device=policy.logits.device)
    place = classes ** torch.arange(items - 1, -1, -1, device=number.device)
    digits = number[:, None] // place % classes
    return digits.bool() if yes_no else digits


def _rankings(policy: PlackettLuce, who: str) -> Shaped[Tensor, "outcomes items"]:
    items = policy.logits.shape[-1]
    if math.lgamma(items + 1) > math.log(LIMIT):
        raise ValueError(f"{who} needed at most {LIMIT} outcomes a row, got {items}! rankings; use score_function")
    return torch.tensor(list(permutations(range(items))), device=policy.logits.device).reshape(-1, items)


def rows_of(decision: Shaped[Tensor, "outcomes items"], policy: Policy) -> Shaped[Tensor, "outcomes *batch items"]:
    """The same outcomes for every row of the policy's batch."""
    batch = policy.logits.shape[: policy.axes[0]]
    one = decision.reshape(len(decision), *[1] * len(batch), decision.shape[-1])
    return one.expand(len(decision), *batch, decision.shape[-1])


def log_probs(policy: Policy, decision: Shaped[Tensor, "outcomes *batch items"]) -> Float[Tensor, "outcomes *batch"]:
    """Log-probability of each outcome in each row, in double precision where there is one, detached."""
    with torch.no_grad():
        each = policy.log_prob(decision)
        return each.to(count_dtype(each.device)).sum(-1)


def all_log_probs(policy: Policy, listed: Shaped[Tensor, "outcomes items"]) -> Float[Tensor, "*batch outcomes"]:
    """Log-probability of every outcome listed in each row, as many at once as fit."""
    parts = slices(len(listed), policy.logits.numel())
    return torch.cat([log_probs(policy, rows_of(listed[part], policy)) for part in parts]).movedim(0, -1)


def by_score(
    policy: Policy, decision: Shaped[Tensor, "draws *batch items"], weight: Float[Tensor, "draws *batch"]
) -> Float[Tensor, "*logits"]:
    """The gradient in the logits: sum over draws of weight x (decision - probability), the derivative of log P."""
    surprise = policy.surprise(decision)
    return (per_logit(weight, policy).to(surprise.dtype) * surprise).sum(0)
