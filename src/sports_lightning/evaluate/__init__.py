"""Metrics of a checkpoint on a split, with intervals and calibration."""
