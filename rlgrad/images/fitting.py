"""Images of different sizes brought to one: cut at the centre, or padded with what is never scored."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

STRIDE = 4  # a network that halves twice needs sides that are multiples of this

Size = tuple[int, int]


def common_size(sizes: Sequence[Size]) -> Size:
    """The commonest height and width, of equally common ones the largest, rounded up to multiples of ``STRIDE``.

    Example:
        >>> common_size([(30, 40), (30, 40), (64, 64)])
        (32, 40)
    """
    counts = Counter(sizes)
    height, width = max(counts, key=lambda size: (counts[size], size[0] * size[1], size))
    return rounded_up(height), rounded_up(width)


def rounded_up(side: int) -> int:
    """The smallest multiple of ``STRIDE`` that is not below a side."""
    return -(-side // STRIDE) * STRIDE


def fit_to(
    values: Shaped[np.ndarray, "height width *channels"], size: Size, *, fill: int | None
) -> Shaped[np.ndarray, "new_height new_width *channels"]:
    """Cut an image at its centre, or pad it around, to a size.

    Args:
        values: an image or a mask.
        size: height and width.
        fill: what padding holds; None mirrors the image, which is what a network and its normalisation expect.

    Example:
        >>> fit_to(np.array([[1, 2, 3, 4]]), (2, 2), fill=0).tolist()
        [[2, 3], [0, 0]]
    """
    cuts = [max(0, have - want) for have, want in zip(values.shape, size, strict=False)]
    top, left = (cut // 2 for cut in cuts)
    cut = values[top : top + size[0], left : left + size[1]]
    lacks = [want - have for have, want in zip(cut.shape, size, strict=False)]
    padding = [(lack // 2, lack - lack // 2) for lack in lacks] + [(0, 0)] * (values.ndim - 2)
    if fill is None:
        return np.pad(cut, padding, mode="symmetric")
    return np.pad(cut, padding, constant_values=fill)
