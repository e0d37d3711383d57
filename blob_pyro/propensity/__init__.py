"""Distributions over the index of the largest score: exact Thompson-sampling propensities."""

from blob_pyro.propensity._normal_kernel import argmax_normal_log_probs
from blob_pyro.propensity.argmax_conditionally_normal import ArgmaxConditionallyNormal
from blob_pyro.propensity.argmax_low_rank_normal import ArgmaxLowRankNormal
from blob_pyro.propensity.argmax_multivariate_normal import ArgmaxMultivariateNormal
from blob_pyro.propensity.argmax_normal import ArgmaxLogNormal, ArgmaxNormal

__all__ = [
    "ArgmaxConditionallyNormal",
    "ArgmaxLogNormal",
    "ArgmaxLowRankNormal",
    "ArgmaxMultivariateNormal",
    "ArgmaxNormal",
    "argmax_normal_log_probs",
]
