"""Which channels of an image a user means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index as as_int


def choose_channels(wished: str | int | Iterable[str | int], available: Sequence[str]) -> tuple[int, ...]:
    """Find channels by name or number.

    Parameters
    ----------
    wished : str, int, or several of them
        Each a name, whatever its case, or a number from 0; a text that is both counts as the name (channels
        are called "488"), an int is always a number. Empty: all channels.
    available : sequence of str
        Names of the image's channels, in order.

    Returns
    -------
    tuple of int
        Indices into `available`, in the order wished.

    Raises
    ------
    TypeError
        If a channel is neither a text nor an integer.
    ValueError
        If a channel is not there, is asked for twice, or if several channels have the name.
    """
    wishes = (wished,) if isinstance(wished, str) or not isinstance(wished, Iterable) else tuple(wished)
    if not wishes:
        return tuple(range(len(available)))
    chosen: list[int] = []
    for wish in wishes:
        index = _find(wish, available)
        if index in chosen:
            raise ValueError(
                f"channels name {wish!r} twice, as {', '.join(map(str, wishes))}; name each once of {_list(available)}"
            )
        chosen.append(index)
    return tuple(chosen)


def _find(wish: str | int, available: Sequence[str]) -> int:
    if not isinstance(wish, str):
        return _number(wish, available)
    text = wish.strip()
    named = [index for index, name in enumerate(available) if name.casefold() == text.casefold()]
    if len(named) > 1:
        raise ValueError(f"channel {wish!r} is the name of {len(named)} channels; give a number of {_list(available)}")
    if named:
        return named[0]
    if text.isdecimal() and int(text) < len(available):
        return int(text)
    raise ValueError(f"channel {wish!r} is not in this image; it has {_list(available)}")


def _number(wish: int, available: Sequence[str]) -> int:
    try:
        number = as_int(wish)
    except TypeError:
        raise TypeError(f"channel {wish!r} is neither a name nor a number; give one of {_list(available)}") from None
    if not 0 <= number < len(available):
        raise ValueError(f"channel {wish!r} is not in this image; it has {_list(available)}")
    return number


def _list(available: Sequence[str]) -> str:
    return ", ".join(f"{index} ({name})" for index, name in enumerate(available))
