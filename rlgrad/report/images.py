"""Predictions beside the truth as a picture: a few images in rows, a column for each method, errors in colour."""

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int, UInt8

from rlgrad.images import COLOURS, DIMMED, PADDED, mistakes
from rlgrad.report.figures import checked_path, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {kind: "#{:02X}{:02X}{:02X}".format(*colour) for kind, colour in COLOURS.items()}
_CLASSES = ("#FFFFFF", "#009E73", "#F0E442", "#D55E00", "#0072B2", "#CC79A7", "#56B4E9", "#E69F00")
_A_LINE = 8  # methods beside one another


def predictions(
    images: UInt8[np.ndarray, "images height width channels"],
    truth: Int[np.ndarray, "images height width"],
    decisions: Mapping[str, Int[np.ndarray, "images height width"]],
    path: str | Path,
    *,
    title: str = "",
) -> None:
    """Draw images in rows: the image, the truth, and what each method decided, coloured by whether it is right.

    Args:
        images: grey or colour.
        truth: class of each pixel, 0 for the background; -1 where there is no pixel.
        decisions: of each method, as the truth is.
        path: file to write, as its suffix says: .png or .svg. Written whole, or not at all.
        title: over all.

    Raises:
        ValueError: another suffix, no method, or decisions that are not of these images.
        OSError: the file cannot be written; an older one is left as it was.
    """
    path = checked_path(path)
    save(figure(images, truth, decisions, title=title), path)


def figure(
    images: UInt8[np.ndarray, "images height width channels"],
    truth: Int[np.ndarray, "images height width"],
    decisions: Mapping[str, Int[np.ndarray, "images height width"]],
    *,
    title: str = "",
) -> "Figure":
    """The same as a matplotlib figure, to be changed further."""
    from matplotlib.figure import Figure

    if not decisions or any(decision.shape != truth.shape for decision in decisions.values()):
        got = {name: decision.shape for name, decision in decisions.items()}
        raise ValueError(f"needed decisions on images {truth.shape}, got {got}; pass those of one split")
    blocks = _blocks(list(decisions))
    rows, columns = len(images) * len(blocks), 2 + len(blocks[0])
    ratio = truth.shape[1] / truth.shape[2]
    drawn = Figure(figsize=(1.3 * columns + 0.2, 1.3 * ratio * rows + 0.3 * len(blocks) + 0.6), layout="constrained")
    panels = drawn.subplots(rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    for at, names in enumerate(blocks):
        _draw(
            panels[at * len(images) : (at + 1) * len(images)], images, truth, {name: decisions[name] for name in names}
        )
    _explain(drawn, truth, title)
    return drawn


def _blocks(names: list[str]) -> list[list[str]]:
    """The names in as few lines as fit a page, and these as even as can be."""
    lines = ceil(len(names) / _A_LINE)
    return [list(line) for line in np.array_split(np.array(names, dtype=object), lines)]


def _draw(
    panels: np.ndarray,
    images: UInt8[np.ndarray, "images height width channels"],
    truth: Int[np.ndarray, "images height width"],
    decisions: Mapping[str, Int[np.ndarray, "images height width"]],
) -> None:
    """One row for each image: itself, the truth and the decisions."""
    for row, line in enumerate(panels):
        light = _light(images[row], truth[row])
        shown = {"image": light, "truth": coloured_truth(light, truth[row])}
        shown |= {name: coloured(light, truth[row], decision[row]) for name, decision in decisions.items()}
        for panel, (name, picture) in zip(line, shown.items(), strict=False):
            panel.imshow(picture, interpolation="nearest", vmin=0, vmax=1)
            if row == 0:
                panel.set_title(name.replace("+", "+\n"), fontsize=8, parse_math=False)


def coloured(
    light: Float[np.ndarray, "height width 3"],
    truth: Int[np.ndarray, "height width"],
    decision: Int[np.ndarray, "height width"],
) -> Float[np.ndarray, "height width 3"]:
    """An image under the colours of what was decided about it; background that was left as such stays as it is."""
    return _painted(light, {_COLOURS[kind]: where for kind, where in mistakes(truth, decision).items()})


def coloured_truth(
    light: Float[np.ndarray, "height width 3"], truth: Int[np.ndarray, "height width"]
) -> Float[np.ndarray, "height width 3"]:
    """An image under a colour for each class but the background; white where there is one; ninth as first."""
    numbers = np.where(truth > 0, (truth - 1) % len(_CLASSES), -1)  # beyond eight classes colours come again
    return _painted(light, {colour: numbers == at for at, colour in enumerate(_CLASSES)})


def _painted(
    light: Float[np.ndarray, "height width 3"], where: Mapping[str, np.ndarray]
) -> Float[np.ndarray, "height width 3"]:
    from matplotlib.colors import to_rgb

    painted = DIMMED * light
    for colour, pixels in where.items():
        painted[pixels] = to_rgb(colour)
    return painted


def _light(
    image: UInt8[np.ndarray, "height width channels"], truth: Int[np.ndarray, "height width"]
) -> Float[np.ndarray, "height width 3"]:
    """An image from its darkest to its lightest value; white where there is no pixel."""
    known = truth != PADDED
    values = np.broadcast_to(image.astype(float), (*image.shape[:2], 3))
    low, high = values[known].min(), values[known].max()
    return np.where(known[..., None], (values - low) / max(high - low, 1.0), 1.0).clip(0, 1)


def _explain(drawn: "Figure", truth: Int[np.ndarray, "images height width"], title: str) -> None:
    from matplotlib.patches import Patch

    kinds = list(_COLOURS) if truth.max() > 1 else list(_COLOURS)[:3]
    patches = [Patch(facecolor=_COLOURS[kind], edgecolor="#666666", linewidth=0.6, label=kind) for kind in kinds]
    drawn.legend(handles=patches, loc="outside lower center", ncols=len(kinds), fontsize=8, frameon=False)
    if title:
        drawn.suptitle(title, fontsize=10, x=0.01, ha="left", parse_math=False)
