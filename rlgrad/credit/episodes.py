"""Credit over time: what each step of an episode is given credit for. Time is the last axis."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from rlgrad.checks import describe, first_index, values_visible
from rlgrad.policies import wide


def discounted_returns(
    reward: Shaped[Tensor, "*draws steps"], discount: float, *, last: Shaped[Tensor, "*draws"] | None = None
) -> Float[Tensor, "*draws steps"]:
    """What is still to come at each step, the future discounted.

    G_t = r_t + discount G_{t+1},   after the last step G = last

    A decision does not change the rewards before it, so crediting it with G_t instead of the whole return leaves the
    gradient unbiased, with less variance. With a discount below 1, that of the discounted return weighs step t by
    discount^t once more, which is usually left out. Episodes that end early are padded with zeros after their end,
    where the return is zero, and ``leave_one_out`` of returns ``draws steps`` is unbiased on their real steps: what
    another episode still has to come is independent of this one's decisions, and zero for one that is over. Padded
    steps have no decision, hence no log-probability to weigh: mask them there.

    Args:
        reward: of each step, zero where an episode is over.
        discount: weight of the next step against this one, in [0, 1].
        last: the value of what follows the last step, where an episode is cut there; nothing by default. One that is
            cut before it has ``discount`` x value added to its own last reward.

    Raises:
        ValueError: ``discount`` lies outside [0, 1], shapes differ, there is no axis of steps, or a number is not
            finite.

    Source: Williams (1992); Sutton, McAllester, Singh, Mansour (1999).

    Example:
        >>> discounted_returns(torch.tensor([[1.0, 0.0, 2.0], [1.0, 0.0, 0.0]]), 0.5)
        tensor([[1.5000, 1.0000, 2.0000],
                [1.0000, 0.0000, 0.0000]])
    """
    _check_weight(discount, what="discount")
    _check_steps(reward, what="rewards")
    reward = _numbers(reward, reward.shape, what="rewards")
    if last is not None:
        last = _numbers(last, reward.shape[:-1], what="last values").to(reward)
        reward = torch.cat([reward[..., :-1], reward[..., -1:] + discount * last[..., None]], -1)
    return _backward_sum(reward, discount)


def generalized_advantage(
    reward: Shaped[Tensor, "*draws steps"],
    value: Shaped[Tensor, "*draws steps"],
    next_value: Shaped[Tensor, "*draws steps"],
    *,
    ended: Bool[Tensor, "*draws steps"],
    discount: float,
    decay: float,
) -> Float[Tensor, "*draws steps"]:
    """How much better each step went than a value function expected, looking ahead as far as it is to be distrusted.

    delta_t = r_t + discount v(s_{t+1}) - v(s_t),   A_t = delta_t + discount decay A_{t+1} where the episode goes on

    With a decay of 1 it is the discounted return less the value, which is unbiased whatever the values; with 0 it is
    the one step's error, of little variance and biased where the values are wrong. The advantage carries the graph of
    the values: detach them.

    Args:
        reward: of each step.
        value: of the state in which each step's decision was made.
        next_value: of the state that followed: 0 where the episode terminated, the value of its last observation where
            it was truncated. It is not taken from ``value``, as the state after a truncated step begins no step.
        ended: whether the episode was over after this step, terminated or truncated. What comes later in its row is
            padding, whatever it holds: its errors and advantages are zero.
        discount: weight of the next step against this one, in [0, 1].
        decay: weight of later errors, lambda, in [0, 1].

    Raises:
        TypeError: ``ended`` is not bool.
        ValueError: a weight lies outside [0, 1], shapes differ, there is no axis of steps, or a number before the end
            is not finite.

    Source: Schulman, Moritz, Levine, Jordan, Abbeel, High-dimensional continuous control using generalized advantage
        estimation (2016).

    Example:
        >>> reward, value = torch.tensor([1.0, 1.0, 9.0]), torch.tensor([0.5, 0.5, 9.0])
        >>> ended = torch.tensor([False, True, True])
        >>> generalized_advantage(reward, value, value * 0, ended=ended, discount=1.0, decay=1.0)
        tensor([1.0000, 0.5000, 0.0000])
    """
    _check_weight(discount, what="discount")
    _check_weight(decay, what="decay")
    if ended.dtype != torch.bool:
        raise TypeError(f"needed ended as bool, got {describe(ended)}; pass terminated | truncated")
    _check_steps(ended, what="ended")
    padding = ended.cumsum(-1) > ended.int()
    reward = _before(padding, reward, what="rewards")
    value = _before(padding, value, what="values")
    next_value = _before(padding, next_value, what="next values")
    return _backward_sum(reward + discount * next_value - value, discount * decay)


def _backward_sum(added: Float[Tensor, "*draws steps"], weight: float) -> Float[Tensor, "*draws steps"]:
    """S_t = added_t + weight S_{t+1}, by doubling: after k rounds S_t holds the terms of the next 2^k steps.

    Only powers of a weight in [0, 1] occur, so it is as accurate as the loop, in log2(steps) rounds.
    """
    reach = 1
    while reach < added.shape[-1]:
        added = added + weight**reach * F.pad(added[..., reach:], (0, reach))
        reach *= 2
    return added


def _check_weight(weight: float, *, what: str) -> None:
    if not 0 <= weight <= 1:
        raise ValueError(f"needed a {what} in [0, 1], got {weight}; 1 weighs all steps alike")


def _check_steps(numbers: Tensor, *, what: str) -> None:
    if numbers.ndim < 1:
        raise ValueError(f"needed {what} of shape (*draws, steps), got {describe(numbers)}; time is the last axis")


def _before(padding: Tensor, numbers: Tensor, *, what: str) -> Float[Tensor, "*shape"]:
    """The numbers, with zero in the padding, whatever it holds."""
    blank = numbers.masked_fill(padding, 0) if numbers.shape == padding.shape else numbers
    return _numbers(blank, padding.shape, what=what)


def _numbers(numbers: Tensor, shape: torch.Size, *, what: str) -> Float[Tensor, "*shape"]:
    """Finite numbers of this shape, as floating point of single precision or more."""
    if numbers.shape != shape:
        raise ValueError(f"needed {what} of shape {tuple(shape)}, got {describe(numbers)}; nothing is broadcast")
    if values_visible() and (bad := ~torch.isfinite(numbers)).any():
        where = first_index(bad)
        raise ValueError(f"needed finite {what}, got {numbers[where].item()} at {where}; look for what put it out")
    return wide(numbers) if numbers.is_floating_point() else numbers.to(torch.get_default_dtype())
