"""Assigners: which row should predict which box."""
