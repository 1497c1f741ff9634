"""Training, its data and its figures."""
