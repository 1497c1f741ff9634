"""Every option that QuPath can pass acts like the Segmenter's own, and is refused where it makes no sense."""

import math

import pytest
import torch
from packed import args, count, discs, wanted

EVERY = {
    "target_segmentation": torch.tensor([[1, 1]], dtype=torch.int32),
    "min_size": 4,
    "mask_threshold": 0.5,
    "peak_distance": 4,
    "seed_threshold": 0.3,
    "overlap_threshold": 0.5,
    "mean_threshold": 0.0,
    "fg_threshold": 0.0,
    "window_size": 16,
    "cleanup_fragments": True,
    "resolve_cell_and_nucleus": True,
    "precomputed_seeds": torch.zeros(1, 0),
}
"""Every option, in the order of the signature, with its default in `pair`."""


def test_signature(grey, pair):
    schema = grey.forward.schema
    names = [argument.name for argument in schema.arguments[1:]]
    assert names == ["x", "args", *EVERY]
    assert all(argument.has_default_value() for argument in schema.arguments[2:])
    assert (grey.pixel_size, grey.cells_and_nuclei, pair.cells_and_nuclei) == (0.5, False, True)


def three() -> torch.Tensor:
    """Discs: large and bright, small, and dim."""
    return discs(70, 90, (15, 15, 9, 1.0), (15, 70, 3, 0.9), (50, 40, 9, 0.7))


def bar() -> torch.Tensor:
    """A bar of 60 px with a seed near each end; windows reach 16 px to each side, so that maps share 5 columns."""
    image = torch.zeros(1, 1, 40, 90)
    image[:, :, 16:24, 10:70] = 0.9
    image[:, :, 20, 26] = image[:, :, 20, 54] = 1.0
    return image


def ring() -> torch.Tensor:
    image = discs(60, 60, (30, 30, 12, 1.0))
    image[:, :, 28:32, 28:32] = 0.0
    return image


@pytest.mark.parametrize(
    ("image", "options", "same_as", "objects"),
    [
        (three, {}, {}, 3),
        (three, {"min_size": 100}, {"min_size_px": 100}, 2),
        (three, {"min_size": 0}, {"min_size_px": 0}, 3),
        (three, {"mask_threshold": 0.58}, {"mask_threshold": math.log(0.58 / 0.42)}, 2),
        (three, {"peak_distance": 60}, {"peak_radius_px": 60}, 1),
        (three, {"peak_distance": 2**31 - 1}, {"peak_radius_px": 90}, 1),
        (three, {"seed_threshold": 0.8}, {"seed_threshold": 0.8}, 2),
        (three, {"fg_threshold": 0.95}, {"seed_threshold": 0.95}, 1),
        (three, {"fg_threshold": 0.1, "seed_threshold": 0.95}, {"seed_threshold": 0.95}, 1),
        (three, {"mean_threshold": 0.8}, {"mean_threshold": 0.8}, 2),
        (three, {"mean_threshold": 0.0}, {}, 3),
        (bar, {}, {}, 2),
        (bar, {"overlap_threshold": 0.05}, {"agreement_iou": 0.05}, 1),
        (bar, {"overlap_threshold": 1.0}, {"agreement_iou": 1.0}, 3),  # the corner has a seed too
        (bar, {"window_size": 50}, {"window_px": 100}, 1),  # half the side: both maps are the whole bar, and agree
        (bar, {"window_size": 4}, {"window_px": 8}, 2),
        (ring, {"cleanup_fragments": False}, {"clean": False}, 1),
        (ring, {"cleanup_fragments": True}, {}, 1),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_an_option_acts_like_the_segmenters(grey, grey_model, image, options, same_as, objects):
    image = image()
    found = grey(image, args(**options))
    assert count(found) == objects
    assert torch.equal(found, wanted(grey_model, image, **same_as))
    assert torch.equal(found, grey(image, **options))


def test_without_cleaning_a_hole_stays(grey):
    assert (grey(ring()) > 0).sum() - (grey(ring(), cleanup_fragments=False) > 0).sum() == 16


def test_nuclei_and_cells(pair, pair_model):
    """Two nuclei in cells, and above them a cell without one."""
    image = discs(60, 120, (30, 20, 14, 0.4), (30, 20, 7, 1.0), (14, 60, 9, 0.45), (30, 95, 14, 0.4), (30, 95, 7, 1.0))
    both = pair(image)
    assert both.shape == (1, 2, 60, 120)
    assert torch.equal(both, wanted(pair_model, image))
    assert count(both) == 3
    assert both[0, 0].unique().tolist() == [0, 2, 3]  # 1 is the cell without a nucleus
    nuclei = both[0, 0] > 0
    assert torch.equal(both[0, 0][nuclei], both[0, 1][nuclei])

    apart = pair(image, args(resolve_cell_and_nucleus=False))
    assert [count(plane) for plane in apart[0]] == [2, 3]
    assert torch.equal(apart, wanted(pair_model, image, paired=False))

    for picked, planes in (([1, 0], [0]), ([0, 1], [1]), ([1, 1], [0, 1])):
        for shape in ((2,), (1, 2)):
            given = torch.tensor(picked, dtype=torch.int32).view(shape)
            found = pair(image, args(target_segmentation=given))
            assert torch.equal(found, both if len(planes) == 2 else apart[:, planes])  # a plane alone has its own ids
            assert torch.equal(found, pair(image, target_segmentation=given))


def test_a_model_of_one_target_ignores_the_choice_of_targets(grey):
    for picked in ([0, 1], [0, 0], [1]):
        assert torch.equal(grey(three(), args(target_segmentation=torch.tensor([picked]))), grey(three()))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32, torch.float64, torch.int16])
