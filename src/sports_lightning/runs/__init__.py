"""The run folder: its layout, provenance, locking, checkpoints and resuming."""
