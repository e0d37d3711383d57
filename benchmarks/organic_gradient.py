"""Noise of the organic ELBO's gradient: three unbiased estimators of one expectation, early and late in a fit.

Run ``python benchmarks/organic_gradient.py``. Prints the variance of the gradient (summed over parameters, 1,024
sessions a draw, 60 draws) of the plain estimator, of the one with only its linear term in closed form, and of the
centered one that `BLO` uses.
"""

import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger

from blob_pyro import BLO
from blob_pyro.distributions import SoftmaxViews
from blob_pyro.infer import BOUNDS, GuidedELBO
from blob_pyro.models.sites import INTEREST
from blob_pyro.policies import SessionPopularity
from blob_pyro.simulation import RecoGym


class LinearOnly(SoftmaxViews):
    """The linear term at the mean, the normaliser as sampled."""

    def log_prob(self, value):
        at_mean = SoftmaxViews(self.center, self.item_embedding, self.item_intercept, self.lengths)
        views = (value >= 0).sum(-1)
        return at_mean.log_prob(value) + views * (at_mean.logits.logsumexp(-1) - self.logits.logsumexp(-1))


class ClosedFormLinear(Messenger):
    def __init__(self, posterior):
        super().__init__()
        self.posterior = posterior

    def _pyro_sample(self, msg):
        if msg["is_observed"] and isinstance(msg["fn"], SoftmaxViews):
            fn = msg["fn"]
            msg["fn"] = LinearOnly(
                fn.interest, fn.item_embedding, fn.item_intercept, fn.lengths, self.posterior[INTEREST].mean
            )


ESTIMATORS = {
    "plain": TraceMeanField_ELBO(),
    "linear term in closed form": GuidedELBO(ClosedFormLinear),
    "centered": GuidedELBO(BOUNDS["reparameterized"]),
}


def gradient_variance(blo: BLO, batch, elbo, num_draws: int = 60) -> float:
    parameters = [*blo.model.parameters(), *blo.guide.parameters()]
    draws = []
    for _ in range(num_draws):
        loss = elbo.differentiable_loss(blo.model, blo.guide, batch) / batch.num_sessions
        draws.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    return float(torch.stack(draws).var(0).sum())


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'environment':>11} {'epochs':>6}  " + "  ".join(f"{name:>26}" for name in ESTIMATORS))
    for seed in (0, 1, 2):
        log = RecoGym(num_items=100, seed=seed).simulate(SessionPopularity(100), num_users=300, num_organic_users=5000)
        for num_epochs in (2, 60):
            blo = BLO(100)
            blo.fit(log, num_epochs=num_epochs, progress=False, device="cpu")
            batch = blo.batch(log)[torch.arange(1024)]
            row = [gradient_variance(blo, batch, elbo) for elbo in ESTIMATORS.values()]
            print(f"{seed:>11} {num_epochs:>6}  " + "  ".join(f"{value:>26.4f}" for value in row))


if __name__ == "__main__":
    main()
