"""What a check of the data looks for."""
