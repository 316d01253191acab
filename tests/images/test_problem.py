"""Images of one size, what counts in them, and parts that share nothing."""

from pathlib import Path

import numpy as np
import pytest

from rlgrad.images import (
    PADDED,
    common_size,
    fit_to,
    generated,
    generated_problem,
    load_images,
    problem_of,
    write_folder,
)
from rlgrad.images.reading import Pair


def pairs(sizes: list[tuple[int, int]], *, largest: int = 1, channels: int = 1) -> list[Pair]:
    rng = np.random.default_rng(0)
    return [
        Pair(
            f"image{at}",
            rng.random((*size, channels)).astype(np.float32),
            (rng.integers(0, 2, size) * largest).astype(np.int32),
        )
        for at, size in enumerate(sizes)
    ]


def test_the_size_is_the_commonest_rounded_up() -> None:
    assert common_size([(8, 8), (9, 13), (9, 13), (40, 40)]) == (12, 16)
    assert common_size([(8, 8), (4, 40)]) == (4, 40)  # the larger of equally common ones


@pytest.mark.parametrize("size", [(4, 4), (8, 4), (4, 8), (12, 20), (40, 40)])
def test_cut_and_padded_images_hold_what_they_held(size: tuple[int, int]) -> None:
    image = np.arange(1, 49).reshape(6, 8)
    fitted = fit_to(image, size, fill=0)
    assert fitted.shape == size
    inside = fitted[fitted != 0]
    top, left = max(0, (6 - size[0]) // 2), max(0, (8 - size[1]) // 2)
    np.testing.assert_array_equal(inside, image[top : top + size[0], left : left + size[1]].flatten())
    mirrored = fit_to(image[..., None], size, fill=None)
    assert mirrored.shape == (*size, 1)
    np.testing.assert_array_equal(mirrored[..., 0][fitted != 0], inside)


def test_images_of_different_sizes_are_told_and_padding_counts_for_nothing() -> None:
    problem = problem_of(pairs([(8, 8), (8, 8), (6, 8), (12, 5), (16, 16)]), name="mixed")
    assert problem.size == (8, 8)
    assert (problem.cropped, problem.padded) == (2, 2)
    assert problem.summary == "5 grey images of 8 x 8 (2 cropped, 2 padded), yes or no a pixel"
    assert [(mask == PADDED).sum() for mask in problem.y] == [0, 0, 16, 24, 0]
    assert set(np.unique(problem.y)) == {PADDED, 0, 1}


@pytest.mark.parametrize("largest", [1, 7, 255])
def test_masks_of_two_numbers_are_yes_and_no(largest: int) -> None:
    problem = problem_of(pairs([(8, 8)] * 4, largest=largest), name="two")
    assert problem.binary
    assert problem.values == (0, largest)
    np.testing.assert_array_equal(problem.y, [pair.mask > 0 for pair in pairs([(8, 8)] * 4, largest=largest)])


def test_grey_beside_colour_is_colour() -> None:
    both = [*pairs([(8, 8)] * 3), *pairs([(8, 8)] * 2, channels=3)]
    problem = problem_of(both, name="both")
    assert problem.x.shape == (5, 3, 8, 8)
    np.testing.assert_array_equal(problem.x[0, 0], problem.x[0, 2])
    assert "colour" in problem.summary


def test_the_train_part_is_normalised_and_padding_does_not_count() -> None:
    parts = problem_of(pairs([(8, 8)] * 10 + [(4, 8)] * 6, channels=3), name="x").split(seed=0)
    known = parts.train.x.transpose(1, 0, 2, 3)[:, parts.train.y != PADDED]
    np.testing.assert_allclose(known.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(known.std(1), 1, atol=1e-5)


def test_parts_are_of_the_shares_share_nothing_and_depend_on_the_seed() -> None:
    problem = generated_problem("blobs", images=40, size=16)
    parts = [problem.split(seed=seed) for seed in (0, 0, 1)]
    assert [len(part.y) for part in parts[0][:3]] == [24, 6, 10]
    for one, same in zip(parts[0][:3], parts[1][:3], strict=True):
        np.testing.assert_array_equal(one.x, same.x)
    assert not np.array_equal(parts[0].test.y, parts[2].test.y)
    keys = [{mask.tobytes() for mask in part.y} for part in parts[0][:3]]
    assert len(set.union(*keys)) == sum(map(len, keys)) == 40


def test_equal_images_stay_together() -> None:
    different = pairs([(8, 8)] * 8)
    problem = problem_of([*different, *different, *different], name="thrice")
    assert problem.groups.tolist() == [*range(8)] * 3
    for seed in range(5):
        parts = problem.split(seed=seed)
        seen = [{image.tobytes() for image in part.x} for part in parts[:3]]
        assert [len(each) for each in seen] == [len(part.x) / 3 for part in parts[:3]]
        assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]


def test_the_fingerprint_tells_data_apart() -> None:
    first, again = pairs([(8, 8)] * 4), pairs([(8, 8)] * 4)
    again[2].mask[0, 0] ^= 1
    prints = {problem_of(each, name=name).fingerprint for each, name in ((first, "a"), (first, "b"), (again, "a"))}
    assert len(prints) == 2


def test_a_folder_becomes_a_problem(tmp_path: Path) -> None:
    made = generated("rare", n=6, size=32)
    write_folder(tmp_path / "streets", made.images, made.masks)
    problem = load_images(tmp_path / "streets", size=(16, 20))
    assert (problem.name, problem.size, problem.cropped) == ("streets", (16, 20), 6)
    np.testing.assert_array_equal(problem.y, made.masks[:, 8:24, 6:26])
    assert problem.names == tuple(f"000{at}" for at in range(6))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([[0, 0, 0, 0]], "needed two classes or more in the masks, got only '0'"),
        ([[255, 255, 255, 255]], "needed two classes or more in the masks, got only '255'"),
        ([[0, 127, 255, 0]], r"without a gap, got '0 \(\w+\)', '127 \(\w+\)', '255 \(\w+\)'; number"),
        ([[1, 2, 1, 2]], r"needed masks of 0 and one other number, .* got '1 \(\w+\)', '2 \(\w+\)'"),
    ],
)
def test_masks_that_are_none_are_named(values: list[list[int]], said: str) -> None:
    mask = np.array(values, dtype=np.int32)
    wrong = [pair._replace(mask=mask) for pair in pairs([(1, 4)] * 5)]
    with pytest.raises(ValueError, match=said):
        problem_of(wrong, name="wrong")


