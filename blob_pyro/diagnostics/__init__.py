"""What a fit says of itself, for ArviZ."""

from blob_pyro.diagnostics.inference_data import to_inference_data

__all__ = ["to_inference_data"]
