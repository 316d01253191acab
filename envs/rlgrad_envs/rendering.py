"""Pictures of episodes: what was decided so far, and a window for a person."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled
from jaxtyping import Int64, UInt8
from PIL import Image, ImageDraw, ImageFont

INK, PAPER, RIGHT, WRONG, PALE = (32, 32, 32), (255, 255, 255), (44, 123, 182), (215, 85, 60), (225, 225, 225)
"""Colours of text, background, what is right, what is wrong (apart for the colour-blind too), and what is yet empty."""

_WIDTH, _HEIGHT, _MARGIN = 400, 440, 24
_READABLE = 12  # classes; the cells of more are too small for numbers


def confusion_frame(
    confusion: Int64[np.ndarray, "true claimed"],
    classes: Sequence[str],
    *,
    metric: str,
    value: float | None,
    progress: float,
) -> UInt8[np.ndarray, "height width 3"]:
    """A confusion matrix, with the metric above it and how much of the episode is over.

    A cell is the fuller of colour the larger its share of its row, of the rows of one true class.

    Args:
        confusion: counts, rows the truth.
        classes: names.
        metric: its name.
        value: what it is so far; None where nothing is decided.
        progress: from 0 to 1.
    """
    image = Image.new("RGB", (_WIDTH, _HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, 14), f"{metric} = {'-' if value is None else f'{value:.3f}'}", INK, _font(22.0))
    draw.rectangle((_MARGIN, 48, _WIDTH - _MARGIN, 54), PALE)
    draw.rectangle((_MARGIN, 48, _MARGIN + (_WIDTH - 2 * _MARGIN) * progress, 54), INK)
    draw.text((_WIDTH / 2, 72), "decided", INK, _font(14.0), anchor="mm")
    _draw_matrix(draw, confusion, classes)
    return np.array(image)


def _draw_matrix(
    draw: ImageDraw.ImageDraw, confusion: Int64[np.ndarray, "true claimed"], classes: Sequence[str]
) -> None:
    left, top = 64, 104
    size = (_WIDTH - _MARGIN - left) / len(classes)
    small = _font(min(28.0, size / 3))
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    for true, claimed in np.ndindex(*confusion.shape):
        x, y = left + size * claimed, top + size * true
        colour = _mixed(RIGHT if true == claimed else WRONG, float(share[true, claimed]))
        draw.rectangle((x + 1, y + 1, x + size - 1, y + size - 1), colour)
        if len(classes) <= _READABLE:
            ink = PAPER if share[true, claimed] > 0.6 else INK
            draw.text((x + size / 2, y + size / 2), str(confusion[true, claimed]), ink, small, anchor="mm")
    if len(classes) <= _READABLE:
        draw.text((left - 6, top - 10), "true", INK, _font(14.0), anchor="rm")
        for at, name in enumerate(classes):
            draw.text((left + size * (at + 0.5), top - 10), name[: int(size / 7) + 1], INK, _font(13.0), anchor="mm")
            draw.text((left - 6, top + size * (at + 0.5)), name[:7], INK, _font(13.0), anchor="rm")


def _mixed(colour: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    red, green, blue = (round(share * full + (1 - share) * empty) for full, empty in zip(colour, PALE, strict=True))
    return red, green, blue


def _font(size: float) -> Any:
    return ImageFont.load_default(size)


class Window:
    """A window of pygame that shows one picture after the other.

    Args:
        fps: how many a second at most; it waits.

    Raises:
        DependencyNotInstalled: there is no pygame.
    """

    def __init__(self, fps: int) -> None:
        self.pygame = _pygame()
        self.fps = fps
        self.clock = self.pygame.time.Clock()

    def show(self, frame: UInt8[np.ndarray, "height width 3"]) -> None:
        """Show a picture in the one window of the process, which other environments may have resized or closed."""
        size, screen = (frame.shape[1], frame.shape[0]), self.pygame.display.get_surface()
        if screen is None or screen.get_size() != size:
            self.pygame.display.init()
            screen = self.pygame.display.set_mode(size)
            self.pygame.display.set_caption("rlgrad")
        screen.blit(self.pygame.surfarray.make_surface(frame.swapaxes(0, 1)), (0, 0))
        self.pygame.event.pump()
        self.clock.tick(self.fps)
        self.pygame.display.flip()

    def close(self) -> None:
        """Close it."""
        self.pygame.display.quit()


def _pygame() -> Any:
    try:
        import pygame
    except ImportError as error:
        raise DependencyNotInstalled(
            'needed pygame for render_mode="human", got none; pip install "rlgrad[envs]"'
        ) from error
    return pygame
