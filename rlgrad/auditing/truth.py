"""The true gradient of the objective: by every outcome, by the law of counts, or by a long run."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlgrad.auditing.bias import LEVEL, Rarity, Truth, bias_test
from rlgrad.auditing.candidates import Batch, Point, seeded
from rlgrad.auditing.cost import timed
from rlgrad.estimators import Estimator, counterfactual, enumeration, exact, score_function
from rlgrad.estimators.count_law import SWITCH
from rlgrad.metrics import CountMetric
from rlgrad.policies import Bernoulli, independent

OUTCOMES = 1 << 16  # of a row, up to which all are asked for
NOISE = 0.01  # of the true gradient's norm: a long run ends there
_DRAWS = 256  # behind each block of a long run, less where they are large
_NUMBERS = 1 << 22
_PILOT = 4  # blocks by which the cheaper of two estimators is chosen
_LEAST, _MOST = 32, 256  # blocks of a long run


@dataclass(frozen=True)
class Found:
    """A true gradient and how it was found.

    Args:
        truth: in the space of the estimates, on the processor.
        how: in words.
        each: seconds that the reward of one draw takes, all rows together.
    """

    truth: Truth
    how: str
    each: float = 0.0


def find_truth(batch: Batch, *, seconds: float, seed: int) -> Found:
    """The gradient of the mean over rows of E[metric], as well as it can be known.

    Up to 65536 outcomes a row are listed, if asking for all their rewards fits into the time. A CountMetric has its
    law of counts; where that is replaced by a Gauss rule, which is wrong about formulas with jumps, a run of
    ``counterfactual`` checks it, and replaces it if the two disagree. All else takes a long run, of leave-one-out
    REINFORCE or ``counterfactual``, whichever is expected to be nearer the truth at the end of the time.

    Args:
        batch: where.
        seconds: that a long run may take; it ends when its noise is 1% of the gradient.
        seed: of a long run.
    """
    each = seconds_a_reward(batch, seed)
    return replace(_found(batch, each, seconds, seed), each=each)


def _found(batch: Batch, each: float, seconds: float, seed: int) -> Found:
    if _listable(batch, each, seconds):
        return listed(batch)
    if not (isinstance(batch.metric, CountMetric) and batch.policy is Bernoulli):
        return long_run(batch, _ways(batch, each, seconds), seconds=seconds, seed=seed)
    found = _exactly(batch, exact(), "the law of counts")
    if not _beyond_the_law(batch):
        return found
    return _checked(batch, found, seconds, seed)


def double(gradient: Tensor) -> Tensor:
    """As one row of numbers, in double precision, on the processor."""
    return gradient.detach().flatten().cpu().double()


def seconds_a_reward(point: Point[Any], seed: int) -> float:
    """Of one draw, all rows together."""
    generator = seeded(point.device, seed, "the time of a reward")

    def ask(draws: int) -> float:
        return timed(lambda: point.rewards(draws, generator=generator), point.device)[1] / draws

    first = ask(1)  # which may also pay for what only a first call does
    return first if first > 1 else ask(16 if first < 0.1 else 1)


def listed(point: Point[Any]) -> Found:
    """By asking for every outcome."""
    return _exactly(point, enumeration(), "every outcome, listed")


def _listable(batch: Batch, each: float, seconds: float) -> bool:
    items, classes = batch.target.shape[-1], 2 if batch.policy is Bernoulli else batch.logits.shape[-1]
    if items * math.log2(max(classes, 2)) > math.log2(OUTCOMES):
        return False
    outcomes = int(classes**items)
    return outcomes * batch.target.numel() <= 64 * _NUMBERS and outcomes * each <= seconds


def _exactly(point: Point[Any], estimator: Estimator, how: str) -> Found:
    generator = seeded(point.device, 0, how)
    return Found(Truth(double(point.estimate(estimator, generator, wide=True))), how)


def _beyond_the_law(batch: Batch) -> bool:
    probs = independent(batch.policy(batch.logits), who="audit").probs.cpu().double()
    true: Tensor = batch.target.cpu() == 1
    spread = probs * (1 - probs)
    variances = torch.stack([(spread * true).sum(-1), (spread * ~true).sum(-1)])
    return bool((variances >= SWITCH**2).any())


def _checked(batch: Batch, found: Found, seconds: float, seed: int) -> Found:
    draws = max(1, min(_DRAWS, _NUMBERS // 16 // batch.logits.numel()))
    run = _run(batch, Way("counterfactual", counterfactual(draws), draws), seed, seconds)
    slack = 1e-6 * math.sqrt(max(0.0, found.truth.squared))
    assert run.truth.blocks is not None
    p_value = bias_test(run.truth.blocks, found.truth, rarity_of(batch), draws=run.truth.draws, slack=slack, seed=seed)
    if p_value < LEVEL:
        jump = "the law of counts disagreed with it, as it does for a formula with a jump"
        return Found(run.truth, f"{run.how} ({jump})")
    within = math.sqrt(run.truth.noise / run.truth.squared) if run.truth.squared > 0 else math.inf
    return Found(found.truth, f"{found.how}, confirmed to {within:.1%} by a run of counterfactual")


def rarity_of(batch: Batch) -> Rarity:
    """Of the policy's decisions, rows flattened."""
    probs = independent(batch.policy(batch.logits.detach()), who="audit").probs.cpu().double()
    classes = 1 if batch.policy is Bernoulli else probs.shape[-1]
    return Rarity((probs * (1 - probs)).reshape(-1, batch.target.shape[-1], classes))


