"""Inference: the ELBO, the handlers that make it quiet or bound it, the training loop, EM."""

from blob_pyro.infer.bounds.bouchard import Bouchard
from blob_pyro.infer.bounds.bound import BOUNDS, Bound, register_bound
from blob_pyro.infer.bounds.log_concave import LogConcave
from blob_pyro.infer.bounds.one_vs_each import OneVsEach
from blob_pyro.infer.bounds.reparameterized import Reparameterized
from blob_pyro.infer.elbo import GuidedELBO
from blob_pyro.infer.elbo_estimate import ELBOEstimate, HasNoELBO, estimate_elbo
from blob_pyro.infer.em import EMState, ExpectationMaximization, expectation_maximization
from blob_pyro.infer.fit import fit_guide
from blob_pyro.infer.fit_request import FitRequest
from blob_pyro.infer.from_laplace import fit_from_laplace
from blob_pyro.infer.laplace.fit import fit_laplace
from blob_pyro.infer.local_reparameterization import LocalReparameterization
from blob_pyro.infer.newton import newton_posterior
from blob_pyro.infer.nuts import fit_nuts
from blob_pyro.infer.online_em import online_expectation_maximization
from blob_pyro.infer.references import PoorFitWarning, warn_if_poor
from blob_pyro.infer.svi import training_defaults, warn_of_own_betas
from blob_pyro.infer.training.capture import CannotCapture, CapturedStep
from blob_pyro.infer.training.checkpoints import Checkpoint, CheckpointError
from blob_pyro.infer.training.convergence import ConvergenceWarning, verdict, warn_unless_converged
from blob_pyro.infer.training.loop import train
from blob_pyro.infer.training.not_finite import NotFiniteError
from blob_pyro.infer.training.rowwise_adam import RowwiseAdam
from blob_pyro.infer.training.settings import Training
from blob_pyro.infer.weights.fit import fit_arrowhead_normal
from blob_pyro.infer.weights.posterior import correlate_weights
from blob_pyro.ops.seeds import seeded

__all__ = [
    "BOUNDS",
    "Bouchard",
    "Bound",
    "CannotCapture",
    "CapturedStep",
    "Checkpoint",
    "CheckpointError",
    "ConvergenceWarning",
    "ELBOEstimate",
    "EMState",
    "ExpectationMaximization",
    "FitRequest",
    "GuidedELBO",
    "HasNoELBO",
    "LocalReparameterization",
    "LogConcave",
    "NotFiniteError",
    "OneVsEach",
    "PoorFitWarning",
    "Reparameterized",
    "RowwiseAdam",
    "Training",
    "correlate_weights",
    "estimate_elbo",
    "expectation_maximization",
    "fit_arrowhead_normal",
    "fit_from_laplace",
    "fit_guide",
    "fit_laplace",
    "fit_nuts",
    "newton_posterior",
    "online_expectation_maximization",
    "register_bound",
    "seeded",
    "train",
    "training_defaults",
    "verdict",
    "warn_if_poor",
    "warn_of_own_betas",
    "warn_unless_converged",
]
