"""Options of the exported module, in TorchScript: from the dictionary, else the keyword, else the model's default.

Each function takes the dictionary, the option's name, the keyword's value and the default, and raises `ValueError` for
a value outside the option's range.
"""

import math

import torch
from torch import Tensor


def check_names(args: dict[str, Tensor]) -> None:
    """Raise `ValueError` for an unknown option."""
    known = ["target_segmentation", "min_size", "mask_threshold", "peak_distance", "seed_threshold"]
    known += ["overlap_threshold", "mean_threshold", "fg_threshold", "window_size", "cleanup_fragments"]
    known += ["resolve_cell_and_nucleus", "precomputed_seeds"]
    for name in args:
        if name not in known:
            listed = ", ".join(known)
            raise ValueError(f"there is no option {name}; leave it out, or give one of these: {listed}")


def _value(args: dict[str, Tensor], name: str, otherwise: float) -> float:
    """Value of a one-element option in the dictionary, else `otherwise`."""
    if name not in args:
        return otherwise
    values = args[name].detach().cpu().flatten()
    if values.numel() != 1:
        raise ValueError(f"{name} has {values.numel()} values; give one number")
    return float(values.to(torch.float64).item())


def whole_number(args: dict[str, Tensor], name: str, given: int | None, own: int, low: int, high: int) -> int:
    """Value of an option that is a whole number from `low` to `high`."""
    value = _value(args, name, float(own if given is None else given))
    if not (value >= low and value <= high and value == math.floor(value)):
        raise ValueError(f"{name} is {value}; give a whole number from {low} to {high}, or leave it out for {own}")
    return int(value)


def share(args: dict[str, Tensor], name: str, given: float | None, own: float) -> float:
    """Value of an option from 0 to 1."""
    value = _value(args, name, own if given is None else given)
    if not (value >= 0.0 and value <= 1.0):
        raise ValueError(f"{name} is {value}; give a number from 0 to 1, or leave it out for {own}")
    return value


def agreement(args: dict[str, Tensor], name: str, given: float | None, own: float) -> float:
    """Value of an option above 0 and at most 1."""
    value = _value(args, name, own if given is None else given)
    if not (value > 0.0 and value <= 1.0):
        raise ValueError(f"{name} is {value}; give a number above 0 and at most 1, or leave it out for {own}")
    return value


def logit(args: dict[str, Tensor], name: str, given: float | None, own: float) -> float:
    """Logit of an option that is a probability; the default `own` is a logit already."""
    if given is None and name not in args:
        return own
    value = _value(args, name, 0.5 if given is None else given)
    if not (value > 0.0 and value < 1.0):
        raise ValueError(
            f"{name} is {value}; give a probability above 0 and below 1, or leave it out for the model's own"
        )
    return math.log(value) - math.log1p(-value)


def switch(args: dict[str, Tensor], name: str, given: bool | None) -> bool:
    """Value of an option that is true or false; true by default."""
    value = _value(args, name, 1.0 if given is None else float(given))
    if value not in [0.0, 1.0]:
        raise ValueError(f"{name} is {value}; give true or false (1 or 0), or leave it out for true")
    return value == 1.0


def placed_seeds(given: Tensor, images: int, height: int, width: int) -> Tensor:
    """Seeds (S, 3) as image, row and column, the same for each image; (0, 3) if none are given."""
    values = given.detach().cpu()
    if values.numel() == 0:
        return torch.zeros([0, 3], dtype=torch.int64)
    if values.dim() == 3 and values.shape[0] == 1:
        values = values[0]
    if (values.dim() == 1 or (values.dim() == 2 and values.shape[0] == 1)) and values.numel() % 2 == 0:
        values = values.reshape(-1, 2)
    if values.dim() != 2 or values.shape[1] != 2:
        raise ValueError(f"precomputed_seeds has shape {given.shape}; give one row and one column for each seed")
    place = values.to(torch.float64)
    row, column = place[:, 0], place[:, 1]
    outside = ~((row >= 0) & (row < height) & (column >= 0) & (column < width))  # NaN is outside too
    if bool(outside.any()):
        first = place[outside][0]
        where = f"row {float(first[0])}, column {float(first[1])}"
        raise ValueError(f"precomputed_seeds holds {where}; the image has {height} rows and {width} columns (from 0)")
    each = place.to(torch.int64)
    image = torch.arange(images).repeat_interleave(each.shape[0])
    return torch.cat([image[:, None], each.repeat(images, 1)], 1)
