"""Distributions over the index of the largest score: exact Thompson-sampling propensities."""

from blob_pyro.propensity.argmax import Argmax
from blob_pyro.propensity.argmax_beta import ArgmaxBeta
from blob_pyro.propensity.argmax_conditionally_normal import ArgmaxConditionallyNormal
from blob_pyro.propensity.argmax_low_rank_normal import ArgmaxLowRankNormal
from blob_pyro.propensity.argmax_multivariate_normal import ArgmaxMultivariateNormal
from blob_pyro.propensity.argmax_normal import ArgmaxLogNormal, ArgmaxNormal
from blob_pyro.propensity.interpolation import interpolated_argmax_normal_probs
from blob_pyro.propensity.kernels.normal import argmax_normal_log_probs
from blob_pyro.propensity.ranks import RankBeta, RankNormal

__all__ = [
    "Argmax",
    "ArgmaxBeta",
    "ArgmaxConditionallyNormal",
    "ArgmaxLogNormal",
    "ArgmaxLowRankNormal",
    "ArgmaxMultivariateNormal",
    "ArgmaxNormal",
    "RankBeta",
    "RankNormal",
    "argmax_normal_log_probs",
    "interpolated_argmax_normal_probs",
]
