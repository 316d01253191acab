"""A game is the rules of several episodes side by side; both of Gymnasium's forms of an environment are views of one.

So each environment is written once, for arrays with a leading axis of episodes: a single environment is a game of one,
and a vector environment of n is a game of n, whose metric is asked once for all.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from rlgrad_envs.checks import check_running, checked_actions, known_mode

if TYPE_CHECKING:
    from rlgrad_envs.rendering import Window

Episodes = Int[np.ndarray, "some"]
Running = Bool[np.ndarray, "n"]
Array = Shaped[np.ndarray, "n ..."]
Info = dict[str, Array]
Outcome = tuple[Float[np.ndarray, "n"], Bool[np.ndarray, "n"], Bool[np.ndarray, "n"]]
Frame = UInt8[np.ndarray, "height width 3"]

RENDER_FPS = 4


@runtime_checkable
class Game(Protocol):
    """The rules of n episodes side by side, in NumPy; no episode sees another.

    Attributes:
        observation_space: of one episode, a Box with finite bounds.
        action_space: of one episode, with one axis at most: Discrete, MultiDiscrete, MultiBinary or Box.
        n: how many episodes.
    """

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    n: int

    def begin(self, which: Episodes, rngs: Sequence[np.random.Generator]) -> None:
        """Start new episodes at these indices, each drawn from its own generator alone.

        What an episode draws depends on nothing but its generator: where this is not the one of the episode before, as
        after ``reset(seed=...)``, nothing drawn earlier is used on.
        """
        ...

    def observe(self) -> Array:
        """What each episode shows now, the final observation where it is over; a new array at each call."""
        ...

    def advance(self, which: Running, actions: Array) -> Outcome:
        """Take one step in some episodes.

        Args:
            which: the episodes that take it, one at least.
            actions: of all n, int64 or, for a Box, its dtype. They lie in the space; those of the others mean nothing.

        Returns:
            Rewards in float64, whether the episode is terminated, and whether it is truncated. What they are where no
            step was taken does not matter.
        """
        ...

    def info(self) -> Info:
        """Numbers or arrays about each episode (bool, int64, float64 ...), the same keys at all times; new arrays."""
        ...

    def frame(self, episode: int) -> Frame:
        """A picture of one episode, always of the same size."""
        ...


class SingleEnv(gym.Env[Any, Any]):
    """A game of one as ``gymnasium.Env``.

    Args:
        game: of one episode.
        render_mode: "human", "rgb_array" or None.

    Raises:
        ValueError: another render mode.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human", "rgb_array"], "render_fps": RENDER_FPS}  # type: ignore[misc]

    def __init__(self, game: Game, *, render_mode: str | None) -> None:
        self.render_mode = known_mode(render_mode, self.metadata["render_modes"])
        self.game = game
        self.observation_space, self.action_space = game.observation_space, game.action_space
        self._running: bool | None = None  # None before the first episode
        self._window: Window | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; see ``gymnasium.Env.reset``. No options are known, and any are ignored."""
        super().reset(seed=seed)
        self.game.begin(np.array([0]), [self.np_random])
        self._running = True
        self._show()
        return self.game.observe()[0], self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take an action; see ``gymnasium.Env.step``.

        Raises:
            ResetNeeded: there is no running episode.
            InvalidAction: the action is not in the action space.
        """
        check_running(self._running)
        actions = checked_actions(self.action_space, np.asarray(action)[None], np.array([True]))
        reward, terminated, truncated = self.game.advance(np.array([True]), actions)
        self._running = not (terminated[0] or truncated[0])
        self._show()
        return self.game.observe()[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), self._info()

    def _info(self) -> dict[str, Any]:
        return {key: values[0].item() if values.ndim == 1 else values[0] for key, values in self.game.info().items()}

    def render(self) -> Any:
        """A picture of the episode in mode "rgb_array"; in mode "human" each step shows it without being asked.

        Raises:
            ResetNeeded: no episode has begun.
        """
        if self._running is None:
            raise ResetNeeded("needed an episode to render, got none yet; call reset() first")
        return self.game.frame(0) if self.render_mode == "rgb_array" else None

    def _show(self) -> None:
        if self.render_mode == "human":
            from rlgrad_envs.rendering import Window

            self._window = self._window or Window(RENDER_FPS)
            self._window.show(self.game.frame(0))

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()
        self._window = None


