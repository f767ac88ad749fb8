"""A look through the data: which files can't be read, and which pictures are there twice."""
