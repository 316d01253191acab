"""The picture of predictions: every pixel in the colour of what was decided, every method named, whole files."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from rlgrad.report.images import coloured, coloured_truth, figure, predictions

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 255, (3, 8, 10, 1)).astype(np.uint8)
TRUTH = RNG.integers(-1, 2, (3, 8, 10)).astype(np.int16)
LIGHT = np.full((8, 10, 3), 0.5)
WHITE, ORANGE, BLUE, PURPLE = "#ffffff", "#e69f00", "#56b4e9", "#cc79a7"


def expected(true: int, claimed: int) -> str:
    if true == claimed > 0:
        return WHITE
    if true == 0 and claimed > 0:
        return ORANGE
    if true > 0 and claimed == 0:
        return BLUE
    if true > 0:
        return PURPLE  # and padding stays as it is, whatever is claimed there
    return to_hex([0.5 * 0.55] * 3)


def test_each_pixel_has_the_colour_of_what_was_decided() -> None:
    truth = RNG.integers(-1, 4, (8, 10))
    decision = RNG.integers(0, 4, (8, 10))
    found = coloured(LIGHT, truth, decision)
    assert [to_hex(each) for each in found.reshape(-1, 3)] == [
        expected(t, d) for t, d in zip(truth.ravel(), decision.ravel(), strict=True)
    ]


def test_classes_have_colours_of_their_own() -> None:
    truth = np.array([[0, 1, 2, 3, -1]])
    found = coloured_truth(np.full((1, 5, 3), 0.5), truth)
    assert len({tuple(each) for each in found[0, :4]}) == 4
    np.testing.assert_array_equal(found[0, 0], found[0, 4])


def test_classes_beyond_the_colours_are_painted_too() -> None:
    truth = np.arange(18)[None]
    found = coloured_truth(np.full((1, 18, 3), 0.5), truth)
    assert len({tuple(each) for each in found[0]}) == 9
    np.testing.assert_array_equal(found[0, 1:9], found[0, 9:17])


@pytest.mark.parametrize(("methods", "lines"), [(1, 1), (8, 1), (9, 2), (17, 3)])
def test_each_method_is_drawn_once_and_named(methods: int, lines: int) -> None:
    decisions = {f"method{at}$": np.maximum(TRUTH, 0) for at in range(methods)}
    drawn = figure(IMAGES, TRUTH, decisions, title="cells $")
    titles = [axes.get_title() for axes in drawn.axes if axes.get_title()]
    assert titles.count("image") == titles.count("truth") == lines
    assert [title for title in titles if title.startswith("method")] == list(decisions)
    assert sum(bool(axes.images) for axes in drawn.axes) == 3 * (methods + 2 * lines)
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["right", "false alarm", "missed"]


def test_classes_are_explained() -> None:
    truth = TRUTH + (TRUTH == 1)
    texts = figure(IMAGES, truth, {"ce": truth}).legends[0].get_texts()
    assert texts[-1].get_text() == "of another class"


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_files_are_whole_and_equal_for_equal_data(suffix: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for path in paths:
        predictions(IMAGES.repeat(3, axis=-1), TRUTH, {"ce": TRUTH}, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].stat().st_size > 1000


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needed a file \.svg or \.png, got .*a\.gif"):
        predictions(IMAGES, TRUTH, {"ce": TRUTH}, tmp_path / "a.gif")
    with pytest.raises(ValueError, match="needed decisions on images"):
        figure(IMAGES, TRUTH, {})


@pytest.mark.usefixtures("as_a_user")
def test_decisions_on_other_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needed decisions on images \(3, 8, 10\), got {'ce': \(2, 8, 10\)}"):
        figure(IMAGES, TRUTH, {"ce": TRUTH[:2]})
