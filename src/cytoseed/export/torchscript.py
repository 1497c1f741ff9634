"""The one scripted module for QuPath, C++ and bioimage.io: the Segmenter behind the door that QuPath knocks at.

Nothing of the method is written again. What is here turns the caller's arguments into the Segmenter's, and refuses
those that make no sense.
"""

import copy
import io
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from cytoseed.core.model import PostprocessOptions, Segmenter, Thresholds
from cytoseed.core.prepare import fit_channels, normalise, scale_intensity
from cytoseed.export.archive import write_archive
from cytoseed.export.options import agreement, check_names, logit, placed_seeds, share, switch, whole_number
from cytoseed.models.weights import Model
from cytoseed.paths import atomic_file

_BOTH_TARGETS = torch.tensor([1, 1])
_FIND_SEEDS = torch.tensor([])


class ExportedSegmenter(nn.Module):
    """A segmenter as QuPath, and any program with libtorch, calls it.

    Parameters
    ----------
    segmenter : Segmenter
        Taken as it is, not copied.
    channels : int
        Image channels that it takes.
    pixel_size_um : float
        Pixel size, in µm, that images are to have.

    Attributes
    ----------
    pixel_size : float
        `pixel_size_um`.
    cells_and_nuclei : bool
        Whether there are two targets, nuclei first.
    """

    def __init__(self, segmenter: Segmenter, channels: int, pixel_size_um: float) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.channels = channels
        self.pixel_size = pixel_size_um
        self.cells_and_nuclei = segmenter.has_pairs

    def forward(  # noqa: PLR0913, PLR0917 - the names, their order and their defaults are QuPath's
        self,
        x: Tensor,
        args: dict[str, Tensor] | None = None,
        target_segmentation: Tensor = _BOTH_TARGETS,
        min_size: int | None = None,
        mask_threshold: float | None = None,
        peak_distance: int | None = None,
        seed_threshold: float | None = None,
        overlap_threshold: float | None = None,
        mean_threshold: float | None = None,
        fg_threshold: float | None = None,
        window_size: int | None = None,
        cleanup_fragments: bool | None = None,
        resolve_cell_and_nucleus: bool | None = None,
        precomputed_seeds: Tensor = _FIND_SEEDS,
    ) -> Tensor:
        """Segment a batch of images.

        Each option may also stand in `args`, as a tensor of one element of any type, and counts before the one given by
        its name. `None` is the model's own.

        Parameters
        ----------
        x : Tensor, shape (N, C, H, W), float
            Normalised (`normalise`) and at the model's pixel size; clipped to [-0.5, 1.5]; H and W at least 1; one
            channel fills the model's. It is not changed.
        args : dict of str to Tensor, optional
            Options by name.
        target_segmentation : Tensor, shape (2,) or (1, 2)
            Which of nuclei and cells are wanted, not 0 for yes; of a model with one target it is ignored.
        min_size : int
            Objects of fewer pixels are left out; 0 or more.
        mask_threshold : float
            Lowest probability, between 0 and 1, at which a pixel belongs to an object.
        peak_distance : int
            A seed is the maximum of the seed map within so many pixels; 1 or more.
        seed_threshold, fg_threshold : float
            Lowest value of the seed map, 0 to 1, at which a pixel may be a seed; the higher of the two counts.
        overlap_threshold : float
            Two seeds whose maps agree with at least this IoU, above 0 and at most 1, are one object.
        mean_threshold : float
            Objects on which the seed map has a lower mean, 0 to 1, are left out; 0 leaves out none.
        window_size : int
            Half the side of the windows that maps are first made in, 4 to 1024 px.
        cleanup_fragments : bool
            Keep of each object the largest piece, and fill its holes.
        resolve_cell_and_nucleus : bool
            Give a nucleus the id of its cell, in which it lies; else each target is numbered by itself.
        precomputed_seeds : Tensor, shape (S, 2) or (1, S, 2), or their 2 * S numbers in one row
            Row and column of the seeds to take in place of those found, in each image and for each target; fractions
            are cut off. Empty: seeds are found.

        Returns
        -------
        Tensor, shape (N, T, H, W), float32, on the device of x
            T is the number of targets wanted, nuclei before cells. 0 is background, ids are 1 to K without gaps.

        Raises
        ------
        ValueError
            An image of another shape or number of channels; an option that there is not, or of a value that it cannot
            have. As TorchScript, `torch.jit.Error` with the same words.
        """
        given: dict[str, Tensor] = {}
        if args is not None:
            given = args
        check_names(given)
        own = self.segmenter.thresholds
        lowest = share(given, "seed_threshold", seed_threshold, own.seed_threshold)
        floor = share(given, "fg_threshold", fg_threshold, 0.0)
        image = self._batch(x)
        height, width = image.shape[2], image.shape[3]
        radius = whole_number(given, "peak_distance", peak_distance, own.peak_radius_px, 1, 2147483647)
        reach = self.segmenter.windows[0] // 2
        thresholds = Thresholds(
            min(radius, max(height, width)),
            max(lowest, floor),
            logit(given, "mask_threshold", mask_threshold, own.mask_threshold),
            agreement(given, "overlap_threshold", overlap_threshold, own.agreement_iou),
            whole_number(given, "min_size", min_size, own.min_size_px, 0, 2147483647),
        )
        seeds = given.get("precomputed_seeds", precomputed_seeds)
        wanted = given.get("target_segmentation", target_segmentation)
        options = PostprocessOptions(
            share(given, "mean_threshold", mean_threshold, 0.0),
            2 * whole_number(given, "window_size", window_size, reach, 4, max(1024, reach)),
            switch(given, "cleanup_fragments", cleanup_fragments),
            switch(given, "resolve_cell_and_nucleus", resolve_cell_and_nucleus),
            self._wanted(wanted),
            placed_seeds(seeds, image.shape[0], height, width),
        )
        return _as_float(self.segmenter.labels(self._fields(image), thresholds, options)).to(x.device)

    @torch.jit.export
    def normalise(self, image: Tensor) -> Tensor:
        """Make of raw pixels what `forward` takes, but for the batch axis; QuPath does this itself.

        Parameters
        ----------
        image : Tensor, shape (C, H, W), any real type, finite
            At the model's pixel size; C is 1 or the model's; H and W at least 1.

        Returns
        -------
        Tensor, shape (channels, H, W), float32
            Percentile 0.1 of each channel is 0, percentile 99.9 is 1, clipped to [-0.5, 1.5].

        Raises
        ------
        ValueError
            Another shape or number of channels; NaN or infinite values.
        """
        if image.dim() != 3 or image.numel() == 0:
            raise ValueError(f"the image has shape {image.shape}; it must be channels, height, width, none of them 0")
        values = image.to(torch.float32)
        if not bool(torch.isfinite(values).all()):
            raise ValueError("the image holds NaN or infinite values; replace them by numbers, such as 0")
        return fit_channels(normalise(values), self.channels).contiguous()

    def _batch(self, x: Tensor) -> Tensor:
        """Give the images (N, C, H, W) with the model's channels, as float32 in [-0.5, 1.5], in memory of their own."""
        if x.dim() != 4 or x.numel() == 0:
            raise ValueError(
                f"the input has shape {x.shape}; it must be images, channels, height, width, none of them 0"
            )
        images, present, height, width = x.shape[0], x.shape[1], x.shape[2], x.shape[3]
        channels = fit_channels(x.detach().transpose(0, 1).reshape(present, images * height, width), self.channels)
        batch = channels.reshape(self.channels, images, height, width).transpose(0, 1)
        zero = torch.zeros([self.channels], device=x.device)
        batch = scale_intensity(batch, zero, zero + 1)  # nothing but clipped
        return batch.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else batch.contiguous()

    def _fields(self, image: Tensor) -> Tensor:
        """Run the network; on Apple's GPUs what follows it runs on the CPU: integers cannot be scattered there."""
        fields = self.segmenter.fields(image)
        if image.device.type == "mps":
            fields = fields.cpu()
            self._move_classifiers(fields.device)
        return fields

    def _move_classifiers(self, device: torch.device) -> None:
        """Take the classifiers away from where the network is; a second time there is nothing to do."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            self.segmenter.classifiers.to(device)
            return
        for classifier in self.segmenter.classifiers:
            classifier.first.weight = classifier.first.weight.to(device)  # type: ignore[union-attr]
            classifier.first.bias = classifier.first.bias.to(device)  # type: ignore[union-attr]
            for layer in classifier.layers:  # type: ignore[union-attr]
                layer.weight, layer.bias = layer.weight.to(device), layer.bias.to(device)

    def _wanted(self, given: Tensor) -> list[bool]:
        """Tell which of the model's targets are wanted."""
        if not self.cells_and_nuclei:
            return [True]
        values = given.detach().cpu().flatten()
        if values.numel() != 2:
            raise ValueError(f"target_segmentation has {values.numel()} values; give two, for nuclei and for cells")
        wanted = [bool(values[0] != 0), bool(values[1] != 0)]
        if not (wanted[0] or wanted[1]):
            raise ValueError(
                "target_segmentation is 0, 0: neither nuclei nor cells are wanted; give 1 for one at least"
            )
        return wanted


