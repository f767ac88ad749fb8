"""From a folder of images to batches: index → decode → augment → batch."""
