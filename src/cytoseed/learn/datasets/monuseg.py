"""MoNuSeg 2018: nine organs of TCGA, haematoxylin and eosin, 40x (Kumar et al. 2017, 2020).

37 images of 1000 x 1000 px to train with, each of a patient of its own, and 14 to test with; contours are XML of
Aperio ImageScope. The pixel size is that of TCGA's slides at 40x.
"""

from functools import partial
from pathlib import Path

from cytoseed.learn.datasets.contents import picture
from cytoseed.learn.datasets.contours import read_contours
from cytoseed.learn.datasets.layout import files, find_folder, pair
from cytoseed.learn.datasets.source import Item, Source


def find_training(folder: Path) -> list[Item]:
    """Find the images of the training data: folders `Tissue Images` and `Annotations`.

    Raises
    ------
    FileNotFoundError, ValueError
        If they are not there, or a file of them has no counterpart.
    """
    return _contoured(find_folder(folder, "Tissue Images"), find_folder(folder, "Annotations"), "train")


def _find(folder: Path) -> list[Item]:
    test = find_folder(folder, "MoNuSegTestData")
    return [*find_training(folder), *_contoured(test, test, "test")]


def _contoured(images: Path, annotations: Path, split: str) -> list[Item]:
    pairs = pair(files(images, ".tif", ".tiff"), files(annotations, ".xml"), that="annotation (.xml)")
    return [Item(stem, picture(image), partial(read_contours, xml), split=split) for stem, image, xml in pairs]


SOURCE = Source(
    name="monuseg",
    title="H&E, nine organs of TCGA, 40x",
    licence="CC-BY-NC-SA-4.0",
    url="https://monuseg.grand-challenge.org/Data/",
    download="'MoNuSeg 2018 Training Data.zip' and 'MoNuSegTestData.zip', both unpacked into one folder",
    layout="'MoNuSeg 2018 Training Data' with folders 'Tissue Images' (*.tif) and 'Annotations' (*.xml), and "
    "'MoNuSegTestData' with *.tif and *.xml, of the same names",
    find=_find,
    images=51,
    objects=30872,
    counted_by="Table 1",
    pixel_size_um=0.25,
    val_share=8 / 37,
)
