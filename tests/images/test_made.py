"""Generated images: reproducible, of the classes they should have, and with objects that touch."""

import numpy as np
import pytest
from scipy import ndimage

from rlgrad.images import generated


@pytest.mark.parametrize("kind", ["blobs", "lines", "rare"])
def test_every_number_comes_from_the_seed(kind: str) -> None:
    one, same, more, other = (generated(kind, n=n, seed=seed) for n, seed in ((6, 0), (6, 0), (9, 0), (6, 1)))
    for first, second, longer, different in zip(one, same, more, other, strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, longer[:6])
        assert not np.array_equal(first, different)
    assert one.images.min() >= 0
    assert one.images.max() <= 1


@pytest.mark.parametrize("kind", ["blobs", "lines", "rare"])
def test_instances_are_numbered_and_lie_in_one_class(kind: str) -> None:
    made = generated(kind, n=20)
    np.testing.assert_array_equal(made.instances > 0, made.masks > 0)
    for mask, instances in zip(made.masks, made.instances, strict=True):
        numbers = np.unique(instances)
        np.testing.assert_array_equal(numbers, np.arange(len(numbers)))
        assert all(len(np.unique(mask[instances == number])) == 1 for number in numbers)


def test_blobs_touch() -> None:
    made = generated("blobs", n=20)
    pieces = [ndimage.label(mask)[1] for mask in made.masks]
    assert sum(pieces) < 0.6 * made.instances.max((1, 2)).sum()


def test_lines_are_thin() -> None:
    masks = generated("lines", n=20).masks > 0
    eroded = [ndimage.binary_erosion(mask, iterations=2) for mask in masks]
    assert np.mean(eroded) < 0.1 * masks.mean()


def test_the_rare_class_is_rare() -> None:
    masks = generated("rare", n=60).masks
    assert np.unique(masks).tolist() == [0, 1, 2, 3]
    assert 0.0005 < (masks == 3).mean() < 0.01
    assert 0.15 < (masks == 3).any((1, 2)).mean() < 0.5


def test_a_threshold_does_not_solve_it() -> None:
    made = generated("blobs", n=20)
    images, true = made.images[..., 0], made.masks > 0
    best = max(
        np.mean([(c & t).sum() / max(1, (c | t).sum()) for c, t in zip(images > cut, true, strict=True)])
        for cut in np.linspace(0.2, 0.9, 36)
    )
    assert best < 0.6


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"kind": "stars"}, "needed a kind of blobs, lines, rare, got 'stars'"),
        ({"n": 0}, "n of at least 1"),
        ({"size": 8}, "size of at least 16"),
        ({"seed": -1}, "seed of at least 0"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        generated(**arguments)
