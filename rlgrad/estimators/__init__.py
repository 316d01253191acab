"""A policy and a scorer in, an expected reward out: a tensor whose gradient estimates that of the expected reward.

Every estimator is called ``estimator(policy, score, generator=...)``. It returns ``*batch``: the value estimates
E[reward], and autograd through it gives the estimator of its gradient in the policy's logits.
"""

from rlgrad.estimators.counterfactual import counterfactual as counterfactual
from rlgrad.estimators.exact import exact as exact
from rlgrad.estimators.score_function import score_function as score_function
from rlgrad.estimators.surrogate import Estimator as Estimator
