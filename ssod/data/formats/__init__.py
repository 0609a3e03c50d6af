"""Files on disk to records."""
