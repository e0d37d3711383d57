"""The organic likelihood: every view of a session is a draw from one softmax over items."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor
from torch.distributions import Categorical, constraints

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
        center: the mean of a distribution that ``interest`` was drawn from, ``batch_shape x K``. If given, `log_prob`
            is not the log-probability at ``interest`` but an unbiased estimate of its expectation, with far less
            noise: see `centered_at`.
        width: length of a value; default the largest of ``lengths``.

    Example:
        >>> d = SoftmaxViews(torch.zeros(1, 1), torch.ones(4, 1), torch.zeros(4), torch.tensor([2]))
        >>> d.log_prob(torch.tensor([[0, 3]])).exp()  # two draws from four equal items
        tensor([0.0625])
    """

    arg_constraints = {  # noqa: RUF012 - torch's own convention
        "interest": constraints.real_vector,
        "item_embedding": constraints.independent(constraints.real, 2),
        "item_intercept": constraints.real_vector,
    }

    def __init__(
        self,
        interest: Tensor,
        item_embedding: Tensor,
        item_intercept: Tensor,
        lengths: Tensor,
        center: Tensor | None = None,
        width: int | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.interest = interest
        self.item_embedding = item_embedding
        self.item_intercept = item_intercept
        self.center = center
        batch_shape = torch.broadcast_shapes(interest.shape[:-1], lengths.shape)
        self.lengths = lengths
        width = (int(lengths.max()) if lengths.numel() else 0) if width is None else width
        super().__init__(batch_shape, Size((width,)), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Item numbers, and -1 for no view."""
        return constraints.independent(constraints.integer_interval(-1, self.item_intercept.shape[-1] - 1), 1)

    def expand(self, batch_shape: Size, _instance: TorchDistributionMixin | None = None) -> SoftmaxViews:
        """See `pyro.distributions.TorchDistribution.expand`."""
        shape = torch.Size(batch_shape)
        return SoftmaxViews(
            self.interest.expand(*shape, -1),
            self.item_embedding,
            self.item_intercept,
            self.lengths.expand(shape),
            None if self.center is None else self.center.expand(*shape, -1),
            width=self.event_shape[0],
            validate_args=False,
        )

    def centered_at(self, center: Tensor) -> SoftmaxViews:
        r"""An estimator of the *expected* log-likelihood, for ``interest`` drawn around a known mean.

        The linear term is taken at the mean, in closed form. Of the normaliser :math:`A(\omega)`, which is sampled,
        the first-order part around the mean, :math:`\nabla A(m) \cdot (\omega - m)`, has expectation zero and is
        subtracted. Without that second step the first *raises* the variance once the model has learned something:
        the two terms rise and fall together (measured in ``benchmarks/organic_gradient.py``).

        Args:
            center: the mean ``m`` of the distribution of ``interest``, ``batch_shape x K``.
        """
        return SoftmaxViews(
            self.interest,
            self.item_embedding,
            self.item_intercept,
            self.lengths,
            center,
            width=self.event_shape[0],
            validate_args=False,
        )

    @property
    def logits(self) -> Tensor:
        """Unnormalised log-probability of each item at ``interest``, ``batch_shape x P``."""
        return self.interest @ self.item_embedding.mT + self.item_intercept

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of the views in their order, ``batch_shape``; an estimate of its mean if centered."""
        if self._validate_args:
            self._validate_sample(value)
        viewed = value >= 0
        item, weight = value.clamp(min=0), viewed.to(self.item_embedding.dtype)
        embedding_sum = _sum_rows(self.item_embedding, item, weight)
        intercept_sum = (self.item_intercept[item] * weight).sum(-1)
        normalizer = self.logits.logsumexp(-1)
        where = self.interest
        if self.center is not None:
            where = self.center
            expected_embedding = (where @ self.item_embedding.mT + self.item_intercept).softmax(
                -1
            ) @ self.item_embedding
            normalizer = normalizer - ((self.interest - where) * expected_embedding).sum(-1)
        return (embedding_sum * where).sum(-1) + intercept_sum - viewed.sum(-1) * normalizer

    def sample(self, sample_shape: Size | tuple[int, ...] = Size()) -> Tensor:  # noqa: B008 - torch's own default
        """Sessions of ``lengths`` views: ``sample_shape x batch_shape x width``."""
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            logits = self.logits.expand(*shape, -1)
            width = self.event_shape[0]
            if width == 0:
                return torch.zeros(*shape, 0, dtype=torch.int64, device=logits.device)
            views = Categorical(logits=logits).sample(Size((width,))).movedim(0, -1)
            step = torch.arange(width, device=logits.device)
            return torch.where(step < self.lengths.expand(shape).unsqueeze(-1), views, -1)


def _sum_rows(weight: Tensor, index: Tensor, scale: Tensor) -> Tensor:
    """``sum_t scale[..., t] * weight[index[..., t]]`` without forming the gathered rows."""
    if index.numel() == 0:
        return weight.new_zeros(*index.shape[:-1], weight.shape[-1])
    flat = torch.nn.functional.embedding_bag(
        index.reshape(-1, index.shape[-1]), weight, mode="sum", per_sample_weights=scale.reshape(-1, scale.shape[-1])
    )
    return flat.view(*index.shape[:-1], weight.shape[-1])
