"""Label images in the forms in which programs save them, and pictures that are not label images."""

from __future__ import annotations

import warnings

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from cytoseed.images.label_image import open_labels, read_labels
from cytoseed.paths import InputWarning

LABELS = np.kron([[1, 0, 2, 0, 3], [0, 0, 0, 0, 0], [4, 0, 0, 0, 5]], np.ones((3, 3))).astype(np.uint8)  # 9 x 15
LABELS[0, 0] = 0
PLANES = np.stack([(number == LABELS).astype(np.uint8) for number in range(1, 6)])
COLOURS = np.random.default_rng(0).integers(0, 256, 768).tolist()  # also that of the background is not black


def save_palette(path, bits):
    picture = Image.fromarray(LABELS).convert("P")
    picture.putdata(LABELS.ravel().tolist())
    picture.putpalette(COLOURS[: 3 * 2**bits])
    picture.save(path, **({"bits": bits, "transparency": bytes(3)} if path.suffix == ".png" else {}))


FORMS = {
    "palette.png": lambda path: save_palette(path, 8),
    "palette_4_bits.png": lambda path: save_palette(path, 4),
    "palette.tif": lambda path: save_palette(path, 8),
    "grey.png": lambda path: Image.fromarray(LABELS).save(path),
    "grey_as_rgb.png": lambda path: Image.fromarray(np.dstack([LABELS] * 3)).save(path),
    "grey_as_rgba.png": lambda path: Image.fromarray(np.dstack([*[LABELS] * 3, LABELS * 0 + 9])).save(path),
    "grey_as_rgb.tif": lambda path: tifffile.imwrite(path, np.dstack([LABELS] * 3), photometric="rgb"),
    "float32.tif": lambda path: tifffile.imwrite(path, LABELS.astype(np.float32), imagej=True),
    "float64.tif": lambda path: tifffile.imwrite(path, LABELS.astype(np.float64)),
    "stack.tif": lambda path: tifffile.imwrite(path, PLANES, photometric="minisblack"),
    "stack_of_255.tif": lambda path: tifffile.imwrite(path, PLANES * 255, photometric="minisblack", compression="zlib"),
    "stack_numbered.tif": lambda path: tifffile.imwrite(path, PLANES * LABELS, photometric="minisblack"),
    "stack_of_imagej.tif": lambda path: tifffile.imwrite(path, PLANES, imagej=True),
    "stack_of_pages.tif": lambda path: Image.fromarray(PLANES[0]).save(
        path, save_all=True, append_images=[Image.fromarray(plane) for plane in PLANES[1:]]
    ),
    "stack_along_time.ome.tif": lambda path: tifffile.imwrite(path, PLANES, ome=True, metadata={"axes": "TYX"}),
}


@pytest.mark.parametrize("name", FORMS)
def test_ids_are_read_from_every_form(tmp_path, name):
    FORMS[name](tmp_path / name)
    found = read_labels(tmp_path / name)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, LABELS)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_stack_of_few_planes_is_no_colour_picture(tmp_path, count):
    """TIFF may call three planes red, green and blue, and a fourth one alpha."""
    path = tmp_path / "stack.tif"
    wanted = np.where(count >= LABELS, LABELS, 0)
    options = {"photometric": "rgb", "planarconfig": "separate"} if count > 2 else {"photometric": "minisblack"}
    tifffile.imwrite(path, PLANES[:count], **options)
    np.testing.assert_array_equal(read_labels(path), wanted)


def test_in_a_stack_the_smaller_object_lies_on_top_and_empty_planes_are_gaps(tmp_path):
    small = np.zeros((9, 15), np.uint8)
    small[1, 1] = 1
    tifffile.imwrite(tmp_path / "a.tif", np.stack([small, small * 0, PLANES[0]]), photometric="minisblack")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.tif"), np.where(small, 1, 3 * PLANES[0]))


