"""Pictures of episodes: what was decided so far, and a window for a person."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled
from jaxtyping import Bool, Int64, UInt8
from PIL import Image, ImageDraw, ImageFont

INK, PAPER, RIGHT, WRONG, PALE = (32, 32, 32), (255, 255, 255), (44, 123, 182), (215, 85, 60), (225, 225, 225)
"""Colours of text, background, what is right, what is wrong (apart for the colour-blind too), and what is yet empty."""

_WIDTH, _MARGIN, _TOP = 400, 24, 72  # pixels; the top is for the metric and how much of the episode is over
_READABLE = 12  # classes; the cells of more are too small for numbers
_NAME = 120.0  # pixels that the name of a class may take beside the matrix
_CELL, _LAYER, _LINE = 24, 64, 22  # a unit, at most; the name of a layer; a line of text
_SHOWN = 8  # rows of a batch
_TOLD = _WIDTH - 2.0 * _MARGIN - _LAYER - 24  # pixels for what is told of an output


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
    names = [_fitted(name, _NAME) for name in classes]
    left = _MARGIN + 8 + max(_font(13.0).getlength(name) for name in [*names, "true"])
    size, top = (_WIDTH - _MARGIN - left) / len(classes), _TOP + 32.0
    image, draw = _headed(_WIDTH, round(top + size * len(classes) + _MARGIN), metric, value, progress)
    draw.text((left + size * len(classes) / 2, _TOP), "decided", INK, _font(14.0), anchor="mm")
    _draw_matrix(draw, confusion, (left, top), size)
    if len(classes) <= _READABLE:
        _draw_names(draw, names, (left, top), size)
    return np.array(image)


def _headed(
    width: int, height: int, metric: str, value: float | None, progress: float
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty picture below the metric and a bar that fills in the course of the episode."""
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, 14), f"{metric} = {'-' if value is None else f'{value:.3f}'}", INK, _font(22.0))
    draw.rectangle((_MARGIN, 48, width - _MARGIN, 54), PALE)
    draw.rectangle((_MARGIN, 48, _MARGIN + (width - 2 * _MARGIN) * progress, 54), INK)
    return image, draw


def _draw_matrix(
    draw: ImageDraw.ImageDraw, confusion: Int64[np.ndarray, "true claimed"], at: tuple[float, float], size: float
) -> None:
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    for true, claimed in np.ndindex(*confusion.shape):
        x, y = at[0] + size * claimed, at[1] + size * true
        colour = _mixed(RIGHT if true == claimed else WRONG, float(share[true, claimed]))
        draw.rectangle((x + 1, y + 1, x + size - 1, y + size - 1), colour)
        if len(confusion) <= _READABLE:
            count, ink = str(confusion[true, claimed]), PAPER if share[true, claimed] > 0.6 else INK
            draw.text((x + size / 2, y + size / 2), count, ink, _font(min(28.0, size / 3)), anchor="mm")


def _draw_names(draw: ImageDraw.ImageDraw, names: Sequence[str], at: tuple[float, float], size: float) -> None:
    left, top = at
    draw.text((left - 6, top - 10), "true", INK, _font(13.0), anchor="rm")
    for place, name in enumerate(names):
        middle = size * (place + 0.5)
        draw.text((left + middle, top - 10), _fitted(name, size - 4), INK, _font(13.0), anchor="mm")
        draw.text((left - 6, top + middle), name, INK, _font(13.0), anchor="rm")


def _fitted(name: str, width: float) -> str:
    """A name, or as much of its beginning as fits, and three dots."""
    if _font(13.0).getlength(name) <= width:
        return name
    return next((cut for cut in _cuts(name) if _font(13.0).getlength(cut) <= width), "")


def _cuts(name: str) -> Iterator[str]:
    return (f"{name[:length]}..." for length in range(len(name) - 1, 0, -1))


def network_frame(
    layers: Sequence[Bool[np.ndarray, "rows _"]],
    decided: Sequence[str],
    true: Sequence[str],
    *,
    metric: str,
    value: float | None,
    known: int,
) -> UInt8[np.ndarray, "height width 3"]:
    """The units of a network, layer below layer, black where they fire, and for each row what comes out.

    Args:
        layers: which units fire, for each row of the batch, the first of which are shown.
        decided: the class of each row, shown where all layers are known.
        true: likewise.
        metric: its name.
        value: what it is; None where the output is not known.
        known: how many layers are decided; the units of the others are grey.
    """
    rows, widest = min(len(true), _SHOWN), max(units.shape[1] for units in layers)
    cell = max(6, min(_CELL, (_WIDTH - 2 * _MARGIN - _LAYER) // widest))
    width = max(_WIDTH, 2 * _MARGIN + _LAYER + cell * widest)
    height = _TOP + (cell * rows + 12) * len(layers) + _LINE * rows + _MARGIN
    image, draw = _headed(width, height, metric, value, known / len(layers))
    for number, units in enumerate(layers):
        top = _TOP + (cell * rows + 12) * number
        draw.text((_MARGIN, top + cell * rows / 2), f"layer {number + 1}", INK, _font(14.0), anchor="lm")
        _draw_units(draw, units[:rows], (_MARGIN + _LAYER, top), cell, known=number < known)
    top = height - _MARGIN - _LINE * rows
    draw.text((_MARGIN, top + _LINE * rows / 2), "output", INK, _font(14.0), anchor="lm")
    for row in range(rows):
        of = (decided[row], true[row]) if known == len(layers) else None
        _draw_output(draw, (_MARGIN + _LAYER, top + _LINE * row), of)
    return np.array(image)


def _draw_units(
    draw: ImageDraw.ImageDraw, units: Bool[np.ndarray, "rows units"], at: tuple[int, int], cell: int, *, known: bool
) -> None:
    for row, unit in np.ndindex(*units.shape):
        x, y = at[0] + cell * unit, at[1] + cell * row
        fill = (INK if units[row, unit] else PAPER) if known else PALE
        draw.rectangle((x, y, x + cell - 3, y + cell - 3), fill=fill, outline=INK)


def _draw_output(draw: ImageDraw.ImageDraw, at: tuple[int, int], of: tuple[str, str] | None) -> None:
    """A disc in the colour of right or wrong, and what was decided; a pale one where nothing is."""
    x, y = at
    fill = PALE if of is None else RIGHT if of[0] == of[1] else WRONG
    draw.ellipse((x, y + 3, x + 14, y + 17), fill=fill, outline=INK)
    if of is not None:
        told = f"{of[0]}, right" if of[0] == of[1] else f"{of[0]}, but it is {of[1]}"
        draw.text((x + 24, y + 10), _fitted(told, _TOLD), INK, _font(13.0), anchor="lm")


def _mixed(colour: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    red, green, blue = (round(share * full + (1 - share) * empty) for full, empty in zip(colour, PALE, strict=True))
    return red, green, blue


@lru_cache
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