@dataclass(frozen=True)
class Way:
    """An estimator without bias, of which the truth can be a mean.

    Args:
        name: in words.
        estimator: to be asked again and again.
        draws: behind each estimate.
    """

    name: str
    estimator: Estimator
    draws: int


def _ways(batch: Batch, each: float, seconds: float) -> list[Way]:
    in_time = min(_DRAWS, seconds / each / (4 * _LEAST))
    draws = max(2, min(int(in_time), _NUMBERS // batch.logits.numel()))
    ways = [Way("leave-one-out REINFORCE", score_function(draws), draws)]
    # Without counts, a draw of counterfactual asks for the reward of each single change.
    changes = batch.target.shape[-1] * (1 if batch.policy is Bernoulli else batch.logits.shape[-1] - 1)
    by_counts = isinstance(batch.metric, CountMetric) and batch.policy is Bernoulli
    if by_counts or 2 * _LEAST * changes * each < seconds:
        ways.append(Way("counterfactual", counterfactual(draws if by_counts else 1), draws if by_counts else 1))
    return ways


def long_run(point: Point[Any], ways: Sequence[Way], *, seconds: float, seed: int) -> Found:
    """By the mean of many estimates, of the way that is expected to be nearest the truth at the end of the time.

    Args:
        point: where.
        ways: to choose from.
        seconds: that it may take; it ends when its noise is 1% of the gradient.
        seed: of all draws.
    """
    start = time.perf_counter()
    pilots = [(_noise_in(point, way, seed), way) for way in ways]
    way = min(pilots, key=lambda pilot: pilot[0])[1]
    return _run(point, way, seed, seconds - (time.perf_counter() - start))


def _run(point: Point[Any], way: Way, seed: int, seconds: float) -> Found:
    generator = seeded(point.device, seed, f"long run of {way.name}")
    blocks, merged = _blocks(point, way, generator, end=time.perf_counter() + seconds)
    return Found(Truth(blocks.mean(0), blocks, way.draws * merged), f"a long run of {way.name}")


def _noise_in(point: Point[Any], way: Way, seed: int) -> float:
    """Variance of an estimate times the seconds it takes: the squared error at the end of a second."""
    generator = seeded(point.device, seed, f"pilot {way.name}")
    runs = [timed(lambda: double(point.estimate(way.estimator, generator)), point.device) for _ in range(_PILOT)]
    variance = float(torch.stack([gradient for gradient, _ in runs]).var(0).sum())
    return variance * min(seconds for _, seconds in runs)


def _blocks(point: Point[Any], way: Way, generator: torch.Generator, *, end: float) -> tuple[Tensor, int]:
    """Independent estimates, and how many were merged into each."""
    blocks: list[Tensor] = []
    merged = 1
    while True:
        several = [double(point.estimate(way.estimator, generator, wide=True)) for _ in range(merged)]
        blocks.append(torch.stack(several).mean(0))
        if len(blocks) % _LEAST:
            continue
        truth = Truth(torch.stack(blocks).mean(0), torch.stack(blocks))
        if truth.noise <= NOISE**2 * truth.squared or time.perf_counter() > end:
            return torch.stack(blocks), merged
        if len(blocks) == _MOST:
            blocks = [(one + other) / 2 for one, other in zip(blocks[0::2], blocks[1::2], strict=True)]
            merged *= 2
