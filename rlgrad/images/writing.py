"""Masks and folders written as they are read."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer

from rlgrad.files import replacing


def write_mask(mask: Integer[np.ndarray, "height width"], path: str | Path) -> None:
    """Write a mask as a PNG file, of 8 bits where its numbers fit, else of 16: whole, or not at all.

    Raises:
        OSError: the file cannot be written.
        ValueError: a number is negative or above 65535.
    """
    if mask.min() < 0 or mask.max() > 65535:
        raise ValueError(f"needed numbers from 0 to 65535 in a mask, got {mask.min()} to {mask.max()}")
    _write(mask.astype(np.uint8 if mask.max() <= 255 else np.uint16), path)


def write_folder(
    folder: str | Path,
    images: Float[np.ndarray, "images height width channels"],
    masks: Integer[np.ndarray, "images height width"],
) -> None:
    """Write images (0 to 1, 8 bits are kept) and masks as ``images/0000.png`` and ``masks/0000.png`` and so on.

    Raises:
        OSError: a file cannot be written.
        ValueError: there are not as many masks as images, or they differ in size.
    """
    if images.shape[:3] != masks.shape:
        raise ValueError(f"needed a mask for each image, got images {images.shape} and masks {masks.shape}")
    folder = Path(folder)
    for at, (image, mask) in enumerate(zip(images, masks, strict=True)):
        values = (image * 255).round().clip(0, 255).astype(np.uint8)
        _write(values[..., 0] if values.shape[-1] == 1 else values, folder / "images" / f"{at:04d}.png")
        write_mask(mask, folder / "masks" / f"{at:04d}.png")


def _write(values: Integer[np.ndarray, "height width *channels"], path: str | Path) -> None:
    from PIL import Image

    with replacing(path) as file:
        Image.fromarray(values).save(file, format="PNG")
