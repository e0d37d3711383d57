"""Heavy tails shrink outliers less."""

import pyro
import torch

from blob_pyro import BanditPriors
from blob_pyro.models import (
    BanditBatch,
    BanditModel,
    StudentTKappa,
)
from blob_pyro.models.sites import KAPPA
from tests.models.priors.term_problems import K, P


def test_student_t_shrinks_outliers_less(psi):
    """Posterior of one item with far more clicks than the rest, under normal and Student-t kappas of one scale."""
    action = torch.arange(P).repeat(200)
    rate = torch.where(action == 3, 0.5, 0.05)
    batch = BanditBatch(
        torch.zeros(1, K).double(), torch.zeros_like(action), action, torch.bernoulli(rate).double(), len(action)
    )
    kappa = {}
    for name, prior in (("normal", None), ("Student-t", StudentTKappa(2.0))):
        model = BanditModel(psi, BanditPriors(kappa=prior, kappa_scale=0.3))
        guide = pyro.infer.autoguide.AutoDelta(model)
        optimizer = pyro.optim.Adam({"lr": 0.1})
        svi = pyro.infer.SVI(model, guide, optimizer, pyro.infer.Trace_ELBO())
        pyro.clear_param_store()
        for _ in range(120):
            svi.step(batch)
        kappa[name] = guide.median()[KAPPA]
    assert kappa["Student-t"][3] > kappa["normal"][3] + 0.3
