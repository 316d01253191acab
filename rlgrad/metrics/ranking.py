"""Metrics of rankings: sums over ranks of what the items placed there are worth."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from rlgrad.checks import check_rows, describe, first_index, values_visible
from rlgrad.metrics.counts import check_undefined, count_dtype
from rlgrad.metrics.items import JointItems, flat_items

Gains = Callable[[Tensor], Tensor]


class RankingMetric(JointItems):
    """A metric of rankings that is a sum over ranks; larger is better.

    Written as what is gained at each rank, seen the relevance of the items in the order of the ranking. So each
    position of a ranking can be given credit for what comes at its rank and after (``credit.reward_to_go``). For that
    the gain at a rank may depend on the relevance there and at earlier ranks, and on all of them as a set (as the ideal
    order does), but not on the order of what comes later.

    Items whose target is ``ignore_index`` are no documents: they fill up lists that are shorter than others. Ranks are
    counted without them wherever a ranking puts them, and they gain nothing.

    Args:
        gains: from relevance ``... items``, by rank, float64, to gains ``... items``. After the documents of a list
            that was filled up come zeros, whose gains do not count.
        undefined: the value of a list whose gains are not finite, as at 0/0, or that holds no document.
        name: how tables and messages call it; the function's own name by default.

    Raises:
        TypeError: ``gains`` is not callable, or ``undefined`` not a number.
        ValueError: ``undefined`` is not finite.

    Example:
        >>> first = RankingMetric(lambda relevance: relevance * torch.eye(relevance.shape[-1])[0], name="first")
        >>> first(torch.tensor([[2, 0, 1], [0, 1, 2]]), torch.tensor([0.0, 1.0, 3.0]))
        tensor([3., 0.], dtype=torch.float64)
    """

    def __init__(self, gains: Gains, *, undefined: float = 0.0, name: str | None = None) -> None:
        if not callable(gains):
            raise TypeError(f"needed a function of the relevance by rank, got {gains!r}; pass a callable")
        check_undefined(undefined)
        self.gains = gains
        self.undefined = undefined
        self.name = name or str(getattr(gains, "__name__", type(gains).__name__))

    def __repr__(self) -> str:
        return f"RankingMetric({self.name})"

    def __call__(self, decision: Shaped[Tensor, "..."], target: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Score rankings against the relevance of the items.

        Args:
            decision: ``*draws *batch items``; entry j is the item at rank j.
            target: relevance of each item, ``*batch items``, numbers of at least 0.

        Returns:
            The metric, ``*draws *batch``, float64.

        Raises:
            TypeError: decisions are no integers, or the gains no tensor of the relevance's shape.
            ValueError: a row is no ranking of all items, a relevance is negative or not finite, shapes differ.
        """
        return self.gains_of(decision, target).sum(-1)

    def gains_of(
        self, decision: Shaped[Tensor, "..."], target: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "*rows positions"]:
        """What each position of the rankings gains, ``*draws *batch items``; their sum is the metric."""
        check_rows(decision, target)
        decision, target = (flat_items(values, self.item_axes) for values in (decision, target))
        check_ranking(decision, target.shape[-1])
        ignored = torch.zeros_like(target, dtype=torch.bool)
        if self.ignore_index is not None:
            ignored = target == self.ignore_index
        relevance = _relevance(target.masked_fill(ignored, 0))
        relevance, ignored = (
            values.expand(decision.shape).gather(-1, decision.long()) for values in (relevance, ignored)
        )
        if self.ignore_index is None:
            return self._defined(relevance, ignored)
        rank = ignored.int().argsort(dim=-1, stable=True)  # the documents in their order, then the others
        gains = self._defined(relevance.gather(-1, rank), ignored.gather(-1, rank))
        return torch.zeros_like(gains).scatter(-1, rank, gains)

    def _defined(
        self, relevance: Float[Tensor, "*rows items"], ignored: Bool[Tensor, "*rows items"]
    ) -> Float[Tensor, "*rows items"]:
        gains = self._evaluate(relevance).masked_fill(ignored, 0.0)
        defined = torch.isfinite(gains).all(-1, keepdim=True) & ~ignored.all(-1, keepdim=True)
        instead = torch.zeros_like(gains)
        instead[..., :1] = self.undefined  # the same for every ranking of the list, so no position learns from it
        return torch.where(defined, gains, instead)

    def _evaluate(self, relevance: Tensor) -> Tensor:
        try:
            gains = self.gains(relevance)
        except Exception as error:
            raise TypeError(
                f"needed gains that work on a tensor of relevances (..., items), got {type(error).__name__} from "
                f"{self.name}: {error}; use arithmetic and torch functions along the last axis"
            ) from error
        if not isinstance(gains, Tensor) or gains.shape != relevance.shape:
            got = describe(gains) if isinstance(gains, Tensor) else repr(gains)
            raise TypeError(
                f"needed {self.name} to return a gain for each rank of {tuple(relevance.shape)}, got {got}; "
                "do not sum over ranks"
            )
        return gains.detach().to(relevance.dtype)


