"""Step activations, which have no useful derivative, and the rules that stand in for it on the way back.

A step's true derivative is zero, so nothing before it learns by back-propagation. Every activation here takes a rule
as ``backward=``: ``None`` for the true zero, a surrogate derivative from ``RULES`` by name or as an object such as
``arctan(slope=4)``, or any function from the distance to a threshold to a pseudo-derivative. A surrogate is quiet and
biased: what it yields is the gradient of no function. ``QPWC`` is steep rather than flat: for it None is a gradient.
"""

from rlgrad.steps.activations import Sign as Sign
from rlgrad.steps.activations import Staircase as Staircase
from rlgrad.steps.activations import Step as Step
from rlgrad.steps.qpwc import QPWC as QPWC
from rlgrad.steps.rules import RULES as RULES
from rlgrad.steps.rules import Rule as Rule
from rlgrad.steps.rules import arctan as arctan
from rlgrad.steps.rules import boxcar as boxcar
from rlgrad.steps.rules import fast_sigmoid as fast_sigmoid
from rlgrad.steps.rules import sigmoid as sigmoid
from rlgrad.steps.rules import straight_through as straight_through
from rlgrad.steps.rules import superspike as superspike
from rlgrad.steps.rules import triangular as triangular
