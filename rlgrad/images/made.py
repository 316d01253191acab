"""Images that need no file: blobs that touch, thin lines, and a class that is rare, under blur and noise."""

from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32

Kind = Literal["blobs", "lines", "rare"]
_NOISE = 0.12
_FEWEST_FREE = 0.7  # of a shape's pixels: what overlaps others by more is not drawn


class Generated(NamedTuple):
    """Images with their truth.

    Attributes:
        images: values from 0 to 1.
        masks: class of each pixel, 0 for the background.
        instances: number of the object that each pixel belongs to, counted from 1 in each image; 0 for none.
    """

    images: Float32[np.ndarray, "images height width channels"]
    masks: Int32[np.ndarray, "images height width"]
    instances: Int32[np.ndarray, "images height width"]


def generated(kind: Kind = "blobs", *, n: int = 160, size: int = 64, seed: int = 0) -> Generated:
    """Make grey images and masks, every number from the seed; image i is the same however many there are.

    Args:
        kind: "blobs", bright ellipses that touch; "lines", thin ones, a pixel or three wide; both yes or no. "rare" has
            four classes: background, blobs, lines, and small diamonds of the same brightness, in one image of three.
        n: how many.
        size: height and width, 16 at least.
        seed: of everything.

    Raises:
        ValueError: another kind, or a number out of its range.

    Example:
        >>> made = generated("lines", n=2)
        >>> made.images.shape, made.masks.shape, np.unique(made.masks).tolist()
        ((2, 64, 64, 1), (2, 64, 64), [0, 1])
    """
    if kind not in get_args(Kind):
        raise ValueError(f"needed a kind of {', '.join(get_args(Kind))}, got {kind!r}")
    if n < 1 or size < 16 or seed < 0:
        raise ValueError(f"needed n of at least 1, size of at least 16 and seed of at least 0, got {n}, {size}, {seed}")
    made = [_one(kind, size, np.random.default_rng([seed, at])) for at in range(n)]
    images, masks, instances = (np.stack(each) for each in zip(*made, strict=True))
    return Generated(images, masks, instances)


class _Canvas:
    """An image in the making: shapes are drawn where none is yet, so that they touch and do not overlap."""

    def __init__(self, size: int) -> None:
        self.rows, self.columns = np.mgrid[:size, :size] + 0.5
        self.light = np.zeros((size, size))
        self.mask = np.zeros((size, size), dtype=np.int32)
        self.instances = np.zeros((size, size), dtype=np.int32)

    def draw(self, shape: Bool[np.ndarray, "height width"], number: int, brightness: float) -> None:
        """Draw a shape of a class, unless most of it is covered."""
        free = shape & (self.instances == 0)
        if free.sum() < max(1.0, _FEWEST_FREE * shape.sum()):
            return
        self.light[free] = brightness
        self.mask[free] = number
        self.instances[free] = self.instances.max() + 1


def _one(
    kind: Kind, size: int, rng: np.random.Generator
) -> tuple[Float32[np.ndarray, "size size 1"], Int32[np.ndarray, "size size"], Int32[np.ndarray, "size size"]]:
    canvas = _Canvas(size)
    brightness = rng.uniform(0.25, 0.5)
    if kind == "rare" and rng.random() < 1 / 3:
        for _ in range(rng.integers(1, 3)):
            canvas.draw(_diamond(canvas, size, rng), 3, brightness)
    if kind != "lines":
        for shape in _blobs(canvas, size, rng, clusters=2 if kind == "rare" else 3):
            canvas.draw(shape, 1, brightness * rng.uniform(0.7, 1.3))
    if kind != "blobs":
        for _ in range(rng.integers(2, 5)):
            canvas.draw(_line(canvas, size, rng), 1 if kind == "lines" else 2, brightness * rng.uniform(0.7, 1.3))
    return _photographed(canvas.light, rng)[..., None], canvas.mask, canvas.instances


def _blobs(canvas: _Canvas, size: int, rng: np.random.Generator, *, clusters: int) -> list[Bool[np.ndarray, "h w"]]:
    """Ellipses in clusters: each touches the one before it."""
    shapes = []
    for _ in range(rng.integers(1, clusters + 1)):
        centre = rng.uniform(0.1, 0.9, 2) * size
        for _ in range(rng.integers(2, 5)):
            axes = rng.uniform(0.06, 0.13, 2) * size
            shapes.append(_ellipse(canvas, centre, axes, rng.uniform(0, np.pi)))
            angle = rng.uniform(0, 2 * np.pi)
            centre = centre + 2.0 * axes.mean() * np.array([np.sin(angle), np.cos(angle)])
    return shapes


def _ellipse(
    canvas: _Canvas, centre: Float[np.ndarray, "2"], axes: Float[np.ndarray, "2"], turn: float
) -> Bool[np.ndarray, "h w"]:
    down, right = canvas.rows - centre[0], canvas.columns - centre[1]
    along, across = down * np.cos(turn) + right * np.sin(turn), right * np.cos(turn) - down * np.sin(turn)
    return np.asarray((along / axes[0]) ** 2 + (across / axes[1]) ** 2 <= 1)


def _line(canvas: _Canvas, size: int, rng: np.random.Generator) -> Bool[np.ndarray, "h w"]:
    """A bow through the image: the pixels that are near a parabola of a random direction."""
    turn, bend, width = rng.uniform(0, np.pi), rng.uniform(-0.6, 0.6) / size, rng.uniform(0.6, 1.5)
    centre = rng.uniform(0.2, 0.8, 2) * size
    down, right = canvas.rows - centre[0], canvas.columns - centre[1]
    along, across = down * np.cos(turn) + right * np.sin(turn), right * np.cos(turn) - down * np.sin(turn)
    distance = (across - bend * along**2) / np.sqrt(1 + (2 * bend * along) ** 2)
    return np.asarray((np.abs(distance) <= width) & (np.abs(along) <= rng.uniform(0.25, 0.5) * size))


def _diamond(canvas: _Canvas, size: int, rng: np.random.Generator) -> Bool[np.ndarray, "h w"]:
    centre, radius = rng.uniform(0.1, 0.9, 2) * size, rng.uniform(0.045, 0.07) * size
    return np.asarray(np.abs(canvas.rows - centre[0]) + np.abs(canvas.columns - centre[1]) <= radius)


def _photographed(light: Float[np.ndarray, "size size"], rng: np.random.Generator) -> Float32[np.ndarray, "size size"]:
    """The light over an uneven ground, out of focus and noisy."""
    from scipy.ndimage import gaussian_filter

    size = len(light)
    ground = gaussian_filter(rng.normal(size=light.shape), size / 6, mode="reflect")
    ground = 0.08 * ground / ground.std()
    seen = 0.3 + ground + gaussian_filter(light, rng.uniform(0.6, 1.4)) + rng.normal(scale=_NOISE, size=light.shape)
    return np.asarray(seen.clip(0, 1), dtype=np.float32)
