"""Fit a model on a criterion, judged at every epoch by the true metric of its decisions."""

from rlgrad.train.batches import Data as Data
from rlgrad.train.evaluation import Evaluation as Evaluation
from rlgrad.train.evaluation import Threshold as Threshold
from rlgrad.train.evaluation import evaluate as evaluate
from rlgrad.train.fitting import Tuned as Tuned
from rlgrad.train.fitting import fit as fit
from rlgrad.train.stages import Epoch as Epoch
from rlgrad.train.stages import History as History
from rlgrad.train.stages import Stage as Stage
