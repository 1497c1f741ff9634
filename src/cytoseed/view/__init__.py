"""Viewer in the browser: images, outlines and measurements, served on this machine only."""
