"""The reparameterisation bound."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.distributions import SoftmaxViews
from blob_pyro.infer.bounds.bound import Bound, draws_of, register_bound, require_positive
from blob_pyro.infer.bounds.gaussian_logits import is_gaussian
from blob_pyro.ops.log_normalizer import log_normalizer

__all__ = ["Reparameterized"]


@register_bound("reparameterized")
@dataclass(frozen=True)
class Reparameterized(Bound):
    r"""The reparameterisation bound (Sakhi et al. 2020, section 3.1.1), Rao-Blackwellised: no bound but the ELBO.

    Of :math:`E_q \sum_t (\Psi_{v_t} \omega + \rho_{v_t}) - T\, E_q A(\omega)`, with the log-normaliser :math:`A`, the
    first term is taken in closed form, at the mean of ``q``. The normaliser is sampled at each draw and at its mirror
    image in the mean, which is as likely under a Gaussian: the first-order noise of the two cancels. Without that
    second step the first *raises* the variance once the model has learned something, because the two terms rise and
    fall together (measured in ``benchmarks/organic_gradient.py``).

    Args:
        num_samples: draws of omega for the normaliser.
    """

    num_samples: int = 1

    def __post_init__(self) -> None:
        require_positive(num_samples=self.num_samples)

    @property
    def is_same_every_step(self) -> bool:
        """True, but for a class of your own that is one of these: of that it is not known."""
        return type(self) is Reparameterized

    def expected_log_prob(self, views: SoftmaxViews, q: TorchDistribution, value: Tensor) -> Tensor:
        """Return the bound, in nats; see `Bound.expected_log_prob`."""
        mean, draws = q.mean, draws_of(views, q, self.num_samples)
        if is_gaussian(q):
            draws = torch.cat([draws, 2 * mean.unsqueeze(-2) - draws], -2)
        normalizer = log_normalizer(draws.flatten(0, 1), views.item_embedding, views.item_intercept)
        return views.linear(value, mean) - (value >= 0).sum(-1) * normalizer.view(len(mean), -1).mean(-1)
