"""The whole method as one scriptable module, from a normalised image to its labels."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cytoseed.core.merge import agreeing_seeds, confident_objects, paint
from cytoseed.core.network import STRIDE, build_network
from cytoseed.core.pair import pair_nuclei
from cytoseed.core.pieces import is_traced, whole_objects
from cytoseed.core.pixels import Maps, PixelClassifier
from cytoseed.core.seeds import find_seeds
from cytoseed.core.views import VIEWS, turn, turn_back
from cytoseed.settings import ModelConfig


class Thresholds(NamedTuple):
    """Thresholds of the steps after the network; see `ModelConfig` for each."""

    peak_radius_px: int
    seed_threshold: float
    mask_threshold: float
    agreement_iou: float
    min_size_px: int


class PostprocessOptions(NamedTuple):
    """Postprocessing options beyond the thresholds; `Segmenter.default_options` holds the defaults."""

    mean_threshold: float
    """Lowest mean of the seed map over an object; 0 keeps all."""
    window_px: int
    """Width of the first window of a map, even, 8 or more; 0: the model's."""
    clean: bool
    """Keep the piece of each map that holds its seed and the largest piece of each object, and fill holes."""
    paired: bool
    """Whether a nucleus gets the id of its cell; otherwise each target is numbered separately."""
    targets: list[bool]
    """(T,): whether each target is computed; at least one is."""
    seeds: Tensor
    """(S, 3) int64: image, row and column of seeds to use; (0, 3): those found in the seed map."""


class ScoredLabels(NamedTuple):
    """Labels, and what they were decided by."""

    labels: Tensor
    """(N, T, H, W) int32."""
    seed_maps: Tensor
    """(N, T, H, W): mean over views."""
    logits: Tensor
    """(N, T, H, W): highest logit of any object at each pixel, -inf for none."""


