"""Run a trained network over images."""
