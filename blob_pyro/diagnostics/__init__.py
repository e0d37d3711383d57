"""Diagnostics of a fit: draws for ArviZ, and pictures."""

from blob_pyro.diagnostics.inference_data import to_inference_data
from blob_pyro.diagnostics.plots import plot_elbo, plot_prior_posterior

__all__ = ["plot_elbo", "plot_prior_posterior", "to_inference_data"]
