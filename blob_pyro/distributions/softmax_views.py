"""The organic likelihood: every view of a session is a draw from one softmax over items."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor
from torch.distributions import Categorical, constraints

from blob_pyro.ops.item_tables import num_rows, rows_of, sums_of_rows
from blob_pyro.ops.log_normalizer import log_normalizer
from blob_pyro.ops.selection import pick

__all__ = ["SoftmaxViews"]


class SoftmaxViews(TorchDistribution):
    r"""Views of a session given its latent interest (Sakhi et al. 2020, section 2).

    .. math:: \log p(v_1, \ldots, v_T \mid \omega)
        = \sum_t (\Psi_{v_t} \omega + \rho_{v_t}) - T \log \sum_p \exp(\Psi_p \omega + \rho_p)

    with one normaliser per *session*. A value is a row of item numbers in ``0 .. P - 1``, filled up with -1 after
    the last view, so that sessions of different lengths share a tensor.

    Args:
        interest: omega, ``batch_shape x K``.
        item_embedding: Psi, ``P x K``.
        item_intercept: rho, ``P``.
        lengths: views per session, ``batch_shape``, int64: how long a sampled session is. The length is given, not
            modelled: it has no density.
        width: length of a value; default the largest of ``lengths``.
        num_views: how many views a value to be scored holds in all sessions together. If it is not given, it is
            counted on the device, and read.
        sparse: whether Psi and rho get sparse gradients from `linear` and `rows`. With a bound that looks at a few
            items only, a step then costs nothing for the others.

    Example:
        >>> d = SoftmaxViews(torch.zeros(1, 1), torch.ones(4, 1), torch.zeros(4), torch.tensor([2]))
        >>> d.log_prob(torch.tensor([[0, 3]])).exp()  # two draws from four equal items
        tensor([0.0625])
    """

    # Psi and rho are not listed: checking a million rows for NaN at every step would cost more than the step.
    arg_constraints = {"interest": constraints.real_vector}  # noqa: RUF012 - torch's own convention

    def __init__(
        self,
        interest: Tensor,
        item_embedding: Tensor,
        item_intercept: Tensor,
        lengths: Tensor,
        width: int | None = None,
        num_views: int | None = None,
        sparse: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        self.interest = interest
        self.item_embedding = item_embedding
        self.item_intercept = item_intercept
        self.lengths = lengths
        self.num_views = num_views
        self.sparse = sparse
        batch_shape = torch.broadcast_shapes(interest.shape[:-1], lengths.shape)
        width = (int(lengths.max()) if lengths.numel() else 0) if width is None else width
        super().__init__(batch_shape, Size((width,)), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """The item numbers, and -1 for no view."""
        return constraints.independent(constraints.integer_interval(-1, self.num_items - 1), 1)

    @property
    def num_items(self) -> int:
        """The number of items, ``P``."""
        return num_rows(self.item_intercept)

    def expand(self, batch_shape: Size, _instance: TorchDistributionMixin | None = None) -> SoftmaxViews:
        """Return the same distribution with another batch shape; see `pyro.distributions.TorchDistribution.expand`."""
        shape = torch.Size(batch_shape)
        return SoftmaxViews(
            self.interest.expand(*shape, -1),
            self.item_embedding,
            self.item_intercept,
            self.lengths.expand(shape),
            width=self.event_shape[0],
            num_views=self.num_views if shape == self.batch_shape else None,
            sparse=self.sparse,
            validate_args=False,
        )

    @property
    def logits(self) -> Tensor:
        """The unnormalised log-probability of each item at ``interest``, ``batch_shape x P``."""
        return self.interest @ self.item_embedding.mT + self.item_intercept

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of the views in their order, ``batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        flat = self.interest.reshape(-1, self.interest.shape[-1])
        normalizer = log_normalizer(flat, self.item_embedding, self.item_intercept)
        views = (value >= 0).sum(-1)
        return self.linear(value, self.interest) - views * normalizer.reshape(self.interest.shape[:-1])

    def linear(self, value: Tensor, interest: Tensor) -> Tensor:
        r"""Compute :math:`\sum_t (\Psi_{v_t} \omega + \rho_{v_t})` without forming a row per view.

        Args:
            value: views, ``batch_shape x width``.
            interest: omega, ``batch_shape x K``.
        """
        items, count = self.viewed(value), (value >= 0).sum(-1)
        count = count.reshape(-1)
        first = count.cumsum(0) - count
        embedding_sum = sums_of_rows(self.item_embedding, items, first, sparse=self.sparse)
        session = self.session_of_view(value)
        intercept_sum = embedding_sum.new_zeros(len(count)).index_add(
            0, session, rows_of(self.item_intercept, items, sparse=self.sparse)
        )
        shape = value.shape[:-1]
        return (embedding_sum.view(*shape, -1) * interest).sum(-1) + intercept_sum.view(shape)

    def viewed(self, value: Tensor) -> Tensor:
        """Return the item numbers in a value, one session after another."""
        viewed = value >= 0
        return pick(value, viewed, int(viewed.sum()) if self.num_views is None else self.num_views)

    def session_of_view(self, value: Tensor) -> Tensor:
        """Return the session that each of the `viewed` items belongs to."""
        count = (value >= 0).sum(-1).flatten()
        return torch.arange(len(count), device=count.device).repeat_interleave(count, output_size=self.num_views)

    def rows(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return Psi and rho of some items: ``S x K`` and ``S`` for ``S`` item numbers."""
        psi, rho = (rows_of(table, items, sparse=self.sparse) for table in (self.item_embedding, self.item_intercept))
        return psi, rho

    def sample(self, sample_shape: Size | tuple[int, ...] = Size()) -> Tensor:  # noqa: B008 - torch's own default
        """Draw sessions of ``lengths`` views: ``sample_shape x batch_shape x width``."""
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            logits = self.logits.expand(*shape, -1)
            width = self.event_shape[0]
            if width == 0:
                return torch.zeros(*shape, 0, dtype=torch.int64, device=logits.device)
            views = Categorical(logits=logits).sample(Size((width,))).movedim(0, -1)
            step = torch.arange(width, device=logits.device)
            return torch.where(step < self.lengths.expand(shape).unsqueeze(-1), views, -1)
