"""What masks are right and wrong about, and the colours that show it."""

import numpy as np
from jaxtyping import Bool, Int, Shaped

# White, orange, sky blue and reddish purple, of Okabe and Ito but the first: the colour-blind tell them apart, and so
# does a grey print, where what is right is brightest.
COLOURS = {
    "right": (255, 255, 255),
    "false alarm": (230, 159, 0),
    "missed": (86, 180, 233),
    "of another class": (204, 121, 167),
}
DIMMED = 0.55  # of the image's light, where it lies under the colours


def mistakes(
    truth: Int[np.ndarray, "*pixels"], decision: Shaped[np.ndarray, "*pixels"]
) -> dict[str, Bool[np.ndarray, "*pixels"]]:
    """Where a mask is right about what is there, and where it is wrong, for each key of ``COLOURS``.

    Background that is left as such is in none of them, nor is a false alarm where there is no pixel.

    Args:
        truth: class of each pixel, 0 for the background, ``PADDED`` where there is none.
        decision: likewise, or bool where there is one class.

    Example:
        >>> found = mistakes(np.array([1, 0, 1, 0, -1]), np.array([True, True, False, False, True]))
        >>> {kind: np.flatnonzero(where).tolist() for kind, where in found.items()}
        {'right': [0], 'false alarm': [1], 'missed': [2], 'of another class': []}
    """
    there, claimed = truth > 0, decision > 0
    return {
        "right": there & (decision == truth),
        "false alarm": (truth == 0) & claimed,
        "missed": there & ~claimed,
        "of another class": there & claimed & (decision != truth),
    }
