"""Models on disk: the folder and its manifest, and one JSON codec with an open registry."""

from blob_pyro.serialization.errors import SavedModelError

__all__ = ["SavedModelError"]
