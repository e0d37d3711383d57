"""Diagnostics of a fit: draws for ArviZ, checks, and pictures, all of which are in `blob_pyro.diagnostics.plots`."""

from blob_pyro.diagnostics.calibration import calibrate
from blob_pyro.diagnostics.calibration_report import Calibration
from blob_pyro.diagnostics.comparison import Comparison, compare_guides, compare_priors
from blob_pyro.diagnostics.diagnose import Diagnosis, diagnose
from blob_pyro.diagnostics.export_plan import ExportWarning
from blob_pyro.diagnostics.held_out import ClickEvaluation, ViewEvaluation, evaluate_clicks, evaluate_views
from blob_pyro.diagnostics.inference_data import to_inference_data
from blob_pyro.diagnostics.page import diagnosis_page
from blob_pyro.diagnostics.plots import plot_prior_posterior, plot_training
from blob_pyro.diagnostics.psis import PSIS, psis
from blob_pyro.diagnostics.summaries import summary
from blob_pyro.ops.renamed import renamed_in_module

__all__ = [
    "PSIS",
    "Calibration",
    "ClickEvaluation",
    "Comparison",
    "Diagnosis",
    "ExportWarning",
    "ViewEvaluation",
    "calibrate",
    "compare_guides",
    "compare_priors",
    "diagnose",
    "diagnosis_page",
    "evaluate_clicks",
    "evaluate_views",
    "plot_prior_posterior",
    "plot_training",
    "psis",
    "summary",
    "to_inference_data",
]

__getattr__ = renamed_in_module(__name__, {"plot_elbo": "plot_training"}, globals())
