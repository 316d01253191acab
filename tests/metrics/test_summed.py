"""Formulas of summed statistics, against the formula of counts, the whole written out, and exact enumeration."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from rlgrad import MetricLoss
from rlgrad.estimators import score_function
from rlgrad.metrics import OpaqueMetric, Scorer, SummedMetric, f1

GENERATOR = torch.Generator().manual_seed(5)
DECISION = torch.rand(4, 2, 3, 7, generator=GENERATOR) < 0.5  # draws batch rows tokens
TARGET = (torch.rand(2, 3, 7, generator=GENERATOR) < 0.4).long()


def found_claimed_there(decision: Tensor, target: Tensor) -> tuple[Tensor, int, Tensor]:
    return (decision.bool() & target.bool()).sum(), int(decision.bool().sum()), target.sum()


def f1_of_sums(found: Tensor, claimed: Tensor, there: Tensor) -> Tensor:
    return 2 * found / (claimed + there)


SUMMED_F1 = SummedMetric(found_claimed_there, f1_of_sums, undefined=1.0, name="summed_f1")


def runs(values: Tensor) -> set[tuple[int, int]]:
    """The spans of ones of a sequence, for a statistic that single decisions do not add up to."""
    padded = [0, *values.tolist(), 0]
    starts = [i for i in range(1, len(padded)) if padded[i] and not padded[i - 1]]
    ends = [i for i in range(1, len(padded)) if not padded[i] and padded[i - 1]]
    return set(zip(starts, ends, strict=True))


def span_counts(decision: Tensor, target: Tensor) -> tuple[int, int, int]:
    claimed, there = runs(decision.long()), runs(target)
    return len(claimed & there), len(claimed), len(there)


SPAN_F1 = SummedMetric(span_counts, f1_of_sums, undefined=1.0, name="span_f1")


def test_summed_counts_are_the_count_metric_of_all_rows_together() -> None:
    assert SUMMED_F1.item_axes == 2
    assert torch.equal(SUMMED_F1(DECISION, TARGET), f1.over(2)(DECISION, TARGET))


def test_images_have_two_axes() -> None:
    images = SummedMetric(found_claimed_there, f1_of_sums, undefined=1.0, row_axes=2)
    assert images.item_axes == 3
    assert torch.equal(images(DECISION, TARGET), f1.over(3)(DECISION, TARGET))
    assert images.statistics(DECISION, TARGET).shape == (4, 2, 3)


def test_corpus_spans_against_the_whole_written_out() -> None:
    scores = SPAN_F1(DECISION, TARGET)
    for draw, batch in product(range(4), range(2)):
        totals = [span_counts(DECISION[draw, batch, row], TARGET[batch, row]) for row in range(3)]
        found, claimed, there = map(sum, zip(*totals, strict=True))
        assert math.isclose(scores[draw, batch].item(), 2 * found / (claimed + there))
    assert torch.equal(SPAN_F1(DECISION[0], TARGET), scores[0])
    assert not torch.allclose(scores, SPAN_F1.apart()(DECISION, TARGET).mean(-1))  # another number


def test_statistics_and_of_sums_are_the_metric_in_two_steps() -> None:
    statistics = SPAN_F1.statistics(DECISION, TARGET)
    assert statistics.shape == (4, 2, 3, 3)
    assert statistics.dtype == torch.float64
    assert statistics[1, 1, 2].tolist() == list(span_counts(DECISION[1, 1, 2], TARGET[1, 2]))
    assert torch.equal(SPAN_F1.of_sums(statistics.sum(-2)), SPAN_F1(DECISION, TARGET))


def test_apart_scores_each_row_by_itself() -> None:
    apart = SUMMED_F1.apart()
    assert isinstance(apart, OpaqueMetric)
    assert apart.item_axes == 1
    assert torch.equal(apart(DECISION, TARGET), f1(DECISION, TARGET))
    images = SummedMetric(found_claimed_there, f1_of_sums, undefined=1.0, row_axes=2).apart()
    assert torch.equal(images(DECISION, TARGET), f1.over(2)(DECISION, TARGET))


def test_undefined_stands_for_zero_by_zero_with_no_gradient() -> None:
    nothing = torch.zeros(2, 3, 7, dtype=torch.bool)
    assert SUMMED_F1(nothing, nothing.long()).tolist() == [1.0, 1.0]
    sums = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    SUMMED_F1.of_sums(sums).backward()
    assert sums.grad.tolist() == [0.0, 0.0, 0.0]


def test_no_rows_are_undefined() -> None:
    assert SUMMED_F1(DECISION[:, :, :0], TARGET[:, :0]).tolist() == [[1.0, 1.0]] * 4
    assert SUMMED_F1(DECISION[:, :0], TARGET[:0]).shape == (4, 0)


def test_padding_is_taken_out_of_sentences_and_marked_in_images() -> None:
    target = TARGET.clone()
    target[:, :, 5:] = -100
    target[0, 1] = -100  # a row that only fills the batch
    assert torch.equal(SUMMED_F1.ignoring(-100)(DECISION, target), f1.over(2).ignoring(-100)(DECISION, target))
    assert torch.equal(SUMMED_F1.ignoring(-100).apart()(DECISION, target), f1.ignoring(-100)(DECISION, target))

    def marked(decision: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        assert torch.equal(decision == -100, target == -100)
        return (decision == target).sum() - (target == -100).sum(), (target != -100).sum()

    accuracy = SummedMetric(marked, lambda hits, pixels: hits / pixels, undefined=0.0, row_axes=2, ignore_index=-100)
    kept = (target != -100).expand(DECISION.shape)
    hits = (target == DECISION) & kept
    torch.testing.assert_close(accuracy(DECISION, target), hits.sum((1, 2, 3)).double() / kept.sum((1, 2, 3)).double())


def test_its_policy_gradient_is_that_of_the_expectation() -> None:
    """Against E[metric] over all 16 tables of decisions, differentiated by autograd."""
    target = torch.tensor([[1, 1], [0, 1]])
    logits = torch.tensor([[0.3, -0.2], [0.5, -1.0]], dtype=torch.float64)
    every = torch.tensor(list(product([False, True], repeat=4))).reshape(16, 2, 2)
    rewards = torch.stack([SPAN_F1(decision, target) for decision in every])

    def probabilities(logits: Tensor) -> Tensor:
        return torch.where(every, torch.sigmoid(logits), torch.sigmoid(-logits)).prod(-1).prod(-1)

    (exact,) = torch.autograd.grad(probabilities(at := logits.clone().requires_grad_()) @ rewards, at)
    criterion = MetricLoss(SPAN_F1, score_function(draws=4096), generator=torch.Generator().manual_seed(0))
    loss = criterion(estimated := logits.clone().requires_grad_(), target)
    (gradient,) = torch.autograd.grad(loss, estimated)
    assert loss.ndim == 0
    assert abs(1 - loss.item() - (probabilities(logits) @ rewards).item()) < 0.03
    assert (gradient + exact).abs().max() < 0.02  # 4096 draws, standard error below 0.005


def test_a_scorer_takes_it_and_no_weights() -> None:
    flat = DECISION.flatten(-2)
    assert torch.equal(Scorer(SPAN_F1, TARGET)(flat), SPAN_F1(DECISION, TARGET))
    with pytest.raises(TypeError, match="needed a metric of counts to weigh items for"):
        Scorer(SPAN_F1, TARGET, torch.ones(2, 3, 7))


def test_a_tuple_stands_for_the_statistics_of_a_row_that_fails() -> None:
    def fails_on_full_rows(decision: Tensor, target: Tensor) -> tuple[int, int, int]:
        if decision.all():
            raise ZeroDivisionError
        return span_counts(decision, target)

    decision = DECISION.clone()
    decision[2, 1, 0] = True
    metric = SummedMetric(fails_on_full_rows, f1_of_sums, undefined=1.0, name="mine", on_error=(0, 7, 7))
    with pytest.warns(UserWarning, match=r"^1 of 24 calls of mine failed and count as \(0, 7, 7\).*row \(2, 1, 0\)"):
        statistics = metric.statistics(decision, TARGET)
    assert statistics[2, 1, 0].tolist() == [0, 7, 7]
    with pytest.warns(UserWarning, match=r"^1 of 24 calls of mine failed and count as 0.0"):
        assert metric.apart()(decision, TARGET)[2, 1, 0] == 0


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "needed a tuple of numbers from mine, got None"),
        (3.0, "needed a tuple of numbers from mine, got 3.0"),
        ((1.0, "two"), "needed a tuple of numbers from mine"),
        ((1.0, [2.0]), "needed a tuple of numbers from mine"),
        (torch.ones(2, 2), "needed a tuple of numbers from mine"),
        ((1.0, math.nan), "needed finite statistics from mine"),
    ],
)
def test_what_is_no_tuple_of_finite_numbers_is_refused(result: object, message: str) -> None:
    metric = SummedMetric(lambda decision, target: result, f1_of_sums, undefined=1.0, name="mine")
    with pytest.raises(ValueError, match=rf"^{message}.* at draw and row \(0, 0, 0\)"):
        metric(DECISION, TARGET)


@pytest.mark.usefixtures("as_a_user")
def test_every_row_gives_as_many_statistics() -> None:
    sizes = iter([3, 3, 2, *[3] * 21])
    metric = SummedMetric(lambda decision, target: [1.0] * next(sizes), f1_of_sums, undefined=1.0, name="mine")
    with pytest.raises(ValueError, match=r"^needed 3 statistics from mine, got 2 at draw and row \(0, 0, 2\)"):
        metric(DECISION, TARGET)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda a, b: a / b, "needed a score that works elementwise on 3 tensors of sums, got TypeError from mine"),
        (lambda a, b, c: 1.0, "needed mine to return one value for each of the sums"),
        (lambda a, b, c: a.sum(), "needed mine to return one value for each of the sums"),
    ],
)
def test_a_score_that_is_no_elementwise_formula_is_refused(score, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        SummedMetric(span_counts, score, undefined=1.0, name="mine")(DECISION, TARGET)


@pytest.mark.usefixtures("as_a_user")
def test_bad_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="needed a statistic"):
        SummedMetric(None, f1_of_sums, undefined=1.0)
    with pytest.raises(TypeError, match="needed a statistic"):
        SummedMetric(span_counts, "f1", undefined=1.0)
    with pytest.raises(ValueError, match="finite undefined"):
        SummedMetric(span_counts, f1_of_sums, undefined=math.nan)
    with pytest.raises(TypeError, match=r"a tuple of statistics, got 0\.0"):
        SummedMetric(span_counts, f1_of_sums, undefined=1.0, on_error=0.0)
    with pytest.raises(ValueError, match="needed at least one axis"):
        SummedMetric(span_counts, f1_of_sums, undefined=1.0, row_axes=0)
    with pytest.raises(ValueError, match="needed 2 item axes for SummedMetric"):
        SPAN_F1.over(1)
    assert SPAN_F1.over(2) is SPAN_F1
    with pytest.raises(ValueError, match="needed 2 axes of items"):
        SPAN_F1(DECISION[0, 0, 0], TARGET[0, 0])
    with pytest.raises(TypeError, match="needed bool or integer decisions"):
        SPAN_F1(torch.zeros(3, 7), TARGET[0])
