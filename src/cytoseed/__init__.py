"""cytoseed finds every nucleus and cell in a microscopy image.

An independent implementation of InstanSeg (Goldsborough et al. 2024, arXiv 2408.15954).

>>> import cytoseed
>>> result = cytoseed.segment("image.tif")  # doctest: +SKIP
>>> result.count  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cytoseed.models.weights import load_model
    from cytoseed.results import Result, open_result
    from cytoseed.results.outlined import measure
    from cytoseed.run.api import segment, segment_slide
    from cytoseed.run.slide import Callbacks

__version__ = "0.1.0"
__all__ = ["Callbacks", "Result", "__version__", "load_model", "measure", "open_result", "segment", "segment_slide"]

_MODULES = {
    "Callbacks": "cytoseed.run.slide",
    "Result": "cytoseed.results",
    "load_model": "cytoseed.models.weights",
    "measure": "cytoseed.results.outlined",
    "open_result": "cytoseed.results",
    "segment": "cytoseed.run.api",
    "segment_slide": "cytoseed.run.api",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import cytoseed` stays fast."""
    if name not in _MODULES:
        raise AttributeError(f"module 'cytoseed' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
