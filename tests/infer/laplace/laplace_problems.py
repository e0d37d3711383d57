"""A log joint density by hand."""

import pyro
import torch
from pyro import poutine

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
