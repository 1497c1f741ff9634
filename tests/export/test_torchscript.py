"""The TorchScript file, called as QuPath's extension calls it.

It normalises in Java, passes float32 (1, C, H, W), options as tensors of one element with a batch axis, and takes
float32 (1, T, H, W) back.
"""

import math
import re
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from packed import args, discs, wanted

from cytoseed.core import prepare
from cytoseed.export import torchscript
from cytoseed.export.torchscript import exported, open_torchscript

OPERATORS = """
RaiseException __and__ __contains__ __derive_index __is__ __isnot__ __not__ __or__ __range_length add add_ addmm
all amax amin any append arange as_strided baddbmm bitwise_not cat clamp clamp_ clone contiguous conv2d
conv_transpose2d copy_ cpu cummax cumsum detach device dim div div_ dtype empty eq equal expand flatten flip
floor floor_divide floordiv format full full_like ge get gt index index_copy_ index_select is_contiguous
isfinite item join keys le len list log log1p lt masked_fill matmul max max_pool2d maximum mean min minimum mul
mul_ narrow ne neg nonzero numel ones_like pad pixel_shuffle pixel_unshuffle pop relu relu_ remainder repeat
repeat_interleave requires_grad reshape roll rot90 round scatter scatter_add scatter_reduce select size slice
sort split stack sub t tanh tanh_ tensor to topk transpose type unbind unsqueeze upsample_nearest2d view where
zeros zeros_like
"""


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (20, 20), (31, 33), (63, 200), (20, 2000), (700, 650)])
def test_sizes(grey, grey_model, colour, colour_model, size):
    places = [(7 + 45 * i % size[0], 13 + 171 * i % size[1], 2 + i % 12, 0.6 + i % 5 / 10) for i in range(30)]
    image = discs(*size, *places)
    labels = grey(image)
    assert labels.dtype == torch.float32
    assert labels.shape == (1, 1, *size)
    assert torch.equal(labels, wanted(grey_model, image))
    repeated = image.expand(1, 3, -1, -1).contiguous()
    assert torch.equal(colour(repeated), wanted(colour_model, repeated))
    assert torch.equal(colour(image), colour(repeated))


def test_no_objects(grey, pair):
    nothing = torch.zeros(1, 1, 50, 60)
    assert torch.equal(grey(nothing), nothing)
    assert torch.equal(pair(nothing), nothing.expand(1, 2, -1, -1))
    assert torch.equal(pair(nothing, args(target_segmentation=torch.tensor([[0, 1]]))), nothing)


def test_a_batch(grey):
    images = torch.cat([discs(40, 50, (9, 9, 5, 1.0)), discs(40, 50), discs(40, 50, (9, 9, 5, 1.0), (30, 30, 6, 1.0))])
    labels = grey(images)
    assert [int(image.max()) for image in labels] == [1, 0, 2]
    for image, own in zip(images, labels, strict=True):
        assert torch.equal(grey(image[None])[0], own)
    seeds = torch.tensor([[9, 9]])
    assert [int(image.max()) for image in grey(images, args(precomputed_seeds=seeds))] == [1, 0, 1]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 2, 50, 60), "the image has 2 channels, the model takes 3 or 1"),
        (torch.zeros(1, 4, 50, 60), "the image has 4 channels, the model takes 3 or 1"),
        (torch.zeros(2, 5, 5), "the image has 2 channels, the model takes 3 or 1"),
        (torch.full((3, 5, 5), math.nan), "NaN or infinite"),
        (torch.full((3, 5, 5), math.inf), "NaN or infinite"),
        *[
            (torch.zeros(shape), "channels, height, width, none of them 0")
            for shape in ((50, 60), (0, 1, 50, 60), (1, 1, 0, 60), (1, 1, 50, 0), (3, 0, 5))
        ],
    ],
)
def test_images_that_are_refused(colour, image, message):
    """Those of three axes by `normalise`."""
    with pytest.raises(torch.jit.Error, match=message):
        (colour.normalise if image.dim() == 3 else colour)(image)


