"""Draw the plots, the report and the model card that a finished run lacks."""