@pytest.mark.usefixtures("as_a_user")
def test_too_few_images_sizes_and_seeds() -> None:
    with pytest.raises(ValueError, match="needed at least 4 distinct images, got 2 of 4"):
        problem_of([*pairs([(8, 8)] * 2), *pairs([(8, 8)] * 2)], name="few")
    for size in ((6, 8), (0, 4), (-4, 4)):
        with pytest.raises(ValueError, match="multiples of 4"):
            problem_of(pairs([(8, 8)] * 4), name="odd", size=size)
    problem = problem_of(pairs([(8, 8)] * 4), name="four")
    assert [len(part.y) for part in problem.split(seed=3)[:3]] == [2, 1, 1]
    with pytest.raises(ValueError, match="needed a seed"):
        problem.split(seed=-1)
    with pytest.raises(ValueError, match="needed distinct images for each part, got 4 in all"):
        problem.split(seed=0, test=0.9)


def test_a_class_that_no_training_image_holds_is_named() -> None:
    made = pairs([(8, 8)] * 8)
    made[0].mask[:2] = 2
    problem = problem_of(made, name="rare")
    said = set()
    for seed in range(12):
        try:
            problem.split(seed=seed)
        except ValueError as error:
            said.add(str(error).split(" of seed")[0])
    assert said == {"needed pixels of each class in the training images, got none of '2' in the 4"}
