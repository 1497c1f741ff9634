"""Contents of files in downloads: pictures, label images, pieces of them, NumPy's and MATLAB's arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int]


def picture(path: Path) -> Callable[[], NDArray[Any]]:
    """Give the way to an image file's pixels, (C, H, W)."""
    return partial(read_picture, path)


def read_picture(path: Path) -> NDArray[Any]:
    """Read an image: (C, H, W), without alpha; a grey one that is stored as three equal channels has one.

    Raises
    ------
    ImageFileError
        If it is damaged or of no known kind (a ValueError).
    """
    from cytoseed.images import open_image

    pixels = open_image(path).read()
    equal = pixels.shape[0] == 3 and (pixels[1:] == pixels[:1]).all()
    return pixels[:1] if equal else pixels


def read_ids(path: Path, _: Shape) -> NDArray[np.int32]:
    """Read a label image: int32, (H, W)."""
    from cytoseed.learn.samples import read_mask

    return read_mask(path)


def pieces(values: NDArray[Any], corners: bool = False) -> NDArray[np.int32]:
    """Give each connected piece of equal values a number.

    Parameters
    ----------
    values : ndarray of int or bool, shape (H, W)
        0 is background; pieces of unlike values that touch are two.
    corners : bool, default False
        Whether pixels that meet at a corner only are connected.

    Returns
    -------
    ndarray of int32, shape (H, W)
        0 where the values are, else 1..K.
    """
    from skimage import measure

    label: Callable[..., NDArray[Any]] = measure.label  # untyped
    return label(values.astype(np.int32), background=0, connectivity=2 if corners else 1).astype(np.int32)


def whole_ids(values: NDArray[Any], where: str) -> NDArray[np.int32]:
    """Take numbers of any type for ids: int32.

    Raises
    ------
    ValueError
        If they are no whole numbers from 0 to 2^31 - 1.
    """
    if values.size and not (np.isfinite(values).all() and (values == np.floor(values)).all() and values.min() >= 0):
        raise ValueError(f"{where} holds values that are no ids: they must be whole numbers, 0 or more")
    if values.max(initial=0) > np.iinfo(np.int32).max:
        raise ValueError(f"{where} holds the id {values.max()}; the largest possible is 2^31 - 1")
    return values.astype(np.int32)


def read_npy(path: Path) -> NDArray[Any]:
    """Read a `.npy` array; never a pickle, which could run code.

    Raises
    ------
    ValueError
        If the file is a pickle, damaged, or no `.npy`.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as a NumPy array without pickles ({error}); download it again"
        ) from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is an archive of arrays; it must be a single one (.npy): download it again")
    return array


def read_mat(path: Path, key: str) -> NDArray[Any]:
    """Read one array of a MATLAB file, up to version 7.2.

    Raises
    ------
    ValueError
        If the file is of version 7.3, damaged, or lacks the key.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        held = loadmat(path, variable_names=[key])
    except NotImplementedError:
        raise ValueError(
            f"{path} is a MATLAB file of version 7.3 (HDF5), which is not read; download it again, or save it in "
            f"MATLAB with save(..., '-v7')"
        ) from None
    except (ValueError, TypeError, OSError, MatReadError) as error:
        raise ValueError(f"{path} cannot be read as a MATLAB file ({error}); download it again") from error
    if key not in held:
        raise ValueError(f"{path} holds no array {key!r}; it must, as the official files do")
    return np.asarray(held[key])
