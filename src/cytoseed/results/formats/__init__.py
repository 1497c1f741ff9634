"""The formats, one file each: every module here has `WRITERS`, a tuple of `Writer`; a new format is a new file."""
