"""Pictures in rarer formats, decoded by imagecodecs when they are opened: WebP, BMP, JPEG 2000, JPEG XL."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from cytoseed.images.image import RGB_NAMES, Image, make_image
from cytoseed.images.picture import require_modest
from cytoseed.images.regions import ImageFileError, Slices

_SIZ = b"\xff\x4f\xff\x51"  # beginning of a JPEG 2000 codestream
_JXL_BITS = (9, 13, 18, 30)
_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def open_by(codec: str) -> Callable[[Path], Image]:
    """Function that opens a grey or RGB picture by a codec; alpha is dropped."""

    def open_picture(path: Path) -> Image:
        import imagecodecs

        data = path.read_bytes()
        try:
            require_modest(path, _SIZES.get(codec, lambda _: (0, 0))(data))
            decoded = getattr(imagecodecs, f"{codec}_decode")(data)
        except ImageFileError:
            raise
        except (RuntimeError, ValueError, TypeError, struct.error) as error:
            raise ImageFileError(
                f"{path}: cannot be decoded as {codec} ({error}); it is damaged, cut or of an unusual kind: save it "
                f"as PNG or TIFF"
            ) from error
        pixels = decoded[:, :, None] if decoded.ndim == 2 else decoded
        if pixels.ndim != 3 or pixels.shape[2] > 4:
            raise ImageFileError(f"{path}: holds pixels of shape {decoded.shape}, which are neither grey nor RGB")
        channels = 1 if pixels.shape[2] < 3 else 3
        reader = Slices((pixels[:, :, :channels],), "yxc")
        return make_image(path, reader.layout, reader.opened, RGB_NAMES if channels == 3 else None)

    return open_picture


def _bmp_size(data: bytes) -> tuple[int, int]:
    """Height and width of a BMP; a height below 0 means that rows begin at the top."""
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(height), abs(width)


def _jpeg2k_size(data: bytes) -> tuple[int, int]:
    """Height and width in the first codestream of a JPEG 2000."""
    width, height, left, top = struct.unpack_from(">4I", data, max(0, data.find(_SIZ)) + 8)
    return height - top, width - left


def _jpegxl_size(data: bytes) -> tuple[int, int]:
    """Height and width at the beginning of a JPEG XL's codestream, which may be in a box."""
    boxes = [(data.find(name), length) for name, length in ((b"jxlc", 4), (b"jxlp", 8))]
    start = min((place + length for place, length in boxes if place > 0), default=0) if data[:1] == b"\0" else 0
    bits, used = int.from_bytes(data[start + 2 : start + 18], "little"), 0

    def take(count: int) -> int:
        nonlocal used
        used += count
        return bits >> (used - count) & ((1 << count) - 1)

    def side() -> int:
        return 8 * (1 + take(5)) if is_small else 1 + take(_JXL_BITS[take(2)])

    is_small = take(1)
    height, ratio = side(), take(3)
    over, under = _JXL_RATIOS[ratio - 1]
    return height, height * over // under if ratio else side()


_SIZES = {"bmp": _bmp_size, "jpeg2k": _jpeg2k_size, "jpegxl": _jpegxl_size}
