"""A log joint density by hand."""

from dataclasses import replace

import pyro
import torch
from pyro import poutine
from torch.nn.functional import softplus

from blob_pyro import BanditPriors
from blob_pyro.models import BanditBatch, BanditModel

P, K, C, N = 5, 2, 8, 400


def log_joint(model, guide, batch, theta):
    """Through Pyro's own trace of the model: nothing of the structure."""
    pieces = theta.split([shape.numel() for shape in guide.shapes.values()])
    values = {n: piece.view(shape) for (n, shape), piece in zip(guide.shapes.items(), pieces)}
    return poutine.trace(poutine.condition(model, data=values)).get_trace(batch).log_prob_sum()


def log_joints(model, guide, batch, points):
    """Of each row of ``points``, all at once: unvalidated, as validation looks at values."""
    with torch.no_grad(), pyro.validation_enabled(False):
        return torch.vmap(lambda theta: log_joint(model, guide, batch, theta), chunk_size=500)(points)


def deviating(strength, prior, num_events=600, seed=1):
    """A model whose weights are known but for ``w_b``, and events of a zeta of this strength."""
    torch.manual_seed(seed)
    size, num_items = 2, 6
    psi = torch.randn(num_items, size).double() * torch.tensor([0.4, 1.0])
    model = BanditModel(psi, BanditPriors(w_a=-1.0, w_b=prior, w_c=-0.5, kappa=0.0))
    contexts, action = torch.randn(6, size).double(), torch.arange(num_events) % num_items
    context = (torch.arange(num_events) // num_items) % 6
    batch = BanditBatch(contexts, context, action, None, num_events)
    truth = {"w_b": torch.tensor(strength).expm1().log().double(), "zeta": torch.randn(size, size).double()}
    return model, replace(batch, reward=torch.bernoulli(model.logit(truth, batch).sigmoid()))


def marginal_of_w_b(model, batch, prior, grid):
    """Its probabilities on a grid, with zeta integrated out by draws from the prior."""
    psi, size = model.item_embedding, model.embedding_dim
    draws = torch.randn(40_000, size, size).double()
    deviation = torch.einsum("pi,sij,cj->scp", psi, draws, batch.interest @ model.whitening)
    affinity = softplus(torch.tensor(-1.0)) * batch.interest @ psi.mT
    clicks, shown = (
        torch.zeros(affinity.shape).double().index_put((batch.context, batch.action), w, accumulate=True)
        for w in (batch.reward, torch.ones(len(batch)).double())
    )
    log_marginal = []
    for w_b in grid:
        logits = affinity + softplus(w_b) * deviation - 0.5
        log_likelihood = (clicks * logits - shown * softplus(logits)).sum((1, 2))
        log_marginal.append(log_likelihood.logsumexp(0) + prior.log_prob(w_b))
    return torch.stack(log_marginal).softmax(0)
