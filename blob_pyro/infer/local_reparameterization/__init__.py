"""Local reparameterisation: an effect handler, and the Gaussian projections that it draws from."""

from blob_pyro.infer.local_reparameterization.handler import LocalReparameterization

__all__ = ["LocalReparameterization"]
