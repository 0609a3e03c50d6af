"""One file per method; see base.py for the step they share."""
