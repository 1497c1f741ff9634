"""Every loader on a tiny download of its layout: whole, with files missing or misnamed, and on the wrong folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from downloads import APART, BOXES, COLOURS, DOWNLOADS, KUMAR, MASK, array, contours, text, write

from cytoseed.learn.datasets import SOURCES, find_note, find_source, prepare
from cytoseed.learn.samples import find_samples
from same import assert_same_objects

PIXELS = {"dsb2018": COLOURS[:, :, :1], "bbbc039": COLOURS[:, :, :1] * np.uint16(100)}  # the others have COLOURS
OBJECTS = {"tnbc2018": APART > 0, "dsb2018": MASK == 2}  # the others have both of MASK


@pytest.fixture
def download(tmp_path):
    def build(name):
        DOWNLOADS[name](tmp_path / "download")
        return tmp_path / "download"

    return build


@pytest.mark.parametrize("name", SOURCES)
def test_the_layout_is_read(name, download, tmp_path):
    prepared = prepare(name, download(name), tmp_path / "out")
    samples = find_samples(tmp_path / "out")
    assert len(samples) == sum(prepared.images.values()) == prepared.written
    source = SOURCES[name]
    for sample in samples:
        assert (sample.dataset, sample.licence, sample.pixel_size_um) == (name, source.licence, source.pixel_size_um)
        assert sample.field
        pixels, mask = sample.read()
        np.testing.assert_array_equal(pixels, np.moveaxis(PIXELS.get(name, COLOURS), 2, 0))
        np.testing.assert_array_equal(mask > 0, OBJECTS.get(name, MASK > 0))
        assert set(mask[mask > 0]) == ({1} if name == "dsb2018" else {1, 2})
    assert prepared.objects == {
        split: count * (1 if name == "dsb2018" else 2) for split, count in prepared.images.items()
    }
    counted = {"images": (len(samples), source.images), "objects": (sum(prepared.objects.values()), source.objects)}
    assert prepared.remarks == tuple(
        f"{name} has {found} {what}; {source.counted_by} has {expected:,}"
        for what, (found, expected) in counted.items()
        if expected not in (None, found)
    )


@pytest.mark.parametrize("name", SOURCES)
def test_the_folder_above_the_layout_will_do(name, download):
    folder = download(name)
    (folder / "__MACOSX" / "images").mkdir(parents=True)
    stems = [item.stem for item in SOURCES[name].find_images(folder)]
    inner = [path for path in folder.iterdir() if path.name != "__MACOSX"]
    if len(inner) == 1:
        assert [item.stem for item in SOURCES[name].find_images(inner[0])] == stems
    folder.rename(folder.parent / "inner")
    assert [item.stem for item in SOURCES[name].find_images(folder.parent)] == stems


def essential(folder: Path):
    """Files that the layout cannot do without: in ours, all but pictures of overlays and what is left out."""
    return sorted(
        p for p in folder.rglob("*.*") if p.is_file() and "Overlay" not in p.parts and "lynsec 2" not in p.parts
    )


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("part", ["all", "stem", "suffix"])
def test_a_missing_or_misnamed_file_is_an_error(name, part, download):
    folder = download(name)
    for path in essential(folder)[:: 7 if name == "kumar" else 1]:
        free = name == "lynsec" or (name == "dsb2018" and path.parent.name == "masks")  # any name is right there
        if part == "stem" and free:
            continue
        wrong = path.with_suffix(".bak") if part == "suffix" else path.with_stem(path.stem + " (1)")
        wrong = folder.parent / "hidden" if part == "all" else wrong
        path.rename(wrong)
        with pytest.raises(FileNotFoundError, match=f"is not {name} as downloaded"):
            SOURCES[name].find_images(folder)
        wrong.rename(path)


@pytest.mark.parametrize("name", SOURCES)
def test_the_wrong_folder_is_an_error_that_says_what_was_expected(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such folder; expected: "):
        prepare(name, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError) as raised:
        prepare(name, tmp_path / "empty", tmp_path / "out")
    for part in (SOURCES[name].layout, SOURCES[name].download, SOURCES[name].url):
        assert part in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_data_sets_prepared_elsewhere_have_a_note_too():
    assert find_note("kumar_train16").licence == "CC-BY-NC-SA-4.0"
    assert find_note("mine") is None
    with pytest.raises(ValueError, match=r"name is 'mine'; it must be one of: tnbc2018, .*docs/data\.md"):
        find_source("mine")


def masks_of(name, folder):
    return {item.stem: item.mask(MASK.shape) for item in SOURCES[name].find_images(folder)}


def test_tnbc_pieces_that_meet_at_a_corner_are_two(download):
    folder = download("tnbc2018")
    corner = np.zeros(MASK.shape, np.uint8)
    corner[0, 0] = corner[1, 1] = 255
    write(folder / "TNBC_and_Brain_dataset" / "GT_12" / "12_1.png", corner)
    assert masks_of("tnbc2018", folder)["12_1"].max() == 2
    assert {item.field for item in SOURCES["tnbc2018"].find_images(folder)} == {"Slide_01", "Slide_12"}


def test_nuinsseg_marks_vague_ground_but_not_the_nuclei_in_it(download):
    folder = download("nuinsseg")
    mask = masks_of("nuinsseg", folder)["human_bladder_01"]
    np.testing.assert_array_equal(mask == -1, (MASK == 0) & (np.arange(6)[:, None] < 2))
    np.testing.assert_array_equal(mask[MASK > 0], MASK[MASK > 0] * 7)
    for organ in ("human bladder", "mouse heart"):
        shutil.rmtree(folder / organ / "vague areas")
        (folder / organ / "mask binary").mkdir()
    assert masks_of("nuinsseg", folder)["human_bladder_01"].min() == 0


def test_overlapping_contours_keep_the_smaller_on_top(download):
    folder = download("monuseg")
    path = folder / "MoNuSegTestData" / "TCGA-X.xml"
    inner, outer = (2, 1, 4, 3), (0, 0, 8, 6)
    text(path, contours(inner, outer, outer))
    mask = masks_of("monuseg", folder)["TCGA-X"]
    assert np.count_nonzero(mask == 1) == 4
    assert sorted(np.unique(mask)) == [1, 2]
    text(path, contours())
    assert not masks_of("monuseg", folder)["TCGA-X"].any()


@pytest.mark.parametrize(
    "content", ["", "<Annotations>", "<html></html>", contours(("a", 0, 1, 1)), contours(("nan", 0, 1, 1))]
)
def test_a_file_that_is_not_an_annotation_is_named(download, content):
    folder = download("monuseg")
    text(folder / "MoNuSegTestData" / "TCGA-X.xml", content)
    with pytest.raises(ValueError, match=r"TCGA-X\.xml"):
        masks_of("monuseg", folder)


def test_kumar_has_the_split_published_with_hover_net(download, tmp_path):
    folder = download("kumar")
    write(folder / "Tissue Images" / "TCGA-surplus.tif", COLOURS)
    text(folder / "Annotations" / "TCGA-surplus.xml", contours(*BOXES))
    prepared = prepare("kumar", folder, tmp_path / "out")
    assert prepared.images == {"train": 12, "val": 4, "test": 14}
    assert {sample.name for sample in find_samples(tmp_path / "out")} == set(KUMAR)


def test_ihc_tma_ids_and_pieces(download):
    folder = download("ihc_tma")
    path = folder / "IHC_TMA_dataset" / "masks" / "fold1_1.npy"
    ids, one = np.zeros((2, *MASK.shape), np.int32)
    ids[0], ids[2, :3] = 5, 9  # touches nothing
    ids[2, 5:] = 9  # one nucleus in two pieces
    one[4, 0] = one[4, 4] = 1
    array(path, np.stack([ids, one, ids]))
    mask = masks_of("ihc_tma", folder)["fold1_1"]
    assert mask[2, 0] == mask[2, 7]
    assert len({0, mask[0, 0], mask[2, 0], mask[4, 0], mask[4, 4]}) == 5
    array(path, ids)
    with pytest.raises(ValueError, match=r"fold1_1\.npy has the shape \(6, 8\)"):
        masks_of("ihc_tma", folder)


def test_consep_files_without_labels_are_named(download):
    folder = download("consep")
    path = folder / "CoNSeP" / "Test" / "Labels" / "test_1.mat"
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM" + bytes(400)
    for write_file, message in (
        (
            lambda: scipy.io.savemat(path, {"type_map": MASK}),
            "cannot be read as a MATLAB file with an array 'inst_map'",
        ),
        (lambda: scipy.io.savemat(path, {"inst_map": MASK + 0.5}), "holds values that are not ids"),
        (lambda: path.write_bytes(header), r"cannot be read .* v7\.3"),
        (lambda: path.write_bytes(b"cut short"), "cannot be read as a MATLAB file"),
    ):
        write_file()
        with pytest.raises(ValueError, match=rf"test_1\.mat {message}"):
            masks_of("consep", folder)


def test_lynsec_tells_its_stains_apart_and_leaves_the_mismatched_part_out(download):
    items = SOURCES["lynsec"].find_images(download("lynsec"))
    assert [(item.stem, item.modality) for item in items] == [("1-0_l1", "brightfield-ihc"), ("3-0_l3", "brightfield")]


def test_files_that_are_not_such_arrays_are_refused(download):
    folder = download("lynsec")
    path = folder / "lynsec 1" / "0_l1.npy"
    for values, message in (
        (np.array([{"code": "run"}], dtype=object), "cannot be read as a NumPy array without pickles"),
        (MASK, r"has the shape \(6, 8\); it must be height x width x 5"),
    ):
        np.save(path, values, allow_pickle=True)
        with pytest.raises(ValueError, match=rf"0_l1\.npy {message}"):
            masks_of("lynsec", folder)


def test_dsb_nuclei_in_pieces_stay_one_and_the_table_is_used(download):
    folder = download("dsb2018")
    stem = "00071198d059"
    whole = stem + "7f" * 26
    (folder / "stage1_train" / ("ab" * 32)).rename(folder / "stage1_train" / whole)
    inner = folder / "stage1_train" / whole
    (inner / "images" / f"{'ab' * 32}.png").rename(inner / "images" / f"{whole}.png")
    pieces = np.zeros(MASK.shape, np.uint8)
    pieces[0, 0] = pieces[5, 7] = 255
    write(inner / "masks" / "another.png", pieces)
    items = {item.stem: item for item in SOURCES["dsb2018"].find_images(folder)}
    item = items[whole]
    assert (item.split, item.modality, bool(item.field)) == ("train", "fluorescence", True)
    assert (items["cd" * 32].split, items["cd" * 32].modality) == ("", "unknown")
    mask = item.mask(MASK.shape)
    assert mask[0, 0] == mask[5, 7] > 0
    assert_same_objects(mask, np.where(pieces > 0, 1, MASK * (MASK == 2)))
    write(inner / "masks" / "another.png", pieces[1:])
    with pytest.raises(ValueError, match=r"another\.png has the shape \(5, 8\) and its image \(6, 8\)"):
        item.mask(MASK.shape)


def test_bbbc039_follows_its_lists_and_tells_touching_nuclei_apart(download):
    folder = download("bbbc039")
    splits = {item.stem: item.split for item in SOURCES["bbbc039"].find_images(folder)}
    assert splits == {"IXMtest_A00_s1": "train", "IXMtest_A01_s1": "val", "IXMtest_A02_s1": "test"}
    diagonal = np.zeros((*MASK.shape, 3), np.uint8)
    diagonal[0, 0, 0] = diagonal[1, 1, 0] = 7
    write(folder / "masks" / "IXMtest_A00_s1.png", diagonal)
    assert masks_of("bbbc039", folder)["IXMtest_A00_s1"].max() == 1


@pytest.mark.parametrize("name", ["images", "masks"])
def test_zips_unpacked_into_folders_of_their_own_names_are_found(download, name):
    folder = download("bbbc039")
    (folder / name).rename(folder / "moved")
    (folder / name).mkdir()
    (folder / "moved").rename(folder / name / name)
    assert len(SOURCES["bbbc039"].find_images(folder)) == 3
    shutil.copytree(folder / name / name, folder / "copy" / name)
    with pytest.raises(ValueError, match=f"two files match '{name}/"):
        SOURCES["bbbc039"].find_images(folder)
