"""What is shown when in a video: reading its frames, smoothing over time, and the files that show the segments."""
