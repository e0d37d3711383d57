"""Distributions that know nothing of recommenders."""

from blob_pyro.distributions import kl
from blob_pyro.distributions.arrow_normal import ArrowNormal
from blob_pyro.distributions.joint_normal import JointPart
from blob_pyro.distributions.matrix_normal import MatrixNormal
from blob_pyro.distributions.softmax_views import SoftmaxViews

__all__ = [
    "ArrowNormal",
    "JointPart",
    "MatrixNormal",
    "SoftmaxViews",
    "kl",
]
