"""What people train on instead of the metric: criteria with a useful gradient, called ``criterion(logits, target)``.

Each averages over all decisions, or over rows where it scores rows, and returns a scalar. Those that are made of a
metric take its ``item_axes`` and its ``ignore_index`` from it; the others have an ``ignore_index`` of their own. And
what people do after training: tuning thresholds.
"""

from rlgrad.surrogates.cross_entropy import bce as bce
from rlgrad.surrogates.cross_entropy import cross_entropy as cross_entropy
from rlgrad.surrogates.cross_entropy import focal as focal
from rlgrad.surrogates.cross_entropy import weighted_bce as weighted_bce
from rlgrad.surrogates.inputs import Criterion as Criterion
from rlgrad.surrogates.lovasz import lovasz as lovasz
from rlgrad.surrogates.lovasz import lovasz_softmax as lovasz_softmax
from rlgrad.surrogates.offsets import best_offsets as best_offsets
from rlgrad.surrogates.overlap import bce_dice as bce_dice
from rlgrad.surrogates.overlap import dice as dice
from rlgrad.surrogates.overlap import jaccard as jaccard
from rlgrad.surrogates.overlap import soft as soft
from rlgrad.surrogates.overlap import tversky as tversky
from rlgrad.surrogates.thresholds import best_threshold as best_threshold
from rlgrad.surrogates.thresholds import best_thresholds as best_thresholds
