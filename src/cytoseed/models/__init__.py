"""Bundled weights, and weights in folders."""
