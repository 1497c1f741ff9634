"""Sample images in napari: that of `cytoseed demo`, and drawn ones of `cytoseed samples`."""

from __future__ import annotations

from cytoseed.images.scenes import SAMPLES
from cytoseed.results.layers import LayerData, channel_layers, in_um


def section() -> list[LayerData]:
    """Image of `cytoseed demo`: a section with haematoxylin (blue) and DAB (brown); its pixel size is unknown."""
    from skimage.data import immunohistochemistry

    return [(immunohistochemistry(), {"name": "section", "rgb": True}, "image")]


def fluorescence() -> list[LayerData]:
    """One drawn channel."""
    return _sample("fluorescence")


def multiplex() -> list[LayerData]:
    """Three drawn channels, a layer each."""
    return _sample("multiplex")


def _sample(name: str) -> list[LayerData]:
    sample = SAMPLES[name]
    return channel_layers(sample.draw().image, sample.channels, False, in_um(sample.pixel_size_um))
