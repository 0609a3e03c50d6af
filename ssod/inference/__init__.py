"""A model file on new images."""
