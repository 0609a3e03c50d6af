"""Who labels in the place of the average: a trained detector, or a file."""
