"""Networks of hard steps, trained by policy gradient: each unit is a decision, scored by all that follows.

In training a unit with inputs z is drawn: it is 1 with probability sigmoid(z / temperature), as if logistic noise were
added to its input. Its gradient is that of an estimator of this library, whose score is the rest of the network, down
to the loss of the row; where further steps follow, their estimates are nested in that score. At evaluation the network
is what it looks like, hard and deterministic; ``averaged`` gives the mean output over draws instead.
"""

from rlgrad.stochastic.expected_loss import ExpectedLoss as ExpectedLoss
from rlgrad.stochastic.expected_loss import averaged as averaged
from rlgrad.stochastic.units import is_drawn as is_drawn
from rlgrad.stochastic.units import policy_gradient as policy_gradient
