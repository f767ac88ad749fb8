"""From a folder of pictures to batches: index → decode → augment → batch."""
