"""Losses of rows: (Predictions, Assignment) to one number a row."""
