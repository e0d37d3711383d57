"""Noise of the organic ELBO's gradient: three unbiased estimators of one expectation, early and late in a fit.

    python benchmarks/organic_gradient.py

Prints the variance of the gradient (summed over parameters, 1,024 sessions a draw, 60 draws) of the plain estimator,
of the one with only its linear term in closed form, and of the mirrored one that `BLO` uses.
"""

import torch
from pyro.infer import TraceMeanField_ELBO

from blob_pyro import BLO
from blob_pyro.infer import Bound, GuidedELBO, Reparameterized
from blob_pyro.policies import SessionPopularity
from blob_pyro.simulation import RecoGym


class LinearTermOnly(Bound):
    """The linear term at the mean, the normaliser as sampled."""

    def expected_log_prob(self, views, q, value):
        return views.linear(value, q.mean) - (value >= 0).sum(-1) * views.logits.logsumexp(-1)


ESTIMATORS = {
    "plain": TraceMeanField_ELBO(),
    "linear term in closed form": GuidedELBO(LinearTermOnly()),
    "mirrored": GuidedELBO(Reparameterized()),
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
