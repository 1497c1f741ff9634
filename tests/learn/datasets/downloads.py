"""Tiny downloads in each official layout: two objects or so in each image, of 6 x 8 px."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import scipy.io
import tifffile

from cytoseed.learn.datasets import public_sources

KUMAR = [row["stem"] for row in public_sources._read_table("kumar")]
MASK = np.zeros((6, 8), np.int32)
MASK[1:3, 1:4] = 1
MASK[3:5, 3:7] = 2  # the two touch
APART = np.where(MASK == 2, 0, MASK) + 2 * np.roll(MASK == 2, 1, axis=0)  # the two meet nowhere
COLOURS = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)  # red, green, blue


def write(path: Path, pixels):
    """Write an image, colours as red, green, blue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
    else:
        assert cv2.imwrite(str(path), pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))


def text(path: Path, content: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def array(path: Path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def contours(*boxes):
    """ImageScope's XML of rectangles: left, top, right, bottom."""
    regions = "".join(
        f'<Region Id="{number}"><Attributes/><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in ((a, b), (c, b), (c, d), (a, d)))
        + "</Vertices></Region>"
        for number, (a, b, c, d) in enumerate(boxes, start=1)
    )
    annotation = f'<Annotation Id="1"><Regions>{regions}</Regions></Annotation>'
    return f'<Annotations MicronsPerPixel="0.252">{annotation}</Annotations>'


BOXES = ((1, 1, 4, 3), (3, 3, 7, 5))  # of MASK


def tnbc2018(root: Path):
    for slide, crop in (("01", "01_1"), ("01", "01_2"), ("12", "12_1")):
        write(root / "TNBC_and_Brain_dataset" / f"Slide_{slide}" / f"{crop}.png", COLOURS)
        write(root / "TNBC_and_Brain_dataset" / f"GT_{slide}" / f"{crop}.png", (APART > 0).astype(np.uint8) * 255)


def nuinsseg(root: Path):
    vague = np.zeros(MASK.shape, np.uint8)
    vague[:2] = 255
    for organ in ("human bladder", "mouse heart"):
        stem = organ.replace(" ", "_") + "_01"
        write(root / organ / "tissue images" / f"{stem}.png", COLOURS)
        write(root / organ / "label masks modify" / f"{stem}.tif", (MASK * 7).astype(np.uint16))
        write(root / organ / "vague areas" / "mask binary" / f"{stem}.png", vague)


def _contoured(images: Path, annotations: Path, stems):
    for stem in stems:
        write(images / f"{stem}.tif", COLOURS)
        text(annotations / f"{stem}.xml", contours(*BOXES))


def monuseg(root: Path):
    training = root / "MoNuSeg 2018 Training Data"
    _contoured(training / "Tissue Images", training / "Annotations", [f"TCGA-{n}" for n in range(4)])
    _contoured(root / "MoNuSegTestData", root / "MoNuSegTestData", ["TCGA-X"])


def kumar(root: Path):
    _contoured(root / "Tissue Images", root / "Annotations", KUMAR)


def ihc_tma(root: Path):
    for stem in ("fold1_1", "fold2_1", "fold3_1"):
        write(root / "IHC_TMA_dataset" / "images" / f"{stem}.png", COLOURS)
        array(root / "IHC_TMA_dataset" / "masks" / f"{stem}.npy", np.stack([MASK == 1, MASK == 2, MASK == 0]))


def consep(root: Path):
    for split, stems in (("Train", ("train_1", "train_2")), ("Test", ("test_1",))):
        for stem in stems:
            write(root / "CoNSeP" / split / "Images" / f"{stem}.png", COLOURS)
            write(root / "CoNSeP" / split / "Overlay" / f"{stem}.png", COLOURS)
            labels = root / "CoNSeP" / split / "Labels" / f"{stem}.mat"
            labels.parent.mkdir(exist_ok=True)
            scipy.io.savemat(labels, {"inst_map": MASK.astype(float), "type_map": MASK * 0.0})


def lynsec(root: Path):
    for part in (1, 2, 3):
        values = np.concatenate([COLOURS, MASK[:, :, None], MASK[:, :, None]], axis=2).astype(np.int32)
        array(root / f"lynsec {part}" / f"0_l{part}.npy", values)


def dsb2018(root: Path):
    for stem in ("ab" * 32, "cd" * 32, "ef" * 32):
        write(root / "stage1_train" / stem / "images" / f"{stem}.png", np.repeat(COLOURS[:, :, :1], 3, axis=2))
        write(root / "stage1_train" / stem / "masks" / f"{stem[::-1]}.png", (MASK > 1).astype(np.uint8) * 255)


def bbbc039(root: Path):
    for number, name in enumerate(("training", "validation", "test")):
        stem = f"IXMtest_A0{number}_s1"
        write(root / "images" / f"{stem}.tif", COLOURS[:, :, 0].astype(np.uint16) * 100)
        write(root / "masks" / f"{stem}.png", np.stack([MASK * 40, MASK * 0, MASK * 0], axis=2).astype(np.uint8))
        text(root / "metadata" / f"{name}.txt", f"{stem}.png\n")


DOWNLOADS = {
    build.__name__: build for build in (tnbc2018, nuinsseg, monuseg, kumar, ihc_tma, consep, lynsec, dsb2018, bbbc039)
}
