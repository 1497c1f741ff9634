"""The command line: one file per command, all of them registered in `main`."""
