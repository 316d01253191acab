"""What environments check of their arguments, of the order of calls and of actions."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import InvalidAction, ResetNeeded
from jaxtyping import Bool, Shaped


def checked_count(name: str, count: Any, *, most: int | None = None) -> int:
    """How many of something there are: a whole number of at least 1.

    Args:
        name: of the argument.
        count: its value; bool is no number.
        most: the largest that makes sense, the number of rows that there are.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is out of range.

    Example:
        >>> checked_count("steps", np.int32(3))
        3
    """
    if isinstance(count, bool) or not isinstance(count, int | np.integer):
        raise TypeError(f"needed a whole number for {name}, got {count!r}")
    if most is not None and not 1 <= count <= most:
        raise ValueError(f"needed {name} between 1 and {most}, the number of rows there are, got {count}")
    if count < 1:
        raise ValueError(f"needed {name} of at least 1, got {count}")
    return int(count)


def known_mode(render_mode: str | None, modes: Sequence[str]) -> str | None:
    """The render mode, which is one of these or None.

    Raises:
        ValueError: it is another.
    """
    if render_mode is not None and render_mode not in modes:
        raise ValueError(f"needed render_mode None or one of {', '.join(modes)}, got {render_mode!r}")
    return render_mode


def check_running(running: bool | None) -> None:
    """There is an episode to take a step in.

    Raises:
        ResetNeeded: there was none yet (None), or it is over (False).
    """
    if running is None:
        raise ResetNeeded("needed reset() before the first step(), got none; call reset() to begin an episode")
    if not running:
        raise ResetNeeded("needed a running episode, got a step() after its end; call reset() to begin the next one")


def checked_actions(
    space: gym.Space[Any], actions: Shaped[np.ndarray, "..."], running: Bool[np.ndarray, "n"]
) -> Shaped[np.ndarray, "n ..."]:
    """Actions of the running episodes, and the lowest of the space for the others, in the dtype that games get.

    Whole numbers may come in any dtype: Stable-Baselines3 gives the 0 and 1 of a MultiBinary space as floats.

    Raises:
        InvalidAction: the shape is wrong, or the action of a running episode is not in the space; it is named.
    """
    low, high = _bounds(space)
    if actions.shape != (len(running), *low.shape) or actions.dtype.kind not in "biuf":
        raise InvalidAction(
            f"needed an action in {space}, got one of shape {actions.shape[1:]} and dtype {actions.dtype}; "
            "see action_space"
        )
    inside = (actions >= low) & (actions <= high)
    if not isinstance(space, gym.spaces.Box):
        inside &= actions == np.floor(actions)
    bad = running & ~inside.reshape(len(running), -1).all(-1)
    if bad.any():
        raise InvalidAction(f"needed an action in {space}, got {actions[bad][0]}; see action_space")
    taken = running.reshape(-1, *(1,) * low.ndim)
    return np.where(taken, actions, low).astype(low.dtype)


def _bounds(space: gym.Space[Any]) -> tuple[Shaped[np.ndarray, "*shape"], Shaped[np.ndarray, "*shape"]]:
    """The lowest and the highest action of a space."""
    if isinstance(space, gym.spaces.Discrete):
        return np.array(space.start), np.array(space.start + space.n - 1)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return space.start.astype(np.int64), (space.start + space.nvec - 1).astype(np.int64)
    if isinstance(space, gym.spaces.MultiBinary):
        return np.zeros(space.shape, dtype=np.int64), np.ones(space.shape, dtype=np.int64)
    assert isinstance(space, gym.spaces.Box)
    return space.low, space.high
