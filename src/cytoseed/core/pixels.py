"""The pixel classifier phi: which pixels around a seed belong to its object (the paper's section 2.3.3)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cytoseed.core.pieces import is_traced, seed_piece
from cytoseed.core.views import median, turn_back


class Maps(NamedTuple):
    """Pixel maps of seeds as a list of pixels: memory grows with the area of objects, not with the image."""

    pixel: Tensor
    """(M,) int64: position in the flattened (N, H, W)."""
    seed: Tensor
    """(M,) int64: index of its seed."""
    logit: Tensor
    """(M,) float."""


def window_pixels(shape: list[int], seeds: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Pixels of the square windows that reach `reach` pixels to each side of seeds; their side w is 2 * reach + 1.

    `shape` is N, H, W of the images; `seeds` (S, 3) are image, row and column. Returns, each (S, w, w), the position of
    every pixel in the flattened (N, H, W), and whether it lies in its image: outside, the position is that of the
    nearest pixel inside.
    """
    height, width = shape[1], shape[2]
    steps = torch.arange(-reach, reach + 1, device=seeds.device)
    rows = seeds[:, 1, None] + steps
    columns = seeds[:, 2, None] + steps
    row_inside = (rows >= 0) & (rows < height)
    column_inside = (columns >= 0) & (columns < width)
    lines = seeds[:, 0, None] * height + rows.clamp(0, height - 1)
    flat = lines[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    return flat, row_inside[:, :, None] & column_inside[:, None, :]


class _Layer(nn.Linear):
    """Linear layer over windows (windows, features, pixels): with few features faster than features last."""

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.baddbmm(self.bias[:, None], self.weight.expand(hidden.shape[0], -1, -1), hidden)


def _in_windows(encoded: Tensor, flat: Tensor, inside: Tensor, width: int) -> Tensor:
    """Encoded pixels (`PixelClassifier.encode`) of windows (S, w, w), as (S, h, w * w).

    On a CPU, windows inside the image are copied row by row, several times faster than pixel by pixel.
    """
    features, count, side = encoded.shape[0], flat.shape[0], flat.shape[2]
    starts = encoded.shape[1] - (side - 1) * (width + 1)  # number of positions at which a window fits
    is_free = encoded.device.type == "cpu" and encoded.is_contiguous() and not encoded.requires_grad
    if not is_free or is_traced() or starts <= 0:
        return encoded.index_select(1, flat.flatten()).view(features, count, side * side).transpose(0, 1)
    windows = encoded.as_strided([starts, features, side, side], [1, encoded.shape[1], width, 1])
    result = windows.index_select(0, flat[:, 0, 0].clamp(max=starts - 1)).flatten(2)
    beyond = (~(inside[:, 0, 0] & inside[:, -1, -1])).nonzero()[:, 0]
    if beyond.shape[0] > 0:
        others = encoded.index_select(1, flat.index_select(0, beyond).flatten())
        result.index_copy_(0, beyond, others.view(features, beyond.shape[0], side * side).transpose(0, 1))
    return result


class PixelClassifier(nn.Module):
    """phi: a small network from [Q_ij - Q^k, E_ij] to the logit that pixel ij belongs to the object of seed k.

    Q = P + O: the positional embedding plus the pixel's coordinates, in steps of `grid_step`; coordinates beyond x and
    y are 0. The first layer is linear, so its terms in P and E are computed once per pixel (`encode`), its term in P^k
    once per seed, and its terms in the coordinates, whose difference between pixel and seed depends only on the
    position in the window, once per position. No result depends on where in an image a window lies.
    """

    def __init__(self, positional_dims: int, conditional_dims: int, widths: list[int], grid_step: float) -> None:
        super().__init__()
        self.positional_dims = positional_dims
        self.conditional_dims = conditional_dims
        self.grid_step = grid_step
        self.first = _Layer(positional_dims + conditional_dims, widths[0])
        pairs = zip(widths, [*widths[1:], 1], strict=True)
        self.layers = nn.ModuleList([_Layer(i, o) for i, o in pairs])

    def encode(self, fields: Tensor) -> Tensor:
        """Terms of the first layer at every pixel, without the bias: (widths[0], N * H * W).

        `fields` (N, F, H, W) are P, then E, then anything else.
        """
        used = fields[:, : self.positional_dims + self.conditional_dims]
        return self.first.weight @ used.transpose(0, 1).flatten(1)

    def forward(self, fields: Tensor, encoded: Tensor, seeds: Tensor, reach: int, view: int = 0) -> Tensor:
        """Logits (S, w, w) in the windows of seeds: above 0 where a pixel more likely belongs to the object.

        Outside the image they are -inf. `encoded` is the result of `encode`; for seeds and reach see `window_pixels`.
        `view` is the view of the image (`core.views`) that the network was run on before the fields were turned back: x
        and y of P and of the coordinates are those of the view.
        """
        flat, inside = window_pixels([fields.shape[0], fields.shape[2], fields.shape[3]], seeds, reach)
        return self._logits(fields, encoded, seeds, flat, inside, view).masked_fill(~inside, -float("inf"))

    def _logits(
        self, fields: Tensor, encoded: Tensor, seeds: Tensor, flat: Tensor, inside: Tensor, view: int
    ) -> Tensor:
        """Logits (S, w, w) of the pixels of `window_pixels`, also outside the image."""
        side = flat.shape[2]
        at_seed = fields[seeds[:, 0], : self.positional_dims, seeds[:, 1], seeds[:, 2]]  # (S, Dp)
        of_seed = self.first.weight[:, : self.positional_dims] @ at_seed.t()  # (h, S)
        of_position = turn_back(self._position_terms(side // 2), view).flatten(1)  # (h, w * w)
        hidden = _in_windows(encoded, flat, inside, fields.shape[3])  # (S, h, w * w)
        hidden = hidden.add_(of_position - of_seed.t()[:, :, None]).relu_()
        last = len(self.layers) - 1
        for depth, layer in enumerate(self.layers):
            hidden = layer(hidden)
            if depth < last:
                hidden = hidden.relu_()
        return hidden.view(-1, side, side)

    def maps(
        self,
        views: Tensor,
        seed_map: Tensor,
        seeds: Tensor,
        threshold: float,
        windows: list[int],
        chunk_px: int,
        clean: bool = True,
    ) -> Maps:
        """Maps of seeds (S, 3); a map that reaches the edge of its window is computed again in a larger one.

        Fields of views (V, N, F, H, W) are turned back; the logit is the median over views (section 2.8), and pixels of
        a map have `threshold` or more. `windows` are even widths, 8 or more, smallest first; a map that is cut even by
        the last is kept as it is. If too many seeds need a larger window, the highest on `seed_map` (N, H, W) continue.
        `chunk_px` window pixels are in memory at a time; 0: all. If `clean`, only the connected piece that holds the
        seed is kept; otherwise the whole map, in the window that is large enough for that piece.
        """
        each = list(views.unbind(0))
        encoded = [self.encode(fields) for fields in each]
        shape = [views.shape[1], views.shape[3], views.shape[4]]
        waiting = torch.arange(seeds.shape[0], device=seeds.device)
        parts: list[Maps] = []
        for turn, window in enumerate(windows):
            if chunk_px > 0 and turn > 0 and waiting.shape[0] == 0:
                break
            cut: list[Tensor] = []
            for some in self._chunks(waiting, chunk_px, views.shape[0] * (window + 1) * (window + 1)):
                chosen = seeds.index_select(0, some)
                flat, inside = window_pixels(shape, chosen, window // 2)
                logits = self._median_logits(each, encoded, chosen, flat, inside)
                mask = inside & (logits >= threshold)
                piece = seed_piece(mask)
                mask = piece if clean else mask
                if turn + 1 < len(windows):
                    reaches = piece[:, 0].any(1) | piece[:, -1].any(1) | piece[:, :, 0].any(1) | piece[:, :, -1].any(1)
                    cut.append(some[reaches])
                    mask = mask & ~reaches[:, None, None]
                place = mask.flatten().nonzero()[:, 0]
                which = place.div((window + 1) * (window + 1), rounding_mode="floor")
                parts.append(
                    Maps(
                        flat.flatten().index_select(0, place),
                        some.index_select(0, which),
                        logits.flatten().index_select(0, place),
                    )
                )
            if turn + 1 < len(windows):
                cell = window // 4 if window >= 64 else window // 8  # only thin nuclei lie side by side
                waiting = self._thin_seeds(torch.cat(cut), seed_map, seeds, cell)
        return Maps(
            torch.cat([part.pixel for part in parts]),
            torch.cat([part.seed for part in parts]),
            torch.cat([part.logit for part in parts]),
        )

    def _median_logits(
        self, views: list[Tensor], encoded: list[Tensor], seeds: Tensor, flat: Tensor, inside: Tensor
    ) -> Tensor:
        """Logits in the windows of seeds, (S, w, w): the median over views."""
        logits: list[Tensor] = []
        for view, fields in enumerate(views):
            logits.append(self._logits(fields, encoded[view], seeds, flat, inside, view))
        return median(torch.stack(logits)) if len(logits) > 1 else logits[0]

    def _thin_seeds(self, waiting: Tensor, seed_map: Tensor, seeds: Tensor, cell: int) -> Tensor:
        """Keep the highest seed of each grid cell of the image; among equal ones the topmost, then the leftmost.

        An object larger than a window needs few of its seeds. This bounds memory for any fields: if every map fills
        its window, 65 pixels of maps per pixel of the image.
        """
        image, row, column = seeds[waiting, 0], seeds[waiting, 1], seeds[waiting, 2]
        rows, columns = seed_map.shape[1] // cell + 1, seed_map.shape[2] // cell + 1
        place = (image * rows + row // cell) * columns + column // cell
        height = seed_map[image, row, column]
        highest = torch.full(
            [seed_map.shape[0] * rows * columns], -float("inf"), dtype=height.dtype, device=height.device
        )
        fits = height >= highest.scatter_reduce(0, place, height, "amax")[place]
        waiting, place = waiting[fits], place[fits]
        none = seeds.shape[0]
        first = torch.full([highest.shape[0]], none, device=place.device).scatter_reduce(0, place, waiting, "amin")
        return waiting[waiting == first[place]]

    def _chunks(self, waiting: Tensor, chunk_px: int, window_px: int) -> list[Tensor]:
        if chunk_px == 0:
            return [waiting]
        return list(torch.split(waiting, max(1, chunk_px // window_px)))

    def _position_terms(self, reach: int) -> Tensor:
        """Bias and coordinate terms (x, y, 0 ...) of the first layer, relative to the seed: (h, w, w)."""
        weight = self.first.weight
        steps = torch.arange(-reach, reach + 1, device=weight.device, dtype=weight.dtype) * self.grid_step
        x, y = weight[:, 0, None, None] * steps[None, None, :], weight[:, 1, None, None] * steps[None, :, None]
        return self.first.bias[:, None, None] + x + y
