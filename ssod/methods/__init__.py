"""One file a paper; base.py has the step they share."""
