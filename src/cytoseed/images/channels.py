"""Channels of an image by name or number, and stains by colour deconvolution (Ruifrok and Johnston 2001)."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from operator import index as as_int
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.series import listed
from cytoseed.settings import STAINS

_LISTED = 20  # channels in a message
_NUCLEAR = re.compile(
    r"(?<![a-z])(?:dapi|hoechst|syto|draq|nucblue)|\bnuclear stain\b|^(?:nuclear|nuclei|nucleus)$", re.IGNORECASE
)


def choose_channels(wanted: str | int | Iterable[str | int], available: Sequence[str]) -> tuple[int, ...]:
    """Indices of channels, in the order given; all channels if none are given.

    A channel is a name, in any case, or a number from 0; a string that is both counts as the name (channels are called
    "488"), an int is always a number. A string that is neither is a list with commas, in which a name with a comma has
    double quotes. Raises `TypeError` for anything else, and `ValueError` for a channel that does
    not exist or is given twice, or a name that several channels have.
    """
    given = (wanted,) if isinstance(wanted, str) or not isinstance(wanted, Iterable) else tuple(wanted)
    if not given:
        return tuple(range(len(available)))
    names = list_channels(available)
    chosen: list[int] = []
    for one in (part for each in given for part in _parts(each, available)):
        index = _find(one, available, names)
        if index in chosen:
            raise ValueError(f"channels name {one!r} twice, as {', '.join(map(str, given))}; name each once of {names}")
        chosen.append(index)
    return tuple(chosen)


def nuclear_channel(names: Sequence[str]) -> int | None:
    """Number of the one channel that is called after a nuclear stain, such as DAPI; None if none or several are."""
    found = [index for index, name in enumerate(names) if _NUCLEAR.search(name.strip())]
    return found[0] if len(found) == 1 else None


def list_channels(names: Sequence[str]) -> str:
    """Numbers and names of the first channels."""
    return listed([f"{index} ({name})" for index, name in enumerate(names)], _LISTED)


def _parts(wanted: str | int, available: Sequence[str]) -> Sequence[str | int]:
    """A channel alone, or those of a list with commas that is not the name of a channel."""
    if not isinstance(wanted, str) or not set(',"') & set(wanted):
        return (wanted,)
    if wanted.strip().casefold() in (name.casefold() for name in available):
        return (wanted,)
    return [part for part in next(csv.reader([wanted], skipinitialspace=True)) if part.strip()]


def _find(wanted: str | int, available: Sequence[str], names: str) -> int:
    if isinstance(wanted, str):
        text = wanted.strip()
        named = [index for index, name in enumerate(available) if name.casefold() == text.casefold()]
        if len(named) > 1:
            raise ValueError(f"channel {wanted!r} is the name of {len(named)} channels; give a number of {names}")
        if named:
            return named[0]
        number = int(text) if text.isdecimal() else -1
    else:
        try:
            number = as_int(wanted)
        except TypeError:
            raise TypeError(f"channel {wanted!r} is neither a name nor a number; give one of {names}") from None
    if not 0 <= number < len(available):
        raise ValueError(f"channel {wanted!r} is not in this image; it has {names}")
    return number


def check_stain(channels: int, stain: str) -> None:
    """Raise `ValueError` for an unknown stain, or an image without three channels."""
    if stain not in STAINS:
        raise ValueError(f"stain is {stain!r}; it must be one of {', '.join(STAINS)}")
    if channels != 3:
        raise ValueError(
            f"stain is {stain!r} and the image has {channels} channels; it is for RGB: leave the stain out"
        )


def unmix(pixels: NDArray[Any], stain: str) -> NDArray[np.float32]:
    """One stain alone, (1,H,W): minus its optical density, so that strongly stained pixels are dark.

    `pixels` (3,H,W) are red, green and blue of a brightfield image; white is the maximum of an integer type, or 1 for
    floats. Stains are those of `settings.STAINS`.
    """
    from skimage.color import hed_from_rgb, separate_stains

    check_stain(pixels.shape[0], stain)
    if pixels.dtype.kind == "f" and float(pixels.max(initial=0)) > 1:
        raise ValueError(f"the image has floats up to {pixels.max():g}; to tell stains apart, white must be 1")
    amounts = separate_stains(np.moveaxis(pixels, 0, -1), hed_from_rgb)[..., STAINS.index(stain)]
    return np.asarray(-amounts[None], dtype=np.float32)
