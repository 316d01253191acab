"""Which policies there are, and which of them take their decisions one by one."""

from rlgrad.policies.bernoulli import Bernoulli
from rlgrad.policies.categorical import Categorical
from rlgrad.policies.plackett_luce import PlackettLuce

Independent = Bernoulli | Categorical
Policy = Independent | PlackettLuce
PolicyType = type[Bernoulli] | type[Categorical] | type[PlackettLuce]


def independent(policy: Policy, *, who: str) -> Independent:
    """The policy, where its decisions are independent of one another, as those of a ranking are not.

    Args:
        policy: of any kind.
        who: what asks, for the message.

    Raises:
        TypeError: it is another.
    """
    if not isinstance(policy, Independent):
        raise TypeError(
            f"{who} needed a policy of independent decisions, Bernoulli or Categorical, got {type(policy).__name__}; "
            "use score_function, which takes any"
        )
    return policy


def kind_of(policy: Policy) -> PolicyType:
    """The kind of a policy, which makes another one from logits; that of a subclass is its parent's.

    Example:
        >>> import torch
        >>> kind_of(Bernoulli(torch.zeros(2))).__name__
        'Bernoulli'
    """
    return next(kind for kind in (Bernoulli, Categorical, PlackettLuce) if isinstance(policy, kind))
