"""Write a trained classifier in the formats of other programs, and show that it answers the same."""
