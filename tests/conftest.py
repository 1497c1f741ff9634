"""Settings of all tests."""

from hypothesis import settings

settings.register_profile("cytoseed", deadline=None)  # a deadline is a timed test: it fails on a busy machine
settings.load_profile("cytoseed")
