"""Second paths to the same result: TorchScript, ONNX, batches, turned images, tiles.

The bundled model is compared in export/test_same_objects.py, the shortcut of the classifier with the plain MLP in
core/test_pixels.py, and our metrics with StarDist's in learn/test_metrics.py.
"""

import numpy as np
import pytest
import torch
from skimage import data

from bright import bright_config, bright_segmenter
from cytoseed.core.prepare import normalise
from cytoseed.core.views import turn, turn_back
from cytoseed.export.torchscript import to_torchscript
from cytoseed.images.channels import unmix
from cytoseed.models.weights import Model
from cytoseed.run.api import segment
from cytoseed.run.engine import Engine
from same import assert_same_objects

SIZES = [(1, 1), (20, 20), (63, 200), (64, 64), (130, 97), (256, 256)]


def blobs(height: int, width: int, count: int) -> torch.Tensor:
    """An image (1, 1, H, W) with up to `count` bright discs, some of them larger than the first window."""
    generator = torch.Generator().manual_seed(height + width + count)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.zeros(height, width)
    for _ in range(count):
        row, column, size = (torch.rand(3, generator=generator) * torch.tensor([height, width, 1.0])).tolist()
        radius = 2 + 22 * size**4
        image = torch.maximum(image, (((rows - row) ** 2 + (columns - column) ** 2) < radius**2).float())
    return image[None, None]


@pytest.fixture(scope="module")
def bright() -> Model:
    segmenter = bright_segmenter()
    segmenter.windows = segmenter.windows[:2]  # two of the five passes: the graph to export is the smaller
    return Model(bright_config(), segmenter)


@pytest.fixture(scope="module")
def tissue() -> torch.Tensor:
    """A real image, (1, 3, 256, 288)."""
    return normalise(torch.from_numpy(data.immunohistochemistry()[:256, :288].copy()).permute(2, 0, 1))[None]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_eager_equals_torchscript(bright, tmp_path):
    scripted = torch.jit.load(str(to_torchscript(bright, tmp_path / "bright.pt")))
    for count in (0, 1, 60):
        for size in SIZES:
            image = blobs(*size, count)
            assert torch.equal(scripted(image), bright.segmenter(image))


def test_a_batch_equals_its_images(nuclei, tissue):
    batch = torch.cat([tissue, tissue.flip(3), torch.zeros_like(tissue), tissue.flip(2)])
    with torch.inference_mode():
        together = nuclei.segmenter(batch)
        for image, labels in zip(batch, together, strict=True):
            alone = nuclei.segmenter(image[None])[0]
            assert labels.max() == alone.max()
            assert_same_objects(labels, alone, iou=0.99)


@pytest.mark.parametrize("view", [1, 4, 7])
def test_with_augmentation_a_turned_image_has_the_same_objects(nuclei, view):
    """Sides are multiples of 32; without augmentation, turned images differ."""
    engine = Engine(nuclei.segmenter, torch.device("cpu"))
    stained = data.immunohistochemistry()[:256, :288].transpose(2, 0, 1)
    image = normalise(torch.from_numpy(unmix(stained, "haematoxylin"))).expand(3, -1, -1)

    def objects(image: torch.Tensor, tta: bool) -> torch.Tensor:
        return engine.labels(image, nuclei.segmenter.thresholds, tta=tta)

    turned = turn(image, view).contiguous()
    labels = objects(image, tta=True)
    assert labels.max() > 10
    assert_same_objects(turn_back(objects(turned, tta=True), view), labels, iou=0.99)
    with pytest.raises(AssertionError):
        assert_same_objects(turn_back(objects(turned, tta=False), view), objects(image, tta=False), iou=0.99)


@pytest.mark.parametrize(
    ("core", "settings"),
    [(256, {}), (192, {"pixel_size_um": 0.35}), (128, {"tta": True}), (256, {"pixel_size_um": 0.8})],
    ids=["as it is", "shrunk", "views", "enlarged"],
)
def test_tiles_stitched_equal_the_whole_image(nuclei, core, settings):
    """Real nuclei by the real model; the paper's section 2.7 promises duplicates matched, not equality."""
    image = data.immunohistochemistry()[:, :400]
    options = {"stain": "haematoxylin", **settings}
    whole = segment(image, nuclei, **options).labels
    tiles = segment(image, nuclei, tile_size_px=core, skip_background=False, **options).labels
    assert whole.max() > 50
    same = (whole > 0) == (tiles > 0)
    assert same.mean() > 0.9999
    assert_same_objects(whole, tiles, iou=0.95)
    both = whole > 0
    pairs = np.unique(np.stack([whole[both], tiles[both]]), axis=1)
    assert pairs.shape[1] <= 1.005 * whole.max()  # all but 0.5 % of the objects agree in every pixel
