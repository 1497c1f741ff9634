"""The plane of an image layer that is in view, as an image; and where its labels belong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from cytoseed.images import Image, as_image
from cytoseed.images.pixel_size import first_credible, length_um
from cytoseed.results import Result
from cytoseed.results.layers import LayerData, label_layers

_SOURCE = "the layer's scale"


class Plane(NamedTuple):
    """Image of a plane, and what its labels layers share with the image layer."""

    image: Image
    name: str
    leading: int  # axes before the plane, each of which the labels have with length 1
    place: dict[str, Any]  # scale, translate and so on

    def layers(self, result: Result) -> list[LayerData]:
        """Labels layers of a result, which lie on the plane."""
        layers = []
        for (labels, attributes, kind), target in zip(label_layers(result), result.targets, strict=True):
            levels = labels if isinstance(labels, list) else [labels]
            placed = [level[(None,) * self.leading] for level in levels]
            attributes |= {"name": f"{self.name} {target}", **self.place}
            layers.append((placed if isinstance(labels, list) else placed[0], attributes, kind))
        return layers


def pixel_size_yx_um(layer: Any) -> tuple[float, float] | None:
    """Height and width of a pixel of a layer in µm; None if its units are no lengths, or no microscope's."""
    sides = (length_um(scale, str(unit)) for scale, unit in zip(layer.scale[-2:], layer.units[-2:], strict=True))
    return first_credible([(_SOURCE, tuple(sides))])[0]  # type: ignore[list-item]


def plane_in_view(layer: Any, point: Any, first_axis_is_channels: bool) -> Plane:
    """Plane of an image layer at a point of the viewer; its last two axes, or three where the first is channels.

    `point` is in the coordinates of the world. A plane has one channel, called after the layer, unless it is RGB.
    """
    pixels = layer.data[0] if layer.multiscale else layer.data
    leading = layer.ndim - 2 - first_axis_is_channels
    if leading < 0:
        raise ValueError(f"layer {layer.name!r} has no axis of channels; leave the channels empty")
    at = np.asarray(layer.world_to_data(point))[:leading]
    at = np.clip(np.rint(at), 0, np.array(pixels.shape[:leading]) - 1).astype(int)
    image = as_image(pixels[tuple(at.tolist())])
    if not (layer.rgb or first_axis_is_channels):
        image = replace(image, channel_names=(layer.name,))
    size = pixel_size_yx_um(layer)
    if size is not None:
        image = replace(image, pixel_size_yx_um=size, pixel_size_source=_SOURCE)
    if first_axis_is_channels:  # labels have no channels, so no rotation in that axis either
        place = {name: getattr(layer, name)[-2:] for name in ("scale", "translate", "units")}
        return Plane(image, layer.name, 0, place)
    place = {name: getattr(layer, name) for name in ("scale", "rotate", "shear", "affine", "units")}
    corner, origin = (np.asarray(layer.data_to_world(each)) for each in ([*at, 0, 0], [0] * (leading + 2)))
    place["translate"] = layer.translate + corner - origin
    return Plane(image, layer.name, leading, place)
