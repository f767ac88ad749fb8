"""The synthetic sample dataset, drawn by the package itself."""
