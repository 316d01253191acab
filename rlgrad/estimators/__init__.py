"""A policy and a scorer in, an expected reward out: a tensor whose gradient estimates that of the expected reward.

Every estimator is called ``estimator(policy, score, generator=...)``. It returns ``*batch``: the value estimates
E[reward], and autograd through it gives the estimator of its gradient in the policy's logits. Where the score's own
graph holds weights, such as those downstream of hidden decisions, they get their gradient too.
"""

from rlgrad.estimators.antithetic import arm as arm
from rlgrad.estimators.antithetic import disarm as disarm
from rlgrad.estimators.biased import gumbel_softmax as gumbel_softmax
from rlgrad.estimators.biased import straight_through as straight_through
from rlgrad.estimators.blockwise import blockwise as blockwise
from rlgrad.estimators.blockwise import tiles as tiles
from rlgrad.estimators.counterfactual import counterfactual as counterfactual
from rlgrad.estimators.enumeration import enumeration as enumeration
from rlgrad.estimators.enumeration import sum_and_sample as sum_and_sample
from rlgrad.estimators.exact import exact as exact
from rlgrad.estimators.exact import is_exact as is_exact
from rlgrad.estimators.importance_weighted import importance_weighted as importance_weighted
from rlgrad.estimators.names import ESTIMATORS as ESTIMATORS
from rlgrad.estimators.names import as_estimator as as_estimator
from rlgrad.estimators.names import learning_credit as learning_credit
from rlgrad.estimators.perturbation import evolution_strategies as evolution_strategies
from rlgrad.estimators.perturbation import spsa as spsa
from rlgrad.estimators.relaxation import REBAR as REBAR
from rlgrad.estimators.relaxation import RELAX as RELAX
from rlgrad.estimators.relaxation import muprop as muprop
from rlgrad.estimators.score_function import score_function as score_function
from rlgrad.estimators.second_order import second_order as second_order
from rlgrad.estimators.surrogate import Estimator as Estimator
from rlgrad.estimators.without_replacement import inclusion_weighted as inclusion_weighted
from rlgrad.estimators.without_replacement import unordered_set as unordered_set
