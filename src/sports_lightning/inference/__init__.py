"""Run a trained network on images."""