@pytest.mark.parametrize("shape", [(2, 2), (1, 2, 2), (1, 4), (4,)])
def test_seeds_given(grey, grey_model, dtype, shape):
    seeds = torch.tensor([[15, 70], [50, 41]], dtype=dtype).view(shape)
    found = grey(three(), args(precomputed_seeds=seeds))
    assert count(found) == 2
    assert torch.equal(found, wanted(grey_model, three(), seeds=torch.tensor([[0, 15, 70], [0, 50, 41]])))
    assert torch.equal(found, grey(three(), precomputed_seeds=seeds))


def test_one_seed_and_none(grey):
    for shape in ((1, 2), (1, 1, 2), (2,)):
        assert count(grey(three(), args(precomputed_seeds=torch.tensor([50.9, 40.2]).view(shape)))) == 1
    assert torch.equal(grey(three(), args(precomputed_seeds=torch.zeros(1, 0, 2))), grey(three()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int32, torch.int64, torch.uint8])
def test_options_are_tensors_of_any_type_and_precede_keywords(grey, dtype):
    for shape in ((1,), (1, 1), ()):
        given = {"min_size": torch.tensor([100], dtype=dtype).view(shape)}
        assert count(grey(three(), given)) == 2
        assert count(grey(three(), given, min_size=0)) == 2


def test_all_options_at_once(pair):
    image = discs(60, 120, (30, 20, 14, 0.4), (30, 20, 7, 1.0))
    assert torch.equal(pair(image, args(**EVERY)), pair(image))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_size": -1}, r"min_size is -1.*whole number from 0"),
        ({"min_size": 2.5}, r"min_size is 2.5.*whole number"),
        ({"min_size": math.nan}, r"min_size is nan"),
        ({"min_size": torch.tensor([1, 2])}, r"min_size has 2 values; give one"),
        ({"peak_distance": 0}, r"peak_distance is 0.*from 1 .*leave it out for 4"),
        ({"mask_threshold": 0.0}, r"mask_threshold is 0.*above 0 and below 1"),
        ({"seed_threshold": 1.5}, r"seed_threshold is 1.5.*from 0 to 1, or leave it out for 0\.(3|29)"),
        ({"fg_threshold": 2}, r"fg_threshold is 2"),
        ({"mean_threshold": -1}, r"mean_threshold is -1"),
        ({"overlap_threshold": 0}, r"overlap_threshold is 0.*above 0 and at most 1"),
        ({"window_size": 3}, r"window_size is 3.*from 4 to 1024"),
        ({"cleanup_fragments": 2}, r"cleanup_fragments is 2.*true or false"),
        ({"resolve_cell_and_nucleus": 0.5}, r"resolve_cell_and_nucleus is 0.5"),
        ({"target_segmentation": torch.tensor([[0, 0]])}, r"neither nuclei nor cells are wanted; give 1"),
        ({"target_segmentation": torch.tensor([1])}, r"target_segmentation has 1 values; give two"),
        ({"precomputed_seeds": torch.tensor([[3, 4], [5, 60]])}, r"row 5.*column 60.*50 rows and 60 columns"),
        ({"precomputed_seeds": torch.tensor([[math.nan, 4]])}, r"row nan"),
        ({"precomputed_seeds": torch.ones(1, 3)}, r"precomputed_seeds has shape \[1, 3\].*one row and one column"),
        ({"min_sizes": 3}, r"there is no option min_sizes.*target_segmentation, min_size, "),
    ],
    ids=str,
)
def test_values_outside_their_range_are_refused(pair, options, message):
    with pytest.raises(torch.jit.Error, match=message):
        pair(torch.zeros(1, 1, 50, 60), args(**options))


@pytest.mark.parametrize(
    ("name", "value"), [("min_size", -1), ("mask_threshold", 1.0), ("seed_threshold", math.nan), ("window_size", 0)]
)
def test_keywords_are_refused_too(grey, name, value):
    with pytest.raises(torch.jit.Error, match=f"{name} is "):
        grey(torch.zeros(1, 1, 50, 60), **{name: value})
