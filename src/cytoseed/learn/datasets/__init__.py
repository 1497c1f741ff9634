"""Public data sets: their official downloads become samples to train on (`prepare`)."""

from cytoseed.learn.datasets.downloads import Source, SourceImage
from cytoseed.learn.datasets.preparation import PreparedDataset, prepare
from cytoseed.learn.datasets.public_sources import SOURCES, find_note, find_source

__all__ = ["SOURCES", "PreparedDataset", "Source", "SourceImage", "find_note", "find_source", "prepare"]
