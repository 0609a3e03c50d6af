"""Weak and strong views of an image, and images mixed."""
