"""Bounds on the organic model's expected log-likelihood: interchangeable objects over one model and one guide.

The contract, for your own: subclass `Bound`, implement `Bound.expected_log_prob`, and pass an instance to
``BLO(bound=...)`` or to `GuidedELBO`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from blob_pyro.distributions import SoftmaxViews
from blob_pyro.infer.bounds.gaussian_logits import covariance_features, is_gaussian, item_features
from blob_pyro.infer.bounds.log_normalizers import bouchard, bouchard_offset, log_concave, log_concave_offset
from blob_pyro.infer.elbo import Posterior
from blob_pyro.models.sites import INTEREST
from blob_pyro.ops.log_normalizer import log_normalizer
from blob_pyro.ops.row_chunks import in_row_chunks
from blob_pyro.ops.selection import distinct, is_among

__all__ = ["BOUNDS", "Bouchard", "Bound", "LogConcave", "OneVsEach", "Reparameterized"]

Offsets = Callable[[Tensor, Tensor], Tensor]


class Bound(ABC):
    """A lower bound on ``E_q log p(views | omega)`` per session, or an unbiased estimate of it or of the bound.

    Called with the guide's distributions it is a handler for `GuidedELBO`.
    """

    @abstractmethod
    def expected_log_prob(self, views: SoftmaxViews, q: TorchDistribution, value: Tensor) -> Tensor:
        """The bound, in nats.

        Args:
            views: the likelihood, whose ``interest`` is a draw from ``q``: Psi, rho and the item rows needed.
            q: posterior of omega, batch ``B``, event ``K``.
            value: views, ``B x width``, -1 where there is none.

        Returns:
            ``B``.
        """

    @property
    def module(self) -> nn.Module | None:
        """What is to be trained along with the model, if anything."""
        return None

    def __call__(self, posterior: Posterior) -> Messenger:
        """The handler that puts the bound in the place of the likelihood."""
        return _InPlaceOfLikelihood(self, posterior)


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
        _require_positive(num_samples=self.num_samples)

    def expected_log_prob(self, views: SoftmaxViews, q: TorchDistribution, value: Tensor) -> Tensor:
        """See `Bound.expected_log_prob`."""
        mean, draws = q.mean, _draws(views, q, self.num_samples)
        if is_gaussian(q):
            draws = torch.cat([draws, 2 * mean.unsqueeze(-2) - draws], -2)
        normalizer = log_normalizer(draws.flatten(0, 1), views.item_embedding, views.item_intercept)
        return views.linear(value, mean) - (value >= 0).sum(-1) * normalizer.view(len(mean), -1).mean(-1)


@dataclass(frozen=True)
class _SumOverItems(Bound):
    """A bound whose normaliser is a sum over items of functions of the mean and variance of their logits."""

    num_negatives: int | None = None
    offsets: Offsets | None = None

    def __post_init__(self) -> None:
        _require_positive(num_negatives=self.num_negatives)

    @property
    def module(self) -> nn.Module | None:
        """The network that gives the offsets, if there is one."""
        return self.offsets if isinstance(self.offsets, nn.Module) else None

    @abstractmethod
    def _normalizer(self, mean: Tensor, variance: Tensor, offset: Tensor | None, weight: Tensor | None) -> Tensor:
        """The bound on the log-normaliser, ``N``, at an offset or at its optimum: see `log_normalizers`."""

    @abstractmethod
    def _offset(self, mean: Tensor, variance: Tensor, weight: Tensor | None) -> Tensor:
        """The optimal offset, ``N``."""

    def expected_log_prob(self, views: SoftmaxViews, q: TorchDistribution, value: Tensor) -> Tensor:
        """See `Bound.expected_log_prob`."""
        features, offset = covariance_features(q), self._given_offset(views, q, value)
        psi, rho, weight = self._items(views, value)
        psi_features = item_features(psi, features.shape[-1])

        def normalizer(mean: Tensor, features: Tensor, *offset: Tensor) -> Tensor:
            distribution = torch.addmm(rho, mean, psi.mT), features @ psi_features.mT
            return self._normalizer(*distribution, offset[0] if offset else None, weight)

        given = () if offset is None else (offset,)
        count = (value >= 0).sum(-1)
        return views.linear(value, q.mean) - count * in_row_chunks(
            normalizer, q.mean, features, *given, width=4 * rho.shape[0]
        )

    def _items(self, views: SoftmaxViews, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Psi, rho and how many items each row stands for: the whole catalogue, or what was viewed and a sample."""
        if self.num_negatives is None:
            return views.item_embedding, views.item_intercept, None
        # Shared by all sessions of the batch, so that they meet in one matrix product.
        viewed, drawn = views.viewed(value), _draw_items(views, self.num_negatives)
        viewed, _, times = distinct(viewed, views.num_items)
        psi, rho = views.rows(torch.cat([viewed, drawn]))
        others = (views.num_items / self.num_negatives) * ~is_among(drawn, viewed)
        return psi, rho, torch.cat([(times > 0).to(rho), others.to(rho)])

    def _given_offset(self, views: SoftmaxViews, q: TorchDistribution, value: Tensor) -> Tensor | None:
        """The offset where it must not come from the items that it is used with; None to find the optimum there."""
        if self.offsets is not None:
            return self.offsets(q.mean, q.variance)
        if self.num_negatives is None:
            return None
        with torch.no_grad():  # an independent draw: the estimate stays unbiased for the bound at this offset
            psi, rho, weight = self._items(views, value)
            features = covariance_features(q)
            variance = features @ item_features(psi, features.shape[-1]).mT
            return self._offset(torch.addmm(rho, q.mean, psi.mT), variance, weight)


