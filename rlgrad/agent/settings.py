"""What an agent is made with, checked before anything is played."""

import math
from collections.abc import Callable

from torch import nn

from rlgrad.agent.value import Value
from rlgrad.credit import (
    Credit,
    LearnedValue,
    MovingAverage,
    counterfactual,
    greedy,
    leave_one_out,
    leaves_one_out,
    none,
    reward_to_go,
)

CREDITS: dict[str, Callable[[], Credit | Value]] = {
    "none": lambda: none,
    "moving_average": MovingAverage,
    "leave_one_out": lambda: leave_one_out,
    "value": Value,
}


def credit_of(credit: str | Credit | Value) -> Credit | Value:
    """The credit that is meant.

    Raises:
        TypeError: it is none, or one that needs a play: to score again what was decided, which no environment offers.
        ValueError: there is none of this name.
    """
    names = ", ".join(CREDITS)
    if isinstance(credit, str):
        if credit not in CREDITS:
            raise ValueError(f"needed a credit, got {credit!r}; there are {names}")
        credit = CREDITS[credit]()
    if isinstance(credit, type) or not callable(credit):
        raise TypeError(f"needed a credit, got {credit!r}; pass one of {names}, a function or an object of one")
    if isinstance(credit, LearnedValue):
        raise TypeError("needed a value of observations, got one of logits, LearnedValue; use rlgrad.agent.Value")
    if credit in (greedy, counterfactual, reward_to_go):
        raise TypeError(
            f"needed a credit that returns are enough for, got {getattr(credit, '__name__', credit)}, which scores "
            f"decisions once more; pass one of {names}"
        )
    return credit


def check_numbers(
    credit: Credit | Value,
    *,
    episodes: int,
    discount: float,
    lr: float,
    entropy: float,
    reuse: int,
    clip: float | None,
    max_grad_norm: float,
    max_episode_steps: int | None,
    seed: int,
) -> None:
    """Raise a ValueError for the first number that is out of its range, a TypeError for one that is not whole."""
    check_whole("episodes", episodes)
    if leaves_one_out(credit) and episodes < 2:
        raise ValueError(f"needed at least 2 episodes to leave one out, got {episodes}; raise episodes")
    check_whole("reuse", reuse)
    if max_episode_steps is not None:
        check_whole("max_episode_steps", max_episode_steps)
    check_whole("seed", seed, least=0)
    for what, number, fits, advice in (
        ("discount from 0 to 1", discount, 0 <= discount <= 1, "0.99 is usual"),
        ("positive finite lr", lr, 0 < lr < math.inf, "0.01 is usual"),
        ("weight of entropy of at least 0", entropy, 0 <= entropy < math.inf, "0 is usual"),
        ("positive finite clip", clip, clip is None or 0 < clip < math.inf, "0.2 is usual, None is for none"),
        ("positive max_grad_norm", max_grad_norm, max_grad_norm > 0, "math.inf leaves gradients as they are"),
    ):
        if not fits:
            raise ValueError(f"needed a {what}, got {number}; {advice}")


def check_whole(what: str, number: object, *, least: int = 1) -> None:
    """Raise unless a number is an integer of at least so much, and fits into 63 bits."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"needed a whole number of {what}, got {number!r}")
    if not least <= number < 2**63:
        raise ValueError(f"needed {what} of at least {least} and below 2^63, got {number}")


def check_network(network: object) -> None:
    """A policy is a module with weights that learn, on the CPU, where environments are played.

    Raises:
        TypeError: it is no module.
        ValueError: it is elsewhere.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"needed a network, got {network!r}; pass an nn.Module, or None for the usual one")
    for name, weight in network.named_parameters():
        if weight.device.type != "cpu":
            raise ValueError(f"needed a network on the CPU, got {name} on {weight.device}; call its .cpu()")
