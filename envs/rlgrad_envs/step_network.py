"""A network of hard steps, whose hidden units are decisions: a layer at a time, judged by the loss at the output."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, MultiBinary
from gymnasium.vector import AutoresetMode
from jaxtyping import Float64, Int64

from rlgrad_envs.base import Array, Episodes, Frame, GameVectorEnv, Info, Outcome, Running, SingleEnv
from rlgrad_envs.checks import checked_count
from rlgrad_envs.data import DataArgument, Passes, load_data
from rlgrad_envs.rendering import network_frame
from rlgrad_envs.scoring import MetricArgument, metric_for, score

Readout: TypeAlias = Float64[np.ndarray, "classes units"]

_CODE_SEED = 0  # of the signs that a class's readout weights have


class StepNetworkGame:
    """The rules of n episodes; see :class:`StepNetworkEnv`."""

    def __init__(
        self,
        n: int,
        *,
        data: DataArgument,
        target: str | None,
        metric: MetricArgument | None,
        hidden: Sequence[int],
        batch_size: int,
        readout: Any | None,
    ) -> None:
        self.n, self.data = checked_count("num_envs", n), load_data(data, target)
        batch_size = checked_count("batch_size", batch_size, most=len(self.data))
        self.hidden = _checked(hidden)
        classes = len(self.data.classes)
        self.readout = (
            random_code(classes, self.hidden[-1]) if readout is None else np.asarray(readout, dtype=float).copy()
        )
        if self.readout.shape != (classes, self.hidden[-1]) or not np.isfinite(self.readout).all():
            raise ValueError(
                f"needed a finite readout of shape {(classes, self.hidden[-1])}, a row for each class and a column for "
                f"each unit of the last layer, got {self.readout.shape}"
            )
        self.metric = None if metric is None else metric_for(metric, classes=classes)
        self.passes = Passes(n, len(self.data), batch_size)
        units, columns = sum(self.hidden), self.data.features.shape[1]
        low, high = self.data.bounds
        size = batch_size * (columns + units) + len(self.hidden)
        self.observation_space: gym.Space[Any] = Box(min(low, 0.0), max(high, 1.0), (size,), np.float32)
        self.action_space: gym.Space[Any] = MultiBinary(batch_size * max(self.hidden))
        self.ends = np.cumsum([0, *self.hidden])
        self.rows = np.zeros((n, batch_size), dtype=np.int64)
        self.fires = np.zeros((n, batch_size, units), dtype=bool)
        self.layer = np.zeros(n, dtype=np.int64)
        self.value, self.loss = np.zeros(n), np.zeros(n)
        self._judge(np.array([0]))  # a metric that fails does so now

    def begin(self, which: Episodes, rngs: Sequence[np.random.Generator]) -> None:
        """Draw the rows of each episode, with no unit firing yet."""
        self.rows[which] = self.passes.draw(which, rngs)
        self.fires[which], self.layer[which] = False, 0
        self.value[which], self.loss[which] = 0.0, 0.0

    def observe(self) -> Array:
        """Each row's features and units so far, row by row, and one 1 for the layer that is next."""
        of_rows = np.concatenate([self.data.features[self.rows], self.fires], axis=-1, dtype=np.float32)
        following = self.layer[:, None] == np.arange(len(self.hidden))
        return np.concatenate([of_rows.reshape(self.n, -1), following], axis=-1, dtype=np.float32)

    def advance(self, which: Running, actions: Array) -> Outcome:
        """Set the units of the next layer; after the last, the reward is minus the loss or the metric, and 0 before."""
        fires = actions.reshape(*self.rows.shape, -1).astype(bool)
        for layer, (start, end) in enumerate(pairwise(self.ends)):
            here = which & (self.layer == layer)
            self.fires[here, :, start:end] = fires[here, :, : end - start]
        self.layer += which
        over = which & (self.layer == len(self.hidden))
        if over.any():
            self._judge(np.flatnonzero(over))
        return self.value.copy(), over, np.zeros(self.n, dtype=bool)

    def _judge(self, which: Episodes) -> None:
        logits, truth = self.logits(which), self.data.target[self.rows[which]]
        self.loss[which] = cross_entropy(logits, truth)
        self.value[which] = -self.loss[which] if self.metric is None else self._score(logits, truth)

    def _score(
        self, logits: Float64[np.ndarray, "some rows classes"], truth: Int64[np.ndarray, "some rows"]
    ) -> Float64[np.ndarray, " some"]:
        assert self.metric is not None
        decided = logits.argmax(-1)
        return score(self.metric, decided == 1 if len(self.data.classes) == 2 else decided, truth)

    def logits(self, which: Episodes) -> Float64[np.ndarray, "some rows classes"]:
        """The readout of the last layer's units, as +1 where they fire and -1 where not."""
        last = self.fires[which][..., self.ends[-2] :]
        # Summed in the same order however many episodes there are, which a matrix product does not promise.
        return np.asarray(((2.0 * last - 1.0)[..., None, :] * self.readout).sum(-1))

    def info(self) -> Info:
        """The next layer, and after the last one the cross-entropy and the metric."""
        metric = {} if self.metric is None else {"metric": self.value.copy()}
        return {"layer": self.layer.copy(), "loss": self.loss.copy(), **metric}

    def frame(self, episode: int) -> Frame:
        """The units of the batch's first rows, and what comes out."""
        over = self.layer[episode] == len(self.hidden)
        shown = self.loss[episode] if self.metric is None else self.value[episode]
        names = np.array(self.data.classes)
        return network_frame(
            [self.fires[episode][:, start:end] for start, end in pairwise(self.ends)],
            names[self.logits(np.array([episode]))[0].argmax(-1)].tolist(),
            names[self.data.target[self.rows[episode]]].tolist(),
            metric="cross-entropy" if self.metric is None else self.metric.name,
            value=float(shown) if over else None,
            known=int(self.layer[episode]),
        )


