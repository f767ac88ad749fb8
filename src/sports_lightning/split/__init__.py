"""Cuts datasets into splits: near copies, the cut itself, and opening a dataset with its splits."""
