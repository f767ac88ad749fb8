"""Repeat a run and compare the results."""
