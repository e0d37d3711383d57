"""Kullback-Leibler divergences that neither torch nor Pyro has registered."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, register_kl

__all__ = ["kl_multivariate_normal_independent_normal"]


@register_kl(MultivariateNormal, Independent)
def kl_multivariate_normal_independent_normal(p: MultivariateNormal, q: Independent[Normal]) -> Tensor:
    r"""Compute ``KL(N(m, S) | N(loc, diag(scale^2)))``: a full-covariance posterior against independent normals.

    .. math:: \tfrac12 \sum_k \Big[ \frac{S_{kk} + (m_k - \text{loc}_k)^2}{\text{scale}_k^2} - 1
        + \log \text{scale}_k^2 \Big] - \sum_k \log L_{kk}, \quad S = L L'

    Raises:
        NotImplementedError: if ``q`` is not a vector of independent normals, which is how dispatch is told.
    """
    base = q.base_dist
    if not isinstance(base, Normal) or q.reinterpreted_batch_ndims != 1:
        raise NotImplementedError(f"no closed form for the divergence of a multivariate normal from {q!r}")
    spread = (p.variance + (p.loc - base.loc).square()) / base.variance - 1 + base.variance.log()
    return 0.5 * spread.sum(-1) - p.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
