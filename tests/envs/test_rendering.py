"""Pictures: what they say of a confusion matrix and of a network, in any size."""

from itertools import pairwise

import numpy as np
import pytest

from rlgrad_envs.rendering import INK, PALE, PAPER, RIGHT, WRONG, _fitted, _font, confusion_frame, network_frame


def colours(frame: np.ndarray) -> set[tuple[int, ...]]:
    return set(map(tuple, np.unique(frame.reshape(-1, 3), axis=0).tolist()))


@pytest.mark.parametrize("name", ["malignant", "a class with quite a long name", "W" * 80, ""])
@pytest.mark.parametrize("width", [30.0, 120.0])
def test_a_name_is_whole_where_it_fits_and_cut_by_dots_where_not(name: str, width: float) -> None:
    fitted = _fitted(name, width)
    assert _font(13.0).getlength(fitted) <= width
    assert fitted == name if _font(13.0).getlength(name) <= width else fitted.endswith("...")
    assert name.startswith(fitted.removesuffix("..."))


def test_the_colour_of_a_cell_is_its_share_of_the_true_class() -> None:
    frame = confusion_frame(np.array([[4, 0], [2, 0]]), ["a", "b"], metric="f1", value=None, progress=0.5)
    assert {RIGHT, WRONG, PALE, PAPER, INK} <= colours(frame)


@pytest.mark.parametrize("classes", [2, 12, 13, 60])
def test_many_classes_fit_too(classes: int) -> None:
    names = [f"class number {at}" for at in range(classes)]
    confusion = np.eye(classes, dtype=np.int64)
    assert confusion_frame(confusion, names, metric="mcc", value=1.0, progress=1.0).shape[1] == 400


@pytest.mark.parametrize(("rows", "widths"), [(1, (16, 16)), (5, (8, 4)), (20, (3,)), (1, (200, 1))])
def test_the_units_of_a_network_are_black_where_they_fire_and_grey_until_they_are_known(
    rows: int, widths: tuple[int, ...]
) -> None:
    layers = [np.ones((rows, width), dtype=bool) for width in widths]
    true = ["yes", *["no"] * (rows - 1)]
    frames = [
        network_frame(layers, ["yes"] * rows, true, metric="f1", value=None, known=known)
        for known in range(len(widths) + 1)
    ]
    assert len({frame.shape for frame in frames}) == 1
    dark = [int((frame[60:] == INK).all(-1).sum()) for frame in frames]
    assert all(before < after for before, after in pairwise(dark))
    assert not {RIGHT, WRONG} & colours(frames[0])
    assert RIGHT in colours(frames[-1])
    assert (WRONG in colours(frames[-1])) == (rows > 1)
