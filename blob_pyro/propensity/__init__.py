"""Distributions over the index of the largest score: exact Thompson-sampling propensities."""

from blob_pyro.propensity._normal_kernel import argmax_normal_log_probs
from blob_pyro.propensity.argmax_conditionally_normal import ArgmaxConditionallyNormal
from blob_pyro.propensity.argmax_normal import ArgmaxLogNormal, ArgmaxNormal

__all__ = ["ArgmaxConditionallyNormal", "ArgmaxLogNormal", "ArgmaxNormal", "argmax_normal_log_probs"]
