"""ssod: train an object detector with a tenth of the labels."""

from ssod.version import __version__

__all__ = ["__version__"]
