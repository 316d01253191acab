"""Scores of whole sequences against conlleval's rules, torchmetrics, and tables filled cell by cell."""

import math
from itertools import product
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.text import bleu_score, word_error_rate

from rlgrad import Categorical, MetricLoss
from rlgrad.estimators import enumeration, score_function
from rlgrad.metrics import OpaqueMetric, SummedMetric
from rlgrad.metrics.sequences import (
    edit_distance,
    error_counts,
    ngram_counts,
    ngram_precision,
    span_counts,
    span_f1,
    word_accuracy,
)

TAGS = ["O", "B-NP", "I-NP", "B-VP", "I-VP", "B-PP", "I-PP"]
RNG = np.random.default_rng(0)


def sentences(count: int, *, tags: int = len(TAGS), longest: int = 12) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of tag sequences, most of them ill-formed, that agree at most places."""
    pairs = []
    for _ in range(count):
        true = RNG.integers(0, tags, RNG.integers(0, longest))
        pairs.append((np.where(RNG.random(len(true)) < 0.2, RNG.integers(0, tags, len(true)), true), true))
    return pairs


# conlleval.pl's two questions, rule by rule, for the prefixes of IOB2


def end_of_chunk(before: str, now: str, kind_before: str, kind: str) -> bool:
    end = before == "B" and now == "B"
    end |= before == "B" and now == "O"
    end |= before == "I" and now == "B"
    end |= before == "I" and now == "O"
    return end or (before != "O" and kind_before != kind)


def start_of_chunk(before: str, now: str, kind_before: str, kind: str) -> bool:
    start = before == "B" and now == "B"
    start |= before == "I" and now == "B"
    start |= before == "O" and now == "B"
    start |= before == "O" and now == "I"
    return start or (now != "O" and kind_before != kind)


def conlleval(decision: list[str], target: list[str]) -> tuple[int, int, int]:
    """Chunks found, claimed and true in one sentence, as the script counts them while it reads line by line."""
    found = claimed = true = 0
    in_correct = False
    last_true = last_claimed = ("O", "")
    for claimed_tag, true_tag in zip([*decision, "O"], [*target, "O"], strict=True):  # a sentence ends with O
        of_true, of_claimed = ((*tag.split("-", 1), "")[:2] for tag in (true_tag, claimed_tag))
        ends = [
            end_of_chunk(before[0], now[0], before[1], now[1])
            for before, now in ((last_true, of_true), (last_claimed, of_claimed))
        ]
        starts = [
            start_of_chunk(before[0], now[0], before[1], now[1])
            for before, now in ((last_true, of_true), (last_claimed, of_claimed))
        ]
        if in_correct:
            if all(ends) and last_true[1] == last_claimed[1]:
                in_correct = False
                found += 1
            elif ends[0] != ends[1] or of_true[1] != of_claimed[1]:
                in_correct = False
        if all(starts) and of_true[1] == of_claimed[1]:
            in_correct = True
        true, claimed = true + starts[0], claimed + starts[1]
        last_true, last_claimed = cast(tuple[str, str], of_true), cast(tuple[str, str], of_claimed)
    return found + in_correct, claimed, true


def names(numbers: np.ndarray) -> list[str]:
    return [TAGS[number] for number in numbers]


# Spans


def test_spans_are_counted_as_conlleval_does() -> None:
    total = np.zeros(3, int)
    for claimed, true in sentences(2000):
        counts = span_counts(claimed, true, tags=TAGS)
        assert counts == conlleval(names(claimed), names(true)), (names(claimed), names(true))
        total += counts
    assert (total > 1000).all()


def test_every_pair_of_short_tag_sequences() -> None:
    for length in (1, 2, 3):
        for claimed, true in product(product([0, 1, 2, 4], repeat=length), repeat=2):
            claimed_tags, true_tags = ([TAGS[number] for number in side] for side in (claimed, true))
            expected = conlleval(claimed_tags, true_tags)
            assert span_counts(np.array(claimed), np.array(true), tags=TAGS) == expected


def test_f1_of_spans_is_of_the_corpus_without_its_padding() -> None:
    pairs = sentences(30)
    decision, target = torch.zeros(30, 12, dtype=torch.long), torch.full((30, 12), -100)
    for row, (claimed, true) in enumerate(pairs):
        decision[row, : len(true)], target[row, : len(true)] = torch.tensor(claimed), torch.tensor(true)
    decision[target == -100] = 3  # what is claimed there does not matter
    found, claimed, true = np.sum([conlleval(names(a), names(b)) for a, b in pairs], 0)
    score = span_f1(TAGS, ignore_index=-100)(decision, target)
    assert float(score) == pytest.approx(2 * found / (claimed + true), rel=1e-12)


def test_the_order_of_tags_and_dashes_in_types_do_not_matter() -> None:
    tags = ["I-part-of", "O", "B-is-a", "B-part-of", "I-is-a"]
    assert span_counts(np.array([3, 0, 0, 2, 1]), np.array([3, 0, 0, 2, 1]), tags=tags) == (2, 2, 2)
    assert span_counts(np.array([2, 0, 4]), np.array([1, 1, 1]), tags=tags) == (0, 3, 0)
    assert span_counts(np.array([], int), np.array([]), tags=tags) == (0, 0, 0)


def test_no_span_to_find() -> None:
    nothing, something = torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.long)
    metric = span_f1(TAGS)
    pairs = (nothing, nothing), (something, nothing), (nothing, something)
    assert [float(metric(*pair)) for pair in pairs] == [1, 0, 0]


# Edits


def distance_by_table(one: list[int], other: list[int]) -> int:
    table = [[i + j for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i, j in product(range(1, len(one) + 1), range(1, len(other) + 1)):
        replaced = table[i - 1][j - 1] + (one[i - 1] != other[j - 1])
        table[i][j] = min(replaced, table[i - 1][j] + 1, table[i][j - 1] + 1)
    return table[-1][-1]


def test_edit_distance_is_that_of_the_table() -> None:
    for _ in range(300):
        one, other = (RNG.integers(0, 4, RNG.integers(0, 20)) for _ in range(2))
        assert edit_distance(one, other) == distance_by_table(one.tolist(), other.tolist())


def test_every_pair_of_short_sequences() -> None:
    every = [side for length in range(4) for side in product(range(3), repeat=length)]
    for one, other in product(every, repeat=2):
        assert edit_distance(np.array(one, int), np.array(other, int)) == distance_by_table(list(one), list(other))


def test_long_sequences() -> None:
    one, other = (RNG.integers(0, 30, 150) for _ in range(2))
    assert edit_distance(one, other) == distance_by_table(one.tolist(), other.tolist())


def text(tokens: np.ndarray) -> str:
    return " ".join(f"w{token}" for token in tokens)


def padded(rows: list[np.ndarray], *, size: int) -> Tensor:
    return torch.tensor([[*row, *[-1] * (size - len(row))] for row in rows])


def test_error_rate_is_that_of_torchmetrics() -> None:
    claimed = [RNG.integers(0, 5, RNG.integers(1, 12)) for _ in range(40)]
    true = [RNG.integers(0, 5, RNG.integers(1, 12)) for _ in range(40)]
    rate = word_error_rate([*map(text, claimed)], [*map(text, true)])
    score = word_accuracy()(padded(claimed, size=12), padded(true, size=12))
    assert float(score) == pytest.approx(1 - float(rate), rel=1e-6)


def test_frames_are_read_as_by_ctc() -> None:
    for _ in range(200):
        frames = RNG.integers(0, 4, 10)
        read = [int(now) for before, now in zip([0, *frames[:-1]], frames, strict=True) if now not in (0, before)]
        true = RNG.integers(1, 4, RNG.integers(0, 6))
        target = np.append(true, [0] * (10 - len(true)))
        expected = distance_by_table(read, true.tolist()), len(true)
        assert error_counts(frames, target, blank=0, collapse=True) == expected


def test_what_is_no_token_is_dropped_from_both() -> None:
    assert error_counts(np.array([3, -1, 4, 9]), np.array([3.0, 4.0, -100.0, 9.0, 9.0]), blank=9) == (0, 2)
    assert error_counts(np.array([3, 3, -1, 3]), np.array([3, 3]), collapse=True) == (0, 2)
    assert error_counts(np.array([3, 3]), np.array([3, 3])) == (0, 2)


def test_no_tokens_to_find() -> None:
    pad, claim = torch.full((2, 2), -1), torch.tensor([[1, 2], [-1, -1]])
    assert word_accuracy()(pad, pad) == 1
    assert word_accuracy()(claim, pad) == -1
    assert error_counts(np.array([], int), np.array([], int), collapse=True) == (0, 0)


# N-grams


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("longest", [9, 20])  # shorter than the references, and longer
def test_ngram_precision_is_the_bleu_of_torchmetrics(order: int, smooth: bool, longest: int) -> None:
    true = [RNG.integers(0, 6, 15) for _ in range(30)]
    claimed = [np.append(row, RNG.integers(0, 6, 5))[RNG.integers(0, 3) : longest] for row in true]
    expected = bleu_score([*map(text, claimed)], [[text(row)] for row in true], n_gram=order, smooth=smooth)
    score = ngram_precision(order, smooth=smooth)(padded(claimed, size=20), padded(true, size=20))
    assert 0.1 < expected < 1
    assert float(score) == pytest.approx(float(expected), rel=1e-5)


def test_no_match_of_the_longest_is_zero_unless_smoothed() -> None:
    claimed, true = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[1, 2, 3, 9, 5]])
    assert ngram_precision()(claimed, true) == 0
    expected = (4 / 5 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert float(ngram_precision(smooth=True)(claimed, true)) == pytest.approx(expected, rel=1e-12)


def test_too_short_for_any_long_ngram_is_zero() -> None:
    one, nothing = torch.tensor([[1, -1]]), torch.tensor([[-1, -1]])
    assert ngram_precision(2)(one, one) == 0
    for smooth in (False, True):
        assert ngram_precision(2, smooth=smooth)(nothing, one) == ngram_precision(1, smooth=smooth)(nothing, one) == 0


def test_ngrams_are_found_as_often_as_they_are_there() -> None:
    assert ngram_counts(np.array([1, 1, 1, 2]), np.array([1, 2, 1, 1, 0]), order=2, blank=0) == (4, 4, 2, 3, 4)
    assert ngram_counts(np.array([1, 1, 1]), np.array([1, 2]), order=3) == (1, 3, 0, 2, 0, 1, 2)


# What is asked for


METRICS = [span_f1(TAGS), word_accuracy(blank=0, collapse=True, name="phonemes"), ngram_precision(2, smooth=True)]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_draws_and_batches_are_scored_one_by_one(metric: SummedMetric) -> None:
    decision = torch.from_numpy(RNG.integers(0, 7, (2, 3, 4, 8)))
    target = torch.from_numpy(RNG.integers(0, 7, (3, 4, 8)))
    scores = metric(decision, target)
    assert scores.shape == (2, 3)
    for draw, row in product(range(2), range(3)):
        assert torch.equal(scores[draw, row], metric(decision[draw, row], target[row]))
    apart = metric.apart()
    assert isinstance(apart, OpaqueMetric)
    assert torch.equal(apart(decision, target)[1, 2, 3], metric(decision[1, 2, 3:], target[2, 3:]))


def test_tensors_and_arrays_that_may_not_be_written() -> None:
    claimed, true = np.array([1, 2, 2, 0, 3]), np.array([1, 2, 2, 0, 4])
    claimed.flags.writeable = False
    for decision, target in product((claimed, torch.tensor(claimed.copy())), (true, torch.tensor(true).float())):
        assert span_counts(decision, target, tags=TAGS) == (2, 2, 2)
        assert edit_distance(decision, target) == 1
        assert error_counts(decision, target, blank=0, collapse=True) == (2, 4)
        assert ngram_counts(decision, target, order=2) == (4, 5, 3, 4, 5)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: span_f1(["O", "X-NP"]), ValueError, "needed tags O, B-X and I-X, got 'X-NP'"),
        (lambda: span_f1(["O", ""]), ValueError, "got ''"),
        (lambda: span_f1([]), ValueError, "needed"),
        (lambda: span_f1("O"), TypeError, "list"),
        (lambda: span_f1(["O", "B-NP", "B-NP"]), ValueError, "each once"),
        (lambda: span_counts(np.array([7]), np.array([0]), tags=TAGS), ValueError, "from 0 to 6, got 7"),
        (lambda: span_counts(np.array([0]), np.array([-100]), tags=TAGS), ValueError, "got -100.*ignore_index"),
        (lambda: span_counts(np.array([0, 1]), np.array([0]), tags=TAGS), ValueError, r"shape \(1,\), got \(2,\)"),
        (lambda: span_counts(np.array([[0]]), np.array([[0]]), tags=TAGS), ValueError, "one sequence"),
        (lambda: span_counts(np.array([0.0]), np.array([0]), tags=TAGS), TypeError, "needed a decision"),
        (lambda: edit_distance(np.array([0.5]), np.array([0])), TypeError, "needed a decision"),
        (lambda: edit_distance(np.array([0]), np.array([math.inf])), ValueError, "whole numbers"),
        (lambda: edit_distance(np.array([[0]]), np.array([0])), ValueError, "one sequence"),
        (lambda: error_counts(np.array([0]), np.array([[0]])), ValueError, "target of one sequence"),
        (lambda: ngram_precision(0), ValueError, "order of at least 1, got 0"),
        (lambda: ngram_counts(np.array([0]), np.array([0]), order=0), ValueError, "order of at least 1, got 0"),
    ],
)
def test_bad_input_is_refused(call, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


# Gradients

LOGITS = torch.tensor(np.random.default_rng(1).normal(size=(2, 2, 3)))  # two sentences of two tokens, three tags
TARGET = torch.tensor([[1, 2], [0, 1]])
OUTCOMES = torch.tensor(list(product(range(3), repeat=4)))


def expected_by_hand() -> tuple[float, np.ndarray]:
    """E[F1 of spans] over all outcomes, and its central differences in the logits."""
    true = [names(row) for row in TARGET.numpy()]
    scores = []
    for outcome in OUTCOMES.numpy():
        counts = [conlleval(names(outcome[:2]), true[0]), conlleval(names(outcome[2:]), true[1])]
        found, claimed, there = np.sum(counts, 0)
        scores.append(2 * found / (claimed + there))

    def expected(logits: np.ndarray) -> float:
        weights = np.exp(logits.reshape(4, 3))
        probs = weights / weights.sum(1, keepdims=True)
        return float(probs[np.arange(4), OUTCOMES.numpy()].prod(1) @ np.array(scores))

    z, step = LOGITS.numpy().ravel(), 1e-5
    return expected(z), np.array([(expected(z + e) - expected(z - e)) / 2 / step for e in step * np.eye(12)])


def test_gradient_of_the_expected_f1_of_spans() -> None:
    value, gradient = expected_by_hand()
    logits = LOGITS.clone().requires_grad_()
    loss = MetricLoss(span_f1(TAGS[:3]), enumeration(), policy=Categorical)(logits, TARGET)
    loss.backward()
    assert 1 - loss.item() == pytest.approx(value, abs=1e-12)
    np.testing.assert_allclose(-logits.grad.numpy().ravel(), gradient, rtol=0, atol=1e-9)
    assert abs(gradient).max() > 0.03


class Drawn(Categorical):
    """A policy with every pair of outcomes as its two draws, each pair in a row of its own."""

    def sample(self, draws: int, *, generator: torch.Generator | None = None) -> Tensor:
        return torch.stack([OUTCOMES.repeat_interleave(len(OUTCOMES), 0), OUTCOMES.repeat(len(OUTCOMES), 1)])


def test_the_score_function_estimator_has_that_gradient_in_the_mean() -> None:
    value, gradient = expected_by_hand()
    logits = LOGITS.reshape(4, 3).expand(len(OUTCOMES) ** 2, 4, 3).clone().requires_grad_()
    policy = Drawn(logits)
    scores = span_f1(TAGS[:3])(OUTCOMES.reshape(-1, 2, 2), TARGET)  # looked up for each draw
    place = 3 ** torch.arange(3, -1, -1)
    estimate = score_function(draws=2)(policy, lambda decision: scores[(decision * place).sum(-1)])
    expected = (estimate * policy.log_prob(policy.sample(2)).sum((0, -1)).exp().detach()).sum()
    expected.backward()
    assert expected.item() == pytest.approx(value, abs=1e-12)
    np.testing.assert_allclose(logits.grad.sum(0).numpy().ravel(), gradient, rtol=0, atol=1e-9)
