"""Rankings: one item is chosen after another, each among those that are left."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlgrad.checks import check_logits, describe, first_index, values_visible
from rlgrad.metrics.counts import count_dtype
from rlgrad.metrics.ranking import check_ranking
from rlgrad.policies.shared import finite, open_uniform, per_item, wide

# The score of a masked item: far below that of any other, and finite, so that differences never are NaN.
_LAST = -1e35


class PlackettLuce:
    """Rankings by successive choice: P(d_1, d_2, ...) = product over j of exp(z[d_j]) / sum of exp(z) not yet placed.

    A decision lists the items by rank: entry j is the item at place j. Position j's log-probability is that of its item
    among those left, so the sum over positions is that of the ranking, and the first k positions alone are a top-k
    list, whose probability is the sum over all ways to go on. Adding noise -log(-log(u)) to the logits and sorting
    draws from this law (the Gumbel trick), and for any subset of the items the order among them is Plackett-Luce too.

    A logit of -inf masks its item, as in a list that is shorter than the others: masked items come last, in the order
    of their indices, which is sure (log-probability 0; -inf elsewhere), and have no gradient.

    Args:
        logits: ``*batch items``.

    Raises:
        TypeError: logits are not floating point.
        ValueError: logits hold NaN or +inf, or have no items axis.

    Source: Plackett, The analysis of permutations (1975); Luce, Individual choice behavior (1959). For the noise:
        Yellott (1977); for top-k: Kool, van Hoof, Welling, Stochastic beams and where to find them (2019).

    Example:
        >>> policy = PlackettLuce(torch.tensor([0.0, 2.0, 1.0]))
        >>> policy.mode
        tensor([1, 2, 0])
        >>> policy.log_prob(policy.mode)
        tensor([-0.4076, -0.3133,  0.0000])
        >>> policy.sample(4, k=2, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([4, 2])
    """

    axes: ClassVar[tuple[int, ...]] = (-1,)
    """Those of the logits that stand for one row: its items."""

    def __init__(self, logits: Float[Tensor, "*batch items"]) -> None:
        check_logits(logits)
        if values_visible() and (bad := torch.isposinf(logits)).any():
            raise ValueError(
                f"needed logits below +inf, got {describe(logits)} with it at {first_index(bad)}; "
                "an item that comes first for sure has a large one"
            )
        self.logits = wide(logits)

    @property
    def mode(self) -> Int[Tensor, "*batch items"]:
        """The most probable ranking: by logit, the largest first; the lower index first on a tie."""
        return self.logits.detach().argsort(dim=-1, descending=True, stable=True)

    def sample(
        self, draws: int, *, k: int | None = None, generator: torch.Generator | None = None
    ) -> Int[Tensor, "draws *batch places"]:
        """Rankings drawn independently, or the first ``k`` places of them.

        Raises:
            ValueError: ``k`` lies below 1, or above the number of items.
        """
        items = self.logits.shape[-1]
        if k is not None and not 1 <= k <= items:
            raise ValueError(f"needed from 1 to {items} places, got k={k}; None ranks all items")
        return self.decide(self.uniform(draws, generator=generator))[..., :k]

    def uniform(self, draws: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "draws *batch items"]:
        """The noise of ``sample``: one number strictly between 0 and 1 for each item."""
        like = torch.empty(0, dtype=count_dtype(self.logits.device), device=self.logits.device)
        return open_uniform((draws, *self.logits.shape), like=like, generator=generator)

    def decide(self, uniform: Float[Tensor, "draws *batch items"]) -> Int[Tensor, "draws *batch items"]:
        """The rankings that this noise makes: by logit plus Gumbel noise, the largest first."""
        perturbed = self._scores.detach() - torch.log(-torch.log(uniform))
        return perturbed.argsort(dim=-1, descending=True, stable=True)

    def log_prob(self, decision: Int[Tensor, "... places"]) -> Float[Tensor, "... places"]:
        """Log-probability of each position's item among those not yet placed, with or without a draws axis.

        Args:
            decision: rankings, or top-k lists: as many places as it has.

        Raises:
            ValueError: the decision's trailing axes are not those of the logits, or its items are no ranking of them.
        """
        chosen, left = self._choices(decision)
        place = torch.arange(decision.shape[-1], device=decision.device)
        sure = torch.where(_at(self._last, decision) == place, 0.0, -torch.inf).to(left)
        return torch.where(_at(self._masked, decision), sure, chosen - left).to(self.logits.dtype)

    def surprise(self, decision: Int[Tensor, "draws *batch places"]) -> Float[Tensor, "draws *batch items"]:
        """The derivative d log P(decision) / d logits, item by item, detached.

        1 for an item that was placed, less its probability in each choice that it was part of.
        """
        with torch.no_grad():
            chosen, left = self._choices(decision)
            log_sum = (-left).logcumsumexp(-1)  # over the choices up to each position
            missed = -torch.exp(self._scores + log_sum[..., -1:])
            slope = missed.scatter(-1, decision.long(), 1 - torch.exp(chosen + log_sum))
            return slope.masked_fill(self._masked, 0.0).to(self.logits.dtype)

    def log_likelihood(
        self, decision: Int[Tensor, "draws *batch places"], weight: Float[Tensor, "draws ..."]
    ) -> Float[Tensor, "*batch"]:
        """Sum over draws and positions of weight times log-probability.

        Args:
            decision: what was drawn, rankings or top-k lists.
            weight: constants, ``draws *batch``, or ``draws *batch places`` for credit to single positions.
        """
        log_prob = self.log_prob(decision)
        # What is impossible has log-probability -inf; as a finite constant its product with a weight of zero is zero.
        log_prob = torch.where(torch.isfinite(log_prob), log_prob, torch.finfo(log_prob.dtype).min)
        return (per_item(weight, decision) * log_prob).sum((0, -1))

    @property
    def _scores(self) -> Float[Tensor, "*batch items"]:
        """Logits in double precision, moved to a log-sum of zero, where large ones keep their digits; all finite."""
        scores = finite(self.logits.to(count_dtype(self.logits.device)))
        log_sum = scores.detach().masked_fill(self._masked, _LAST).logsumexp(-1, keepdim=True)
        return (scores - log_sum).masked_fill(self._masked, _LAST)

    @property
    def _masked(self) -> Bool[Tensor, "*batch items"]:
        return torch.isneginf(self.logits)

    @property
    def _last(self) -> Int[Tensor, "*batch items"]:
        """The place of each masked item: after all others, by index."""
        masked = self._masked
        return (~masked).sum(-1, keepdim=True) + masked.cumsum(-1) - 1

    def _choices(self, decision: Tensor) -> tuple[Tensor, Tensor]:
        """At each position, the score of the item chosen, and the log-sum of exp of those of all not yet placed."""
        batch, items = self.logits.shape[:-1], self.logits.shape[-1]
        if decision.ndim <= len(batch) or decision.shape[decision.ndim - 1 - len(batch) : -1] != batch:
            raise ValueError(
                f"needed decisions of shape (*draws, {', '.join(map(str, (*batch, 'places')))}), got "
                f"{describe(decision)}; the draws axis comes first, and nothing is broadcast"
            )
        placed = check_ranking(decision, items)
        chosen = _at(self._scores, decision)
        rest = self._scores.masked_fill(placed, _LAST).logsumexp(-1, keepdim=True)
        return chosen, torch.cat([chosen, rest], -1).flip(-1).logcumsumexp(-1).flip(-1)[..., :-1]


def _at(values: Tensor, decision: Tensor) -> Tensor:
    """Each item's value, in the order of the ranking."""
    return values.expand(*decision.shape[:-1], -1).gather(-1, decision.long())