def test_unusual_inputs(colour):
    """Values out of range, memory in another order, a gradient wanted, other floats; none is changed."""
    image = 9 * torch.randn(1, 3, 45, 37, generator=torch.Generator().manual_seed(0))
    kept = image.clone()
    plain = colour(image)
    assert torch.equal(image, kept)
    assert torch.equal(colour(image.clamp(-0.5, 1.5)), plain)
    turned = image.contiguous(memory_format=torch.channels_last)
    assert torch.equal(colour(turned), plain)
    assert torch.equal(turned, kept)
    assert not colour(image.clone().requires_grad_()).requires_grad
    for dtype in (torch.float16, torch.float64, torch.bfloat16):
        found = colour(discs(50, 60, (20, 20, 8, 1.0)).to(dtype))
        assert found.dtype == torch.float32
        assert torch.equal(found, colour(discs(50, 60, (20, 20, 8, 1.0))))


@settings(max_examples=40)
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.int32, np.float32, np.float64]),
        st.tuples(st.sampled_from([1, 3]), st.integers(1, 40), st.integers(1, 40)),
        elements=st.integers(0, 100),
    )
)
def test_normalise_is_that_of_the_core(colour, raw):
    image = torch.from_numpy(raw)
    wanted = prepare.fit_channels(prepare.normalise(image), 3)
    assert torch.equal(colour.normalise(image), wanted)


@pytest.mark.parametrize("pixels", [501, 1500, 1501, 2501])  # a rank between two whole numbers among them
def test_normalise_takes_the_same_ranks(grey, pixels):
    image = torch.arange(pixels).view(1, 1, -1)
    assert torch.equal(grey.normalise(image), prepare.normalise(image))


def test_more_objects_than_float32_can_number():
    labels = torch.full((1, 1, 1, 1), 2**24 + 1, dtype=torch.int32).expand(1, 1, 2**12 + 1, 2**12)
    with pytest.raises(ValueError, match=r"16777217 objects.*smaller tiles"):
        torchscript._as_float(labels)
    assert torchscript._as_float((labels - 1)[..., :1, :1]).item() == 2**24


def test_no_paths_of_this_machine(grey_file):
    with zipfile.ZipFile(grey_file) as archive:
        for name in archive.namelist():
            assert b"site-packages" not in archive.read(name)
            assert b"src/cytoseed" not in archive.read(name)


def test_constants_are_in_order(grey_file):
    """The order of a set of strings differs from process to process."""
    with zipfile.ZipFile(grey_file) as archive:
        files = [archive.read(name).decode() for name in archive.namelist() if "modules/conv" in name]
    classes = [text for file in files for text in file.split("class ")[1:]]  # a file can hold two
    assert len(classes) > 5
    for text in classes:
        lines = [line for line in text.splitlines() if " : Final[" in line]
        assert len(lines) > 5
        assert lines == sorted(lines)


def test_only_operators_that_older_libtorch_has(grey_file):
    """QuPath's libtorch is several years old, and opens no file with an operator that it does not know.

    PyTorch 2.0 has all of these. Before you add one, look up since when PyTorch has it.
    """
    with zipfile.ZipFile(grey_file) as archive:
        assert archive.read("archive/version").strip() == b"5"
        code = "".join(archive.read(name).decode() for name in archive.namelist() if name.endswith(".py"))
    assert set(re.findall(r"(?:torch|ops\.\w+)\.(\w+)\(", code)) <= set(OPERATORS.split())


@pytest.mark.parametrize("is_scripted", [True, False])
def test_classifiers_can_be_on_another_device_than_the_network(pair_model, pair_folder, is_scripted):
    """Apple's GPUs need it; the device `meta` stands for one."""
    module = exported(pair_model)
    if is_scripted:
        module = open_torchscript(pair_folder / "instanseg.pt")
    module._move_classifiers(torch.device("meta"))
    places = {name: tensor.device.type for name, tensor in module.state_dict().items()}
    assert set(places.values()) == {"cpu", "meta"}
    assert all((place == "meta") == ("classifiers" in name) for name, place in places.items())


def test_export_does_not_change_the_model(grey_model):
    state = {name: tensor.clone() for name, tensor in grey_model.segmenter.state_dict().items()}
    exported(grey_model)
    after = grey_model.segmenter.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], state[name]) for name in state)
    assert all(parameter.requires_grad for parameter in grey_model.segmenter.parameters())
