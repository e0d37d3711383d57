"""Distributions that know nothing of recommenders."""

from blob_pyro.distributions import kl
from blob_pyro.distributions.arrowhead_normal import ArrowheadNormal
from blob_pyro.distributions.block_arrowhead_normal import BlockArrowheadNormal
from blob_pyro.distributions.matrix_normal import MatrixNormal
from blob_pyro.distributions.multivariate import MultivariatePart
from blob_pyro.distributions.nested_normal import NestedNormal
from blob_pyro.distributions.softmax_views import SoftmaxViews
from blob_pyro.distributions.tabulated import TabulatedDensity

__all__ = [
    "ArrowheadNormal",
    "BlockArrowheadNormal",
    "MatrixNormal",
    "MultivariatePart",
    "NestedNormal",
    "SoftmaxViews",
    "TabulatedDensity",
    "kl",
]
