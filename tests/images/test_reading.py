"""PNG files of every kind against what was written, and each fault named with its file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rlgrad.images import generated, image_files, read_image, read_mask, read_pairs, write_folder, write_mask

GREY = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)
CLASSES = GREY // 60


def saved(values: np.ndarray, path: Path, mode: str | None = None) -> Path:
    picture = Image.fromarray(values)
    (picture.convert(mode) if mode else picture).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = generated("blobs", n=5, size=16)
    write_folder(tmp_path, made.images, made.masks)
    return tmp_path


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_is_one_channel(mode: str, tmp_path: Path) -> None:
    image = read_image(saved(GREY, tmp_path / "a.png", mode))
    np.testing.assert_allclose(image, GREY[..., None] / 255, rtol=1e-6)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_is_three_channels(mode: str, tmp_path: Path) -> None:
    image = read_image(saved(COLOUR, tmp_path / "a.png", mode))
    np.testing.assert_allclose(image, COLOUR / 255, rtol=1e-6)


def test_sixteen_bits_of_grey_are_kept(tmp_path: Path) -> None:
    values = np.array([[0, 1, 300], [40000, 65534, 65535]], dtype=np.uint16)
    path = saved(values, tmp_path / "a.png")
    np.testing.assert_allclose(read_image(path)[..., 0], values / 65535, rtol=1e-6)
    np.testing.assert_array_equal(read_mask(path), values)


def test_bilevel_images(tmp_path: Path) -> None:
    path = saved(GREY > 100, tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(path)[..., 0], GREY > 100)
    np.testing.assert_array_equal(read_mask(path), GREY > 100)


@pytest.mark.parametrize("mode", [None, "RGB", "RGBA", "LA"])
def test_masks_are_the_numbers_that_were_written(mode: str | None, tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_mask(saved(CLASSES, tmp_path / "a.png", mode)), CLASSES)


def test_of_a_palette_a_mask_has_the_indices_and_an_image_the_colours(tmp_path: Path) -> None:
    picture = Image.fromarray(CLASSES, mode=None).convert("P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    picture.putdata(CLASSES.flatten().tolist())
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), CLASSES)
    np.testing.assert_allclose(read_image(tmp_path / "a.png")[0, 0], [1, 0, 0])


@pytest.mark.parametrize("largest", [1, 255, 300])
def test_what_is_written_is_read(largest: int, tmp_path: Path) -> None:
    mask = np.array([[0, largest], [largest, 0], [0, 0]])
    write_mask(mask, tmp_path / "new" / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "new" / "a.png"), mask)


def test_a_folder_is_read_by_names(folder: Path) -> None:
    made = generated("blobs", n=5, size=16)
    pairs = read_pairs(folder)
    assert [pair.name for pair in pairs] == ["0000", "0001", "0002", "0003", "0004"]
    for pair, image, mask in zip(pairs, made.images, made.masks, strict=True):
        np.testing.assert_allclose(pair.image, image, atol=0.5 / 255 + 1e-6)
        np.testing.assert_array_equal(pair.mask, mask)
    (folder / "images" / "notes.txt").write_text("what is no PNG file is left alone")
    assert list(image_files(folder / "images")) == [pair.name for pair in pairs]


def test_images_and_masks_without_the_other_are_named(folder: Path) -> None:
    (folder / "masks" / "0002.png").unlink()
    (folder / "masks" / "0004.png").unlink()
    with pytest.raises(ValueError, match=r"needed a mask .* got none for 'images/0002.png', 'images/0004.png'; add it"):
        read_pairs(folder)
    write_mask(np.zeros((16, 16), dtype=int), folder / "masks" / "0002.png")
    write_mask(np.zeros((16, 16), dtype=int), folder / "masks" / "0004.png")
    (folder / "images" / "0001.png").unlink()
    with pytest.raises(ValueError, match=r"needed an? image .* got none for 'masks/0001.png'"):
        read_pairs(folder)


def test_missing_and_empty_folders_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"needed a folder of images/ and masks/, got .*nowhere, which is none"):
        read_pairs(tmp_path / "nowhere")
    for path in (folder / "masks").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"needed PNG files, got none in .*masks"):
        read_pairs(folder)
    (folder / "masks").rmdir()
    with pytest.raises(FileNotFoundError, match=r"got .*masks, which is none"):
        read_pairs(folder)
    with pytest.raises(FileNotFoundError, match=r"got .*images, which holds neither; name theirs"):
        read_pairs(folder / "images")


def test_two_files_of_one_name(folder: Path) -> None:
    path = folder / "images" / "0001.PNG"
    path.write_bytes((folder / "images" / "0001.png").read_bytes())
    if len(list((folder / "images").iterdir())) == 6:  # where names differ by case
        with pytest.raises(ValueError, match=r"got two of '0001.(png|PNG)'"):
            read_pairs(folder)


def test_pairs_of_two_sizes_are_named(folder: Path) -> None:
    write_mask(np.ones((16, 15), dtype=int), folder / "masks" / "0003.png")
    with pytest.raises(ValueError, match=r"got '0003: 16 x 16 and 16 x 15'; make them anew"):
        read_pairs(folder)


@pytest.mark.parametrize("content", [b"", b"no image", "cut", "jpeg"])
def test_what_is_no_whole_png_is_named(content: bytes | str, folder: Path) -> None:
    path = folder / "images" / "0001.png"
    if content == "jpeg":
        Image.fromarray(GREY).save(path, format="JPEG")
    else:
        path.write_bytes(path.read_bytes()[:150] if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=r"needed a PNG image, got .*0001\.png"):
        read_pairs(folder)


def test_masks_in_colours_are_named(folder: Path) -> None:
    saved(COLOUR, folder / "masks" / "0001.png")
    with pytest.raises(ValueError, match=r"needed a number for each pixel in the mask .*0001.png, got colours"):
        read_pairs(folder)


@pytest.mark.usefixtures("as_a_user")
def test_what_no_mask_can_hold_is_not_written(tmp_path: Path) -> None:
    for mask in (np.array([[-1]]), np.array([[65536]])):
        with pytest.raises(ValueError, match="needed numbers from 0 to 65535"):
            write_mask(mask, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="needed a mask for each image"):
        write_folder(tmp_path, np.zeros((2, 4, 4, 1)), np.zeros((3, 4, 4), dtype=int))
