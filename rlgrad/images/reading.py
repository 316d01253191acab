"""Folders of PNG images and masks, read by Pillow and checked: one error that names the files."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from rlgrad.tables.names import listed

if TYPE_CHECKING:
    from PIL.Image import Image


class Pair(NamedTuple):
    """An image and its mask."""

    name: str
    image: Float32[np.ndarray, "height width channels"]
    mask: Int32[np.ndarray, "height width"]


def read_pairs(folder: str | Path) -> list[Pair]:
    """Read every image of ``folder/images`` with the mask of the same name in ``folder/masks``, sorted by name.

    Raises:
        FileNotFoundError: one of the folders is missing.
        ValueError: there are no images, an image has no mask or a mask no image, a file is no PNG or holds colours
            where numbers of classes are needed, or an image and its mask differ in size.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"needed a folder of images/ and masks/, got {folder}, which is none; check the path")
    if not (folder / "images").is_dir() and not (folder / "masks").is_dir():
        raise FileNotFoundError(
            f"needed a folder of images/ and masks/, got {folder}, which holds neither; name theirs"
        )
    images, masks = image_files(folder / "images"), image_files(folder / "masks")
    for given, wanted, what in ((images, masks, "mask"), (masks, images, "image")):
        lonely = [given[name].relative_to(folder).as_posix() for name in given if name not in wanted]
        if lonely:
            raise ValueError(
                f"needed a {what} of the same name for each file, got none for {listed(lonely)}; add it to "
                f"{folder / what}s or remove the file"
            )
    pairs = [Pair(name, read_image(images[name]), read_mask(masks[name])) for name in images]
    odd = [
        f"{pair.name}: {_size(pair.image)} and {_size(pair.mask)}"
        for pair in pairs
        if pair.image.shape[:2] != pair.mask.shape
    ]
    if odd:
        raise ValueError(f"needed masks as large as their images, got {listed(odd)}; make them anew")
    return pairs


def image_files(folder: str | Path) -> dict[str, Path]:
    """The PNG files of a folder by their names without the suffix, sorted.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no PNG file, or two of one name.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"needed a folder of PNG files, got {folder}, which is none; check the path")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".png" and path.is_file())
    if not paths:
        raise ValueError(f"needed PNG files, got none in {folder}; convert the images")
    files = {path.stem: path for path in paths}
    twice = [path.name for path in paths if files[path.stem] != path]
    if twice:
        raise ValueError(f"needed one file of each name in {folder}, got two of {listed(twice)}; remove one")
    return files


def read_image(path: str | Path) -> Float32[np.ndarray, "height width channels"]:
    """Read a PNG image: one channel of grey or three of colour, from 0 to 1; transparency is left out.

    Grey of 16 bits keeps them; colour of 16 bits is read by Pillow as 8.

    Raises:
        ValueError: the file is no PNG image, or not whole.
    """
    picture = _opened(Path(path))
    if picture.mode.startswith("I"):
        return (np.asarray(picture).astype(np.float32) / 65535)[..., None]
    grey = picture.mode in ("1", "L", "LA")
    values = np.asarray(picture.convert("L" if grey else "RGB"))
    return (values.astype(np.float32) / 255).reshape(*values.shape[:2], -1)


def read_mask(path: str | Path) -> Int32[np.ndarray, "height width"]:
    """Read a PNG mask as the numbers it holds; of a file with a palette, its indices.

    Raises:
        ValueError: the file is no PNG image, or holds colours, which are no numbers.
    """
    picture = _opened(Path(path))
    if picture.mode in ("1", "L", "P") or picture.mode.startswith("I"):
        return np.asarray(picture).astype(np.int32)
    channels = np.asarray(picture.convert("RGB"))
    if (channels != channels[..., :1]).any():
        raise ValueError(f"needed a number for each pixel in the mask {path}, got colours; write it grey or indexed")
    return channels[..., 0].astype(np.int32)


def _opened(path: Path) -> "Image":
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as picture:
            whole: Image.Image = picture.copy()
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # whatever was wrong: the header, the compressed data, a checksum, the size
        raise ValueError(f"needed a PNG image, got {path} ({error}); write it anew") from error
    return whole


def _size(values: np.ndarray) -> str:
    return f"{values.shape[0]} x {values.shape[1]}"
