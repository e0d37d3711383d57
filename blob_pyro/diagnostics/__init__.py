"""What a fit says of itself: draws for ArviZ, and pictures."""

from blob_pyro.diagnostics.inference_data import to_inference_data
from blob_pyro.diagnostics.plots import plot_elbo

__all__ = ["plot_elbo", "to_inference_data"]
