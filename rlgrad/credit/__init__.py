"""Rewards in, advantages out: what each draw, or each single decision, is given credit for.

A credit is a function ``credit(reward, play)`` from rewards ``draws *batch`` to advantages, ``draws *batch`` or, where
credit goes to single decisions, ``draws *batch items``. The play tells who decided what; most do without it. Each
subtracts from a draw's reward only what does not depend on that draw (or that decision), which leaves the expected
gradient as it is and takes away variance. Advantages that carry a graph are a baseline that learns: estimators fit it
by least squares, as the gradient of half the squared advantage.

Where decisions come one after another and each step has its reward, ``discounted_returns`` and
``generalized_advantage`` say what each step's decision is given credit for.
"""

from rlgrad.credit.baselines import LearnedValue as LearnedValue
from rlgrad.credit.baselines import MovingAverage as MovingAverage
from rlgrad.credit.baselines import greedy as greedy
from rlgrad.credit.baselines import leave_one_out as leave_one_out
from rlgrad.credit.baselines import leaves_one_out as leaves_one_out
from rlgrad.credit.baselines import none as none
from rlgrad.credit.baselines import reward_to_go as reward_to_go
from rlgrad.credit.episodes import discounted_returns as discounted_returns
from rlgrad.credit.episodes import generalized_advantage as generalized_advantage
from rlgrad.credit.gains import check_classes as check_classes
from rlgrad.credit.gains import counted as counted
from rlgrad.credit.gains import counterfactual as counterfactual
from rlgrad.credit.gains import gain as gain
from rlgrad.credit.play import Credit as Credit
from rlgrad.credit.play import Play as Play
from rlgrad.credit.play import checked as checked
from rlgrad.credit.play import rewards_of as rewards_of
