"""Inference: the ELBO, the handlers that make it quiet or bound it, the training loop, EM."""

from blob_pyro.infer.bounds.bounds import BOUNDS, Bouchard, Bound, LogConcave, OneVsEach, Reparameterized
from blob_pyro.infer.elbo import GuidedELBO
from blob_pyro.infer.elbo_estimate import ELBOEstimate, HasNoELBO, estimate_elbo
from blob_pyro.infer.em import EMState, ExpectationMaximization, expectation_maximization
from blob_pyro.infer.fit import fit_guide
from blob_pyro.infer.local_reparameterization import LocalReparameterization
from blob_pyro.infer.online_em import online_expectation_maximization
from blob_pyro.infer.training.capture import CannotCapture, CapturedStep
from blob_pyro.infer.training.checkpoints import Checkpoint, CheckpointError
from blob_pyro.infer.training.loop import train
from blob_pyro.infer.training.rowwise_adam import RowwiseAdam
from blob_pyro.infer.training.settings import Training
from blob_pyro.ops.seeds import seeded

__all__ = [
    "BOUNDS",
    "Bouchard",
    "Bound",
    "CannotCapture",
    "CapturedStep",
    "Checkpoint",
    "CheckpointError",
    "ELBOEstimate",
    "EMState",
    "ExpectationMaximization",
    "GuidedELBO",
    "HasNoELBO",
    "LocalReparameterization",
    "LogConcave",
    "OneVsEach",
    "Reparameterized",
    "RowwiseAdam",
    "Training",
    "estimate_elbo",
    "expectation_maximization",
    "fit_guide",
    "online_expectation_maximization",
    "seeded",
    "train",
]
