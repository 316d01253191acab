"""Metrics of rankings, against scikit-learn and torchmetrics."""

import math
from collections.abc import Callable

import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score
from torch import Tensor

from rlgrad.metrics import RankingMetric, mrr, ndcg, precision_at

LISTS, ITEMS = 6, 7


def problem(*, grades: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, the rankings that they make, and relevances."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(LISTS, ITEMS, generator=generator)  # torchmetrics finds nothing relevant at 0 and below
    relevance = torch.randint(grades, (LISTS, ITEMS), generator=generator)
    relevance[0] = 0  # nothing is relevant
    return scores, scores.argsort(descending=True), relevance


def average_precision() -> RankingMetric:
    """A user's own: what is gained at a rank depends on the earlier ones."""

    def gains(relevance: Tensor) -> Tensor:
        relevant = (relevance > 0).double()
        rank = torch.arange(1, relevance.shape[-1] + 1)
        return relevant * relevant.cumsum(-1) / rank / relevant.sum(-1, keepdim=True)

    return RankingMetric(gains, name="average precision")


PROFIT = RankingMetric(lambda relevance: relevance - 0.5, name="profit")  # what is not relevant costs
METRICS = {
    metric.name: metric
    for metric in (ndcg(), ndcg(3), ndcg(2, gain="exponential"), mrr(), precision_at(3), average_precision(), PROFIT)
}


# Other people's


@pytest.mark.parametrize("k", [None, 1, 3, 7, 50])
def test_ndcg_is_that_of_scikit_learn(k: int | None) -> None:
    scores, decision, relevance = problem()
    expected = [ndcg_score([y], [z], k=k) for y, z in zip(relevance.numpy(), scores.numpy(), strict=True)]
    assert ndcg(k)(decision, relevance).tolist() == pytest.approx(expected, abs=1e-12)
    graded = 2.0**relevance - 1
    expected = [ndcg_score([y], [z], k=k) for y, z in zip(graded.numpy(), scores.numpy(), strict=True)]
    assert ndcg(k, gain="exponential")(decision, relevance).tolist() == pytest.approx(expected, abs=1e-12)


def test_average_precision_is_that_of_scikit_learn() -> None:
    scores, decision, relevance = problem(grades=2)
    found = average_precision()(decision, relevance)
    expected = [average_precision_score(y, z) for y, z in zip(relevance[1:].numpy(), scores[1:].numpy(), strict=True)]
    assert found[0] == 0
    assert found[1:].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 7, 50])
def test_all_are_those_of_torchmetrics(k: int) -> None:
    retrieval = pytest.importorskip("torchmetrics.functional.retrieval")
    theirs: list[tuple[RankingMetric, Callable[[Tensor, Tensor], Tensor], int]] = [
        (ndcg(k), lambda z, y: retrieval.retrieval_normalized_dcg(z, y, top_k=k), 4),
        (mrr(), retrieval.retrieval_reciprocal_rank, 2),
        (precision_at(k), lambda z, y: retrieval.retrieval_precision(z, y, top_k=k), 2),
    ]
    for ours, function, grades in theirs:
        scores, decision, relevance = problem(grades=grades)
        expected = [function(z, y).item() for z, y in zip(scores, relevance, strict=True)]
        assert ours(decision, relevance).tolist() == pytest.approx(expected, abs=1e-6)


def test_by_hand() -> None:
    decision, relevance = torch.tensor([2, 0, 3, 1]), torch.tensor([3.0, 2.0, 0.0, 1.0])
    ideal = 7 + 3 / math.log2(3) + 1 / 2
    gains = [0, 7 / math.log2(3) / ideal, 1 / 2 / ideal, 0]
    metric = ndcg(3, gain="exponential")
    assert metric.gains_of(decision, relevance).tolist() == pytest.approx(gains)
    assert metric(decision, relevance).item() == pytest.approx(sum(gains))
    assert mrr().gains_of(decision, relevance).tolist() == [0, 0.5, 0, 0]
    assert precision_at(3).gains_of(decision, relevance).tolist() == pytest.approx([0, 1 / 3, 1 / 3, 0])
    assert [metric.name for metric in (ndcg(), ndcg(3), mrr(), precision_at(3))] == [
        "ndcg",
        "ndcg@3",
        "mrr",
        "precision@3",
    ]
    assert repr(ndcg(3)) == "RankingMetric(ndcg@3)"


# Shapes, and what fills lists up


@pytest.mark.parametrize("name", METRICS)
def test_draws_and_rows_are_scored_apart(name: str) -> None:
    metric, (_, decision, relevance) = METRICS[name], problem()
    draws = torch.stack([decision, decision.flip(-1), torch.arange(ITEMS).expand_as(decision)])
    each = torch.stack([torch.stack([metric(d, y) for d, y in zip(rows, relevance, strict=True)]) for rows in draws])
    assert each.dtype == torch.float64
    torch.testing.assert_close(metric(draws, relevance), each)
    torch.testing.assert_close(metric(draws[None], relevance), each[None])
    torch.testing.assert_close(metric.gains_of(draws, relevance).sum(-1), each)
    for dtype in (torch.int32, torch.float32, torch.float64):
        torch.testing.assert_close(metric(draws.int(), relevance.to(dtype)), each)


