"""Reading data, views of it, and batches."""
