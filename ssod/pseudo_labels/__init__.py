"""A teacher's output to pseudo-labels."""
