"""Decisions as the largest of perturbed logits, and their relaxation: what reparametrized estimators share."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from rlgrad.policies import Bernoulli, Independent, open_uniform


def perturbed_logits(
    policy: Independent, draws: int, *, generator: torch.Generator | None = None
) -> tuple[Float[Tensor, "draws *logits"], Shaped[Tensor, "draws *batch items"]]:
    """Logits plus logistic noise, or log-probabilities plus Gumbel noise, differentiable in the logits; and decisions.

    The decision is 1 where the perturbed logit is positive, or the class where it is largest, which is a draw from the
    policy.
    """
    if isinstance(policy, Bernoulli):
        uniform = policy.uniform(draws, generator=generator)
        return policy.logits - torch.logit(uniform), policy.decide(uniform)
    # Finite where a class is masked: -inf would make NaN of the derivative in a temperature.
    log_probs = torch.log_softmax(policy.logits, -1).clamp_min(-1e6)
    noise = open_uniform((draws, *policy.logits.shape), like=policy.logits, generator=generator)
    perturbed = log_probs - torch.log(-torch.log(noise))
    return perturbed, perturbed.argmax(-1)


def soft_decision(
    perturbed: Float[Tensor, "draws *logits"], policy: Independent, temperature: float | Tensor
) -> Float[Tensor, "draws *logits"]:
    """The decision relaxed: sigmoid or softmax of the perturbed logits over the temperature."""
    if isinstance(policy, Bernoulli):
        return torch.sigmoid(perturbed / temperature)
    return torch.softmax(perturbed / temperature, -1)
