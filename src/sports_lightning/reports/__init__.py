"""Everything that draws: HTML pages, plots, and Grad-CAM heat maps."""
