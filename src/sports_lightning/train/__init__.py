"""Train a classifier and report its best checkpoint."""
