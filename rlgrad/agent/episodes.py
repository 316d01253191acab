"""Whole episodes, played side by side."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from rlgrad.agent.environments import EnvironmentFailed

# From observations to decisions, which may be None, and the actions that they stand for.
Act = Callable[[Tensor], tuple[Tensor | None, np.ndarray]]
_ENDLESS = 100_000


@dataclass(frozen=True)
class Episodes:
    """Episodes as draws, padded with zeros after their end.

    Args:
        observation: before each step, ``draws steps *observation``.
        decision: ``draws steps items``; none where the actions were not those of a policy.
        reward: ``draws steps``.
        ran: which steps are an episode's, ``draws steps``: the others come after its end.
        terminated: whether an episode came to its end, ``draws``; otherwise it was cut off.
        last: the observation after the last step, ``draws *observation``.
        asked: steps that all environments were asked for.
    """

    observation: Float[Tensor, "draws steps *observation"]
    decision: Shaped[Tensor, "draws steps items"] | None
    reward: Float[Tensor, "draws steps"]
    ran: Bool[Tensor, "draws steps"]
    terminated: Bool[Tensor, " draws"]
    last: Float[Tensor, "draws *observation"]
    asked: int

    @property
    def returns(self) -> Float[Tensor, " draws"]:
        """Sums of the rewards, without discount."""
        return self.reward.sum(-1)

    @property
    def ended(self) -> Bool[Tensor, "draws steps"]:
        """Which step is the last of its episode."""
        return self.ran & ~torch.cat([self.ran[:, 1:], torch.zeros_like(self.ran[:, :1])], 1)

    @property
    def lengths(self) -> Shaped[Tensor, " draws"]:
        """Steps of each episode."""
        return self.ran.sum(-1)


def play(envs: VectorEnv[Any, Any, Any], act: Act, *, seeds: list[int], limit: int | None = None) -> Episodes:
    """One episode in each environment, side by side, from its reset to its end.

    Environments whose episode has ended wait for the others: what they do then is asked for but not told. So each
    episode counts once however long it is, where those that end first within a number of steps would be the short ones.

    Args:
        envs: reset here.
        act: decides.
        seeds: of each environment's reset.
        limit: steps after which an episode is cut off, besides what the environment itself says.

    Raises:
        EnvironmentFailed: an environment raised, or an observation or a reward is not a finite number.
        ValueError: an episode does not end.
    """
    observation = _reset(envs, seeds)
    running = np.ones(envs.num_envs, dtype=bool)
    terminated = np.zeros(envs.num_envs, dtype=bool)
    last = observation.clone()
    told: list[tuple[Tensor, Tensor | None, Tensor, Tensor]] = []
    while running.any():
        decision, action = act(observation)
        seen, reward, ended, truncated, final = _step(envs, action, running, len(told))
        now = torch.from_numpy(running)
        told.append((observation, _where(now, decision), torch.from_numpy(np.where(running, reward, 0.0)), now))
        stopped = running & (ended | truncated | (len(told) == limit))
        terminated |= running & ended
        last[torch.from_numpy(stopped)] = final[torch.from_numpy(stopped)]
        running = running & ~stopped
        if len(told) == _ENDLESS and running.any():
            raise ValueError(f"needed episodes that end, got one of {_ENDLESS} steps; pass max_episode_steps")
        if running.any():
            observation = _where(torch.from_numpy(running), _after_end(envs, seen, ended | truncated))
    observations, decisions, rewards, ran = zip(*told, strict=True)
    return Episodes(
        torch.stack(observations, 1),
        None if decisions[0] is None else torch.stack(decisions, 1),
        torch.stack(rewards, 1),
        torch.stack(ran, 1),
        torch.from_numpy(terminated),
        last,
        asked=len(told) * envs.num_envs,
    )


def joined(parts: list[Episodes]) -> Episodes:
    """Several plays as one, padded to the longest."""
    if len(parts) == 1:
        return parts[0]
    steps = max(part.ran.shape[1] for part in parts)

    def padded(name: str) -> Tensor:
        tensors = [getattr(part, name) for part in parts]
        return torch.cat([torch.cat([t, t.new_zeros(len(t), steps - t.shape[1], *t.shape[2:])], 1) for t in tensors])

    return Episodes(
        padded("observation"),
        None if parts[0].decision is None else padded("decision"),
        padded("reward"),
        padded("ran"),
        torch.cat([part.terminated for part in parts]),
        torch.cat([part.last for part in parts]),
        asked=sum(part.asked for part in parts),
    )


def _where(running: Bool[Tensor, " draws"], numbers: Any) -> Any:
    """The numbers of the episodes that run, and zeros for the others, whatever these say while they wait."""
    return None if numbers is None else numbers.masked_fill(~running.view(-1, *[1] * (numbers.ndim - 1)), 0)


def _reset(envs: VectorEnv[Any, Any, Any], seeds: list[int]) -> Tensor:
    # Native vector forms may take a single seed alone, which is then that of the first environment.
    consecutive = seeds == list(range(seeds[0], seeds[0] + len(seeds)))
    try:
        seen, _ = envs.reset(seed=seeds[0] if consecutive else seeds)  # type: ignore[arg-type]
        observation = _numbers(envs, seen)
    except Exception as error:
        hint = "" if consecutive else '; the same start needs environments that take a list of seeds, as "sync" ones do'
        raise EnvironmentFailed(_told("its reset", error) + hint) from error
    _check_finite("observation", observation, np.ones(envs.num_envs, dtype=bool), "after its reset")
    return observation


def _step(
    envs: VectorEnv[Any, Any, Any], action: np.ndarray, running: np.ndarray, step: int
) -> tuple[Tensor, np.ndarray, np.ndarray, np.ndarray, Tensor]:
    """What the environments say: observations, rewards, the two ends, and the observations before any reset."""
    try:
        seen, reward, ended, truncated, info = envs.step(action)
        observation, reward = _numbers(envs, seen), np.asarray(reward, dtype=float).reshape(envs.num_envs)
        ended, truncated = np.asarray(ended, dtype=bool), np.asarray(truncated, dtype=bool)
        final = observation.clone()
        for index in np.flatnonzero(info.get("_final_obs", np.zeros(0))):
            final[int(index)] = torch.from_numpy(_float32(info["final_obs"][index]))
    except Exception as error:
        raise EnvironmentFailed(_told(f"step {step + 1} of an episode", error)) from error
    when = f"in step {step + 1} of its episode"
    _check_finite("reward", torch.from_numpy(reward), running, when)
    _check_finite("observation", final, running, when)
    return observation, reward, ended, truncated, final


def _after_end(envs: VectorEnv[Any, Any, Any], seen: Tensor, over: np.ndarray) -> Tensor:
    """Observations to go on from: where environments do not begin anew by themselves they are told to."""
    if envs.metadata.get("autoreset_mode") != AutoresetMode.DISABLED or not over.any():
        return seen
    try:
        return _numbers(envs, envs.reset(options={"reset_mask": over})[0])
    except Exception as error:
        raise EnvironmentFailed(_told("its reset", error)) from error


def _check_finite(what: str, values: Tensor, running: np.ndarray, when: str) -> None:
    bad = ~torch.isfinite(values.reshape(len(running), -1)) & torch.from_numpy(running)[:, None]
    if bad.any():
        at, entry = bad.nonzero()[0].tolist()
        got = values.reshape(len(running), -1)[at, entry].item()
        raise EnvironmentFailed(
            f"needed finite numbers, got {got} in the {what} of environment {at} {when}; mend the environment"
        )


def _numbers(envs: VectorEnv[Any, Any, Any], observation: Any) -> Tensor:
    """A copy, as environments may write the next observation over this one."""
    numbers, space = _float32(observation), envs.single_observation_space
    if numbers.shape != (envs.num_envs, *(space.shape or ())):
        raise ValueError(f"observations of shape {numbers.shape} from {envs.num_envs} environments of {space}")
    return torch.from_numpy(numbers)


def _float32(observation: Any) -> np.ndarray:
    with np.errstate(over="ignore"):  # what is beyond is infinite, and told to be
        return np.array(observation, dtype=np.float32)


def _told(when: str, error: Exception) -> str:
    reason = " ".join(str(error).split())
    return f"needed an environment that goes on, got {type(error).__name__} in {when}: {reason}; mend the environment"
