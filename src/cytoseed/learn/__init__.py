"""Training, its data and its scores."""
