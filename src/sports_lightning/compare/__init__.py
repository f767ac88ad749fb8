"""Compare finished runs, with paired significance tests."""
