"""Find duplicates, leaks between splits, and damaged files in a dataset."""
