"""The TorchScript module for QuPath, C++ and bioimage.io: a Segmenter behind the signature that QuPath calls.

The method itself is `Segmenter`; here the caller's options are checked and passed on to it.
"""

import copy
import io
import re
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from cytoseed.core.model import PostprocessOptions, Segmenter, Thresholds
from cytoseed.core.prepare import fit_channels, normalise, scale_intensity
from cytoseed.export.options import agreement, check_names, logit, placed_seeds, share, switch, whole_number
from cytoseed.models.weights import Model
from cytoseed.paths import atomic_file

_BOTH_TARGETS = torch.tensor([1, 1])
_FIND_SEEDS = torch.tensor([])


class ExportedSegmenter(nn.Module):
    """A segmenter, not copied, with the signature that QuPath and other programs with libtorch call.

    They also read its attributes `pixel_size`, in µm, and `cells_and_nuclei`: whether there are two targets, nuclei
    first.
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
        """Labels (N, T, H, W) float32 of images (N, C, H, W) at the model's pixel size, on the same device.

        The images are normalised (`normalise`); they are clipped to [-0.5, 1.5], and a single channel is repeated. T is
        the number of requested targets, nuclei before cells. 0 is background, ids are 1 to K without gaps.

        docs/qupath.md lists the meaning and the range of each option; None is the model's own value. An option may also
        be in `args`, as a one-element tensor of any type, which takes precedence over the keyword.
        `target_segmentation`, (2,) or (1, 2), is nonzero for each of nuclei and cells to compute; a model with one
        target ignores it. `precomputed_seeds`, (S, 2), (1, S, 2) or their numbers in one row, are row and column of
        seeds to use in each image and for each target, rounded down.

        Raises `ValueError`, in TorchScript `torch.jit.Error`, for an image of another shape or number of channels, an
        unknown option or a value outside its range.
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
        """Normalise raw pixels (C, H, W) of any real type for `forward`; QuPath normalises by itself.

        Percentile 0.1 of each channel becomes 0 and percentile 99.9 becomes 1, clipped to [-0.5, 1.5]; float32. Raises
        `ValueError` for another shape or number of channels, and for NaN or infinite values.
        """
        if image.dim() != 3 or image.numel() == 0:
            raise ValueError(f"the image has shape {image.shape}; it must be channels, height, width, none of them 0")
        values = image.to(torch.float32)
        if not bool(torch.isfinite(values).all()):
            raise ValueError("the image holds NaN or infinite values; replace them by numbers, such as 0")
        return fit_channels(normalise(values), self.channels).contiguous()

    def _batch(self, x: Tensor) -> Tensor:
        """Copy of the images (N, C, H, W) with the model's channels, float32 in [-0.5, 1.5]."""
        if x.dim() != 4 or x.numel() == 0:
            raise ValueError(
                f"the input has shape {x.shape}; it must be images, channels, height, width, none of them 0"
            )
        images, present, height, width = x.shape[0], x.shape[1], x.shape[2], x.shape[3]
        channels = fit_channels(x.detach().transpose(0, 1).reshape(present, images * height, width), self.channels)
        batch = channels.reshape(channels.shape[0], images, height, width).transpose(0, 1)
        zero = torch.zeros([channels.shape[0]], device=x.device)
        batch = scale_intensity(batch, zero, zero + 1)  # clips only
        return batch.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else batch.contiguous()

    def _fields(self, image: Tensor) -> Tensor:
        """Run the network; on Apple's GPUs, which cannot scatter integers, the rest runs on the CPU."""
        fields = self.segmenter.fields(image)
        if image.device.type == "mps":
            fields = fields.cpu()
            self._move_classifiers(fields.device)
        return fields

    def _move_classifiers(self, device: torch.device) -> None:
        """Move the classifiers to a device, but not the network."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            self.segmenter.classifiers.to(device)
            return
        for classifier in self.segmenter.classifiers:
            classifier.first.weight = classifier.first.weight.to(device)  # type: ignore[union-attr]
            classifier.first.bias = classifier.first.bias.to(device)  # type: ignore[union-attr]
            for layer in classifier.layers:  # type: ignore[union-attr]
                layer.weight, layer.bias = layer.weight.to(device), layer.bias.to(device)

    def _wanted(self, given: Tensor) -> list[bool]:
        """Whether each of the model's targets is requested."""
        if not self.cells_and_nuclei:
            return [True]
        values = given.detach().cpu().flatten()
        if values.numel() != 2:
            raise ValueError(f"target_segmentation has {values.numel()} values; give two, for nuclei and for cells")
        wanted = [bool(values[0] != 0), bool(values[1] != 0)]
        if not (wanted[0] or wanted[1]):
            raise ValueError(
                "target_segmentation is 0, 0: neither nuclei nor cells are wanted; give 1 for at least one"
            )
        return wanted


def to_torchscript(model: Model, path: str | Path) -> Path:
    """Write the whole method, atomically, as TorchScript: an `ExportedSegmenter` that `torch.jit.load` opens.

    As the first export of its process, the same model gives the same bytes with the same PyTorch (which numbers the
    classes that it scripts).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is deprecated, but QuPath opens nothing else
        saved = io.BytesIO()
        torch.jit.save(torch.jit.script(exported(model)), saved)
    with atomic_file(path) as beside:
        _write_reproducibly(saved, beside)
    return Path(path)


def open_torchscript(path: str | Path) -> torch.jit.ScriptModule:
    """Open a file of `to_torchscript` on the CPU, without the warning that TorchScript is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        opened: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    return opened


def exported(model: Model) -> ExportedSegmenter:
    """Copy of a model as `to_torchscript` writes it: on the CPU, normalisation folded into the convolutions."""
    segmenter = copy.deepcopy(model.segmenter).cpu().eval().requires_grad_(False)
    segmenter.network.fuse_upsampling()
    return ExportedSegmenter(segmenter, model.config.fixed_channels, model.config.pixel_size_um).eval()


def _as_float(labels: Tensor) -> Tensor:
    """Labels as float32, which holds whole numbers up to 2 ** 24."""
    if labels.numel() > 16777216 and int(labels.max()) > 16777216:
        raise ValueError(f"there are {int(labels.max())} objects, and ids end at 16777216 here: give smaller tiles")
    return labels.to(torch.float32)


def _write_reproducibly(saved: io.BytesIO, path: Path) -> None:
    """Write an archive of `torch.jit.save` without the parts that differ between runs and machines.

    These are the order of constants in classes, an id made from it, and debug files with the paths of sources.
    """
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w") as target:
        for name in sorted(source.namelist()):
            content = source.read(name)
            if name.endswith(".py"):
                content = re.sub(r"(?m)(^  \w+ : Final\[.*\n)+", _sort_lines, content.decode()).encode()
            if not name.endswith((".debug_pkl", "/serialization_id")):
                target.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)


def _sort_lines(lines: re.Match[str]) -> str:
    return "".join(sorted(lines[0].splitlines(keepends=True)))
