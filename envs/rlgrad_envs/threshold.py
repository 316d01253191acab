"""The threshold above which a score is claimed: one, or one for each class or label, judged by a metric of the data."""

from collections.abc import Sequence
from math import ceil, sqrt
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from jaxtyping import Bool, Float64, Int64

from rlgrad_envs.base import Array, Episodes, Frame, GameVectorEnv, Info, Outcome, Running, SingleEnv
from rlgrad_envs.checks import checked_count
from rlgrad_envs.score_data import Decided, ScoreData, scores_of
from rlgrad_envs.scoring import MetricArgument, score

_COLOURS = ("#56B4E9", "#E69F00")  # of negatives and positives: sky blue and orange, which the colour-blind tell apart
_LEVELS = np.linspace(0, 1, 11)  # of the quantiles that are seen


class ThresholdGame:
    """The rules of n episodes; see :class:`ThresholdEnv`."""

    def __init__(
        self,
        n: int,
        *,
        data: ScoreData,
        target: str | Sequence[str] | None,
        metric: MetricArgument | None,
        rows: int,
        steps: int,
    ) -> None:
        self.n, self.steps, self.data = (
            checked_count("num_envs", n),
            checked_count("steps", steps),
            scores_of(data, target),
        )
        self.metric = self.data.metric_for(metric)
        rows = checked_count("rows", rows, most=len(self.data))
        columns = self.data.scores.shape[1]
        self.action_space: gym.Space[Any] = Box(-1, 1, (columns,), np.float32)
        self.observation_space: gym.Space[Any] = Box(0, 1, (columns * (len(_LEVELS) + 5),), np.float32)
        self.drawn = np.zeros((n, rows), dtype=np.int64)
        self.quantiles = np.zeros((n, columns, len(_LEVELS)))
        self.threshold = np.full((n, columns), 0.5)
        self.counts = np.zeros((n, columns, 4), dtype=np.int64)
        self.value = np.zeros(n)
        self.taken = np.zeros(n, dtype=np.int64)
        self._try(np.arange(n))  # a metric that fails does so now

    def begin(self, which: Episodes, rngs: Sequence[np.random.Generator]) -> None:
        """Draw rows for each episode, and look at the threshold 0.5."""
        available = len(self.data)
        self.drawn[which] = [rng.integers(available, size=self.drawn.shape[1]) for rng in rngs]
        seen = self.data.scores[self.drawn[which]]
        self.quantiles[which] = np.moveaxis(np.quantile(seen, _LEVELS, axis=1), 0, -1)
        self.threshold[which], self.taken[which] = 0.5, 0
        self._try(which)

    def observe(self) -> Array:
        """Quantiles of the scores, the last threshold, and the shares of the rows that it made tp, fp, fn and tn."""
        shares = self.counts / self.drawn.shape[1]
        seen = np.concatenate([self.quantiles, self.threshold[..., None], shares], axis=-1)
        return seen.reshape(self.n, -1).astype(np.float32)

    def advance(self, which: Running, actions: Array) -> Outcome:
        """Decide by the thresholds that the actions stand for; the reward is the metric of that."""
        some = np.flatnonzero(which)
        self.threshold[some] = (actions[some].astype(np.float64) + 1) / 2
        self.taken[some] += 1
        self._try(some)
        return self.value.copy(), self.taken >= self.steps, np.zeros(self.n, dtype=bool)

    def _try(self, which: Episodes) -> None:
        rows = self.drawn[which]
        decided = self.data.decide(self.data.scores[rows], self.threshold[which])
        self.counts[which] = counts_of(self.data.one_hot(decided), self.data.one_hot(self.data.truth[rows]))
        self.value[which] = self._score(decided, self.data.truth[rows])

    def _score(self, decided: Decided, truth: Int64[np.ndarray, "..."]) -> Float64[np.ndarray, "some"]:
        """The metric of each episode; the mean over its rows where it scores the labels of one row."""
        apart = decided.ndim - 1 - self.metric.item_axes
        if apart == 0:
            return score(self.metric, decided, truth)
        rows = score(self.metric, *(values.reshape(-1, *values.shape[1 + apart :]) for values in (decided, truth)))
        return np.asarray(rows.reshape(len(decided), -1).mean(1))

    def info(self) -> Info:
        """The last threshold, the counts and the metric at it, a number for each class or label."""
        tp, fp, fn, tn = np.moveaxis(self.counts, -1, 0).copy()
        counts = {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
        return {"threshold": self.threshold.copy(), **counts, "metric": self.value.copy()}

    def frame(self, episode: int) -> Frame:
        """Histograms of the scores of positives and negatives, with the last threshold."""
        rows = self.drawn[episode]
        truth = self.data.one_hot(self.data.truth[rows])
        title = f"{self.metric.name} {self.value[episode]:.3f}"
        return histograms(self.data.scores[rows], truth, self.threshold[episode], names=self.data.names, title=title)


def counts_of(
    claimed: Bool[np.ndarray, "some rows columns"], true: Bool[np.ndarray, "some rows columns"]
) -> Int64[np.ndarray, "some columns 4"]:
    """How many rows of each class or label are tp, fp, fn and tn."""
    cells = (claimed & true, claimed & ~true, ~claimed & true, ~claimed & ~true)
    return np.stack([cell.sum(1) for cell in cells], axis=-1)


def histograms(
    scores: Float64[np.ndarray, "rows columns"],
    true: Bool[np.ndarray, "rows columns"],
    threshold: Float64[np.ndarray, " columns"],
    *,
    names: Sequence[str],
    title: str,
) -> Frame:
    """How the scores of each class or label lie, as shares of its positives and negatives, and its threshold."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = ceil(sqrt(len(names)))
    down = ceil(len(names) / across)
    figure = Figure(figsize=(max(4.0, 2.2 * across), max(3.0, 1.8 * down)), dpi=100, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for at, (name, panel) in enumerate(zip(names, panels, strict=False)):
        for of, side, colour in zip((~true[:, at], true[:, at]), ("negatives", "positives"), _COLOURS, strict=True):
            share = np.full(of.sum(), 1 / max(of.sum(), 1))
            panel.hist(scores[of, at], np.linspace(0, 1, 21), weights=share, color=colour, alpha=0.7, label=side)
        panel.axvline(threshold[at], color="black", linestyle="--")
        panel.set(xlim=(0, 1), ylim=(0, 1), yticks=[])
        panel.set_title(f"{name}: above {threshold[at]:.2f}", fontsize=8, parse_math=False)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    panels[0].legend(fontsize=7, frameon=False, loc="upper right")
    figure.suptitle(title, fontsize=10, parse_math=False)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(np.asarray(canvas.buffer_rgba())[..., :3])


class ThresholdEnv(SingleEnv):
    """Find the threshold that a score must exceed; the reward is a metric of the data, decided by it.

    ## Description

    A classifier has given its scores; what is claimed are the rows whose score is above a threshold. Which threshold is
    the best depends on the metric and on how the scores lie, and is rarely 0.5: for F1 it is half of the best F1 where
    the scores are calibrated. An episode is a sample of rows; the agent sees how its scores lie and what the last
    threshold made of them, and tries another.

    Where a row has one class of several, there is a threshold for each class, and the class is chosen whose score is
    furthest above its own (or least below). Where a row has several labels, each is decided by itself.

    ## Action Space

    ``Box(-1, 1, (columns,), float32)``: a stands for the threshold (a + 1) / 2, one for each column of scores.

    ## Observation Space

    ``Box(0, 1, (16 * columns,), float32)``: for each column the 11 quantiles 0, 0.1, ..., 1 of the scores, the last
    threshold, and the shares of the rows that are tp, fp, fn and tn under it.

    ## Rewards

    At each step the metric of the sample, decided by the step's thresholds.

    ## Starting State

    Rows drawn at random, with replacement, and thresholds of 0.5.

    ## Episode End

    It is terminated after ``steps`` steps; it is never truncated.

    ## Information

    ``threshold``, ``tp``, ``fp``, ``fn``, ``tn``: of each column; ``metric``: that of the last thresholds, and of 0.5
    at first.

    ## Arguments

    * ``data="digits"``: a set of scikit-learn ("digits": is it an 8?; "ten_digits", "breast_cancer", "iris", "wine"),
      of which a strongly regularised logistic regression, fitted on one half, scores the other; a table or the path of
      a file, whose columns but the target are scores; or two arrays. Scores lie between 0 and 1. Arrays are scores
      (rows,) with a target of 0 and 1; scores (rows, classes) with the numbers of the classes; or scores (rows, labels)
      with a target (rows, labels) of 0 and 1.
    * ``target=None``: of a table or file the column of the truth: two classes beside one column of scores, the last in
      sort order being the positive one; or the names of the classes, which are those of their columns of scores; or
      several columns, one for each label, in the order of the columns of scores.
    * ``metric=None``: a name, a metric of ``rlgrad.metrics``, or any function ``(decision, target) -> number`` of one
      sample, which gets two tensors (rows,), or (rows, labels). None is F1, and its mean over classes or labels where
      there are several. A metric of one row's labels, as "instance_f1", counts as its mean over rows.
    * ``rows=100``: of a sample.
    * ``steps=5``: thresholds that are tried in an episode.
    * ``render_mode=None``: "human" or "rgb_array", histograms of the scores with the thresholds.

    ## Version History

    * v0: the first.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: data or a metric of another type.
        ValueError: an argument is out of its range, or scores and target do not fit.

    Source: Lipton, Elkan, Naryanaswamy, Optimal thresholding of classifiers to maximize F1 measure (2014).

    Example:
        >>> import gymnasium as gym
        >>> env = gym.make("rlgrad_envs:rlgrad/Threshold-v0", metric="mcc")
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape, env.action_space
        ((16,), Box(-1.0, 1.0, (1,), float32))
    """

    game: ThresholdGame

    def __init__(
        self,
        *,
        data: ScoreData = "digits",
        target: str | Sequence[str] | None = None,
        metric: MetricArgument | None = None,
        rows: int = 100,
        steps: int = 5,
        render_mode: str | None = None,
    ) -> None:
        game = ThresholdGame(1, data=data, target=target, metric=metric, rows=rows, steps=steps)
        super().__init__(game, render_mode=render_mode)


class ThresholdVectorEnv(GameVectorEnv):
    """Many episodes of :class:`ThresholdEnv` side by side; arguments as there.

    Args:
        num_envs: how many.
        autoreset_mode: as for :class:`rlgrad_envs.base.GameVectorEnv`.
    """

    game: ThresholdGame

    def __init__(
        self,
        num_envs: int = 1,
        *,
        data: ScoreData = "digits",
        target: str | Sequence[str] | None = None,
        metric: MetricArgument | None = None,
        rows: int = 100,
        steps: int = 5,
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        game = ThresholdGame(num_envs, data=data, target=target, metric=metric, rows=rows, steps=steps)
        super().__init__(game, render_mode=render_mode, autoreset_mode=autoreset_mode)
