"""Channels of an image by name or number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index as as_int


def choose_channels(wanted: str | int | Iterable[str | int], available: Sequence[str]) -> tuple[int, ...]:
    """Indices of channels, in the order given; all for nothing.

    Parameters
    ----------
    wanted : str, int, or several of them
        Each a name, in any case, or a number from 0; a text that is both counts as the name (channels
        are called "488"), an int is always a number.
    available : sequence of str
        Names of the image's channels, in order.

    Raises
    ------
    TypeError
        A channel is neither a text nor an integer.
    ValueError
        A channel does not exist, is given twice, or several channels have the name.
    """
    given = (wanted,) if isinstance(wanted, str) or not isinstance(wanted, Iterable) else tuple(wanted)
    if not given:
        return tuple(range(len(available)))
    chosen: list[int] = []
    for one in given:
        index = _find(one, available)
        if index in chosen:
            raise ValueError(
                f"channels name {one!r} twice, as {', '.join(map(str, given))}; name each once of {_list(available)}"
            )
        chosen.append(index)
    return tuple(chosen)


def _find(wanted: str | int, available: Sequence[str]) -> int:
    if not isinstance(wanted, str):
        return _number(wanted, available)
    text = wanted.strip()
    named = [index for index, name in enumerate(available) if name.casefold() == text.casefold()]
    if len(named) > 1:
        raise ValueError(
            f"channel {wanted!r} is the name of {len(named)} channels; give a number of {_list(available)}"
        )
    if named:
        return named[0]
    if text.isdecimal() and int(text) < len(available):
        return int(text)
    raise ValueError(f"channel {wanted!r} is not in this image; it has {_list(available)}")


def _number(wanted: int, available: Sequence[str]) -> int:
    try:
        number = as_int(wanted)
    except TypeError:
        raise TypeError(f"channel {wanted!r} is neither a name nor a number; give one of {_list(available)}") from None
    if not 0 <= number < len(available):
        raise ValueError(f"channel {wanted!r} is not in this image; it has {_list(available)}")
    return number


def _list(available: Sequence[str]) -> str:
    return ", ".join(f"{index} ({name})" for index, name in enumerate(available))
