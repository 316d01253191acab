"""Credit to blocks of decisions: what would the reward have been, had this block gone as in another draw?"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from rlgrad.checks import describe
from rlgrad.credit import rewards_of
from rlgrad.estimators.surrogate import check_draws, check_whole, with_gradient
from rlgrad.metrics import Score, Scorer, SummedMetric
from rlgrad.policies import Policy, independent, slices


@dataclass(frozen=True, eq=False)
class blockwise:
    """The score function with a reward of its own for each block of decisions, for any scorer.

        gradient of block g = mean over draws d of  D_g / 2 (grad log p(g of b_d) - grad log p(g of b_e)),
        D_g = r(b_d) - r(b_d with block g as in b_e),    e = the next draw

    Unbiased: with all other decisions as they are, b_d and b_e hold two independent draws of block g, and this is
    leave-one-out between them. What the others contribute to the reward cancels, so that the noise does not grow with
    the number of blocks. Blocks of one item each would be ``counterfactual`` with sampling, one block of all items is
    leave-one-out of pairs.

    A SummedMetric has blocks of its own, its rows: replacing the statistic of one row in the sum costs no call, so
    that all pairs of draws are compared, and the rows' functions are called no more often than without. For any other
    scorer each block costs one reward a draw, except where the two draws agree on all of it.

    Args:
        draws: how many times all decisions are drawn for each estimate.
        blocks: the block of each item, numbered from 0, see ``tiles``; or how many neighbours make a block; or None for
            the rows of a SummedMetric.

    Raises:
        TypeError: draws are no whole number; blocks are nothing of the kind; on use, decisions that are not
            independent, as those of a ranking.
        ValueError: fewer draws than 2; a negative block; on use, other than one block number an item, or no blocks for
            a metric that has none of its own.

    Source: the difference rewards of Wolpert, Tumer, Optimal payoff functions for members of collectives (2001), with
        the pair of draws of Kool et al. (2019).

    Example:
        >>> from rlgrad import Bernoulli
        >>> logits = torch.zeros(6, requires_grad=True)
        >>> runs = lambda decision: -(decision[..., 1:] != decision[..., :-1]).sum(-1).float()  # noqa: E731
        >>> value = blockwise(draws=200, blocks=2)(Bernoulli(logits), runs, generator=torch.Generator().manual_seed(0))
        >>> value.backward()
        >>> print(f"{value:.1f}")
        -2.5
    """

    draws: int = 8
    blocks: Tensor | int | None = None

    def __post_init__(self) -> None:
        check_draws(self.draws, least=2)
        if isinstance(self.blocks, Tensor):
            if self.blocks.is_floating_point() or self.blocks.dtype == torch.bool or self.blocks.ndim != 1:
                raise TypeError(
                    f"needed a whole number for each item, got blocks {describe(self.blocks)}; "
                    "see rlgrad.estimators.tiles"
                )
            if (self.blocks < 0).any():
                raise ValueError(f"needed blocks numbered from 0, got {int(self.blocks.min())}")
        elif self.blocks is not None:
            check_whole(self.blocks, what="items a block")
            if self.blocks < 1:
                raise ValueError(f"needed blocks of at least 1 item, got {self.blocks}")

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """E[reward] for each row, differentiable in the policy's logits."""
        policy = independent(policy, who="blockwise")
        decision = policy.sample(self.draws, generator=generator)
        if self.blocks is None:
            reward, weight = _of_rows(score, decision)
        else:
            reward = rewards_of(score, decision)
            weight = _of_blocks(score, decision, reward.detach(), self._numbers(decision))
        surrogate = policy.log_likelihood(decision, weight.to(policy.logits.dtype) / self.draws)
        return with_gradient(reward.mean(0), surrogate)

    def _numbers(self, decision: Tensor) -> Int[Tensor, " items"]:
        items = decision.shape[-1]
        if not isinstance(self.blocks, Tensor):
            assert self.blocks is not None
            return torch.arange(items, device=decision.device) // self.blocks
        if len(self.blocks) != items:
            raise ValueError(
                f"needed a block for each of {items} items, got {len(self.blocks)}; see tiles(shape, size)"
            )
        return self.blocks.to(decision.device)


