"""The public data sets that can be prepared, and where they are published."""

from __future__ import annotations

from cytoseed.learn.datasets import source_layouts
from cytoseed.learn.datasets.downloads import Source
from cytoseed.settings import DatasetNote

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            name="tnbc2018",
            title="H&E, breast cancer and brain, 40x",
            licence="CC-BY-4.0",
            url="https://zenodo.org/records/3552674",
            download="TNBC_and_Brain_dataset.zip, unpacked",
            layout="folders Slide_01, Slide_02, ... of *.png, and GT_01, GT_02, ... with masks of the same names",
            find=source_layouts.find_tnbc2018,
            images=68,
            objects=5181,
            pixel_size_um=0.25,
        ),
        Source(
            name="nuinsseg",
            title="H&E, 31 human and mouse organs, 40x",
            licence="CC-BY-4.0",
            url="https://zenodo.org/records/10518968",
            download="NuInsSeg.zip, unpacked",
            layout="a folder for each organ, such as 'human bladder', with folders 'tissue images' (*.png), 'label "
            "masks modify' (*.tif) and 'vague areas/mask binary' (*.png) of the same names",
            find=source_layouts.find_nuinsseg,
            images=665,
            objects=30698,
            pixel_size_um=0.25,
        ),
        Source(
            name="monuseg",
            title="H&E, nine organs of TCGA, 40x",
            licence="CC-BY-NC-SA-4.0",
            url="https://monuseg.grand-challenge.org/Data/",
            download="'MoNuSeg 2018 Training Data.zip' and 'MoNuSegTestData.zip', both unpacked into one folder",
            layout="'MoNuSeg 2018 Training Data' with folders 'Tissue Images' (*.tif) and 'Annotations' (*.xml), and "
            "'MoNuSegTestData' with *.tif and *.xml, of the same names",
            find=source_layouts.find_monuseg,
            images=51,
            objects=30872,
            pixel_size_um=0.25,
            val_share=8 / 37,
        ),
        Source(
            name="kumar",
            title="H&E, seven organs of TCGA, 40x; HoVer-Net's split",
            licence="CC-BY-NC-SA-4.0",
            url="https://monuseg.grand-challenge.org/Data/",
            download="'MoNuSeg 2018 Training Data.zip', unpacked",
            layout="folders 'Tissue Images' (*.tif) and 'Annotations' (*.xml) with the 30 images of Kumar et al.",
            find=source_layouts.find_kumar,
            images=30,
            objects=21623,
            counted_by="Kumar et al. 2017",
            pixel_size_um=0.25,
        ),
        Source(
            name="ihc_tma",
            title="immunohistochemistry, lung cancer, 40x",
            licence="CC-BY-4.0",
            url="https://zenodo.org/records/7647846",
            download="IHC_TMA_dataset.zip, unpacked",
            layout="folders images (*.png) and masks (*.npy, channels x height x width) of the same names",
            find=source_layouts.find_ihc_tma,
            images=266,
            objects=9161,
            pixel_size_um=0.25,
        ),
        Source(
            name="consep",
            title="H&E, colorectal cancer, 40x",
            licence="Apache-2.0",
            url="https://warwick.ac.uk/fac/cross_fac/tia/data/hovernet/",
            download="consep_dataset.zip, unpacked",
            layout="folders Train and Test, each with Images (*.png) and Labels (*.mat) of the same names",
            find=source_layouts.find_consep,
            images=41,
            objects=24332,
            pixel_size_um=0.275,
            val_share=6 / 27,
        ),
        Source(
            name="lynsec",
            title="lymphoma, immunohistochemistry and H&E, 40x",
            licence="CC-BY-4.0",
            url="https://zenodo.org/records/8065174",
            download="lynsec.zip, unpacked",
            layout="folders 'lynsec 1' and 'lynsec 3' of *.npy, each an array of height x width x 5",
            find=source_layouts.find_lynsec,
            images=699,
            objects=151779,
            pixel_size_um=0.25,
        ),
        Source(
            name="dsb2018",
            title="fluorescence and brightfield of many kinds",
            licence="CC0-1.0",
            url="https://bbbc.broadinstitute.org/BBBC038",
            download="stage1_train.zip, unpacked into a folder of its own",
            layout="a folder for each image, <id>, with images/<id>.png and masks/*.png, one mask for each nucleus",
            find=source_layouts.find_dsb2018,
            images=670,
            objects=29461,
            counted_by="the masks of stage1_train.zip",
        ),
        Source(
            name="bbbc039",
            title="fluorescence, U2OS cells, 20x",
            licence="CC0-1.0",
            url="https://bbbc.broadinstitute.org/BBBC039",
            download="images.zip, masks.zip and metadata.zip, unpacked into one folder",
            layout="folders images (*.tif), masks (*.png) of the same names, and metadata with training.txt, "
            "validation.txt, test.txt",
            find=source_layouts.find_bbbc039,
            images=200,
            objects=None,
            counted_by="its publication",
        ),
    )
}
"""The data sets that can be prepared, by name."""

_OTHER_NOTES = {
    note.name: note
    for note in (
        DatasetNote("bitdepth_nucseg", "Apache-2.0", "https://github.com/masih4/BitDepth_NucSeg @ a2636522"),
        DatasetNote(
            "kumar_train16", "CC-BY-NC-SA-4.0", "https://github.com/bruceyang2012/Miccai_challenge_MONUSEG @ 50be9414"
        ),
    )
}  # prepared by other means


def find_source(name: str) -> Source:
    """Data set by name; `ValueError` if it is unknown."""
    if name not in SOURCES:
        raise ValueError(
            f"name is {name!r}; it must be one of: {', '.join(SOURCES)}. Your own images need no preparation: "
            f"see docs/data.md"
        )
    return SOURCES[name]


def find_note(name: str) -> DatasetNote | None:
    """Licence and source of a data set; None if it is unknown, such as a user's own."""
    return SOURCES[name].note if name in SOURCES else _OTHER_NOTES.get(name)
