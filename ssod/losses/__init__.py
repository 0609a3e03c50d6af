"""Losses per row: (Predictions, Assignment) -> one number per row."""
