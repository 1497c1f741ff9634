"""Resampling of images and labels, whole or in parts: a part has exactly the values of the whole."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Box = tuple[int, int, int, int]
"""Row and column of the first pixel, height, width (y, x, h, w)."""

_CACHED = 1 << 19  # values between the two passes on a CPU: they stay in its cache
_AT_ONCE = 1 << 26  # the same on other devices, where many small steps are slow


def rescale(image: Tensor, height: int, width: int) -> Tensor:
    """Resample an image (C, H, W) float32, bilinear, with anti-aliasing where it shrinks.

    Equals `torch.nn.functional.interpolate(mode="bilinear", antialias=True)` within rounding.
    """
    size = (image.shape[1], image.shape[2])
    if size == (height, width):
        return image
    return rescale_part(image, (0, 0), size, (size[0] / height, size[1] / width), (0, 0, height, width))


def rescale_part(
    part: Tensor,
    origin_yx: tuple[int, int],
    source_yx: tuple[int, int],
    step_yx: tuple[float, float],
    box_yxhw: Box,
) -> Tensor:
    """Box of a resampled image, (C, bh, bw) float32, from a part (C, h, w) of its source.

    The centre of output pixel i lies at (i + 0.5) * step in the source, whose pixel j reaches from j to j + 1. The
    weights of source pixels form a triangle that falls to 0 at a distance of max(1, step) px and add up to 1 over those
    inside the source. On one device, a pixel has the same bits for every part and box.

    The part begins at `origin_yx` of a source of `source_yx` px, and holds at least `part_needed`, or `ValueError` is
    raised. `step_yx` is in source pixels per output pixel: exactly (H / height, W / width) for an output of (height,
    width) that covers the source, because parts of one image have the same steps.
    """
    top, left, rows, columns = part_needed(box_yxhw, source_yx, step_yx)
    down, right = top - origin_yx[0], left - origin_yx[1]
    if min(down, right) < 0 or down + rows > part.shape[1] or right + columns > part.shape[2]:
        raise ValueError(
            f"the part is {part.shape[1]} x {part.shape[2]} px (height x width) from {origin_yx} of the source, and "
            f"box {box_yxhw} needs {rows} x {columns} px from ({top}, {left}): read the box that part_needed returns"
        )
    channels, height, width = part.shape[0], box_yxhw[2], box_yxhw[3]
    beyond = box_yxhw[0] + height > source_yx[0] or box_yxhw[1] + width > source_yx[1]
    if step_yx == (1, 1) and not beyond:  # all weights are 1 and 0
        down, right = box_yxhw[0] - origin_yx[0], box_yxhw[1] - origin_yx[1]
        return part[:, down : down + height, right : right + width].clone()
    held = part[:, down : down + rows, right : right + columns].reshape(-1, columns)  # (C * rows, columns)
    of_rows = _taps(box_yxhw[0], height, source_yx[0], step_yx[0]).on(top, part.device)
    of_columns = _taps(box_yxhw[1], width, source_yx[1], step_yx[1]).on(left, part.device)
    result = torch.empty([channels, height, width], device=part.device)
    room = _CACHED if part.device.type == "cpu" else _AT_ONCE
    band = max(1, room // max(1, channels * columns))
    for first in range(0, height, band):
        lines = of_rows.some(first, first + band).repeated(channels, rows).sum(held)  # (C * band, columns)
        across = of_columns.sum(lines.t().contiguous())  # (bw, C * band)
        result[:, first : first + band] = across.view(width, channels, -1).permute(1, 2, 0)
    return result


def part_needed(box_yxhw: Box, source_yx: tuple[int, int], step_yx: tuple[float, float]) -> Box:
    """Part of the source, in its pixels, that a box of the resampled image is computed from.

    Raises `ValueError` if the source or the box is empty, a step is not above 0, or the box reaches beyond the source
    by a source px or more; a centre nearer than that counts as at the edge, because the sides of pyramid
    levels are whole pixels.
    """
    spans = [_span(box_yxhw[axis], box_yxhw[axis + 2], source_yx[axis], step_yx[axis]) for axis in (0, 1)]
    (top, bottom), (left, right) = spans
    return top, left, bottom - top, right - left


def rescale_labels(labels: Tensor, height: int, width: int) -> Tensor:
    """Resample labels (T, H, W): each new pixel takes the label at its centre (nearest neighbour).

    Objects smaller than the new pixels can vanish. A centre between two pixels takes the lower or right one.
    """
    size = (labels.shape[1], labels.shape[2])
    if size == (height, width):
        return labels
    return rescale_labels_part(labels, (0, 0), size, (height, width), (0, 0, height, width))


def rescale_labels_part(
    labels: Tensor, origin_yx: tuple[int, int], small_yx: tuple[int, int], full_yx: tuple[int, int], box_yxhw: Box
) -> Tensor:
    """Box of `rescale_labels` of a small label image to `full_yx` px, from a part (T, h, w) of the small image.

    The part begins at `origin_yx` and holds at least `labels_needed`, or `ValueError` is raised. The "full" image may
    be the smaller.
    """
    top, left, rows, columns = labels_needed(box_yxhw, small_yx, full_yx)
    down, right = top - origin_yx[0], left - origin_yx[1]
    if min(down, right) < 0 or down + rows > labels.shape[1] or right + columns > labels.shape[2]:
        raise ValueError(
            f"the labels are {labels.shape[1]} x {labels.shape[2]} px (height x width) from {origin_yx}, and box "
            f"{box_yxhw} needs {rows} x {columns} px from ({top}, {left}): give the box that labels_needed returns"
        )
    lines = [
        _nearest(box_yxhw[axis], box_yxhw[axis + 2], small_yx[axis], full_yx[axis], labels.device) for axis in (0, 1)
    ]
    return labels[:, lines[0] - origin_yx[0]][:, :, lines[1] - origin_yx[1]]


def labels_needed(box_yxhw: Box, small_yx: tuple[int, int], full_yx: tuple[int, int]) -> Box:
    """Box of the small image that the pixel centres of a box of the full-size image fall into.

    Height or width is 0 if it is 0 in `box_yxhw`. Raises `ValueError` if the box reaches beyond the full-size image.
    """
    spans = []
    for axis in (0, 1):
        first, count = box_yxhw[axis], box_yxhw[axis + 2]
        small, full = small_yx[axis], full_yx[axis]
        if first < 0 or count < 0 or first + count > full:
            raise ValueError(f"box {box_yxhw} reaches beyond the full-size image, {full_yx} (height, width)")
        start = (2 * first + 1) * small // (2 * full)
        end = (2 * (first + count) - 1) * small // (2 * full) + 1 if count > 0 else start
        spans.append((start, end))
    (top, bottom), (left, right) = spans
    return top, left, bottom - top, right - left


def full_box(box_yxhw: Box, small_yx: tuple[int, int], full_yx: tuple[int, int]) -> Box:
    """Pixels of the full-size image whose centres fall into a box of the small one.

    Boxes that tile the small image give boxes that tile the full-size one: each of its pixels lies in exactly one. If
    the "full" image is the smaller one, height or width can be 0.
    """
    spans = []
    for axis in (0, 1):
        small, full = small_yx[axis], full_yx[axis]
        # the first pixel Y with (2 Y + 1) * small >= 2 * full * edge, so not left of the edge
        edges = (box_yxhw[axis], box_yxhw[axis] + box_yxhw[axis + 2])
        spans.append([-((small - 2 * full * edge) // (2 * small)) for edge in edges])
    (top, bottom), (left, right) = spans
    return top, left, bottom - top, right - left


class _Taps(NamedTuple):
    """Source lines of each output line, in order, and their weights."""

    line: Tensor  # (lines, T) int64
    weight: Tensor  # (lines, T) float32

    def on(self, first: int, device: torch.device) -> "_Taps":
        """Count lines from `first`, and move to a device."""
        return _Taps((self.line - first).to(device), self.weight.to(device))

    def some(self, first: int, last: int) -> "_Taps":
        """Select output lines `first` to `last`."""
        return _Taps(self.line[first:last], self.weight[first:last])

    def repeated(self, times: int, lines: int) -> "_Taps":
        """Repeat for `times` sources of `lines` lines each, one after the other."""
        start = torch.arange(times, device=self.line.device)[:, None, None] * lines
        return _Taps((self.line + start).flatten(0, 1), self.weight.repeat(times, 1))

    def sum(self, source: Tensor) -> Tensor:
        """Weighted sums of the lines of a source (lines, length).

        `embedding_bag` adds in the given order and in one pass over memory: separate products and sums take several
        times as long, and a matrix product adds in an order that depends on its size.
        """
        return F.embedding_bag(self.line, source, per_sample_weights=self.weight, mode="sum")


def _span(first: int, count: int, size: int, step: float) -> tuple[int, int]:
    """First and one past the last source line of `count` output lines from `first`."""
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"step is {step!r}; it must be above 0, in source pixels per output pixel")
    if size < 1 or count < 1:
        raise ValueError(f"a box of {count} px in a source of {size} px is requested; both must be 1 or more")
    if first < 0 or (first + count - 0.5) * step >= size + 1:
        raise ValueError(
            f"a box from {first} to {first + count} px at {step} source px each reaches beyond the source of "
            f"{size} px: ask for pixels whose centres lie in the source"
        )
    reach = max(1.0, step)
    start = math.floor(min((first + 0.5) * step, size) - reach + 0.5)
    end = math.floor(min((first + count - 0.5) * step, size) + reach + 0.5)
    return max(0, start), min(size, end)


def _taps(first: int, count: int, size: int, step: float) -> _Taps:
    """Taps of `count` output lines from `first`, in float64 on the CPU so that every device has the same."""
    centre = (torch.arange(first, first + count, dtype=torch.float64)[:, None] + 0.5) * step
    centre = centre.clamp(max=size)
    reach = max(1.0, step)
    start = (centre - reach + 0.5).floor().long().clamp(min=0)
    end = (centre + reach + 0.5).floor().long().clamp(max=size)
    line = start + torch.arange(int((end - start).max()))
    weight = (1 - ((line + 0.5 - centre) / reach).abs()).clamp(min=0) * (line < end)
    total = torch.zeros_like(centre)
    for tap in weight.unbind(1):  # one by one: `sum` adds in an order that depends on their number
        total = total + tap[:, None]
    return _Taps(torch.minimum(line, end - 1), (weight / total).to(torch.float32))


def _nearest(first: int, count: int, small: int, full: int, device: torch.device) -> Tensor:
    """Line of the small image at the centre of each of `count` lines of the full-size one, from `first`."""
    centres = 2 * torch.arange(first, first + count, device=device) + 1
    return (centres * small).div(2 * full, rounding_mode="floor")
