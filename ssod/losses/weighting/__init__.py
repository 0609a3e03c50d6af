"""Papers that weight rows."""
