"""Public functions: from an image to its objects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast, overload

import torch

from cytoseed.images import Image, ImageLike, as_image
from cytoseed.images.arrays import is_batch
from cytoseed.models.weights import AUTO, Model, load_model
from cytoseed.paths import as_path
from cytoseed.results import DEFAULT_FORMATS, WRITERS, Result, open_result
from cytoseed.run.auto import choose_model
from cytoseed.run.executor import memory_errors
from cytoseed.run.plan import make_plan
from cytoseed.run.progress_bar import progress_bar
from cytoseed.run.resume import Existing, Request
from cytoseed.run.slide import Callbacks, run_in_memory, run_to_files
from cytoseed.run.tile import Clock, SlideContext, read_tile
from cytoseed.run.tiles import single_tile
from cytoseed.settings import ModelConfig, SegmentOptions, with_settings

if TYPE_CHECKING:
    from cytoseed.run.cluster import Cluster


@overload
def segment(image: list[Any] | tuple[Any, ...], *args: Any, **kwargs: Any) -> list[Result]: ...


@overload
def segment(
    image: ImageLike,
    model: Model | str | os.PathLike[str] = ...,
    options: SegmentOptions | None = ...,
    *,
    output: str | os.PathLike[str] | None = ...,
    formats: Sequence[str] = ...,
    existing: Existing = ...,
    callbacks: Callbacks | None = ...,
    progress: bool = ...,
    cluster: Cluster | None = ...,
    series: str | int | None = ...,
    full_canvas: bool = ...,
    z: str | int | None = ...,
    time: str | int | None = ...,
    **settings: Any,
) -> Result: ...


def segment(  # noqa: PLR0913
    image: ImageLike | Sequence[ImageLike],
    model: Model | str | os.PathLike[str] = AUTO,
    options: SegmentOptions | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    formats: Sequence[str] = DEFAULT_FORMATS,
    existing: Existing = "refuse",
    callbacks: Callbacks | None = None,
    progress: bool = False,
    cluster: Cluster | None = None,
    series: str | int | None = None,
    full_canvas: bool = False,
    z: str | int | None = None,
    time: str | int | None = None,
    **settings: Any,
) -> Result | list[Result]:
    """Find every object in an image of any size, or in each of a list of images.

    An image that is too large for one pass is processed in tiles with a margin, in bounded memory; every object is
    whole and appears once, as from the whole image (section 2.7 of the paper; docs/slides.md).

    Parameters
    ----------
    image : path, URL, Image or array
        A file, an image that `open_image` opened, or an array (H,W), (H,W,3), (H,W,4) or (C,H,W) of booleans,
        integers or real numbers; also a Dask, Zarr or xarray array. It is never changed. A list or tuple of them is a
        batch and gives a list of results, in its order; all have the other arguments in common.
    model : Model, str or path
        A loaded model, or the name or folder of one. Load it once for many images. `auto` takes `nuclei-he` for
        brightfield pictures in red, green and blue, such as H&E; `nuclei` on the haematoxylin channel for those with
        much brown DAB; and `nuclei` for everything else. The result's settings name both.
    options : SegmentOptions, optional
        Settings of the segmentation.
    output : str or path, optional
        Folder or URL for the results. With it every finished tile of a large image survives any interruption,
        in the folder `STEM.cytoseed`, and the results are written as `Result.save` writes them.
    formats : sequence of str
        Formats to write into `output`; names from `cytoseed.results.WRITERS`.
    existing : {'refuse', 'resume', 'overwrite'}
        Treatment of results of the same name in `output`. Complete ones, made from the same image with the same
        settings, are kept, and only missing formats are written. An interrupted run continues with `resume`.
        Results made differently are refused, unless `overwrite`.
    callbacks : Callbacks, optional
        Functions that receive warnings, such as an unknown pixel size, and progress.
    progress : bool
        Show a progress bar, in a terminal or a notebook.
    cluster : cytoseed.run.cluster.Cluster, optional
        Workers that process the image; by default this process does.
    series : str or int, optional
        Name, or number from 0, of an image in a file of several: see `cytoseed.images.list_series`. Needed unless all
        others are smaller pictures of one, such as a macro or label. Files of the results end in its name.
    full_canvas : bool
        Do not crop a slide to the bounds of its scans, as QuPath does.
    z, time : int or str, optional
        Plane of a z-stack by its number from 0, or its projection `max` or `mean`; time point of a time series. For all
        of them: `segment(cytoseed.images.open_frames(path, z="all", time="all"))`.
    **settings
        Fields of `SegmentOptions`, such as `pixel_size_um=0.25`; they override those of `options`.

    Returns
    -------
    Result
        Labels of the input's height and width, int32: (H,W), or (T,H,W) where the model has two targets; 0 is
        background, ids are 1..K without gaps. Labels and table are made on first use.

    Raises
    ------
    FileNotFoundError, TypeError
        The file or model does not exist; a setting that does not exist, or an array that does not hold numbers.
    ValueError, MemoryError
        A file that cannot be read; NaN or infinite values; channels, pixel size, device, region or mask that do not
        suit the image, the model or the machine; an image that takes more memory than is free.
    FileExistsError, BlockingIOError, OSError
        `output` holds a result or run that was made differently, or an interrupted one without `resume`; another run
        is writing it; it cannot be written to, or its disk is full: finished tiles are kept, and `resume` continues.
    """
    if isinstance(image, (list, tuple)) and is_batch(image):
        if output is not None and not all(isinstance(each, (str, os.PathLike, Image)) for each in image):
            raise ValueError(
                "output is given for a list with arrays, whose results would all be called array; save each"
            )
        once = model if isinstance(model, Model) or model == AUTO else load_model(model)
        choice: dict[str, Any] = {"series": series, "full_canvas": full_canvas, "z": z, "time": time}
        common: dict[str, Any] = {"output": output, "formats": formats, "existing": existing, "callbacks": callbacks}
        common |= {"progress": progress, "cluster": cluster, **choice, **settings}
        return [cast(Result, segment(each, once, options, **common)) for each in image]
    chosen = choose_model(
        model, as_image(cast(ImageLike, image), series, full_canvas, z=z, time=time), with_settings(options, settings)
    )
    place = as_path("." if output is None else output)
    request = Request(chosen.image, place, chosen.model, chosen.options, tuple(formats), existing)
    executor = None if cluster is None else cluster.executor(request)
    calls = callbacks or Callbacks()
    with progress_bar(chosen.image.source, calls) if progress else nullcontext(calls) as calls:
        if output is None:
            return run_in_memory(request, calls, executor)
        result = run_to_files(request, calls, executor).result
    if result is not None:
        return result
    stored = place / f"{request.stem}{WRITERS['objects'].suffix}"  # every file exists already
    return open_result(stored, request.image) if stored.exists() else run_in_memory(request)


def segment_slide(image: ImageLike, output: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Result:
    """Short for `segment(image, ..., output=output)`."""
    return segment(image, *args, output=output, **kwargs)


def network_image(image: ImageLike, config: ModelConfig, options: SegmentOptions | None = None) -> torch.Tensor:
    """Network input (C, h, w) float32, in [-0.5, 1.5], that `segment` makes of an image as one tile."""
    opened = as_image(image).in_memory()
    plan = make_plan(opened, config, options or SegmentOptions())
    plan = plan._replace(grid=single_tile(*plan.size_yx))
    with opened.regions() as regions, memory_errors(plan):
        context = SlideContext(opened, regions, Clock(), plan, None, config.fixed_channels, tta=False)
        return read_tile(context, plan.grid.tile(0)).tensor