class GameVectorEnv(gym.vector.VectorEnv[Any, Any, Any]):
    """A game of n as ``gymnasium.vector.VectorEnv``, step by step what a SyncVectorEnv of n single ones gives.

    Args:
        game: of n episodes.
        render_mode: "rgb_array" or None.
        autoreset_mode: what becomes of an episode that is over; Gymnasium's modes, or their names. NextStep begins a
            new one at the following step, whose action is ignored and whose reward is 0. SameStep begins it at once,
            and ``infos["final_obs"]`` and ``infos["final_info"]`` hold what the old one showed last. Disabled leaves
            it to ``reset(options={"reset_mask": ...})``.

    Raises:
        ValueError: another mode.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": RENDER_FPS}  # type: ignore[misc]

    def __init__(self, game: Game, *, render_mode: str | None, autoreset_mode: str | AutoresetMode) -> None:
        self.render_mode = known_mode(render_mode, self.metadata["render_modes"])
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}  # type: ignore[misc]
        self.game, self.num_envs = game, game.n
        self.single_observation_space, self.single_action_space = game.observation_space, game.action_space
        self.observation_space = batch_space(game.observation_space, game.n)
        self.action_space = batch_space(game.action_space, game.n)
        self._rngs: list[np.random.Generator] = []
        self._seeds: list[int] = []
        self._over: Running | None = None  # None before the first episodes

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin episodes; see ``gymnasium.vector.VectorEnv.reset``.

        Args:
            seed: s seeds episode i with s + i, a sequence seeds each with its own. Without one, or where it is None,
                the generators go on.
            options: ``{"reset_mask": mask}`` begins those of a bool array alone, and seeds no other.

        Raises:
            ValueError: a number of seeds, or a mask, that does not fit.
            ResetNeeded: a mask at the first reset.
        """
        which = self._masked((options or {}).get("reset_mask"))
        self._seed(self._seeds_of(seed), which)
        self._begin(which)
        over = np.zeros(self.num_envs, dtype=bool) if self._over is None else self._over
        self._over = over & ~which
        return self.game.observe(), masked_infos(self.game.info(), which)

    def _masked(self, mask: Any) -> Running:
        if mask is None:
            return np.ones(self.num_envs, dtype=bool)
        if self._over is None:
            raise ResetNeeded("needed a first reset() of all episodes, got one with a reset_mask; leave out the mask")
        if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"needed a reset_mask of {self.num_envs} bools, one true at least, got {mask!r}")
        return mask

    def _seeds_of(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [operator.index(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"needed a seed for each of {self.num_envs} environments, got {len(seed)}; or pass one")
        return seed

    def _seed(self, seeds: Sequence[int | None], which: Running) -> None:
        made = {
            i: seeding.np_random(seed)
            for i, (seed, begins) in enumerate(zip(seeds, which, strict=True))
            if not self._rngs or (seed is not None and begins)
        }
        self._rngs = self._rngs or [rng for rng, _ in made.values()]
        self._seeds = self._seeds or [used for _, used in made.values()]
        for i, (rng, used) in made.items():
            self._rngs[i], self._seeds[i] = rng, used

    def _begin(self, which: Running) -> None:
        episodes = np.flatnonzero(which)
        self.game.begin(episodes, [self._rngs[i] for i in episodes])

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of each episode."""
        return tuple(self._rngs)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """What each generator was seeded with."""
        return tuple(self._seeds)

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Take an action in each episode; see ``gymnasium.vector.VectorEnv.step``.

        Raises:
            ResetNeeded: no episode has begun, or one is over and resets are left to the caller.
            InvalidAction: an action is not in the action space; it is named. None is taken then.
        """
        check_running(None if self._over is None else True)
        assert self._over is not None
        if self.autoreset_mode is AutoresetMode.DISABLED:
            check_running(not self._over.any())
        running = ~self._over
        rewards, terminated, truncated = self._advance(running, actions)
        if self._over.any():
            self._begin(self._over)
        self._over = terminated | truncated
        infos = self._end() if self.autoreset_mode is AutoresetMode.SAME_STEP and self._over.any() else {}
        infos |= masked_infos(self.game.info(), np.ones(self.num_envs, dtype=bool))
        return self.game.observe(), rewards, terminated, truncated, infos

    def _advance(self, running: Running, actions: Any) -> Outcome:
        actions = checked_actions(self.single_action_space, np.asarray(actions), running)
        if not running.any():
            return np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=bool), np.zeros(self.num_envs, dtype=bool)
        rewards, terminated, truncated = self.game.advance(running, actions)
        return np.where(running, rewards, 0.0), terminated & running, truncated & running

    def _end(self) -> dict[str, Any]:
        """Begin anew what is over, and say what it showed last."""
        over = self._over
        assert over is not None
        last, final = self.game.observe(), np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(over):
            final[i] = last[i].copy()
        infos = {"final_obs": final, "_final_obs": over.copy()}
        infos |= {"final_info": masked_infos(self.game.info(), over), "_final_info": over.copy()}
        self._begin(over)
        self._over = np.zeros(self.num_envs, dtype=bool)
        return infos

    def render(self) -> tuple[Frame, ...] | None:
        """A picture of each episode in mode "rgb_array".

        Raises:
            ResetNeeded: no episode has begun.
        """
        if self._over is None:
            raise ResetNeeded("needed episodes to render, got none yet; call reset() first")
        return None if self.render_mode is None else tuple(self.game.frame(i) for i in range(self.num_envs))


def masked_infos(info: Info, which: Running) -> dict[str, Any]:
    """Infos of some episodes as Gymnasium's vector form has them: 0 elsewhere, and ``_key`` says where they are."""
    infos: dict[str, Any] = {}
    for key, values in info.items():
        infos[key] = values.copy()
        infos[key][~which] = 0
        infos[f"_{key}"] = which.copy()
    return infos
