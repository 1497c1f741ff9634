"""From labels to files that other tools open."""

from cytoseed.results.objects import Block
from cytoseed.results.record import Comparison, compare
from cytoseed.results.result import Result
from cytoseed.results.stored import open_result
from cytoseed.results.view import Record, ResultView, stem_of
from cytoseed.results.writers import WRITERS, Writer
from cytoseed.settings import DEFAULT_FORMATS

__all__ = [
    "DEFAULT_FORMATS",
    "WRITERS",
    "Block",
    "Comparison",
    "Record",
    "Result",
    "ResultView",
    "Writer",
    "compare",
    "open_result",
    "stem_of",
]
