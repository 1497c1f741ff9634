"""One stain of a colour image: colour deconvolution (Ruifrok and Johnston 2001) by scikit-image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.settings import STAINS


def check_stain(channels: int, stain: str) -> None:
    """Raise `ValueError` for an unknown stain, or an image without three channels."""
    if stain not in STAINS:
        raise ValueError(f"stain is {stain!r}; it must be one of {', '.join(STAINS)}")
    if channels != 3:
        raise ValueError(
            f"stain is {stain!r} and the image has {channels} channels; stains are told apart by colour, in images "
            f"with red, green and blue: leave the stain out"
        )


def unmix(pixels: NDArray[Any], stain: str) -> NDArray[np.float32]:
    """One stain alone, dark where there is much of it.

    Parameters
    ----------
    pixels : ndarray, shape (3, H, W), integer or float
        Red, green and blue of a brightfield image. Integers reach up to their type's range, floats to 1.
    stain : {'haematoxylin', 'eosin', 'dab'}

    Returns
    -------
    ndarray of float32, shape (1, H, W)
        0 or below: minus the stain's amount, in optical density.
    """
    from skimage.color import hed_from_rgb, separate_stains

    check_stain(pixels.shape[0], stain)
    if pixels.dtype.kind == "f" and float(pixels.max(initial=0)) > 1:
        raise ValueError(f"the image has floats up to {pixels.max():g}; to tell stains apart, white must be 1")
    amounts = separate_stains(np.moveaxis(pixels, 0, -1), hed_from_rgb)[..., STAINS.index(stain)]
    return np.asarray(-amounts[None], dtype=np.float32)
