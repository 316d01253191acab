"""How far one policy lies from another."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rlgrad.checks import describe
from rlgrad.policies.bernoulli import Bernoulli
from rlgrad.policies.categorical import Categorical
from rlgrad.policies.gaussian import Gaussian
from rlgrad.policies.kinds import Policy, independent


def kl_divergence(policy: Policy, reference: Policy) -> Float[Tensor, "*batch items"]:
    """KL(policy || reference) = sum over outcomes of p (log p - log q), for each decision, in nats.

    That of two Gaussians, with s = log(std_p / std_q) and means d standard deviations of q apart, is
    (e^2s - 1 - 2s + d^2) / 2.

    Raises:
        TypeError: the two are not of one kind, or of rankings, whose divergence is no sum over decisions.
        ValueError: they are not of one shape.

    Example:
        >>> kl_divergence(Bernoulli(torch.tensor([1.0, 0.0])), Bernoulli(torch.tensor([0.0, 0.0])))
        tensor([0.1109, 0.0000])
    """
    for each in (policy, reference):
        if not isinstance(each, Gaussian):
            independent(each, who="kl_divergence")
    if type(policy) is type(reference) and policy.logits.shape != reference.logits.shape:
        raise ValueError(
            f"needed two policies of one shape, got {describe(policy.logits)} and {describe(reference.logits)}; "
            "nothing is broadcast"
        )
    if isinstance(policy, Bernoulli) and isinstance(reference, Bernoulli):
        z, r = policy.logits, reference.logits
        yes = torch.sigmoid(z) * (F.logsigmoid(z) - F.logsigmoid(r))
        return yes + torch.sigmoid(-z) * (F.logsigmoid(-z) - F.logsigmoid(-r))
    if isinstance(policy, Categorical) and isinstance(reference, Categorical):
        log_p, log_q = policy.finite_log_probs(), reference.finite_log_probs()
        return (log_p.exp() * (log_p - log_q)).sum(-1)
    if isinstance(policy, Gaussian) and isinstance(reference, Gaussian):
        spread = 2 * (policy.log_std - reference.log_std)
        return (torch.expm1(spread) - spread + reference.distance(policy.mean).square()) / 2
    kinds = type(policy).__name__, type(reference).__name__
    raise TypeError(f"needed two policies of one kind, got {kinds[0]} and {kinds[1]}; use one policy for both")
