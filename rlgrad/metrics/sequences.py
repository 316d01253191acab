"""Scores of whole sequences: spans, edits and n-grams, which no single token can tell.

The statistics are functions of one sequence on the processor: tensors or arrays, which they do not change. Tokens are
numbers from 0. In ``error_counts`` and ``ngram_counts``, which compare sequences of different lengths, negative numbers
stand for no token, so that rows can be padded to one length; ``span_counts`` compares place by place, and a metric's
``ignore_index`` takes padding out.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from rlgrad.metrics.arrays import Numbers, Row, aligned, whole_numbers
from rlgrad.metrics.summed import SummedMetric


class _Tags(NamedTuple):
    kind: Int64[np.ndarray, " tags"]  # which type of span the tag is part of; 0 for none
    begins: Bool[np.ndarray, " tags"]


def span_counts(decision: Row, target: Row, *, tags: Sequence[str]) -> tuple[int, int, int]:
    """Spans that are found, claimed and true, of one sentence in IOB2 tags.

    The rules are those of the CoNLL shared tasks' conlleval, for ill-formed sequences too: a span begins at a B- tag,
    and at an I- tag that does not follow a tag of its type; it ends where the tag after it begins a span or is of
    another type. A span is found if its first token, its last and its type are right.

    Args:
        decision: a tag's place in ``tags`` for each token.
        target: likewise.
        tags: their names: "O", "B-X" and "I-X" for any types X.

    Returns:
        Spans found, spans claimed, true spans.

    Raises:
        TypeError: decisions that are not integers; tags in one text.
        ValueError: shapes differ or have several axes, numbers that are no tag's, names that are not in IOB2.

    Source: Tjong Kim Sang, Buchholz, Introduction to the CoNLL-2000 shared task: chunking (2000).

    Example:
        >>> span_counts(np.array([1, 2, 0, 2]), np.array([1, 2, 0, 0]), tags=["O", "B-NP", "I-NP"])
        (1, 2, 1)
    """
    scheme = _read_tags(_names(tags))
    _sequence(decision, "decision")
    claimed, true = (_spans(numbers, scheme) for numbers in aligned(decision, target))
    found = claimed[claimed == true]
    return _spans_among(found), _spans_among(claimed), _spans_among(true)


def edit_distance(decision: Row, target: Row) -> int:
    """The least number of tokens to insert, delete or replace that turns one sequence into the other (Levenshtein).

    The bits of two numbers hold the differences, +1 and -1, between the neighbours in a column of the table of
    distances between beginnings, so a column is a few operations however long it is.

    Args:
        decision: tokens.
        target: tokens.

    Raises:
        TypeError, ValueError: tokens are not whole numbers, or not of one axis.

    Source: Myers, A fast bit-vector algorithm for approximate string matching (1999), as simplified by Hyyrö (2003).

    Example:
        >>> edit_distance(np.array([1, 2, 3]), np.array([2, 3, 4]))
        2
    """
    return _edit_distance(_sequence(decision, "decision").tolist(), _sequence(target, "target").tolist())


def error_counts(decision: Row, target: Row, *, blank: int | None = None, collapse: bool = False) -> tuple[int, int]:
    """Edits that turn the decision into the target, and the target's length, once what is no token is dropped.

    Args:
        decision: tokens.
        target: tokens, of which there may be another number.
        blank: a token that stands for none, dropped from both, as negative numbers are.
        collapse: equal neighbours of the decision are one token, unless a blank is between them: with ``blank`` the
            reading of frames in connectionist temporal classification (CTC).

    Returns:
        Edit distance, length of the target.

    Raises:
        TypeError, ValueError: tokens are not whole numbers, or not of one axis.

    Example:
        Frames 7 7 _ 7 8 8 _ are the tokens 7 7 8.

        >>> error_counts(np.array([7, 7, 0, 7, 8, 8, 0]), np.array([7, 8, -1]), blank=0, collapse=True)
        (1, 2)
    """
    true = _tokens(target, "target", blank, False)
    return _edit_distance(_tokens(decision, "decision", blank, collapse), true), len(true)


def ngram_counts(decision: Row, target: Row, *, order: int = 4, blank: int | None = None) -> tuple[int, ...]:
    """N-grams of the decision, for n from 1, that the target has too, among all, and the target's length.

    Each n-gram is found at most as often as the target has it.

    Args:
        decision: tokens; negative numbers stand for none.
        target: tokens, of which there may be another number.
        order: the longest n-grams.
        blank: a token that stands for none, such as the one for padding, dropped from both.

    Returns:
        Found and all 1-grams, found and all 2-grams, and so on; the length of the target.

    Raises:
        TypeError, ValueError: tokens are not whole numbers, or not of one axis; an order below 1.

    Example:
        >>> ngram_counts(np.array([5, 6, 6]), np.array([5, 6, 7, 8]), order=2)
        (2, 3, 1, 2, 4)
    """
    _check_order(order)
    claimed, true = _tokens(decision, "decision", blank, False), _tokens(target, "target", blank, False)
    counts: list[int] = []
    for n in range(1, order + 1):
        of_claimed, of_true = _ngrams(claimed, n), _ngrams(true, n)
        counts += [(of_claimed & of_true).total(), of_claimed.total()]
    return *counts, len(true)


def span_f1(tags: Sequence[str], *, ignore_index: int | None = None) -> SummedMetric:
    """F1 of the spans of all sentences of a batch: the score of chunking and of named entities.

    F1 = 2 found / (claimed + true), and 1 where there is no span and none is claimed (conlleval says 0).

    Args:
        tags: their names: "O", "B-X" and "I-X" for any types X; see ``span_counts`` for the rules.
        ignore_index: target value of the tokens that are taken out, such as padding.

    Raises:
        TypeError: tags in one text.
        ValueError: names that are not in IOB2, or one that is there twice.

    Example:
        >>> metric = span_f1(["O", "B-NP", "I-NP"], ignore_index=-100)
        >>> metric(torch.tensor([[1, 2, 0, 2], [1, 1, 0, 0]]), torch.tensor([[1, 2, 0, 0], [1, 1, -100, -100]]))
        tensor(0.8571, dtype=torch.float64)
    """
    names = _names(tags)
    _read_tags(names)
    statistic = partial(span_counts, tags=names)
    return SummedMetric(statistic, _span_f1, undefined=1.0, name="span_f1", ignore_index=ignore_index)


def word_accuracy(*, blank: int | None = None, collapse: bool = False, name: str = "word_accuracy") -> SummedMetric:
    """1 - error rate of all sequences of a batch: edits per token of the targets.

    The word error rate, WER = (replaced + deleted + inserted) / length, is one minus this; where the tokens are
    phonemes or characters, so is the phoneme or the character error rate. It falls below 0 where much is inserted.
    Targets without a single token count as if they had one.

    Args:
        blank: a token that stands for none, dropped from both, as negative numbers are.
        collapse: equal neighbours of the decision are one token; see ``error_counts``. ``word_accuracy(blank=0,
            collapse=True)`` scores frames as CTC reads them.
        name: what the tokens are, for tables.

    Example:
        >>> word_accuracy()(torch.tensor([[1, 2, 3, 9]]), torch.tensor([[1, 2, 3, -1]]))
        tensor(0.6667, dtype=torch.float64)
    """
    statistic = partial(error_counts, blank=blank, collapse=collapse)
    return SummedMetric(statistic, _one_minus_rate, undefined=1.0, name=name)


def ngram_precision(order: int = 4, *, blank: int | None = None, smooth: bool = False) -> SummedMetric:
    """The geometric mean of n-gram precisions with a penalty for brevity, of all sequences of a batch: corpus BLEU.

    BLEU = min(1, exp(1 - true length / claimed length)) (prod over n of found n-grams / claimed n-grams)^(1 / order),
    with one reference for each sequence.

    Args:
        order: the longest n-grams.
        blank: a token that stands for none, dropped from both, as negative numbers are.
        smooth: found and claimed n-grams of n > 1 are each one more, so that a batch without a single long match has a
            score above 0, and something to learn from.

    Raises:
        ValueError: an order below 1.

    Source: Papineni, Roukos, Ward, Zhu, BLEU (2002); Lin, Och, ORANGE (2004) for the smoothing.

    Example:
        >>> ngram_precision(2)(torch.tensor([[5, 6, 6, 9]]), torch.tensor([[5, 6, 7, 8]]))
        tensor(0.4082, dtype=torch.float64)
    """
    _check_order(order)
    statistic = partial(ngram_counts, order=order, blank=blank)
    return SummedMetric(statistic, partial(_bleu, smooth=smooth), undefined=0.0, name=f"ngram_precision{order}")


def _span_f1(found: Tensor, claimed: Tensor, true: Tensor) -> Tensor:
    return 2 * found / (claimed + true)


def _one_minus_rate(edits: Tensor, length: Tensor) -> Tensor:
    return 1 - edits / length.clamp_min(1)


def _bleu(*sums: Tensor, smooth: bool) -> Tensor:
    found, claimed, length = torch.stack(sums[:-1:2]), torch.stack(sums[1:-1:2]), sums[-1]
    precisions = found / claimed
    if smooth:
        precisions = torch.cat([precisions[:1], (found[1:] + 1) / (claimed[1:] + 1)])
    brevity = (1 - length / claimed[0]).clamp_max(0).exp()
    return brevity * precisions.log().mean(0).exp()


def _names(tags: Sequence[str]) -> tuple[str, ...]:
    if isinstance(tags, str):
        raise TypeError(f"needed a list of tags' names, got {tags!r}; write [{tags!r}]")
    return tuple(tags)


@lru_cache(maxsize=16)
def _read_tags(tags: tuple[str, ...]) -> _Tags:
    for tag in tags:
        if tag != "O" and not tag.startswith(("B-", "I-")):
            raise ValueError(f"needed tags O, B-X and I-X, got {tag!r}; IOB2 has no others")
    if len(set(tags)) < max(1, len(tags)):
        raise ValueError(f"needed the names of all tags, each once, got {list(tags)}")
    types = sorted({tag[2:] for tag in tags if tag != "O"})
    kind = [0 if tag == "O" else 1 + types.index(tag[2:]) for tag in tags]
    return _Tags(np.array(kind), np.array([tag.startswith("B") for tag in tags]))


def _spans(numbers: Numbers, scheme: _Tags) -> Int64[np.ndarray, " tokens"]:
    """For each token at which a span begins, one number for its type and end; 0 elsewhere."""
    if ((numbers < 0) | (numbers >= len(scheme.kind))).any():
        raise ValueError(
            f"needed numbers of tags from 0 to {len(scheme.kind) - 1}, got {numbers.min()} to {numbers.max()}; "
            "name each tag, and set ignore_index for padding"
        )
    kind = np.append(scheme.kind[numbers], 0)  # what follows the last token is in no span
    new = np.append(scheme.begins[numbers], False) | (kind != np.append(0, kind[:-1]))
    first = np.flatnonzero(new & (kind > 0))
    spans = np.zeros(len(numbers), dtype=np.int64)
    bounds = np.flatnonzero(new)
    end = bounds[np.searchsorted(bounds, first, side="right")]
    spans[first] = end * (scheme.kind.max() + 1) + kind[first]
    return spans


def _spans_among(spans: Int64[np.ndarray, " tokens"]) -> int:
    return int(np.count_nonzero(spans))


def _edit_distance(claimed: list[int], true: list[int]) -> int:
    if not true:
        return len(claimed)
    places: dict[int, int] = {}
    for place, token in enumerate(true):
        places[token] = places.get(token, 0) | 1 << place
    everywhere, last = (1 << len(true)) - 1, 1 << len(true) - 1
    rises, falls, distance = everywhere, 0, len(true)  # the column of an empty decision: 0, 1, 2, ...
    for token in claimed:
        equal = places.get(token, 0)
        level = (((equal & rises) + rises) ^ rises) | equal | falls
        up, down = falls | ~(level | rises), rises & level  # along the row, from the column before
        distance += bool(up & last) - bool(down & last)
        up = up << 1 | 1
        rises, falls = (down << 1 | ~(level | up)) & everywhere, level & up & everywhere
    return distance


def _sequence(values: Row, what: str) -> Numbers:
    numbers = whole_numbers(values, what=what)
    if numbers.ndim != 1:
        raise ValueError(f"needed a {what} of one sequence, got the shape {numbers.shape}; see row_axes and item_axes")
    return numbers


def _tokens(values: Row, what: str, blank: int | None, collapse: bool) -> list[int]:
    numbers = _sequence(values, what)
    if collapse:
        numbers = numbers[np.append(True, numbers[1:] != numbers[:-1])[: len(numbers)]]
    kept = numbers >= 0
    tokens: list[int] = numbers[kept if blank is None else kept & (numbers != blank)].tolist()
    return tokens


def _ngrams(tokens: list[int], n: int) -> Counter[tuple[int, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(n)), strict=False))


def _check_order(order: int) -> None:
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ValueError(f"needed n-grams up to an order of at least 1, got {order!r}; BLEU takes 4")
