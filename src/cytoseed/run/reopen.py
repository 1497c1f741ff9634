"""A stored result with the image that it was found in: all other formats can be made of the two."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from numpy.typing import NDArray

from cytoseed.images import Image, ImageLike, as_image, open_image
from cytoseed.results.record import input_of
from cytoseed.results.stored import StoredResult
from cytoseed.results.stored import open_result as _open_result


def open_result(path: str | os.PathLike[str], image: ImageLike | None = None) -> StoredResult:
    """Open a stored result, a file that ends in `.objects.zip`, to look at it or to write it in other formats.

    Parameters
    ----------
    path : str or path
        What `cytoseed.segment(...).save`, `cytoseed.segment_slide` or `cytoseed segment` wrote.
    image : path, Image or array, optional
        The image. Only the overlay needs it; without it, it is looked for where it was, then beside the result.

    Returns
    -------
    StoredResult
        A `Result`, with `save`. Its file stays open until the end of a `with` block, `close`, or its own end.

    Raises
    ------
    FileNotFoundError
        There is no such file. Later, from `overview` and the overlay: the image is not found.
    ValueError
        The file is damaged, was written by a newer cytoseed, or is something else. Later: the image is another one.
    """
    return _open_result(path, partial(_look, image))


def _look(given: ImageLike | None, result: StoredResult, largest_px: int) -> tuple[NDArray[Any], float]:
    """Show the image as it was shown when the result was made."""
    from cytoseed.run.slide import look

    image = _found(result) if given is None else as_image(given)
    if image.shape != result.shape:
        raise ValueError(
            f"{image.path or 'the image'}: has shape {image.shape}, and the objects of {result.path} were found in an "
            f"image of {result.shape}; give that one"
        )
    return (image.read(), 1.0) if result.was_in_memory else look(image, largest_px)


def _found(result: StoredResult) -> Image:
    """Find the image again: only the same one counts."""
    places = tuple(_places(result))
    for place in places:
        try:
            image = open_image(place)
        except FileNotFoundError:
            continue
        if _is_same(image, result):
            return image
    where = "an array, in no file" if result.image is None else f"not at {' or '.join(places)} as it was then"
    raise FileNotFoundError(
        f"{result.path}: the overlay is drawn on the image in which the objects were found, which is {where}; "
        f"say where it is by --image (image in Python)"
    )


def _places(result: StoredResult) -> Iterator[str]:
    """List where the image may be."""
    if result.image is not None:
        yield result.image
        beside = str(result.path.parent.absolute() / str(result.input.get("name", "")))
        if beside != result.image:
            yield beside


def _is_same(image: Image, result: StoredResult) -> bool:
    """Tell whether an image is the one in which the objects were found, whatever it is called."""
    if image.shape != result.shape:
        return False
    own = input_of(image.read(), "") if result.was_in_memory else image.identity()
    return _without_name(own) == _without_name(result.input)


def _without_name(described: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in described.items() if key != "name"}