class Segmenter(nn.Module):
    """InstanSeg (arXiv 2408.15954) from the normalised image to the labels.

    Weights are random until trained or loaded. Call `.eval()` before segmenting.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.positional_dims = config.positional_dims
        self.offset_limit = config.offset_limit
        self.targets = len(config.targets)
        self.has_pairs = config.targets == ("nuclei", "cells")
        self.field_count = config.positional_dims + config.conditional_dims + 1
        self.stride = STRIDE[config.network]
        self.network = build_network(config.network, config.fixed_channels, self.targets * self.field_count)
        widths = list(config.classifier_widths)
        dims = (config.positional_dims, config.conditional_dims)
        self.classifiers = nn.ModuleList([PixelClassifier(*dims, widths, config.grid_step) for _ in config.targets])
        doublings = max(0, (config.max_window_px - 1) // config.window_px).bit_length()
        self.windows = [config.window_px << doubling for doubling in range(doublings + 1)]
        self.chunk_px = 1 << 18  # window pixels per chunk, so that it fits the CPU's cache; 0: all at once, for tracing
        self.peak_radius_px = config.peak_radius_px
        self.seed_threshold = config.seed_threshold
        self.mask_threshold = config.mask_threshold
        self.agreement_iou = config.agreement_iou
        self.min_size_px = config.min_size_px

    @property
    def thresholds(self) -> Thresholds:
        """The model's own thresholds."""
        return Thresholds(
            self.peak_radius_px, self.seed_threshold, self.mask_threshold, self.agreement_iou, self.min_size_px
        )

    @property
    def default_options(self) -> PostprocessOptions:
        """Options that keep the model's own behaviour."""
        none = torch.zeros([0, 3], dtype=torch.int64)
        return PostprocessOptions(0.0, 0, True, True, [True for _ in range(self.targets)], none)

    def forward(self, image: Tensor) -> Tensor:
        """Labels (N, T, H, W) int32 of images (N, C, H, W) float32, with the model's own thresholds.

        Images are normalised to [-0.5, 1.5] (`prepare.normalise`), at the model's pixel size; H and W are at least 1.
        In the labels of each image and target, 0 is background and ids are 1 to K without gaps. With targets nuclei and
        cells, a nucleus has the id of its cell (`pair.pair_nuclei`).
        """
        return self.labels(self.fields(image), self.thresholds)

    def fields(self, image: Tensor) -> Tensor:
        """Fields (N, T, F, H, W) float32 of images like those of `forward`; the images are not modified.

        For each target: Dp channels of P within +- `offset_limit`, De of E, and the seed map S.
        """
        height, width = image.shape[2], image.shape[3]
        raw: Tensor = self.network(self._padded(image))[:, :, :height, :width].to(torch.float32)
        raw = raw.view(-1, self.targets, self.field_count, height, width)
        dims = [self.positional_dims, self.field_count - self.positional_dims - 1, 1]
        positional, conditional, seed_map = torch.split(raw, dims, dim=2)
        if raw.requires_grad or raw.device.type == "mps" or is_traced():
            positional = self.offset_limit * torch.tanh(positional)
            seed_map = seed_map / 15 + 0.5  # the network's output regresses 15 (d - 0.5)
            return torch.cat([positional, conditional, seed_map], dim=2)
        positional.tanh_().mul_(self.offset_limit)  # the same in place; not tested on mps
        seed_map.div_(15).add_(0.5)
        return raw

    def _padded(self, image: Tensor) -> Tensor:
        """Repeat the last row and column until height and width are multiples of the stride."""
        down, right = -image.shape[2] % self.stride, -image.shape[3] % self.stride
        return F.pad(image, [0, right, 0, down], mode="replicate")

    def views(self, image: Tensor) -> Tensor:
        """Fields (8, N, T, F, H, W) float32 of the eight flips and quarter turns of images (section 2.8).

        Each view is turned back to the image, but x and y of P stay those of the view. The images are not modified.
        """
        height, width = image.shape[2], image.shape[3]
        padded = self._padded(image)  # first: a part cut at a multiple of the stride then has the same views
        first = self.fields(padded)[..., :height, :width]
        views = torch.empty([VIEWS, *first.shape], device=first.device)  # filled one by one to save memory
        views[0] = first
        for view in range(1, VIEWS):
            views[view] = turn_back(self.fields(turn(padded, view)), view)[..., :height, :width]
        return views

    def labels(self, fields: Tensor, thresholds: Thresholds, options: PostprocessOptions | None = None) -> Tensor:
        """Labels (N, T, H, W) int32 from the result of `fields`, like `labels_of_views`."""
        return self.labels_of_views(fields[None], thresholds, options)

    def labels_of_views(
        self, views: Tensor, thresholds: Thresholds, options: PostprocessOptions | None = None
    ) -> Tensor:
        """Labels (N, T, H, W) int32 of `views`, from the mean of the seed maps and the median of the logits.

        T is the number of targets computed. Without `options`, `default_options` are used.
        """
        return self.scored_labels(views, thresholds, options).labels

    def scored_labels(
        self, views: Tensor, thresholds: Thresholds, options: PostprocessOptions | None = None
    ) -> ScoredLabels:
        """Labels of `labels_of_views`, with the maps that they were decided by."""
        chosen = self.default_options if options is None else options
        windows = self.windows if chosen.window_px == 0 else self._windows_from(chosen.window_px)
        labels: list[Tensor] = []
        seed_maps: list[Tensor] = []
        logits: list[Tensor] = []
        highest = 0  # largest possible id of an object
        for target, classifier in enumerate(self.classifiers):
            if chosen.targets[target]:
                own = views[:, :, target]
                seed_map = own[:, :, -1].mean(0)
                seeds = chosen.seeds.to(views.device)
                if seeds.shape[0] == 0:
                    seeds = find_seeds(seed_map, thresholds.peak_radius_px, thresholds.seed_threshold)
                maps = classifier.maps(  # type: ignore[operator]
                    own, seed_map, seeds, thresholds.mask_threshold, windows, self.chunk_px, chosen.clean
                )
                own_labels, own_logits = _objects(maps, seed_map, seeds.shape[0], thresholds, chosen)
                labels.append(own_labels)
                seed_maps.append(seed_map)
                logits.append(own_logits)
                highest += seeds.shape[0]
        stacked = torch.stack(labels, 1)
        if self.has_pairs and chosen.paired and len(labels) == 2:
            stacked = torch.stack([pair_nuclei(image, highest) for image in stacked.unbind(0)])
        return ScoredLabels(stacked, torch.stack(seed_maps, 1), torch.stack(logits, 1))

    def _windows_from(self, first: int) -> list[int]:
        """Window widths, each twice the one before, up to at least the model's largest."""
        windows = [first]
        while windows[-1] < self.windows[-1]:
            windows.append(2 * windows[-1])
        return windows


def _objects(
    maps: Maps, seed_map: Tensor, count: int, thresholds: Thresholds, chosen: PostprocessOptions
) -> tuple[Tensor, Tensor]:
    """Labels and highest logits (N, H, W) from the maps of `count` seeds."""
    owner = agreeing_seeds(maps, count, thresholds.agreement_iou, seed_map.numel())
    painted, logits = paint(maps, owner + 1, seed_map.numel())
    painted = painted.view(seed_map.shape)
    if chosen.mean_threshold > 0:
        painted = confident_objects(painted, seed_map, count, chosen.mean_threshold)
    return whole_objects(painted, count, thresholds.min_size_px, chosen.clean), logits.view(seed_map.shape)
