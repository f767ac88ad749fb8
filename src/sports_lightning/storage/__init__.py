"""Files, locks and the disk cache. No torch."""
