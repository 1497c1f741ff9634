"""Plugin for napari: a widget that segments a layer, a reader of results, and sample images."""
