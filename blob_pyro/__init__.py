"""BLOB in Pyro."""

from blob_pyro._version import __version__

__all__ = ["__version__"]
