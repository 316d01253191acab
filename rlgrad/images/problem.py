"""Images and masks as a problem to learn: checked, of one size, cut in three and normalised."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int, Int16

from rlgrad.images.fitting import STRIDE, Size, common_size, fit_to
from rlgrad.images.made import Kind, generated
from rlgrad.images.reading import Pair, read_pairs
from rlgrad.tables.names import listed

PADDED = -1  # the target of a pixel that is none: it counts for nothing
_FEWEST = 4  # distinct images: one to validate and one to test on, and two to learn from


class ImagePart(NamedTuple):
    """Images as a model takes them, and the class of each pixel, ``PADDED`` where there is none."""

    x: Float32[np.ndarray, "images channels height width"]
    y: Int16[np.ndarray, "images height width"]


class ImageParts(NamedTuple):
    """A problem cut in three, and the statistics of the train part, by channel, that normalised all."""

    train: ImagePart
    validation: ImagePart
    test: ImagePart
    mean: Float64[np.ndarray, "channels"]
    deviation: Float64[np.ndarray, "channels"]


@dataclass(frozen=True)
class ImageProblem:
    """Checked images and masks, all of one size.

    Attributes:
        name: what people call it.
        fingerprint: SHA-256 of what is learnt from, to tell whether two results are of the same.
        names: of the images.
        x: values from 0 to 1.
        y: class of each pixel, counted from 0; ``PADDED`` where there is none.
        values: the number that stands for each class in the masks; two where a pixel is yes or no.
        cropped: how many images were cut to the size.
        padded: how many were padded.
    """

    name: str
    fingerprint: str
    names: tuple[str, ...]
    x: Float32[np.ndarray, "images channels height width"]
    y: Int16[np.ndarray, "images height width"]
    values: tuple[int, ...]
    cropped: int
    padded: int

    @property
    def size(self) -> Size:
        """Height and width of every image."""
        return self.y.shape[1], self.y.shape[2]

    @property
    def binary(self) -> bool:
        """Whether a pixel is yes or no, rather than of one of several classes."""
        return len(self.values) == 2

    @property
    def summary(self) -> str:
        """How many images there are, their size, and how they came by it."""
        height, width = self.size
        fitted = f"{self.cropped} cropped, {self.padded} padded" if self.cropped or self.padded else "as they were"
        classes = "yes or no" if self.binary else f"{len(self.values)} classes"
        what = "colour" if self.x.shape[1] == 3 else "grey"
        return f"{len(self.y)} {what} images of {height} x {width} ({fitted}), {classes} a pixel"

    def split(self, *, seed: int, test: float = 0.25, validation: float = 0.2) -> ImageParts:
        """Cut the images into train, validation and test, equal images together, and normalise each channel.

        Args:
            seed: the same seed gives the same parts.
            test: share of the test part.
            validation: share of the validation part in what the test part leaves.

        Raises:
            ValueError: too few distinct images for three parts, or training images without a pixel of a class.
        """
        train, held_out, tested = _cut(self.groups, seed, test, validation)
        absent = [str(value) for at, value in enumerate(self.values) if not (self.y[train] == at).any()]
        if absent:
            raise ValueError(
                f"needed pixels of each class in the training images, got none of {listed(absent)} in the "
                f"{len(train)} of seed {seed}; add images of it"
            )
        known = self.x[train].transpose(1, 0, 2, 3)[:, self.y[train] != PADDED].astype(np.float64)
        mean, deviation = known.mean(1), np.maximum(known.std(1), 1e-6)
        of_train, of_validation, of_test = (
            ImagePart(normalised(self.x[rows], mean, deviation), self.y[rows]) for rows in (train, held_out, tested)
        )
        return ImageParts(of_train, of_validation, of_test, mean, deviation)

    @property
    def groups(self) -> Int[np.ndarray, "images"]:
        """A number for each distinct image, as they first appear; equal images have one number."""
        seen: dict[bytes, int] = {}
        keys = [sha256(image.tobytes()).digest() for image in self.x]
        return np.array([seen.setdefault(key, len(seen)) for key in keys])


def normalised(
    x: Float32[np.ndarray, "images channels height width"],
    mean: Float64[np.ndarray, "channels"],
    deviation: Float64[np.ndarray, "channels"],
) -> Float32[np.ndarray, "images channels height width"]:
    """The images with each channel at mean 0 and deviation 1, by the statistics of the training images."""
    return np.asarray((x - mean[:, None, None]) / deviation[:, None, None], dtype=np.float32)


def load_images(folder: str | Path, *, size: Size | None = None, name: str | None = None) -> ImageProblem:
    """Read and check a folder: ``images/`` and ``masks/``, PNG files of equal names.

    Masks hold 0 and one other number (1 or 255), or the classes 0, 1, 2, ... Grey images beside colour ones are taken
    as colour.

    Args:
        folder: that holds the two.
        size: height and width of all images, multiples of ``STRIDE``; the commonest by default, rounded up. Larger
            images are cut at the centre, smaller ones padded with what counts for nothing.
        name: what to call the problem; by default the folder's name.

    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: the images are not fit for learning; the message names the files and says why.
    """
    return problem_of(read_pairs(folder), name=name or Path(folder).resolve().name, size=size)


def generated_problem(kind: Kind = "blobs", *, images: int = 160, size: int = 64, seed: int = 0) -> ImageProblem:
    """The images of :func:`rlgrad.images.generated` as a problem.

    Example:
        >>> problem = generated_problem("rare", images=12)
        >>> problem.summary
        '12 grey images of 64 x 64 (as they were), 4 classes a pixel'
    """
    made = generated(kind, n=images, size=size, seed=seed)
    pairs = zip(made.images, made.masks, strict=True)
    return problem_of(
        [Pair(f"{at:04d}", image, mask) for at, (image, mask) in enumerate(pairs)], name=f"generated {kind}"
    )


def problem_of(pairs: Sequence[Pair], *, name: str, size: Size | None = None) -> ImageProblem:
    """Images and masks that are in memory as a problem; arguments and errors as for :func:`load_images`."""
    if size is not None and (min(size) < STRIDE or any(side % STRIDE for side in size)):
        raise ValueError(f"needed a height and width that are multiples of {STRIDE}, got {size}; round them up")
    values = _class_values(pairs)
    sizes = [(pair.mask.shape[0], pair.mask.shape[1]) for pair in pairs]
    size = size or common_size(sizes)
    channels = max(pair.image.shape[-1] for pair in pairs)
    images = [np.broadcast_to(pair.image, (*pair.mask.shape, channels)) for pair in pairs]
    x = np.stack([fit_to(image, size, fill=None) for image in images]).transpose(0, 3, 1, 2)
    masks = [np.searchsorted(values, pair.mask) for pair in pairs]
    y = np.stack([fit_to(mask, size, fill=PADDED) for mask in masks]).astype(np.int16)
    problem = ImageProblem(
        name=name,
        fingerprint=sha256(x.tobytes() + y.tobytes() + repr(values).encode()).hexdigest(),
        names=tuple(pair.name for pair in pairs),
        x=np.ascontiguousarray(x),
        y=y,
        values=values,
        cropped=sum(height > size[0] or width > size[1] for height, width in sizes),
        padded=sum(height < size[0] or width < size[1] for height, width in sizes),
    )
    distinct = len(set(problem.groups.tolist()))
    if distinct < _FEWEST:
        raise ValueError(f"needed at least {_FEWEST} distinct images, got {distinct} of {len(pairs)}; add some")
    return problem


def _class_values(pairs: Sequence[Pair]) -> tuple[int, ...]:
    """The numbers in the masks, in order: 0 and another, or 0, 1, 2, ... without a gap."""
    where = {int(value): pair.name for pair in pairs for value in np.unique(pair.mask)}
    values = tuple(sorted(where))
    if len(values) < 2:
        raise ValueError(f"needed two classes or more in the masks, got only {listed(map(str, values))}; check them")
    if values[0] != 0 or (len(values) > 2 and values[-1] != len(values) - 1):
        named = [f"{value} ({where[value]})" for value in values]
        raise ValueError(
            f"needed masks of 0 and one other number, or of classes 0, 1, 2, ... without a gap, got {listed(named)}; "
            "number the classes anew"
        )
    return values


def _cut(
    groups: Int[np.ndarray, "images"], seed: int, test: float, validation: float
) -> tuple[Int[np.ndarray, "train"], Int[np.ndarray, "validation"], Int[np.ndarray, "test"]]:
    """The numbers of the images of each part; a group goes to one part as a whole."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"needed a seed from 0 to 2**32 - 1, got {seed}; choose another")
    distinct = int(groups.max()) + 1
    tested = ceil(test * distinct)
    validated = ceil(validation * (distinct - tested))
    if validated < 1 or not 0 < tested < distinct - validated:
        raise ValueError(f"needed distinct images for each part, got {distinct} in all; add some, or other shares")
    order = np.random.default_rng(seed).permutation(distinct)
    train, held_out, last = np.split(order, [distinct - tested - validated, distinct - tested])
    of_train, of_validation, of_test = (np.flatnonzero(np.isin(groups, part)) for part in (train, held_out, last))
    return of_train, of_validation, of_test
