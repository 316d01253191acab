"""A batch of rows is classified at once, and the reward is the metric of the batch."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from rlgrad_envs.base import Array, Episodes, Frame, GameVectorEnv, Info, Outcome, Running, SingleEnv
from rlgrad_envs.checks import checked_count
from rlgrad_envs.data import Data, DataArgument, Passes, load_data
from rlgrad_envs.rendering import confusion_frame
from rlgrad_envs.scoring import MetricArgument, confusion, metric_for, score


class BatchClassification:
    """The game: rows in, all their classes out, one step; see :class:`BatchClassificationEnv` for the arguments."""

    def __init__(
        self, n: int, *, data: DataArgument, target: str | None, metric: MetricArgument | None, batch_size: int | None
    ) -> None:
        self.n, self.data = checked_count("num_envs", n), load_data(data, target)
        classes = len(self.data.classes)
        self.metric = metric_for(metric, classes=classes)
        rows = len(self.data)
        size = rows if batch_size is None else checked_count("batch_size", batch_size, most=rows)
        self.passes = None if batch_size is None else Passes(n, rows, size)
        self.rows = np.tile(np.arange(size), (n, 1))
        self.decided = np.zeros((n, size), dtype=np.int64)
        self.over = np.zeros(n, dtype=bool)
        self.scores = np.zeros(n)
        low, high = self.data.bounds
        self.observation_space: gym.Space[Any] = gym.spaces.Box(low, high, (size, self.data.features.shape[1]))
        self.action_space: gym.Space[Any] = gym.spaces.MultiDiscrete([classes] * size)
        if classes == 2:
            self.action_space = gym.spaces.MultiBinary(size)

    def begin(self, which: Episodes, rngs: Sequence[np.random.Generator]) -> None:
        """The next batch of the pass, or all rows as they are."""
        if self.passes is not None:
            self.rows[which] = self.passes.draw(which, rngs)
        self.over[which], self.scores[which] = False, 0.0

    def observe(self) -> Array:
        """The features of the batch."""
        return self.data.features[self.rows]

    def advance(self, which: Running, actions: Array) -> Outcome:
        """The metric of the batch, which ends the episode."""
        decisions = actions[which]
        made = decisions.astype(bool) if len(self.data.classes) == 2 else decisions
        self.scores[which] = score(self.metric, made, self.data.target[self.rows[which]])
        self.decided[which], self.over[which] = decisions, True
        return self.scores.copy(), self.over.copy(), np.zeros(self.n, dtype=bool)

    def info(self) -> Info:
        """Counts and the metric: 0 until the batch is classified."""
        counted = confusion(self.data.target[self.rows], self.decided, len(self.data.classes))
        return {"confusion": counted * self.over[:, None, None], "metric": self.scores.copy()}

    def frame(self, episode: int) -> Frame:
        """The confusion matrix of the batch."""
        counted, over = self.info()["confusion"][episode], bool(self.over[episode])
        value = float(self.scores[episode]) if over else None
        return confusion_frame(counted, self.data.classes, metric=self.metric.name, value=value, progress=float(over))


class BatchClassificationEnv(SingleEnv):
    """Classify a batch of rows, for the metric of the batch.

    ## Description

    A metric such as F1 is of a set of decisions, not of one: what a right answer is worth depends on the other answers.
    Here the agent sees all rows of the set and decides all at once, so that an episode is one step, and the expected
    return is the expected metric of a batch. It is the problem of ``rlgrad.MetricLoss``, as an environment: the arrays
    of ``env.unwrapped.data`` (``features``, ``target``) serve both.

    ## Action Space

    Two classes: ``MultiBinary(batch_size)``, 1 for the last of ``env.unwrapped.data.classes``. More:
    ``MultiDiscrete([classes] * batch_size)``, the number of each row's class.

    ## Observation Space

    ``Box`` of shape (batch_size, features), float32: one row of data in each row, bounded by the least and the largest
    number among the features. A network that ends in ``Linear`` on the last axis treats all rows alike.

    ## Rewards

    The metric of the decisions.

    ## Starting State

    The rows are drawn without replacement: each environment goes through all rows in a random order, batch by batch,
    and then through another order; rows too few for a batch are left out of the pass. ``reset(seed=...)`` begins a
    new pass. With ``batch_size=None`` the batch is all rows, in their order.

    ## Episode End

    After one step. What is observed then is the same batch.

    ## Information

    ``confusion``: how many rows of each true class (first axis) were given each class; ``metric``: the reward. Both are
    0 before the step.

    ## Arguments

    * ``data="breast_cancer"``: two arrays, features and labels; a table or the path of a file; or "digits" (is it an
      8?), "ten_digits", "breast_cancer" (is it malignant?), "iris", "wine" of scikit-learn. See
      :func:`rlgrad_envs.data.load_data`.
    * ``target=None``: the column to predict, of a table or a file.
    * ``metric=None``: a name, a metric of ``rlgrad.metrics``, or any function ``(decision, target) -> number``, called
      for each episode with two tensors (batch_size,). None is F1, and its mean over classes where there are more than
      two. See :func:`rlgrad_envs.scoring.metric_for`.
    * ``batch_size=8``: rows at a time, few so that a network of the whole batch learns soon; None for all.
    * ``render_mode=None``: "human" or "rgb_array", a picture of the confusion matrix.

    ## Version History

    * v0: the first.

    Example:
        >>> import gymnasium as gym
        >>> import rlgrad_envs
        >>> env = gym.make("rlgrad/BatchClassification-v0", metric="recall")
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape
        (8, 30)
        >>> _, reward, terminated, _, _ = env.step(np.ones(8))
        >>> reward, terminated
        (1.0, True)
    """

    game: BatchClassification

    def __init__(
        self,
        *,
        data: DataArgument = "breast_cancer",
        target: str | None = None,
        metric: MetricArgument | None = None,
        batch_size: int | None = 8,
        render_mode: str | None = None,
    ) -> None:
        game = BatchClassification(1, data=data, target=target, metric=metric, batch_size=batch_size)
        super().__init__(game, render_mode=render_mode)

    @property
    def data(self) -> Data:
        """The rows that batches are drawn from."""
        return self.game.data


class BatchClassificationVectorEnv(GameVectorEnv):
    """Several episodes of :class:`BatchClassificationEnv` side by side, whose arguments it takes.

    Args:
        num_envs: how many.
        data: see there, as the next ones.
        target: ...
        metric: ...
        batch_size: ...
        render_mode: "rgb_array" or None.
        autoreset_mode: see :class:`rlgrad_envs.base.GameVectorEnv`.
    """

    game: BatchClassification

    def __init__(
        self,
        *,
        num_envs: int = 1,
        data: DataArgument = "breast_cancer",
        target: str | None = None,
        metric: MetricArgument | None = None,
        batch_size: int | None = 8,
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        game = BatchClassification(num_envs, data=data, target=target, metric=metric, batch_size=batch_size)
        super().__init__(game, render_mode=render_mode, autoreset_mode=autoreset_mode)

    @property
    def data(self) -> Data:
        """The rows that batches are drawn from."""
        return self.game.data
