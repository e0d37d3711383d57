"""Inference: the ELBO, the handlers that make it quiet, the training loop."""

from blob_pyro.infer.bounds import BOUNDS, Reparameterized
from blob_pyro.infer.elbo import GuidedELBO
from blob_pyro.infer.local_reparameterization import LocalReparameterization
from blob_pyro.infer.svi import Training, seeded, train

__all__ = ["BOUNDS", "GuidedELBO", "LocalReparameterization", "Reparameterized", "Training", "seeded", "train"]
