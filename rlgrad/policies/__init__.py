"""Logits in, decisions out: distributions over decisions, as plain functions of logits.

All policies offer ``mode``, ``sample``, ``log_prob``, ``log_likelihood``, the weighted sum of log-probabilities that
carries a policy gradient, ``surprise``, the derivative of a log-probability, and the two halves of ``sample``,
``uniform`` and ``decide``, for estimators that use one noise twice. Those whose decisions are independent also have
``entropy``, and those that choose among outcomes ``probs`` and ``encode``, decisions as the numbers that a network
takes. Half-precision logits are computed in float32, under autocast too: the log-probability of many decisions is a
long sum.
"""

from rlgrad.policies.bernoulli import Bernoulli as Bernoulli
from rlgrad.policies.categorical import Categorical as Categorical
from rlgrad.policies.divergence import kl_divergence as kl_divergence
from rlgrad.policies.gaussian import Gaussian as Gaussian
from rlgrad.policies.kinds import Independent as Independent
from rlgrad.policies.kinds import Policy as Policy
from rlgrad.policies.kinds import PolicyType as PolicyType
from rlgrad.policies.kinds import independent as independent
from rlgrad.policies.kinds import kind_of as kind_of
from rlgrad.policies.plackett_luce import PlackettLuce as PlackettLuce
from rlgrad.policies.shared import open_uniform as open_uniform
from rlgrad.policies.shared import slices as slices
from rlgrad.policies.shared import wide as wide
