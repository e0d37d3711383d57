"""Distributions that know nothing of recommenders."""

from blob_pyro.distributions import kl
from blob_pyro.distributions.matrix_normal import MatrixNormal
from blob_pyro.distributions.softmax_views import SoftmaxViews

__all__ = ["MatrixNormal", "SoftmaxViews", "kl"]
