"""Many runs: the jobs of a sweep, and what a search makes of them."""
