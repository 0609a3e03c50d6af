"""Detectors: what they see, and what their rows are asked to say."""
