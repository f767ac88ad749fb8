"""Averages of the weights of several checkpoints: model soups and interpolation."""
