"""REINFORCE for any Gymnasium environment, by the policies, credits and estimator of the library."""

from rlgrad.agent.environments import EnvironmentFailed as EnvironmentFailed
from rlgrad.agent.history import Evaluation as Evaluation
from rlgrad.agent.history import History as History
from rlgrad.agent.history import Update as Update
from rlgrad.agent.reinforce import Reinforce as Reinforce
from rlgrad.agent.value import Value as Value
