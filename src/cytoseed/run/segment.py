"""The door: from one image, a path or an array, to its objects."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cytoseed.core.pieces import keep_largest_fill_holes, relabel_sequential
from cytoseed.core.scale import rescale_labels
from cytoseed.images import Image, ImageFileError, ImageLike, as_image
from cytoseed.models.weights import Model, load_model
from cytoseed.results import Result
from cytoseed.results.contents import Parts
from cytoseed.results.store import Store
from cytoseed.run.area import read_area
from cytoseed.run.crew import Here
from cytoseed.run.engine import Engine, choose_device, engine_for
from cytoseed.run.part import Clock, Subject
from cytoseed.run.plan import Plan, check_values, choose_stain, make_plan, scale_notice, see
from cytoseed.run.runtimes import choose_runtime, precision_notice
from cytoseed.run.survey import survey, tile_grid, tile_settings
from cytoseed.run.tiled import join_tiles, make_missing
from cytoseed.run.tissue import LARGEST_COUNTED_PX, range_of_pixels
from cytoseed.settings import ModelConfig, SegmentOptions, with_settings

_LARGEST_WHOLE_PX = 1 << 23  # that the network sees at once: 3 GB
_LARGEST_HELD_BYTES = 1 << 30  # of the image as stored
_LARGEST_RESULT_PX = 1 << 31  # of labels and image in memory
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")  # how PyTorch puts it


def segment(
    image: ImageLike,
    model: Model | str | os.PathLike[str] = "nuclei",
    options: SegmentOptions | None = None,
    notice: Callable[[str], None] | None = None,
    **settings: Any,
) -> Result:
    """Find every object in an image.

    Parameters
    ----------
    image : path, Image or array
        A file (PNG, JPEG, TIFF), what `open_image` gave for one, or an array (H,W), (H,W,3), (H,W,4) or
        (C,H,W) of booleans, integers or real numbers. It is never changed.
    model : Model, str or path
        What `load_model` gave, or the name or folder to give it. For many images load it once.
    options : SegmentOptions, optional
        How to segment.
    notice : callable, optional
        Called with a sentence when the result may not be what was meant, as when the image's pixel size is
        unknown; `Result.settings` holds the same facts.
    **settings
        Fields of `SegmentOptions`, such as `pixel_size_um=0.25`; they go before those of `options`.

    Returns
    -------
    Result
        Labels of the input's height and width, int32: (H,W), or (T,H,W) where the model has two targets; 0 is
        background, ids are 1..K without gaps.

    Raises
    ------
    FileNotFoundError
        There is no such file, or no such model.
    TypeError
        A setting that `SegmentOptions` has not, or an array of values that are no numbers.
    ValueError
        A file that cannot be read; NaN or infinite values; a number of channels that the model does not take;
        a pixel size or diameter that makes the image absurdly large or small; a device that is not there, or on
        which a runtime or precision is not.
    ModuleNotFoundError
        A runtime that is not installed.
    MemoryError
        The image, at the model's pixel size, takes more memory than there is.
    """
    wishes = with_settings(options, settings)
    ready = model if isinstance(model, Model) else load_model(model)
    source = as_image(image)
    plan = make_plan(source, ready.config, wishes)
    device = choose_device(wishes.device)
    choose_runtime(wishes.runtime, device, wishes.precision)
    for sentence in (scale_notice(plan), precision_notice(wishes.precision, device)):
        if notice is not None and sentence is not None:
            notice(sentence)
    _require_room(source)
    pixels = source.read()
    engine = engine_for(ready, device, wishes.runtime, wishes.precision)
    own: Mapping[str, Any] = {}
    with _memory_errors(plan):
        if is_large(source, plan, wishes):
            labels, own = _in_tiles(source, plan, ready.config, wishes, engine)
        else:
            seen = _whole(source, pixels, plan, ready.config.channels)
            labels = full_size_labels(engine.labels(seen, plan.thresholds, wishes.tta), *plan.full_yx)  # (T, H, W)
    return Result.from_labels(
        labels=labels[0] if len(labels) == 1 else labels,
        image=pixels,
        targets=ready.config.targets,
        channel_names=source.channel_names,
        pixel_size_um=plan.pixel_size_um,
        source="array" if source.path is None else str(source.path),
        settings={**plan.record, **own},
    )


def describe(image: ImageLike, config: ModelConfig, options: SegmentOptions | None = None) -> Mapping[str, Any]:
    """Tell everything that decides the objects of a run, without running it.

    Parameters
    ----------
    image : path, Image or array
        As for `segment`; of a file only the metadata is read.
    config : ModelConfig
        The model's.
    options : SegmentOptions, optional
        As for `segment`.

    Returns
    -------
    Mapping
        Plain values that JSON keeps: what `segment` would give as `Result.settings`. Device and runtime are
        not among them: they do not change the objects.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        As `segment` does, for all that shows before the pixels are read.
    """
    return make_plan(as_image(image), config, options or SegmentOptions()).record


def network_image(image: ImageLike, config: ModelConfig, options: SegmentOptions | None = None) -> torch.Tensor:
    """Make of an image what `segment` gives to the network: its channels, normalised, at the model's pixel size.

    Parameters
    ----------
    image : path, Image or array
        As for `segment`.
    config : ModelConfig
        The model's.
    options : SegmentOptions, optional
        As for `segment`.

    Returns
    -------
    Tensor, shape (C, h, w), float32, on the CPU
        In [-0.5, 1.5]; height and width are those that the network sees.

    Raises
    ------
    FileNotFoundError, MemoryError, TypeError, ValueError
        As `segment`.
    """
    source = as_image(image)
    plan = make_plan(source, config, options or SegmentOptions())
    pixels = source.read()
    with _memory_errors(plan):
        return _whole(source, pixels, plan, config.channels)


def full_size_labels(labels: torch.Tensor, height: int, width: int) -> NDArray[np.int32]:
    """Bring the labels of a `network_image` to the size of the input, as `segment` gives them.

    Parameters
    ----------
    labels : Tensor, shape (T, h, w), int32, on the CPU
        0 is background, ids are 1..K over all targets: what belongs together has one id.
    height, width : int
        Of the input, 1 or more.

    Returns
    -------
    ndarray of int32, shape (T, height, width)
        0 is background, ids are 1..K without gaps over all targets.
    """
    shrinks = height < labels.shape[1] or width < labels.shape[2]
    labels = rescale_labels(labels, height, width)
    if shrinks:  # objects may fall apart or vanish
        count = int(labels.max())
        labels = relabel_sequential(
            torch.cat([keep_largest_fill_holes(target[None].long(), count, 0) for target in labels]), count
        )
    result: NDArray[np.int32] = labels.numpy()
    return result


def _whole(image: Image, pixels: NDArray[Any], plan: Plan, channels: int) -> torch.Tensor:
    """Give what the network sees of a whole image whose pixels at full resolution are at hand."""
    check_values(pixels)
    read = pixels[list(plan.channels)] if plan.level == 0 else image.read(None, plan.level, plan.channels)
    chosen = choose_stain(read, plan)
    return see(chosen, (0, 0), range_of_pixels(chosen), plan, channels, (0, 0, *plan.size_yx))


def is_large(image: Image, plan: Plan, options: SegmentOptions) -> bool:
    """Tell whether an image is segmented in tiles: it is large, a pyramid, or that was asked for.

    Parameters
    ----------
    image : Image
    plan : Plan
        The image's.
    options : SegmentOptions
    """
    asked = options.tile_size_px is not None or options.mask is not None or bool(options.region)
    seen, read = (height * width for height, width in (plan.size_yx, plan.level_yx))
    held = image.dtype.itemsize * image.shape[0] * image.shape[1] * image.shape[2]
    is_big = seen > _LARGEST_WHOLE_PX or read > LARGEST_COUNTED_PX or held > _LARGEST_HELD_BYTES
    return asked or is_big or plan.level > 0


def _in_tiles(
    image: Image, plan: Plan, config: ModelConfig, options: SegmentOptions, engine: Engine
) -> tuple[NDArray[np.int32], Mapping[str, Any]]:
    """Segment an image tile by tile; give its labels (T,H,W), and the settings that only tiles have."""
    area = read_area(plan.full_yx, options.region or None, options.mask)
    grid = tile_grid(plan, config, options, image)
    with tempfile.TemporaryDirectory(prefix="cytoseed-") as folder, image.regions() as regions:
        store = Store(Path(folder))
        seen = survey(image, regions, plan, grid, area, options.skip_background)
        store.announce({})
        store.begin({}, seen.todo)
        subject = Subject(image, plan, grid, seen.limits, area, config.channels, options.tta, seen.stains)
        failures = make_missing(subject, regions, Here(engine), store, Clock())
        if failures:
            raise ImageFileError(f"{image.path or 'the image'}: a part of it cannot be segmented: {failures[0].cause}")
        kept = join_tiles(subject, regions, store, Clock())
        parts = Parts(kept.tile_box_yxhw, store.stitched(kept), config.targets, 0)
        labels = parts.labels_in((0, 0, *plan.full_yx))
    return labels, tile_settings(grid, options, area)


def _require_room(image: Image) -> None:
    """Refuse what no memory holds, before it is read."""
    channels, height, width = image.shape
    if channels * height * width > _LARGEST_RESULT_PX:
        raise ValueError(
            f"an image of {height} x {width} px in {channels} channels is too large to be given back in memory; "
            f"cytoseed.segment_slide (cytoseed segment on the command line) writes its objects to files"
        )


@contextmanager
def _memory_errors(plan: Plan) -> Iterator[None]:
    """Tell a lack of memory, of which PyTorch makes a `RuntimeError`, from a fault."""
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error).lower() for sign in _OUT_OF_MEMORY):
            raise
        height, width = plan.size_yx
        raise MemoryError(
            f"not enough memory to segment {height} x {width} px at once: close other programs, give a smaller "
            f"--tile-size (tile_size_px in Python), or leave out --tta where it is given"
        ) from error