def to_torchscript(model: Model, path: str | Path) -> Path:
    """Write the whole method as TorchScript: an `ExportedSegmenter`, which `torch.jit.load` opens.

    Parameters
    ----------
    model : Model
    path : str or Path
        File to write; it appears whole or not at all. As the first of its process, the same
        model gives the same bytes with the same PyTorch (which numbers the classes that it scripts).

    Returns
    -------
    Path
        The file.
    """
    place = Path(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is deprecated, and QuPath's only door
        saved = io.BytesIO()
        torch.jit.save(torch.jit.script(exported(model)), saved)
    with atomic_file(place) as beside:
        write_archive(saved, beside)
    return place


def open_torchscript(path: str | Path) -> torch.jit.ScriptModule:
    """Open what `to_torchscript` wrote, without the word that TorchScript is deprecated.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    ScriptModule
        On the CPU; called as `ExportedSegmenter` is.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        opened: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    return opened


def exported(model: Model) -> ExportedSegmenter:
    """Copy a model as `to_torchscript` writes it: for inference, all that can be folded into the convolutions folded.

    Parameters
    ----------
    model : Model
        It stays as it is.

    Returns
    -------
    ExportedSegmenter
        On the CPU, not scripted.
    """
    segmenter = copy.deepcopy(model.segmenter).cpu().eval().requires_grad_(False)
    segmenter.network.join()
    return ExportedSegmenter(segmenter, model.config.channels, model.config.pixel_size_um).eval()


def _as_float(labels: Tensor) -> Tensor:
    """Give labels as float32, which holds whole numbers up to 2 ** 24."""
    if labels.numel() > 16777216 and int(labels.max()) > 16777216:
        raise ValueError(f"there are {int(labels.max())} objects, and ids end at 16777216 here: give smaller tiles")
    return labels.to(torch.float32)