@pytest.mark.parametrize("name", METRICS)
def test_where_the_padding_is_placed_does_not_matter(name: str) -> None:
    metric, (_, decision, relevance) = METRICS[name], problem()
    padded = torch.cat([torch.full((LISTS, 3), -1), relevance], -1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        at = torch.rand(LISTS, ITEMS + 3, generator=generator).argsort(-1)[:, :3].sort(-1).values
        mixed = torch.zeros(LISTS, ITEMS + 3, dtype=torch.long).scatter(
            -1, at, torch.tensor([[2, 0, 1]]).expand(LISTS, -1)
        )
        places = torch.ones(LISTS, ITEMS + 3, dtype=torch.bool).scatter(-1, at, False)
        mixed[places] = (decision + 3).flatten()
        gains = metric.ignoring(-1).gains_of(mixed, padded)
        torch.testing.assert_close(gains[places].reshape(LISTS, ITEMS), metric.gains_of(decision, relevance))
        assert (gains[~places] == 0).all()


def test_several_axes_are_one_list() -> None:
    *_, relevance = problem()
    together = torch.arange(LISTS * ITEMS).flip(0)
    expected = ndcg()(together, relevance.flatten())
    assert ndcg().over(2)(together.reshape(LISTS, ITEMS), relevance) == expected


@pytest.mark.parametrize("undefined", [0.0, 1.0])
def test_a_list_without_anything_relevant_is_undefined(undefined: float) -> None:
    metric = ndcg(2, undefined=undefined).ignoring(-1)
    decision = torch.tensor([[2, 1, 0], [0, 1, 2], [1, 0, 2]])
    target = torch.tensor([[0, 0, 0], [-1, -1, -1], [0, 2, -1]])
    assert metric(decision, target).tolist() == [undefined, undefined, 1.0]
    assert metric.gains_of(decision, target)[:2].tolist() == [[undefined, 0, 0]] * 2


def test_a_list_shorter_than_k() -> None:
    decision, relevance = torch.tensor([1, 0]), torch.tensor([1, 1])
    assert ndcg(5)(decision, relevance) == 1
    assert precision_at(4)(decision, relevance) == 0.5


def test_no_lists_and_no_items() -> None:
    for shape in ((0, 3), (2, 0)):
        empty = torch.zeros(shape, dtype=torch.long)
        assert ndcg(2)(empty[None], empty).tolist() == [[0.0] * shape[0]]


# Bad input


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("decision", "target", "error", "message"),
    [
        (
            torch.tensor([True, False]),
            torch.ones(2),
            TypeError,
            "needed rankings, the items' indices by rank, got (2,) bool",
        ),
        (
            torch.tensor([0.0, 1.0]),
            torch.ones(2),
            TypeError,
            "needed rankings, the items' indices by rank, got (2,) float32",
        ),
        (
            torch.tensor([0, 0]),
            torch.ones(2),
            ValueError,
            "needed rankings without an item twice, got [0, 0] in row ()",
        ),
        (torch.tensor([0, 2]), torch.ones(2), ValueError, "needed items from 0 to 1, got 2 at (1,)"),
        (torch.tensor([0]), torch.ones(2), ValueError, "needed a decision of shape (*draws, *(2,))"),
        (
            torch.tensor([0, 1]),
            torch.tensor([1.0, -1.0]),
            ValueError,
            "needed a finite relevance of at least 0, got -1.0 at (1,)",
        ),
        (
            torch.tensor([0, 1]),
            torch.tensor([math.nan, 1.0]),
            ValueError,
            "needed a finite relevance of at least 0, got nan",
        ),
        (
            torch.tensor([0, 1]),
            torch.tensor([math.inf, 1.0]),
            ValueError,
            "needed a finite relevance of at least 0, got inf",
        ),
    ],
)
def test_bad_rankings_and_relevances(decision: Tensor, target: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        ndcg()(decision, target)
    assert str(caught.value).startswith(message)


@pytest.mark.usefixtures("as_a_user")
def test_bad_metrics() -> None:
    for k in (0, -1, 2.5, True):
        for make in (ndcg, precision_at):
            with pytest.raises(ValueError, match=rf"^needed a whole number of ranks, at least 1, got k={k}"):
                make(k)
    with pytest.raises(ValueError, match=r"^needed gain \"linear\" or \"exponential\", got 'log'"):
        ndcg(gain="log")
    with pytest.raises(TypeError, match=r"^needed a function of the relevance by rank, got 3"):
        RankingMetric(3)
    with pytest.raises(ValueError, match=r"^needed a finite undefined, got nan"):
        ndcg(undefined=math.nan)
    row = torch.arange(2), torch.ones(2)
    with pytest.raises(TypeError, match=r"^needed total to return a gain for each rank of \(2,\), got \(\) float64"):
        RankingMetric(lambda relevance: relevance.sum(), name="total")(*row)
    with pytest.raises(TypeError, match=r"^needed gains that work on a tensor .* got \w+Error from root"):
        RankingMetric(lambda relevance: torch.tensor(math.sqrt(relevance)), name="root")(*row)