def tiles(height: int, width: int, size: int) -> Int[Tensor, " items"]:
    """The block of each pixel of an image cut into squares, for ``blockwise``; those at the far edges may be smaller.

    Raises:
        ValueError: one of the three is below 1.

    Example:
        >>> tiles(2, 4, 2).tolist()
        [0, 0, 1, 1, 0, 0, 1, 1]
    """
    if min(height, width, size) < 1:
        raise ValueError(f"needed an image and tiles of at least 1 pixel, got {height=}, {width=} and {size=}")
    down, across = torch.arange(height) // size, torch.arange(width) // size
    return (down[:, None] * (int(across[-1]) + 1) + across).flatten()


def _of_rows(score: Score, decision: Tensor) -> tuple[Float[Tensor, "draws *batch"], Float[Tensor, "draws *items"]]:
    """Rewards, and the weight of each decision's log-probability, from the statistics of a SummedMetric's rows."""
    if not isinstance(score, Scorer) or not isinstance(score.metric, SummedMetric):
        got = score.metric if isinstance(score, Scorer) else score
        raise ValueError(f"needed blocks of items to give credit to, got none for {got!r}; pass blocks=")
    metric = score.metric
    shape = score.target.shape[-metric.item_axes :]
    each = metric.statistics(decision.unflatten(-1, shape), score.target)
    total = each.sum(-2)
    reward = metric.of_sums(total)
    # The sum of draw d with the row of draw e in place of its own: draws, others, *batch, rows, statistics.
    swapped = total[:, None, ..., None, :] - each[:, None] + each[None]
    change = reward[:, None, ..., None] - metric.of_sums(swapped)
    weight = (change.sum(1) - change.sum(0)) / (2 * (len(decision) - 1))
    return reward, weight.repeat_interleave(math.prod(shape[1:]), dim=-1)


def _of_blocks(
    score: Score,
    decision: Shaped[Tensor, "draws *batch items"],
    reward: Float[Tensor, "draws *batch"],
    blocks: Int[Tensor, " items"],
) -> Float[Tensor, "draws *batch items"]:
    """The weight of each decision's log-probability, by asking for the reward with one block replaced."""
    other = decision.roll(-1, 0)
    count = int(blocks.max()) + 1 if len(blocks) else 0
    here = blocks == torch.arange(count, device=blocks.device)[:, None]  # blocks, items
    differs = torch.zeros(count, *reward.shape, dtype=torch.bool, device=reward.device)
    for number, items in enumerate(here):
        differs[number] = (decision != other)[..., items].any(-1)
    at = differs.nonzero()  # block, draw, *row: where the two draws agree nothing changes
    change = torch.zeros(differs.shape, dtype=reward.dtype, device=reward.device)
    for part in slices(len(at), decision.shape[-1]):
        block, *drawn = at[part].unbind(-1)
        mixed = torch.where(here[block], other[tuple(drawn)], decision[tuple(drawn)])
        mixed_reward = _rewards(score, mixed, drawn[1:], decision.shape[1:-1])
        change[tuple([block, *drawn])] = reward[tuple(drawn)] - mixed_reward
    half = change[blocks].movedim(0, -1) / 2
    return half - half.roll(1, 0)


def _rewards(
    score: Score, mixed: Shaped[Tensor, "asked items"], row: list[Tensor], batch: tuple[int, ...]
) -> Float[Tensor, " asked"]:
    """Rewards of decisions of single rows: a Scorer takes each with its row's target, another score whole batches."""
    if isinstance(score, Scorer):
        index = tuple(row)
        target = score.target[index] if row else score.target.expand(len(mixed), *score.target.shape)
        weight = None if score.weight is None else score.weight[index] if row else score.weight.expand_as(target)
        return rewards_of(Scorer(score.metric, target, weight), mixed[None])[0].detach()
    if not row:
        return rewards_of(score, mixed).detach()
    whole = mixed.reshape(-1, *[1] * len(batch), mixed.shape[-1]).expand(-1, *batch, -1)
    own = (torch.arange(len(mixed), device=mixed.device), *row)
    return rewards_of(score, whole).detach()[own]
