"""Rows are classified one after the other, and the reward is the metric of all of them."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from jaxtyping import Float64

from rlgrad_envs.base import Array, Episodes, Frame, GameVectorEnv, Info, Outcome, Running, SingleEnv
from rlgrad_envs.checks import checked_count
from rlgrad_envs.data import Data, DataArgument, Passes, load_data
from rlgrad_envs.rendering import confusion_frame
from rlgrad_envs.scoring import MetricArgument, metric_for, score, score_counts

Rewards: TypeAlias = Literal["final", "change"]


class Classification:
    """The game: one row in, its class out, so many times; see :class:`ClassificationEnv` for the arguments."""

    def __init__(
        self,
        n: int,
        *,
        data: DataArgument,
        target: str | None,
        metric: MetricArgument | None,
        steps: int,
        rewards: Rewards,
    ) -> None:
        if rewards not in ("final", "change"):
            raise ValueError(f'needed rewards "final" or "change", got {rewards!r}')
        self.n, self.data, self.rewards = checked_count("num_envs", n), load_data(data, target), rewards
        self.steps = steps = checked_count("steps", steps, most=len(self.data))
        self.passes = Passes(n, len(self.data), steps)
        classes = len(self.data.classes)
        self.metric = metric_for(metric, classes=classes)
        self.rows = np.zeros((n, steps), dtype=np.int64)
        self.decided = np.zeros((n, steps), dtype=bool if classes == 2 else np.int64)
        self.counts = np.zeros((n, classes, classes), dtype=np.int64)
        self.step = np.full(n, steps)
        self.scores = np.zeros(n)
        self.observation_space: gym.Space[Any] = self._observation_space()
        self.action_space: gym.Space[Any] = gym.spaces.Discrete(classes)

    def _observation_space(self) -> gym.spaces.Box:
        low, high = self.data.bounds
        columns, counts = self.data.features.shape[1], self.counts[0].size
        lows, highs = [low] * columns + [0.0] * counts, [high] * columns + [1.0] * counts
        return gym.spaces.Box(np.array(lows, dtype=np.float32), np.array(highs, dtype=np.float32))

    def begin(self, which: Episodes, rngs: Sequence[np.random.Generator]) -> None:
        """The next rows of the pass."""
        self.rows[which] = self.passes.draw(which, rngs)
        self.counts[which], self.step[which], self.scores[which] = 0, 0, 0.0

    def observe(self) -> Array:
        """The features of the row to classify, the last one at the end, and the confusion so far as fractions."""
        counted = (self.counts.reshape(self.n, -1) / self.steps).astype(np.float32)
        return np.concatenate([self.data.features[self._now()], counted], axis=1)

    def _now(self) -> Array:
        now: Array = self.rows[np.arange(self.n), np.minimum(self.step, self.steps - 1)]
        return now

    def advance(self, which: Running, actions: Array) -> Outcome:
        """Count the decisions; the metric is asked at the end, or at each step where its change is the reward."""
        at = np.flatnonzero(which)
        self.counts[at, self.data.target[self._now()[at]], actions[at]] += 1
        self.decided[at, self.step[at]] = actions[at]
        self.step[at] += 1
        over = which & (self.step == self.steps)
        before = self.scores.copy()
        asked = np.flatnonzero(which if self.rewards == "change" else over)
        if asked.size:
            self.scores[asked] = self._score(asked)
        return self.scores - before, over, np.zeros(self.n, dtype=bool)

    def _score(self, episodes: Episodes) -> Float64[np.ndarray, " some"]:
        """The metric so far of some episodes: of their counts where these are enough, else of their decisions."""
        scores = score_counts(self.metric, self.counts[episodes])
        if scores is not None:
            return scores
        scores = np.zeros(len(episodes))
        for step in np.unique(self.step[episodes]):
            here = self.step[episodes] == step
            some = episodes[here]
            scores[here] = score(self.metric, self.decided[some, :step], self.data.target[self.rows[some, :step]])
        return scores

    def info(self) -> Info:
        """Counts, the metric when it was last asked, and how many decisions were made."""
        return {"confusion": self.counts.copy(), "metric": self.scores.copy(), "decisions": self.step.copy()}

    def frame(self, episode: int) -> Frame:
        """The confusion matrix so far."""
        value, progress = self._shown(episode), float(self.step[episode]) / self.steps
        return confusion_frame(
            self.counts[episode], self.data.classes, metric=self.metric.name, value=value, progress=progress
        )

    def _shown(self, episode: int) -> float | None:
        """The metric so far where counts tell it; to look asks a function no more often than its rewards do."""
        decided = self.step[episode]
        scores = score_counts(self.metric, self.counts[[episode]]) if decided else None
        if scores is not None:
            return float(scores[0])
        asked = decided == self.steps or (decided and self.rewards == "change")
        return float(self.scores[episode]) if asked else None


class ClassificationEnv(SingleEnv):
    """Classify rows one after the other, for the metric of all of them.

    ## Description

    A metric such as F1 is of a set of decisions: what a right answer is worth depends on the answers before and after.
    So it is paid when the set is complete, and to learn which of its decisions was good is the agent's problem. It
    sees what became of its earlier decisions, and may take risks accordingly.

    ## Action Space

    ``Discrete(classes)``: the class of the row, an index of ``env.unwrapped.data.classes``.

    ## Observation Space

    ``Box``, float32, flat: the features of the row, then the confusion matrix of the decisions so far, one true class
    after the other, as fractions of ``steps``: of two classes these are true negatives, false positives, false
    negatives, true positives. They add up to the part of the episode that is over.

    ## Rewards

    ``rewards="final"``: at the last step the metric of all decisions, 0 before. ``rewards="change"``: at each step how
    much the metric of the decisions so far has changed, from 0 of none. Both add up to the same return.

    ## Starting State

    The rows are drawn without replacement: each environment goes through all rows in a random order, episode by
    episode, and then through another order; rows too few for an episode are left out of the pass.
    ``reset(seed=...)`` begins a new pass.

    ## Episode End

    After ``steps`` decisions. What is observed then is the last row again, with all counts.

    ## Information

    ``confusion``: how many rows of each true class (first axis) were given each class; ``decisions``: how many were
    made; ``metric``: the return so far.

    ## Arguments

    * ``data="digits"``: two arrays, features and labels; a table or the path of a file; or "digits" (is it an 8?),
      "ten_digits", "breast_cancer", "iris", "wine" of scikit-learn. See :func:`rlgrad_envs.data.load_data`.
    * ``target=None``: the column to predict, of a table or a file.
    * ``metric=None``: a name, a metric of ``rlgrad.metrics``, or any function ``(decision, target) -> number``, called
      for each episode with two tensors, of all decisions or, where rewards are changes, of those so far. None is F1,
      and its mean over classes where there are more than two. See :func:`rlgrad_envs.scoring.metric_for`.
    * ``steps=64``: rows of an episode.
    * ``rewards="final"``: or "change".
    * ``render_mode=None``: "human" or "rgb_array", a picture of the confusion matrix so far.

    ## Version History

    * v0: the first.

    Example:
        >>> import gymnasium as gym
        >>> import rlgrad_envs
        >>> env = gym.make("rlgrad/Classification-v0", metric="recall", rewards="change")
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape
        (68,)
        >>> sum(env.step(1)[1] for _ in range(64))
        1.0
    """

    game: Classification

    def __init__(
        self,
        *,
        data: DataArgument = "digits",
        target: str | None = None,
        metric: MetricArgument | None = None,
        steps: int = 64,
        rewards: Rewards = "final",
        render_mode: str | None = None,
    ) -> None:
        game = Classification(1, data=data, target=target, metric=metric, steps=steps, rewards=rewards)
        super().__init__(game, render_mode=render_mode)

    @property
    def data(self) -> Data:
        """The rows that episodes are drawn from."""
        return self.game.data


class ClassificationVectorEnv(GameVectorEnv):
    """Several episodes of :class:`ClassificationEnv` side by side, whose arguments it takes.

    Args:
        num_envs: how many.
        data: see there, as the next ones.
        target: ...
        metric: ...
        steps: ...
        rewards: ...
        render_mode: "rgb_array" or None.
        autoreset_mode: see :class:`rlgrad_envs.base.GameVectorEnv`.
    """

    game: Classification

    def __init__(
        self,
        *,
        num_envs: int = 1,
        data: DataArgument = "digits",
        target: str | None = None,
        metric: MetricArgument | None = None,
        steps: int = 64,
        rewards: Rewards = "final",
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        game = Classification(num_envs, data=data, target=target, metric=metric, steps=steps, rewards=rewards)
        super().__init__(game, render_mode=render_mode, autoreset_mode=autoreset_mode)

    @property
    def data(self) -> Data:
        """The rows that episodes are drawn from."""
        return self.game.data