def ndcg(
    k: int | None = None, *, gain: Literal["linear", "exponential"] = "linear", undefined: float = 0.0
) -> RankingMetric:
    """Normalized discounted cumulative gain: sum over ranks of gain / log2(rank + 1), relative to the ideal order.

    Args:
        k: ranks that count; all by default.
        gain: "linear", the relevance itself, as in scikit-learn and torchmetrics, or "exponential", 2^relevance - 1.
        undefined: the value of a list in which nothing is relevant; both of those have 0, others leave it out or
            have 1.

    Raises:
        ValueError: ``k`` is below 1, or an unknown gain.

    Source: Jarvelin, Kekalainen, Cumulated gain-based evaluation of IR techniques (2002); exponential gain: Burges et
        al., Learning to rank using gradient descent (2005).

    Example:
        >>> print(f"{ndcg(2)(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2])):.4f}")
        0.2398
    """
    _check_rank(k)
    if gain not in ("linear", "exponential"):
        raise ValueError(f'needed gain "linear" or "exponential", got {gain!r}')

    def gains(relevance: Tensor) -> Tensor:
        worth = relevance if gain == "linear" else torch.exp2(relevance) - 1
        rank = _ranks(relevance)
        discount = (rank <= (k or len(rank))) / torch.log2(rank + 1)
        ideal = (worth.sort(-1, descending=True).values * discount).sum(-1, keepdim=True)
        return worth * discount / ideal

    return RankingMetric(gains, undefined=undefined, name="ndcg" if k is None else f"ndcg@{k}")


def mrr() -> RankingMetric:
    """Reciprocal rank of the first relevant item, whose relevance is above 0; 0 where there is none.

    Its mean over lists is the mean reciprocal rank.

    Source: Voorhees, The TREC-8 question answering track report (1999).

    Example:
        >>> mrr()(torch.tensor([2, 0, 1]), torch.tensor([1, 1, 0]))
        tensor(0.5000, dtype=torch.float64)
    """

    def gains(relevance: Tensor) -> Tensor:
        relevant = _relevant(relevance)
        return relevant * (relevant.cumsum(-1) == 1) / _ranks(relevance)

    return RankingMetric(gains, name="mrr")


def precision_at(k: int) -> RankingMetric:
    """The share of relevant items, of relevance above 0, at the first ``k`` ranks; a shorter list lacks some.

    Raises:
        ValueError: ``k`` is below 1.

    Example:
        >>> precision_at(2)(torch.tensor([2, 0, 1]), torch.tensor([1, 1, 0]))
        tensor(0.5000, dtype=torch.float64)
    """
    _check_rank(k)
    return RankingMetric(lambda relevance: _relevant(relevance) * (_ranks(relevance) <= k) / k, name=f"precision@{k}")


def check_ranking(decision: Shaped[Tensor, "*rows places"], items: int) -> Bool[Tensor, "*rows items"]:
    """Decisions are rankings: integers, each row some or all of the items, none of them twice.

    Returns:
        Which items were placed.

    Raises:
        TypeError: they are no integers.
        ValueError: there are too many places or none, an item does not exist, or one comes twice.
    """
    if decision.dtype == torch.bool or decision.is_floating_point() or decision.is_complex():
        raise TypeError(f"needed rankings, the items' indices by rank, got {describe(decision)}; use PlackettLuce")
    if not min(1, items) <= decision.shape[-1] <= items:
        raise ValueError(
            f"needed from 1 to {items} places, as many as there are items at most, got {describe(decision)}"
        )
    if values_visible() and (bad := (decision < 0) | (decision >= items)).any():
        where = first_index(bad)
        raise ValueError(f"needed items from 0 to {items - 1}, got {int(decision[where])} at {where}")
    placed = torch.zeros((*decision.shape[:-1], items), dtype=torch.bool, device=decision.device)
    placed = placed.scatter(-1, decision.long(), True)
    if values_visible() and (bad := placed.sum(-1) < decision.shape[-1]).any():
        where = first_index(bad)
        raise ValueError(f"needed rankings without an item twice, got {decision[where].tolist()} in row {where}")
    return placed


def _relevance(target: Shaped[Tensor, "*batch items"]) -> Float[Tensor, "*batch items"]:
    relevance = target.to(count_dtype(target.device))
    if values_visible() and (bad := ~(torch.isfinite(relevance) & (relevance >= 0))).any():
        where = first_index(bad)
        raise ValueError(
            f"needed a finite relevance of at least 0, got {target[where].item()} at {where} in {describe(target)}; "
            "what fills up a list is named by ignoring(value)"
        )
    return relevance


def _relevant(relevance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return (relevance > 0).to(relevance.dtype)


def _ranks(relevance: Tensor) -> Float[Tensor, " items"]:
    return torch.arange(1, relevance.shape[-1] + 1, dtype=relevance.dtype, device=relevance.device)


def _check_rank(k: int | None) -> None:
    if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
        raise ValueError(f"needed a whole number of ranks, at least 1, got k={k!r}; 10 is usual")
