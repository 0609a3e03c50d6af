"""A data section of a config: its sets and its splits."""
