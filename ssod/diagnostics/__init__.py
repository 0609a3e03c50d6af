"""Whether the pseudo-labels are any good."""
