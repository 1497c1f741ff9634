"""cytoseed finds every nucleus in a microscopy image.

An independent implementation of InstanSeg (Goldsborough et al. 2024, arXiv 2408.15954).

>>> import cytoseed
>>> result = cytoseed.segment("image.tif")  # doctest: +SKIP
>>> result.labels.max()  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_model", "open_result", "segment", "segment_slide"]

if TYPE_CHECKING:
    from cytoseed.models.weights import load_model
    from cytoseed.results import open_result
    from cytoseed.run.segment import segment
    from cytoseed.run.slide import segment_slide


def __getattr__(name: str) -> Any:
    """Import the doors when first used, so that `import cytoseed` itself stays light."""
    if name == "load_model":
        from cytoseed.models.weights import load_model

        return load_model
    if name == "open_result":
        from cytoseed.results import open_result

        return open_result
    if name == "segment":
        from cytoseed.run.segment import segment

        return segment
    if name == "segment_slide":
        from cytoseed.run.slide import segment_slide

        return segment_slide
    raise AttributeError(f"module 'cytoseed' has no attribute {name!r}")
