"""Measurements of objects: shape, intensity and stain of each, in one table."""
