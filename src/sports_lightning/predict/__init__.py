"""Predict the classes of new images."""
