"""From labels to files that other tools open: one writer per format, found by name."""

from cytoseed.results.record import Comparison, Record, compare, record_of, stem_of
from cytoseed.results.result import Block, Result
from cytoseed.results.segmentation import Segmentation
from cytoseed.results.stored import StoredResult, open_result
from cytoseed.results.writer import Writer
from cytoseed.results.writers import WRITERS

__all__ = [
    "WRITERS",
    "Block",
    "Comparison",
    "Record",
    "Result",
    "Segmentation",
    "StoredResult",
    "Writer",
    "compare",
    "open_result",
    "record_of",
    "stem_of",
]
