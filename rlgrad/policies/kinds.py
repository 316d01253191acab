"""Which policies there are, and which of them choose among outcomes that can be listed, one by one."""

from rlgrad.policies.bernoulli import Bernoulli
from rlgrad.policies.categorical import Categorical
from rlgrad.policies.gaussian import Gaussian
from rlgrad.policies.plackett_luce import PlackettLuce

Independent = Bernoulli | Categorical
Policy = Independent | PlackettLuce | Gaussian
PolicyType = type[Bernoulli] | type[Categorical] | type[PlackettLuce] | type[Gaussian]


def independent(policy: Policy, *, who: str) -> Independent:
    """The policy, where its decisions are independent, as those of a ranking are not, and discrete, as numbers are not.

    Args:
        policy: of any kind.
        who: what asks, for the message.

    Raises:
        TypeError: it is another.
    """
    if not isinstance(policy, Independent):
        raise TypeError(
            f"{who} needed a policy of independent decisions, yes/no or among classes (Bernoulli or Categorical), "
            f"got {type(policy).__name__}; use score_function, which takes any"
        )
    return policy


def kind_of(policy: Policy) -> PolicyType:
    """The kind of a policy, which makes another one from logits; that of a subclass is its parent's.

    Example:
        >>> import torch
        >>> kind_of(Bernoulli(torch.zeros(2))).__name__
        'Bernoulli'
    """
    return next(kind for kind in (Bernoulli, Categorical, PlackettLuce, Gaussian) if isinstance(policy, kind))