@dataclass(frozen=True)
class Bouchard(_SumOverItems):
    """Bouchard's bound (Sakhi et al. 2020, section 6.1): a sum over items, quadratic in omega. No sampling of omega.

    Args:
        num_negatives: estimate the sum over the catalogue from the items that the batch has viewed, which are likely
            and weigh most, and so many others, drawn uniformly at each step; None to take all items. The cost of a step
            is then free of ``P``.
        offsets: the variational parameter ``a`` of each session as a function of the posterior's mean and variance
            (both ``B x K``): see `blob_pyro.guides.OffsetNetwork`. None for the optimum of each session, found from
            all items, or from ``num_negatives`` others. The variational parameters ``xi`` are always optimal.

    Example:
        >>> from blob_pyro import BLO
        >>> blo = BLO(num_items=1000, embedding_dim=8, bound=Bouchard(num_negatives=64))
    """

    def _normalizer(self, mean: Tensor, variance: Tensor, offset: Tensor | None, weight: Tensor | None) -> Tensor:
        offset = bouchard_offset(mean, variance, weight) if offset is None else offset
        return bouchard(mean, variance, offset, weight)

    def _offset(self, mean: Tensor, variance: Tensor, weight: Tensor | None) -> Tensor:
        return bouchard_offset(mean, variance, weight)


@dataclass(frozen=True)
class LogConcave(_SumOverItems):
    """The log-concavity bound, ``log z <= phi z - log phi - 1`` (Sakhi et al. 2020, section 6.2). No sampling of omega.

    At the optimal ``phi`` and with all items it is Jensen's inequality, ``E log z <= log E z``.

    Args:
        num_negatives: as in `Bouchard`. With few of them the noise is that of an importance-sampled normaliser.
        offsets: ``-log phi`` of each session; as in `Bouchard`.
    """

    def _normalizer(self, mean: Tensor, variance: Tensor, offset: Tensor | None, weight: Tensor | None) -> Tensor:
        return log_concave(mean, variance, offset, weight)

    def _offset(self, mean: Tensor, variance: Tensor, weight: Tensor | None) -> Tensor:
        return log_concave_offset(mean, variance, weight)


