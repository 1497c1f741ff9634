"""Which channels of an image a user means."""

from __future__ import annotations

from collections.abc import Sequence


def choose_channels(wished: Sequence[str], available: Sequence[str]) -> tuple[int, ...]:
    """Find channels by name or number.

    Parameters
    ----------
    wished : sequence of str
        Each a name, whatever its case, or a number from 0; a text that is both counts as the name (channels
        are called "488"). Empty: all channels.
    available : sequence of str
        Names of the image's channels, in order.

    Returns
    -------
    tuple of int
        Indices into `available`, in the order wished.

    Raises
    ------
    ValueError
        If a channel is not there, is asked for twice, or if several channels have the name.
    """
    if not wished:
        return tuple(range(len(available)))
    chosen: list[int] = []
    for wish in wished:
        index = _find(wish, available)
        if index in chosen:
            raise ValueError(
                f"channels name {wish!r} twice, as {', '.join(wished)}; name each once of {_list(available)}"
            )
        chosen.append(index)
    return tuple(chosen)


def _find(wish: str, available: Sequence[str]) -> int:
    text = wish.strip()
    named = [index for index, name in enumerate(available) if name.casefold() == text.casefold()]
    if len(named) > 1:
        raise ValueError(f"channel {wish!r} is the name of {len(named)} channels; give a number of {_list(available)}")
    if named:
        return named[0]
    if text.isdecimal() and int(text) < len(available):
        return int(text)
    raise ValueError(f"channel {wish!r} is not in this image; it has {_list(available)}")


def _list(available: Sequence[str]) -> str:
    return ", ".join(f"{index} ({name})" for index, name in enumerate(available))
