"""Gradient steps that are made wholly, with finite numbers, or not at all."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from rlgrad.agent.reinforce import Reinforce


@contextmanager
def unchanged_on_failure(agent: "Reinforce") -> Iterator[None]:
    """Put all that an agent has learned back to what it was, if the block is left by an error or Ctrl-C."""
    weights, optimizer = copy.deepcopy((agent.state_dict(), agent.optimizer.state_dict()))
    history = agent.history.updates.copy()
    try:
        yield
    except BaseException:
        agent.load_state_dict(weights)
        agent.optimizer.load_state_dict(optimizer)
        agent.history.updates[:] = history
        raise


def step(
    optimizer: torch.optim.Optimizer,
    of_policy: Sequence[nn.Parameter],
    of_value: Sequence[nn.Parameter] = (),
    *,
    max_norm: float,
) -> float:
    """Make a step along the gradients, which are scaled down to a norm, those of policy and value each by themselves.

    Returns:
        The norm of the policy's gradient as it was.

    Raises:
        FloatingPointError: a gradient is not finite, or a weight after the step.
    """
    try:
        nn.utils.clip_grad_norm_(of_value, max_norm, error_if_nonfinite=True)
        norm = nn.utils.clip_grad_norm_(of_policy, max_norm, error_if_nonfinite=True).item()
    except RuntimeError as error:
        raise _diverged("gradient") from error
    optimizer.step()
    if not all(torch.isfinite(each).all() for each in (*of_policy, *of_value)):
        raise _diverged("weight")
    return norm


def _diverged(what: str) -> FloatingPointError:
    return FloatingPointError(
        f"needed finite numbers, got a {what} that is not; the agent is as it was before this update; lower lr, or "
        "look at the size of the rewards"
    )