@dataclass(frozen=True)
class OneVsEach(Bound):
    r"""The one-vs-each bound (Titsias 2016; Sakhi et al. 2020, section 6.2): no variational parameter at all.

    .. math:: \log \text{softmax}_v(x) \ge \sum_{p \ne v} \log \sigma(x_v - x_p)

    A sum per *view*, not per session; omega is sampled.

    Args:
        num_negatives: estimate the sum from so many items, drawn uniformly at each step; None to take all.
        num_samples: draws of omega.
    """

    num_negatives: int | None = None
    num_samples: int = 1

    def __post_init__(self) -> None:
        _require_positive(num_samples=self.num_samples, num_negatives=self.num_negatives)

    def expected_log_prob(self, views: SoftmaxViews, q: TorchDistribution, value: Tensor) -> Tensor:
        """See `Bound.expected_log_prob`."""
        draws = _draws(views, q, self.num_samples)
        # What was viewed twice counts twice, but is computed once.
        pair = views.session_of_view(value) * views.num_items + views.viewed(value)
        pair, _, times = distinct(pair, len(pair))
        session, item = pair.div(views.num_items, rounding_mode="floor"), pair % views.num_items
        if self.num_negatives is None:
            others = torch.arange(views.num_items, device=value.device)
            psi, rho, weight = views.item_embedding, views.item_intercept, 1.0
        else:
            others = _draw_items(views, self.num_negatives)
            psi, rho = views.rows(others)
            weight = views.num_items / self.num_negatives

        def against_others(item: Tensor, item_psi: Tensor, item_rho: Tensor, draws: Tensor) -> Tensor:
            logit = (draws @ item_psi.unsqueeze(-1)).squeeze(-1) + item_rho.unsqueeze(-1)
            against = logsigmoid(logit.unsqueeze(-1) - (draws @ psi.mT + rho))
            is_other = (item.unsqueeze(-1) != others).unsqueeze(-2)
            return weight * (against * is_other).sum(-1).mean(-1)

        width = 2 * self.num_samples * rho.shape[0]
        per_pair = in_row_chunks(against_others, item, *views.rows(item), draws[session], width=width)
        return per_pair.new_zeros(len(value)).index_add(0, session, times * per_pair)


BOUNDS: dict[str, Callable[[], Bound]] = {
    "reparameterized": Reparameterized,
    "bouchard": Bouchard,
    "log_concave": LogConcave,
    "one_vs_each": OneVsEach,
}


class _InPlaceOfLikelihood(Messenger):
    def __init__(self, bound: Bound, posterior: Posterior) -> None:
        super().__init__()
        self.bound = bound
        self.posterior = posterior

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] and isinstance(msg["fn"], SoftmaxViews):
            msg["fn"] = _BoundedViews(msg["fn"], self.posterior[INTEREST], self.bound)


class _BoundedViews(SoftmaxViews):
    """The likelihood's place holder in the trace: what is scored is the bound."""

    def __init__(self, views: SoftmaxViews, q: TorchDistribution, bound: Bound) -> None:
        super().__init__(
            views.interest,
            views.item_embedding,
            views.item_intercept,
            views.lengths,
            width=views.event_shape[0],
            num_views=views.num_views,
            sparse=views.sparse,
            validate_args=False,
        )
        self.q = q
        self.bound = bound

    def log_prob(self, value: Tensor) -> Tensor:
        """The bound on the expectation of the log-probability, ``B``."""
        return self.bound.expected_log_prob(self, self.q, value)


def _draws(views: SoftmaxViews, q: TorchDistribution, num_samples: int) -> Tensor:
    """``B x num_samples x K``; a single one has been drawn already."""
    if num_samples == 1:
        return views.interest.unsqueeze(-2)
    return q.rsample((num_samples,)).movedim(0, -2)


def _draw_items(views: SoftmaxViews, num_items: int) -> Tensor:
    return torch.randint(views.num_items, (num_items,), device=views.item_embedding.device)


def _require_positive(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"{name}: must be at least 1, got {number}")
