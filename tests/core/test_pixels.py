import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cytoseed.core.pixels import PixelClassifier, window_pixels
from ideal import ideal_fields, ideal_segmenter


def plain_logits(classifier: PixelClassifier, fields: torch.Tensor, seeds: torch.Tensor, reach: int) -> torch.Tensor:
    """The definition: an MLP on [Q_ij - Q^k, E_ij], pixel by pixel, with absolute coordinates."""
    dp, de = classifier.positional_dims, classifier.conditional_dims
    height, width = fields.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.zeros(dp, height, width, dtype=fields.dtype)
    grid[0], grid[1] = columns * classifier.grid_step, rows * classifier.grid_step
    side = 2 * reach + 1
    out = torch.full((len(seeds), side, side), -float("inf"), dtype=fields.dtype)
    for k, (n, row, column) in enumerate(seeds.tolist()):
        q = fields[n, :dp] + grid
        offset = q - q[:, row, column][:, None, None]
        hidden = torch.cat([offset, fields[n, dp : dp + de]]).flatten(1).t()
        hidden = torch.nn.functional.linear(hidden, classifier.first.weight, classifier.first.bias)
        for layer in classifier.layers:
            hidden = torch.nn.functional.linear(hidden.relu(), layer.weight, layer.bias)
        whole = torch.full((height + 2 * side, width + 2 * side), -float("inf"), dtype=fields.dtype)
        whole[side : side + height, side : side + width] = hidden.view(height, width)
        out[k] = whole[row + side - reach : row + side + reach + 1, column + side - reach : column + side + reach + 1]
    return out


@given(
    st.integers(1, 2),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(2, 5),
    st.integers(0, 4),
    st.sampled_from([[5], [5, 5], [3, 4, 2]]),
    st.integers(1, 9),
    st.integers(0, 5),
)
def test_the_first_layer_shortcut_equals_the_plain_mlp(n, height, width, dp, de, widths, reach, count):  # noqa: PLR0917
    torch.manual_seed(height * width)
    classifier = PixelClassifier(dp, de, widths, 0.25).double()
    fields = torch.randn(n, dp + de + 1, height, width, dtype=torch.float64)
    seeds = torch.stack([torch.randint(limit, (count,)) for limit in (n, height, width)], 1)
    with torch.no_grad():
        logits = classifier(fields, classifier.encode(fields), seeds, reach)
        torch.testing.assert_close(logits, plain_logits(classifier, fields, seeds, reach))
    with_gradients = classifier(fields, classifier.encode(fields), seeds, reach)  # windows read pixel by pixel
    assert with_gradients.requires_grad
    torch.testing.assert_close(with_gradients.detach(), logits)


def test_windows_at_a_corner_are_defined():
    flat, inside = window_pixels([2, 4, 5], torch.tensor([[1, 0, 4]]), 1)
    assert inside[0].tolist() == [[False, False, False], [True, True, False], [True, True, False]]
    assert flat[0][1:, :2].tolist() == [[23, 24], [28, 29]]
    assert flat.min() >= 20
    assert flat.max() < 40


@pytest.mark.parametrize("chunk_px", [0, 1, 5000, 1 << 22])
def test_chunks_change_nothing(chunk_px):
    labels = torch.zeros(150, 150, dtype=torch.int64)
    for value, (row, column, size) in enumerate([(5, 5, 9), (20, 30, 40), (70, 10, 75), (2, 60, 30)], start=1):
        labels[row : row + size, column : column + size] = value
    model = ideal_segmenter(window_px=16)
    fields = ideal_fields(labels, model)
    expected = model.labels(fields, model.thresholds)
    model.chunk_px = chunk_px
    assert torch.equal(model.labels(fields, model.thresholds), expected)
    assert torch.equal(expected[0, 0] > 0, labels > 0)


@pytest.mark.parametrize("diameter", [1, 3, 16, 17, 31, 33, 64, 100, 200, 256])
def test_objects_up_to_256_px_come_out_whole(diameter):
    side = diameter + 20
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    middle = side / 2 - 0.5
    labels = (((rows - middle) ** 2 + (columns - middle) ** 2) <= (diameter / 2) ** 2).long()
    if diameter == 1:
        labels[side // 2, side // 2] = 1
    model = ideal_segmenter()
    found = model.labels(ideal_fields(labels, model), model.thresholds)[0, 0]
    assert torch.equal(found.long(), labels)


def test_memory_stays_bounded_where_every_map_fills_every_window():
    model = ideal_segmenter()
    with torch.no_grad():
        model.classifiers[0].layers[0].weight.zero_()  # all pixels belong to all seeds
    fields = torch.zeros(1, 3, 256, 256)
    fields[0, 2] = torch.rand(256, 256, generator=torch.Generator().manual_seed(0))
    maps = model.classifiers[0].maps(
        fields[None],
        fields[:, 2],
        torch.cartesian_prod(torch.tensor([0]), torch.arange(0, 256, 5), torch.arange(0, 256, 5)),
        0.0,
        model.windows,
        1 << 20,
    )
    assert maps.pixel.shape[0] <= 65 * 256**2
    assert len(maps.pixel.unique()) == 256**2
    assert model.labels(fields[None], model.thresholds).max() == 1
