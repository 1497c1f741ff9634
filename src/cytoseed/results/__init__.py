"""From labels to files that other tools open."""
