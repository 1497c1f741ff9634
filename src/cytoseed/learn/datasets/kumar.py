"""Kumar: seven organs of TCGA, haematoxylin and eosin, 40x (Kumar et al. 2017), in the split published with HoVer-Net.

30 images of 1000 x 1000 px, all of them among MoNuSeg's training data, whose layout they have. HoVer-Net's split
(Graham et al. 2019) trains on 16 images of four organs, and tests on 8 of these organs and 6 of three others; it
is not that of Kumar et al. Four of the 16, one of each organ, are set aside as `val`.
"""

from dataclasses import replace
from pathlib import Path

from cytoseed.learn.datasets.layout import require
from cytoseed.learn.datasets.monuseg import find_training
from cytoseed.learn.datasets.source import Item, Source

_TRAIN = (
    *("TCGA-A7-A13E-01Z-00-DX1", "TCGA-AR-A1AK-01Z-00-DX1", "TCGA-E2-A14V-01Z-00-DX1"),  # breast
    *("TCGA-B0-5711-01Z-00-DX1", "TCGA-HE-7128-01Z-00-DX1", "TCGA-HE-7129-01Z-00-DX1"),  # kidney
    *("TCGA-18-5592-01Z-00-DX1", "TCGA-21-5784-01Z-00-DX1", "TCGA-38-6178-01Z-00-DX1"),  # liver
    *("TCGA-G9-6348-01Z-00-DX1", "TCGA-G9-6356-01Z-00-DX1", "TCGA-G9-6362-01Z-00-DX1"),  # prostate
)
_VAL = (
    "TCGA-AR-A1AS-01Z-00-DX1",  # breast
    "TCGA-HE-7130-01Z-00-DX1",  # kidney
    "TCGA-50-5931-01Z-00-DX1",  # liver
    "TCGA-G9-6363-01Z-00-DX1",  # prostate
)
_TEST_SAME = (
    *("TCGA-A7-A13F-01Z-00-DX1", "TCGA-E2-A1B5-01Z-00-DX1"),  # breast
    *("TCGA-B0-5698-01Z-00-DX1", "TCGA-B0-5710-01Z-00-DX1"),  # kidney
    *("TCGA-21-5786-01Z-00-DX1", "TCGA-49-4488-01Z-00-DX1"),  # liver
    *("TCGA-CH-5767-01Z-00-DX1", "TCGA-G9-6336-01Z-00-DX1"),  # prostate
)
_TEST_OTHER = (
    *("TCGA-DK-A2I6-01A-01-TS1", "TCGA-G2-A2EK-01A-02-TSB"),  # bladder
    *("TCGA-AY-A8YK-01A-01-TS1", "TCGA-NH-A8F7-01A-01-TS1"),  # colon
    *("TCGA-KB-A93J-01A-01-TS1", "TCGA-RD-A8N9-01A-01-TS1"),  # stomach
)
SPLITS = {
    stem: split
    for split, stems in (("train", _TRAIN), ("val", _VAL), ("test", _TEST_SAME + _TEST_OTHER))
    for stem in stems
}
"""Split of each of the 30 images."""


def _find(folder: Path) -> list[Item]:
    items = find_training(folder)  # MoNuSeg's download holds 7 more
    require("no image", SPLITS.keys() - {item.stem for item in items})
    return [replace(item, split=SPLITS[item.stem]) for item in items if item.stem in SPLITS]


SOURCE = Source(
    name="kumar",
    title="H&E, seven organs of TCGA, 40x; HoVer-Net's split",
    licence="CC-BY-NC-SA-4.0",
    url="https://monuseg.grand-challenge.org/Data/",
    download="'MoNuSeg 2018 Training Data.zip', unpacked",
    layout="folders 'Tissue Images' (*.tif) and 'Annotations' (*.xml) with the 30 images of Kumar et al.",
    find=_find,
    images=30,
    objects=21623,
    counted_by="Kumar et al. 2017",
    pixel_size_um=0.25,
)
