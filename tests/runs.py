"""Runs that report more than `cytoseed.segment` returns: tiles, failures, files."""

from cytoseed.images import as_image
from cytoseed.models.weights import Model, load_model
from cytoseed.paths import as_path
from cytoseed.results import DEFAULT_FORMATS
from cytoseed.run.resume import Request
from cytoseed.run.slide import run_to_files
from cytoseed.settings import with_settings


def request(image, output, model, formats=DEFAULT_FORMATS, existing="refuse", shard=None, **settings):
    loaded = model if isinstance(model, Model) else load_model(model)
    options = with_settings(None, settings)
    return Request(as_image(image), as_path(output), loaded, options, tuple(formats), existing, shard)


def run(*args, callbacks=None, cluster=None, **settings):
    asked = request(*args, **settings)
    return run_to_files(asked, callbacks, None if cluster is None else cluster.executor(asked))
