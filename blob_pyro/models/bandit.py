"""BLOB's generative story: which recommendations are clicked (Sakhi et al. 2020, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.nn.functional import softplus

from blob_pyro.distributions import MatrixNormal
from blob_pyro.models.operations import bilinear, broadcast, gather
from blob_pyro.models.priors import BanditPriors, Learned
from blob_pyro.models.sites import CLICK, EVENTS, KAPPA, W_A, W_B, W_C, ZETA

__all__ = ["BanditBatch", "BanditModel"]

_number = count()


@dataclass(frozen=True)
class BanditBatch:
    """Bandit events, or a random part of them. Events of one context share its row of ``interest``.

    Attributes:
        interest: omega of each distinct context, ``C x K``.
        context: row of ``interest`` for each event, ``B``.
        action: item number played, ``B``.
        reward: 0 or 1, ``B``; None to draw it.
        num_events: how many events the ``B`` stand for (``N``): the plate's size.
    """

    interest: Tensor
    context: Tensor
    action: Tensor
    reward: Tensor | None
    num_events: int

    def __len__(self) -> int:
        return self.action.shape[0]

    def __getitem__(self, index: Tensor) -> BanditBatch:
        reward = None if self.reward is None else self.reward[index]
        return replace(self, context=self.context[index], action=self.action[index], reward=reward)

    def plate(self) -> pyro.plate:
        """The plate of events; weights a part of them as if it were all."""
        rows = torch.arange(len(self), device=self.action.device)
        return pyro.plate(EVENTS, self.num_events, subsample=rows)


class BanditModel(PyroModule):
    r"""Clicks given item embeddings and interests.

    .. math::
        w_a, w_b, w_c &\sim \text{priors}, \quad
        \kappa'_p \sim N(0, s_\kappa^2), \quad
        \zeta \sim MN(0, I_K, I_K), \quad
        L L' = \Psi' \Psi / P \\
        \lambda_n &= s^+(w_a) \Psi_{a_n} \omega_n + s^+(w_b) \Psi_{a_n} \zeta L' \omega_n + \kappa'_{a_n} + w_c \\
        c_n &\sim \text{Bernoulli}(\sigma(\lambda_n))

    with :math:`s^+` the softplus. Equivalently :math:`\lambda_n = \beta_{a_n} \omega_n + \kappa_{a_n}` with
    :math:`\beta \mid \Psi, w \sim MN(s^+(w_a) \Psi, s^+(w_b) \Psi\Psi', s^+(w_b) \Psi'\Psi / P)`.

    Args:
        item_embedding: Psi, ``P x K``, as the organic model left it; not trained here.
        priors: see `BanditPriors`.

    Raises:
        ValueError: if the columns of Psi are linearly dependent (as they are where K > P): the Cholesky factor of
            ``Psi' Psi / P`` does not exist then.
    """

    item_embedding: Tensor
    whitening: Tensor

    def __init__(self, item_embedding: Tensor, priors: BanditPriors | None = None) -> None:
        super().__init__(f"bandit_model_{next(_number)}")  # unique: Pyro's parameter store is global
        self.priors = BanditPriors() if priors is None else priors
        self.num_items, self.embedding_dim = item_embedding.shape
        self.register_buffer("item_embedding", item_embedding.detach().clone())
        self.register_buffer("whitening", _whitening(self.item_embedding))
        scale = self.priors.kappa_scale
        if isinstance(scale, Learned):
            start = self.item_embedding.new_tensor(scale.start)
            self.kappa_scale: Tensor | PyroParam = PyroParam(start, constraints.positive)
        else:
            self.register_buffer("kappa_scale", self.item_embedding.new_tensor(scale))

    def site_priors(self) -> dict[str, TorchDistribution]:
        """The prior of each global site, in the order in which they are sampled."""
        psi = self.item_embedding
        zeros = psi.new_zeros(self.num_items)
        return {
            W_A: _like(self.priors.w_a, psi),
            W_B: _like(self.priors.w_b, psi),
            W_C: _like(self.priors.w_c, psi),
            KAPPA: dist.Normal(zeros, self.kappa_scale).to_event(1),
            ZETA: MatrixNormal.standard(psi.new_zeros(self.embedding_dim, self.embedding_dim)),
        }

    def forward(self, batch: BanditBatch) -> Tensor:
        """Run the story; the clicks of ``batch`` are observed unless its reward is None.

        Returns:
            Clicks, ``B``.
        """
        w_a, w_b, w_c, kappa, zeta = (pyro.sample(name, prior) for name, prior in self.site_priors().items())
        action_embedding = self.item_embedding[batch.action]
        interest = batch.interest[batch.context]
        whitened = (batch.interest @ self.whitening)[batch.context]  # L' omega, once per distinct context
        affinity = (action_embedding * interest).sum(-1)
        with batch.plate():
            logit = (
                softplus(broadcast(W_A, w_a, affinity)) * affinity
                + softplus(broadcast(W_B, w_b, affinity)) * bilinear(ZETA, zeta, action_embedding, whitened)
                + gather(KAPPA, kappa, batch.action)
                + broadcast(W_C, w_c, affinity)
            )
            return pyro.sample(CLICK, dist.Bernoulli(logits=logit), obs=batch.reward)


def _whitening(psi: Tensor) -> Tensor:
    """``L``, lower triangular with ``L L' = Psi' Psi / P``."""
    num_items, embedding_dim = psi.shape
    gram = psi.to(torch.float64).mT @ psi.to(torch.float64) / num_items
    factor, info = torch.linalg.cholesky_ex(gram)
    if int(info) or not torch.isfinite(factor).all():
        raise ValueError(
            f"item_embedding: its {embedding_dim} columns are linearly dependent (P={num_items}), so Psi'Psi/P has no "
            "Cholesky factor; use an embedding_dim of at most num_items, and fit the organic model first"
        )
    return factor.to(psi.dtype)


def _like(prior: TorchDistribution, tensor: Tensor) -> TorchDistribution:
    """A user's scalar prior with the model's dtype and device."""
    if isinstance(prior, dist.Normal):
        loc, scale = (p.to(tensor) for p in (prior.loc, prior.scale))
        return dist.Normal(loc, scale)
    return prior
