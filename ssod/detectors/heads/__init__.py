"""Heads beyond torchvision's."""
