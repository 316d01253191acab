"""Images with masks that an environment is played with: generated ones, a folder, or arrays."""

from functools import lru_cache
from pathlib import Path
from typing import TypeAlias, get_args

import numpy as np
from jaxtyping import Int16, Shaped, UInt8

from rlgrad.images import PADDED, generated, load_images
from rlgrad.images.made import Kind
from rlgrad_envs.checks import checked_count

Images = UInt8[np.ndarray, "images channels height width"]
Masks = Int16[np.ndarray, "images height width"]
ImageData: TypeAlias = str | Path | tuple[np.ndarray, np.ndarray]
Size: TypeAlias = int | tuple[int, int] | None

_MADE, _SIDE = 160, 16  # images that are generated, and their side: small, so that a little network learns fast


def images_of(data: ImageData, *, size: Size, ignore_index: int | None) -> tuple[Images, Masks]:
    """Images from 0 to 255, and masks of 0 and 1, ``PADDED`` where a pixel counts for nothing.

    Args:
        data: "blobs" or "lines", a folder, or images and masks; see :class:`SegmentationEnv`.
        size: of images that are generated or read.
        ignore_index: in masks that are arrays.

    Raises:
        FileNotFoundError: there is no such folder.
        TypeError: data of another type.
        ValueError: there is something wrong with the images or masks; the message says what.

    Example:
        >>> images, masks = images_of("blobs", size=16, ignore_index=None)
        >>> images.shape, masks.shape
        ((160, 1, 16, 16), (160, 16, 16))
    """
    if isinstance(data, str | Path) and ignore_index is not None:
        raise ValueError(f"needed no ignore_index for images that are no arrays, got {ignore_index}; leave it out")
    if isinstance(data, str) and data in get_args(Kind):
        if isinstance(size, tuple | list):
            raise ValueError(f"needed one side for generated images, which are square, got {size}; pass a number")
        return _generated(data, _SIDE if size is None else checked_count("size", size))
    if isinstance(data, str | Path):
        if not Path(data).is_dir():
            kinds = ", ".join(get_args(Kind))
            raise FileNotFoundError(
                f"needed a folder of images/ and masks/, or one of {kinds}, got {data}, which is none"
            )
        problem = load_images(data, size=(size, size) if isinstance(size, int) else size)
        return _as_bytes(problem.x), _yes_or_no(problem.y, PADDED)
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError(f"needed a kind of images, a folder, or (images, masks), got {type(data).__name__}; name one")
    if size is not None:
        raise ValueError(f"needed no size for images that are arrays, got {size}; resize them")
    return _arrays(*map(np.asarray, data), ignore_index=ignore_index)


@lru_cache
def _generated(kind: Kind, size: int) -> tuple[Images, Masks]:
    """Made once, and shared by all environments, which never write to them."""
    made = generated(kind, n=_MADE, size=size)
    return _as_bytes(made.images.transpose(0, 3, 1, 2)), _yes_or_no(made.masks, PADDED)


def _arrays(
    images: Shaped[np.ndarray, "images *channels height width"],
    masks: Shaped[np.ndarray, "images height width"],
    *,
    ignore_index: int | None,
) -> tuple[Images, Masks]:
    images = images[:, None] if images.ndim == 3 else images
    if images.ndim != 4 or masks.shape != (len(images), *images.shape[2:]) or not images.size:
        raise ValueError(
            f"needed images (count, channels, height, width) or (count, height, width), and masks (count, height, "
            f"width), got {images.shape} and {masks.shape}; transpose them"
        )
    return _as_bytes(images), _yes_or_no(masks, ignore_index)


def _as_bytes(images: Shaped[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    if images.dtype == np.uint8:
        return np.array(images)
    if images.dtype.kind != "f" or not ((images >= 0) & (images <= 1)).all():
        raise ValueError(
            f"needed images of uint8, or of floats from 0 to 1 without NaN, got {images.dtype} with others; scale them"
        )
    return np.asarray(np.rint(images * 255), dtype=np.uint8)


def _yes_or_no(masks: Shaped[np.ndarray, "images height width"], ignore_index: int | None) -> Masks:
    ignored = np.zeros(masks.shape, dtype=bool) if ignore_index is None else masks == ignore_index
    other = ~(ignored | (masks == 0) | (masks == 1))
    if other.any():
        raise ValueError(
            f"needed masks of 0 and 1, got {masks[other][0]}; pass masks > 0 for all that is not background, or name "
            "the value of pixels that do not count: ignore_index"
        )
    return np.asarray(np.where(ignored, PADDED, masks), dtype=np.int16)
