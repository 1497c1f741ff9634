"""Pictures in rarer formats, decoded by imagecodecs when they are opened: WebP, BMP, JPEG 2000, JPEG XL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cytoseed.images.image import RGB_NAMES, Image, make_image
from cytoseed.images.regions import ImageFileError, Slices


def open_by(codec: str) -> Callable[[Path], Image]:
    """Function that opens a grey or RGB picture by a codec; alpha is dropped."""

    def open_picture(path: Path) -> Image:
        import imagecodecs

        try:
            decoded = getattr(imagecodecs, f"{codec}_decode")(path.read_bytes())
        except (RuntimeError, ValueError, TypeError) as error:
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
