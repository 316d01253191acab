"""Masks of images: one action decides every pixel, or several in turn flip those that are wrong."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, MultiBinary
from gymnasium.vector import AutoresetMode
from jaxtyping import Bool, Float64, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from rlgrad.images import COLOURS, DIMMED, PADDED, mistakes
from rlgrad.metrics import Metric, SummedMetric
from rlgrad_envs.base import Array, Episodes, Frame, GameVectorEnv, Info, Outcome, Running, SingleEnv
from rlgrad_envs.checks import checked_count
from rlgrad_envs.data import Passes
from rlgrad_envs.image_data import ImageData, Size, images_of
from rlgrad_envs.rendering import INK, PAPER
from rlgrad_envs.scoring import MetricArgument, metric_for, score

_SHOWN, _STRIP = 256, 24  # pixels, about, that a picture is high, and the strip of text above it
_KINDS = ("right", "false alarm", "missed")
_IGNORED = (0, 0, 0)


class SegmentationGame:
    """The rules of n episodes; see :class:`SegmentationEnv`."""

    def __init__(
        self,
        n: int,
        *,
        data: ImageData,
        size: Size,
        metric: MetricArgument | None,
        steps: int,
        ignore_index: int | None,
    ) -> None:
        self.images, self.masks = images_of(data, size=size, ignore_index=ignore_index)
        self.metric = _of_images(metric, ignores=bool((self.masks == PADDED).any()))
        self.n, self.steps = checked_count("num_envs", n), checked_count("steps", steps)
        _, channels, height, width = self.images.shape
        self.observation_space: gym.Space[Any] = Box(0, 255, (channels + (steps > 1), height, width), np.uint8)
        self.action_space: gym.Space[Any] = MultiBinary(height * width)
        self.passes = Passes(n, len(self.images), 1)
        self.image = np.zeros(n, dtype=np.int64)
        self.mask = np.zeros((n, height, width), dtype=bool)
        self.taken = np.zeros(n, dtype=np.int64)
        self.value = np.zeros(n)
        self._score(np.array([0]))  # a metric that fails does so now

    def begin(self, which: Episodes, rngs: Sequence[np.random.Generator]) -> None:
        """Draw an image for each episode, with an empty mask."""
        self.image[which] = self.passes.draw(which, rngs)[:, 0]
        self.mask[which], self.taken[which] = False, 0
        self.value[which] = self._score(which) if self.steps > 1 else 0.0

    def observe(self) -> Array:
        """The images, and the masks so far where there are several steps."""
        seen = self.images[self.image]
        if self.steps == 1:
            return seen
        return np.concatenate([seen, self.mask[:, None] * np.uint8(255)], axis=1)

    def advance(self, which: Running, actions: Array) -> Outcome:
        """Flip pixels; the reward is what that changes, or in a single step the whole metric."""
        some = np.flatnonzero(which)
        self.mask[some] ^= actions[some].reshape(-1, *self.mask.shape[1:]).astype(bool)
        self.taken[some] += 1
        before, self.value[some] = self.value.copy(), self._score(some)
        return self.value - before, self.taken >= self.steps, np.zeros(self.n, dtype=bool)

    def _score(self, which: Episodes) -> Float64[np.ndarray, " some"]:
        return score(self.metric, self.mask[which], self.masks[self.image[which]])

    def info(self) -> Info:
        """Number of the image, counts of pixels, and the metric."""
        truth, axes = self.masks[self.image], (1, 2)
        tp, fp = (self.mask & (truth == 1)).sum(axes), (self.mask & (truth == 0)).sum(axes)
        fn, tn = (truth == 1).sum(axes) - tp, (truth == 0).sum(axes) - fp
        return {"image": self.image.copy(), "tp": tp, "fp": fp, "fn": fn, "tn": tn, "metric": self.value.copy()}

    def frame(self, episode: int) -> Frame:
        """The image, and beside it the same under the colours of what was decided."""
        at = self.image[episode]
        light = _light(self.images[at])
        painted = coloured(light, self.masks[at], self.mask[episode])
        times = max(1, _SHOWN // light.shape[0])
        picture = np.concatenate([light, painted], axis=1).repeat(times, axis=0).repeat(times, axis=1)
        return np.concatenate([self._told(episode, picture.shape[1]), picture])

    def _told(self, episode: int, width: int) -> Frame:
        """A strip of text: the metric, and what the colours mean."""
        strip = Image.new("RGB", (width, _STRIP), INK)
        draw, font = ImageDraw.Draw(strip), ImageFont.load_default(13)
        middle = _STRIP / 2
        draw.text((8, middle), f"{self.metric.name} {self.value[episode]:.3f}", PAPER, font, anchor="lm")
        for at, kind in enumerate(_KINDS):
            draw.text((width / 2 + 8 + at * width / 6, middle), kind, COLOURS[kind], font, anchor="lm")
        return np.array(strip)


def _of_images(metric: MetricArgument | None, *, ignores: bool) -> Metric:
    """The metric of one image by itself, with two axes of items."""
    metric = "iou" if metric is None else "f1" if metric == "dice" else metric  # Dice and F1 of an image are the same
    chosen = metric_for(metric, classes=2)
    if isinstance(chosen, SummedMetric) and chosen.row_axes == 2:
        chosen = chosen.apart()
    chosen = chosen.over(2)
    return chosen.ignoring(PADDED) if ignores else chosen


def _light(image: UInt8[np.ndarray, "channels height width"]) -> Frame:
    """An image in three colours: its own, or grey of the first channel."""
    channels = image if len(image) == 3 else image[:1].repeat(3, axis=0)
    return np.array(channels.transpose(1, 2, 0))


def coloured(
    light: Frame, truth: Int[np.ndarray, "height width"], mask: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """A dimmed image under colours: right is white, a false alarm orange, what was missed sky blue, ignored black.

    Args:
        light: the image.
        truth: 0 and 1, ``PADDED`` where a pixel counts for nothing.
        mask: which pixels are claimed.
    """
    painted = (DIMMED * light).astype(np.uint8)
    for kind, where in mistakes(truth, mask).items():
        painted[where] = COLOURS[kind]
    painted[truth == PADDED] = _IGNORED
    return painted


class SegmentationEnv(SingleEnv):
    """Decide which pixels of an image are foreground; the reward is a metric of the whole mask.

    ## Description

    An episode is one image. The metric scores the mask as a set, by IoU for example, so that no pixel has a reward of
    its own: what a pixel is worth depends on all others.

    With ``steps=1`` the action is the mask. With more, the mask is empty at first and each action flips pixels of it,
    so that what was decided can be mended.

    ## Action Space

    ``MultiBinary(height * width)``, row by row: the mask, or with several steps which pixels to flip.

    ## Observation Space

    ``Box(0, 255, (channels, height, width), uint8)``: the image; with several steps one channel more, the mask so far
    in 0 and 255.

    ## Rewards

    With one step the metric of the mask. With several, what each step adds to the metric, so that the rewards of an
    episode add up to the metric of the last mask less that of the empty one, which for IoU is 0 wherever the image has
    foreground.

    ## Starting State

    The next image of a random order, in which each comes once before the next order, and an empty mask.

    ## Episode End

    It is terminated after ``steps`` steps; it is never truncated.

    ## Information

    ``image``: its number; ``tp``, ``fp``, ``fn``, ``tn``: the counts of pixels of the mask so far; ``metric``: that of
    the mask so far; with one step 0 before the decision.

    ## Arguments

    * ``data="blobs"``: "blobs" or "lines", 160 generated grey images, always the same; a folder that holds ``images/``
      and ``masks/``, PNG files of equal names; or two arrays ``(images, masks)``: images (count, channels, height,
      width) or (count, height, width), in uint8 or in floats from 0 to 1, and masks (count, height, width) of 0 and 1.
    * ``size=None``: height and width. Of generated images one number, 16 by default and at least; of a folder's images
      multiples of 4, the commonest by default.
    * ``metric=None``: a name, "dice" too, a metric of ``rlgrad.metrics`` such as ``boundary_f1()``, or any function
      ``(decision, target) -> number`` of one image, which gets two tensors (height, width). None is IoU.
    * ``steps=1``: of an episode.
    * ``ignore_index=None``: the value of pixels of masks, where these are arrays, that count for nothing. What a
      folder's images are padded with does not count anyway.
    * ``render_mode=None``: "human" or "rgb_array": the image, and beside it the same with right pixels white, false
      alarms orange, missed ones sky blue, and those that do not count black.

    ## Version History

    * v0: the first.

    Raises:
        FileNotFoundError: there is no such folder.
        TypeError: data or a metric of another type.
        ValueError: an argument is out of its range, or there is something wrong with images or masks.

    Example:
        >>> import gymnasium as gym
        >>> env = gym.make("rlgrad_envs:rlgrad/Segmentation-v0", metric="f1")
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape, env.action_space
        ((1, 16, 16), MultiBinary(256))
    """

    game: SegmentationGame

    def __init__(
        self,
        *,
        data: ImageData = "blobs",
        size: Size = None,
        metric: MetricArgument | None = None,
        steps: int = 1,
        ignore_index: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        game = SegmentationGame(1, data=data, size=size, metric=metric, steps=steps, ignore_index=ignore_index)
        super().__init__(game, render_mode=render_mode)


class SegmentationVectorEnv(GameVectorEnv):
    """Many episodes of :class:`SegmentationEnv` side by side; arguments as there.

    Args:
        num_envs: how many.
        autoreset_mode: as for :class:`rlgrad_envs.base.GameVectorEnv`.
    """

    game: SegmentationGame

    def __init__(
        self,
        num_envs: int = 1,
        *,
        data: ImageData = "blobs",
        size: Size = None,
        metric: MetricArgument | None = None,
        steps: int = 1,
        ignore_index: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        game = SegmentationGame(num_envs, data=data, size=size, metric=metric, steps=steps, ignore_index=ignore_index)
        super().__init__(game, render_mode=render_mode, autoreset_mode=autoreset_mode)