def test_what_nobody_annotated_and_large_ids_are_kept(tmp_path):
    labels = np.array([[-1, 0, 70_000, 5]] * 2, np.int32)
    for dtype in (np.int32, np.float32):
        tifffile.imwrite(tmp_path / "mask.tif", labels.astype(dtype))
        np.testing.assert_array_equal(read_labels(tmp_path / "mask.tif"), labels)


SPOTS = np.kron(np.eye(4), [[1, 0], [0, 0]]).astype(np.uint8)  # four separate pixels
RIMS = np.kron(np.eye(4), [[1, 2, 0], [0, 0, 0], [0, 0, 0]]).astype(np.uint8)  # classes: nucleus 1, rim 2


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (SPOTS * 255, "has 4 separate pieces of 1 id; label the objects first .Fiji: .*; scikit-image: "),
        (SPOTS > 0, "has 4 separate pieces of 1 id; label the objects first"),
        (SPOTS.astype(np.float32), "has 4 separate pieces of 1 id; label the objects first"),
        (np.dstack([SPOTS * 255] * 3), "has 4 separate pieces of 1 id; label the objects first"),
        (RIMS, "has 8 separate pieces of 2 ids; label the objects first"),
        (np.stack([RIMS == 1, RIMS == 2]).astype(np.uint8), "has 8 separate pieces of 2 ids; label the objects first"),
        (np.stack([LABELS, LABELS // 2]), "is a stack whose plane 0 holds several ids; give one plane of ids, or"),
        (np.dstack([LABELS, LABELS, LABELS // 2]), "is a picture in colours, not of ids; label the objects first"),
        (SPOTS / np.float32(2), "holds float32 that are not whole numbers"),
        (np.full((4, 5), np.nan, np.float32), "holds float32 that are not whole numbers"),
        (np.full((4, 5), -2, np.int16), "holds ids from -2 to 0"),
        (np.full((4, 5), 2**31, np.uint32), "holds ids from 0 to 2147483648"),
    ],
)
def test_pictures_that_are_not_label_images_are_refused(tmp_path, pixels, message):
    photometric = "rgb" if pixels.shape[-1] == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "mask.tif", pixels, photometric=photometric)
    with pytest.raises(ValueError, match=rf"mask .*mask\.tif {message}"):
        read_labels(tmp_path / "mask.tif")


def test_a_mask_of_one_bit_is_refused_and_few_pieces_are_taken(tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(SPOTS > 0).save(path)
    with pytest.raises(ValueError, match="label the objects first"):
        read_labels(path)
    Image.fromarray(SPOTS[:6] > 0).save(path)
    with pytest.warns(InputWarning, match=r"mask\.png: an id occurs in separate pieces"):
        assert read_labels(path).max() == 1


def test_a_split_object_among_others_and_a_mask_without_objects_get_a_warning(tmp_path):
    split = LABELS.copy()
    split[split == 5] = 1
    for labels, message in ((split, "an id occurs in separate pieces, which count as one"), (LABELS * 0, "no objects")):
        Image.fromarray(labels).save(tmp_path / "mask.png")
        with pytest.warns(InputWarning, match=rf"mask\.png: .*{message}"):
            np.testing.assert_array_equal(read_labels(tmp_path / "mask.png"), labels)
    diagonal = np.eye(5, dtype=np.uint8)  # touches itself at corners
    Image.fromarray(diagonal).save(tmp_path / "mask.png")
    with warnings.catch_warnings(action="error"):
        read_labels(tmp_path / "mask.png")


def test_a_cut_palette_and_a_jpeg_are_refused(tmp_path):
    save_palette(tmp_path / "whole.png", 8)
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"cut\.png"):
        read_labels(tmp_path / "cut.png")
    (tmp_path / "a.png").write_bytes(imagecodecs.jpeg_encode(LABELS))
    with pytest.raises(ValueError, match=r"a\.png is a JPEG, which changes pixels beside edges"):
        open_labels(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        open_labels(tmp_path / "gone.png")