def _checked(hidden: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(hidden, Sequence) or isinstance(hidden, str) or not hidden:
        raise ValueError(f"needed the number of units of each hidden layer, such as (16, 16), got {hidden!r}")
    return tuple(checked_count("each of hidden", width) for width in hidden)


def random_code(classes: int, units: int) -> Readout:
    """Random signs for each class, divided by the root of their number; always the same.

    With h = +1 or -1 for each unit, the logit code_k . h is sqrt(units) where h is class k's own code, and of mean 0
    and variance 1 where h is random: the output can be as good as certain, and is not so by chance.

    Args:
        classes: how many.
        units: of the last layer.

    Example:
        >>> random_code(3, 4)
        array([[ 0.5,  0.5,  0.5, -0.5],
               [-0.5, -0.5, -0.5, -0.5],
               [-0.5,  0.5,  0.5,  0.5]])
    """
    signs = 2 * np.random.default_rng(_CODE_SEED).integers(2, size=(classes, units)) - 1
    return np.asarray(signs / np.sqrt(units))


def cross_entropy(
    logits: Float64[np.ndarray, "some rows classes"], truth: Int64[np.ndarray, "some rows"]
) -> Float64[np.ndarray, " some"]:
    """Minus the log of the true class's share in softmax(logits), the mean over rows.

    Example:
        >>> cross_entropy(np.zeros((1, 2, 4)), np.array([[0, 3]])).round(4)
        array([1.3863])
    """
    from scipy.special import log_softmax

    of_truth = np.take_along_axis(log_softmax(logits, axis=-1), truth[..., None], axis=-1)
    return np.asarray(-of_truth[..., 0].mean(-1))


class StepNetworkEnv(SingleEnv):
    """Decide which units of a network fire, layer by layer; the reward is what the output is worth.

    ## Description

    A network of hard 0/1 units has no gradient to follow: here its units are actions. An episode takes some rows of
    data through the network. At each step the agent sees the rows, all units that were set, and which layer is next,
    and decides which units of that layer fire, for each row. After the last layer a fixed linear readout W turns the
    units h, as +1 (fires) and -1, into the logits W h of the classes, and these are judged.

    An agent whose policy for a layer looks at the layer before alone, and shares its weights between rows, is a
    stochastic feed-forward network, trained by REINFORCE with a reward for all its units together.

    ## Action Space

    ``MultiBinary(batch_size * max(hidden))``: for each row in turn, which units fire. Layers that are narrower than the
    widest ignore the surplus at the end of each row.

    ## Observation Space

    ``Box`` of shape (batch_size * (features + sum(hidden)) + len(hidden),), float32: for each row its features and all
    its units, 0 where they are not yet set; then a 1 for the layer that is next and 0 for the others. After the last
    layer all of these are 0.

    ## Rewards

    After the last layer minus the cross-entropy of the logits, the mean over rows; or with ``metric`` that of the
    classes with the largest logits. 0 before.

    ## Starting State

    The rows are drawn without replacement, from a random order of all rows, and then from another. No unit fires.

    ## Episode End

    It is terminated after the last layer, so that it is ``len(hidden)`` steps long; it is never truncated.

    ## Information

    ``layer``: how many are set; ``loss``: the cross-entropy, and with a metric ``metric``, both 0 before the end.

    ## Arguments

    * ``data="ten_digits"``: two arrays, features and labels; a table or the path of a file; or "digits" (is it an 8?),
      "ten_digits", "breast_cancer", "iris", "wine" of scikit-learn. See :func:`rlgrad_envs.data.load_data`.
    * ``target=None``: the column to predict, of a table or a file.
    * ``metric=None``: a name, a metric of ``rlgrad.metrics``, or any function ``(decision, target) -> number``, called
      for each episode with two tensors (batch_size,). None is minus the cross-entropy.
      See :func:`rlgrad_envs.scoring.metric_for`.
    * ``hidden=(16, 16)``: units of each layer.
    * ``batch_size=1``: rows of an episode; several make sense for a metric of a set.
    * ``readout=None``: the weights W, (classes, units of the last layer); None is :func:`random_code`.
    * ``render_mode=None``: "human" or "rgb_array": the units of each row, and whether its output is right.

    ## Version History

    * v0: the first.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: data or a metric of another type.
        ValueError: an argument is out of its range, or there is something wrong with the data.

    Example:
        >>> import gymnasium as gym
        >>> env = gym.make("rlgrad_envs:rlgrad/StepNetwork-v0", data="iris", hidden=(8, 4))
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape, env.action_space
        ((18,), MultiBinary(8))
    """

    game: StepNetworkGame

    def __init__(
        self,
        *,
        data: DataArgument = "ten_digits",
        target: str | None = None,
        metric: MetricArgument | None = None,
        hidden: Sequence[int] = (16, 16),
        batch_size: int = 1,
        readout: Any | None = None,
        render_mode: str | None = None,
    ) -> None:
        game = StepNetworkGame(
            1, data=data, target=target, metric=metric, hidden=hidden, batch_size=batch_size, readout=readout
        )
        super().__init__(game, render_mode=render_mode)


class StepNetworkVectorEnv(GameVectorEnv):
    """Many episodes of :class:`StepNetworkEnv` side by side; arguments as there.

    Args:
        num_envs: how many.
        autoreset_mode: as for :class:`rlgrad_envs.base.GameVectorEnv`.
    """

    game: StepNetworkGame

    def __init__(
        self,
        num_envs: int = 1,
        *,
        data: DataArgument = "ten_digits",
        target: str | None = None,
        metric: MetricArgument | None = None,
        hidden: Sequence[int] = (16, 16),
        batch_size: int = 1,
        readout: Any | None = None,
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        game = StepNetworkGame(
            num_envs, data=data, target=target, metric=metric, hidden=hidden, batch_size=batch_size, readout=readout
        )
        super().__init__(game, render_mode=render_mode, autoreset_mode=autoreset_mode)
