"""The counts of the rest of the data: what lets a small batch be trained on the metric of the whole data set."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad.checks import describe
from rlgrad.metrics import (
    ConfusionMetric,
    CountMetric,
    Counts,
    LabelMetric,
    Metric,
    OpaqueMetric,
    RankingMetric,
    SummedMetric,
    expected_confusion,
    expected_counts,
)
from rlgrad.policies import Policy, independent


class Part(NamedTuple):
    """What is scored by one formula, with sums of its own."""

    metric: Metric
    logits: Tensor
    target: Tensor
    weight: Tensor | None


class Rest(nn.Module):
    """Running sums of what the batches of a pass over the data have counted, and those of the pass before.

    The rest of a batch is the pass before less this batch's share of it: totals x (1 - rows of the batch / rows of the
    pass). So it is one pass behind, and needs to know no row by name. In the first pass it is what the batches before
    it have counted. The sums are part of ``state_dict``.

    Example:
        >>> rest = Rest()
        >>> rest.add(torch.tensor([3.0, 1.0], dtype=torch.float64), rows=4)
        >>> rest.of(rows=4)
        [tensor([3., 1.], dtype=torch.float64)]
        >>> rest.start_pass()
        >>> rest.of(rows=1)
        [tensor([2.2500, 0.7500], dtype=torch.float64)]
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.before = (torch.zeros(0, dtype=torch.float64), 0)

    def start_pass(self) -> None:
        """The batches to come are those of a new pass."""
        if self.now[1]:
            self.before, self.now = self.now, (torch.zeros(0, dtype=torch.float64), 0)

    def add(self, sums: Float[Tensor, " sums"], *, rows: int) -> None:
        """Count a batch; one without rows, where a SummedMetric cannot know how many sums it has, adds nothing."""
        if not rows:
            return
        total, seen = self.now
        sums = sums.detach()
        self.now = (sums + total.to(sums) if seen else sums, seen + rows)

    def of(
        self, *, rows: int, parts: int = 1, device: torch.device | None = None
    ) -> list[Float[Tensor, " sums"] | None]:
        """What is counted beside a batch of so many rows, for each part; None where nothing has been counted yet."""
        (total, seen), share = self.before, 1.0
        if seen:
            share = max(0.0, 1 - rows / seen)
        else:
            total, seen = self.now
        # Sums that were saved come back on whatever device they were loaded to.
        return [*(share * total.to(device)).chunk(parts)] if seen else [None] * parts

    def times(self, *, rows: int) -> float:
        """How many such batches make a pass."""
        _, seen = self.before
        return max(1.0, (seen or self.now[1] + rows) / max(1, rows))

    def get_extra_state(self) -> Tensor:
        """Both sums and their rows as one tensor, for ``state_dict``."""
        (now, seen), (before, seen_before) = self.now, self.before
        return torch.cat([now.new_tensor([len(now), seen, seen_before]), now, before.to(now)])

    def set_extra_state(self, state: Tensor) -> None:
        """What ``get_extra_state`` gave."""
        (length, seen, seen_before), sums = map(int, state[:3]), state[3:]
        self.now, self.before = (sums[:length], seen), (sums[length:], seen_before)


def check_sums(metric: Metric) -> None:
    """A metric is a formula of sums over items or rows, to which those of other data can be added.

    Raises:
        TypeError: it is not.
    """
    if isinstance(metric, OpaqueMetric | RankingMetric):
        raise TypeError(
            f'needed a formula of counts or of summed statistics for scope="data", got {metric!r}, which cannot tell '
            'what it counts; leave scope="batch"'
        )


def counted_in_batch(part: Part, policy: Policy, *, generator: torch.Generator | None = None) -> Float[Tensor, " sums"]:
    """What a batch adds to the sums of a metric: expected counts, or the statistics of one draw."""
    metric, _, target, weight = part
    policy = independent(policy, who='scope="data"')
    if isinstance(metric, CountMetric):
        return torch.stack(expected_counts(policy.probs.detach(), *metric.split(target, weight)))
    if isinstance(metric, ConfusionMetric):
        return expected_confusion(policy.probs.detach(), *metric.split(target, weight)).flatten()
    assert isinstance(metric, SummedMetric)
    decision = policy.sample(1, generator=generator)[0]
    return metric.statistics(decision.unflatten(-1, target.shape), target).sum(0)


def with_rest(metric: Metric, rest: Float[Tensor, " sums"] | None) -> Metric:
    """The metric of a batch and of the rest of the data."""
    if rest is None:
        return metric
    if isinstance(metric, CountMetric):
        return metric.offset(Counts(*rest))
    if isinstance(metric, ConfusionMetric):
        return metric.offset(rest.view(metric.classes, metric.classes))
    assert isinstance(metric, SummedMetric)
    return metric.offset(rest)


def parts_of(metric: Metric, logits: Tensor, target: Tensor, weight: Tensor | None) -> list[Part]:
    """What a metric scores apart, each with sums of its own: every label of an average over labels, else all as one.

    Raises:
        ValueError: rows are scored apart.
    """
    if target.ndim != metric.item_axes:
        raise ValueError(
            f'needed rows scored jointly for scope="data", got the target {describe(target)} for {metric!r}; '
            f"name the axes: metric.over({target.ndim})"
        )
    if not isinstance(metric, LabelMetric):
        return [Part(metric, logits, target, weight)]
    together = Part(metric.metric, *metric.parts(logits, target, weight))
    if metric.average == "micro":
        return [together]
    weights = [None] * metric.labels if together.weight is None else together.weight
    return [Part(metric.metric, *of_label) for of_label in zip(*together[1:3], weights, strict=True)]


def joined(
    metric: Metric,
    values: Float[Tensor, " parts"],
    sums: Float[Tensor, "parts sums"],
    others: list[Float[Tensor, " _"] | None],
) -> Float[Tensor, ""]:
    """The metric from its parts: the average over labels, weighted by all data where it is weighted."""
    if not isinstance(metric, LabelMetric) or metric.average == "micro":
        return values[0]
    total = torch.stack([mine if other is None else mine + other for mine, other in zip(sums, others, strict=True)])
    return metric.reduce(values, total[:, 0] + total[:, 2])
