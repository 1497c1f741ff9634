"""Settings of all tests."""

import os

from hypothesis import settings

from remote import bucket, cache, s3_server, web  # noqa: F401 - fixtures

os.environ.setdefault("OMP_NUM_THREADS", "1")  # many small tensors: threads that wait for each other only slow them
settings.register_profile("cytoseed", deadline=None)  # a deadline is a timed test: it fails on a busy machine
settings.load_profile("cytoseed")
