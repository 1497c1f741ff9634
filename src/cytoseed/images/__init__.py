"""From a path to pixels."""
