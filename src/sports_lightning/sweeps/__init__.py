"""Sweeps: job processes, grids, Optuna searches, and the table of results."""
