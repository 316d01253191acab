"""Decisions and a target in, a reward out."""

from rlgrad.metrics.catalogue import CATALOGUE as CATALOGUE
from rlgrad.metrics.catalogue import accuracy as accuracy
from rlgrad.metrics.catalogue import balanced_accuracy as balanced_accuracy
from rlgrad.metrics.catalogue import cohen_kappa as cohen_kappa
from rlgrad.metrics.catalogue import f1 as f1
from rlgrad.metrics.catalogue import f_beta as f_beta
from rlgrad.metrics.catalogue import fowlkes_mallows as fowlkes_mallows
from rlgrad.metrics.catalogue import g_mean as g_mean
from rlgrad.metrics.catalogue import iou as iou
from rlgrad.metrics.catalogue import mcc as mcc
from rlgrad.metrics.catalogue import precision as precision
from rlgrad.metrics.catalogue import recall as recall
from rlgrad.metrics.catalogue import specificity as specificity
from rlgrad.metrics.catalogue import youden_j as youden_j
from rlgrad.metrics.counts import CountMetric as CountMetric
from rlgrad.metrics.counts import Counts as Counts
from rlgrad.metrics.counts import expected_counts as expected_counts
from rlgrad.metrics.counts import hard_counts as hard_counts
from rlgrad.metrics.opaque import OpaqueMetric as OpaqueMetric
from rlgrad.metrics.scorer import Differentiable as Differentiable
from rlgrad.metrics.scorer import Downstream as Downstream
from rlgrad.metrics.scorer import Metric as Metric
from rlgrad.metrics.scorer import Score as Score
from rlgrad.metrics.scorer import Scorer as Scorer
from rlgrad.metrics.scorer import as_metric as as_metric
