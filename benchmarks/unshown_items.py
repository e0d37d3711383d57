"""What guides say of items that were never shown, beside NUTS: at click rates of .1, 1, 15 and 99.9 %.

    python benchmarks/unshown_items.py --gold  # NUTS, two minutes for each click rate
    python benchmarks/unshown_items.py         # the guides, beside the gold values that are there

Twenty-four items in five dimensions, eight of which are never shown; 3,000 impressions in 150 contexts. The gold has a
posterior over kappa's scale, under the prior that `blob_pyro.infer.kappa_scale` has. Standard deviations of an
item are averaged over 50 contexts. Both parts write into ``--folder``, and keep what is there.
NUTS is NumPyro's (``pip install numpyro``), on the density written out, which is checked against the model.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyro.distributions as dist
import torch
from pyro import poutine

from blob_pyro import BLO, BLOB, BanditPriors
from blob_pyro.guides.draws import DrawsGuide
from blob_pyro.infer import FitRequest, Training, fit_guide, training_defaults
from blob_pyro.infer.kappa_scale import SCALE_OF_SCALE
from blob_pyro.models import BanditBatch
from blob_pyro.ops.seeds import seeded

NUM_ITEMS, NUM_SHOWN, EMBEDDING_DIM, NUM_EVENTS, NUM_CONTEXTS = 24, 16, 5, 3000, 150
RATES = (0.001, 0.01, 0.15, 0.999)
TOLERANCE = {
    "arrowhead_normal": {0.001: 0.15, 0.01: 0.1, 0.15: 0.1, 0.999: 0.15},
    "laplace": {0.001: 0.1, 0.01: 0.1, 0.15: 0.1, 0.999: 0.15},
    "normal": {0.01: 0.1, 0.15: 0.1},
}
"""Of standard deviations of logits, relative to NUTS', by guide and click rate: what tests hold them to."""
MEAN_TOLERANCE = {"arrowhead_normal": 0.15, "laplace": 0.4}
"""Of means of logits, in NUTS' standard deviations, likewise."""
CHAINS = 4  # of NUTS
KAPPA_SCALE = 0.5  # of the items that clicks are drawn from
COLUMNS = ["rate", "guide", "items", "logit_mean", "logit_sd", "probability_mean", "probability_sd"]


def make(guide: object, seed: int, priors: BanditPriors | None = None) -> BLOB:
    """A model of the catalogue, not fitted."""
    blo = BLO(NUM_ITEMS, embedding_dim=EMBEDDING_DIM)
    blo.fits = [{"call": "fit"}]
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        blo.model.item_embedding.copy_(torch.randn(NUM_ITEMS, EMBEDDING_DIM, generator=numbers))
    return BLOB(blo, guide, priors)


def events(blob: BLOB, rate: float, seed: int) -> BanditBatch:
    """Clicks at about this rate; the last eight items are never shown."""
    with seeded(seed, torch.device("cpu")):
        interest = torch.randn(NUM_CONTEXTS, EMBEDDING_DIM)
        context = torch.randint(NUM_CONTEXTS, (NUM_EVENTS,))
        action = torch.arange(NUM_EVENTS) % NUM_SHOWN
        values = {
            "w_a": torch.tensor(-1.0), "w_b": torch.tensor(-6.0),
            "kappa": KAPPA_SCALE * torch.randn(NUM_ITEMS), "zeta": torch.randn(EMBEDDING_DIM, EMBEDDING_DIM),
        }  # fmt: skip
        batch = BanditBatch(interest, context, action, None, NUM_EVENTS)
        logits = blob.model.logit({**values, "w_c": torch.zeros(())}, batch).detach()
        low, high = torch.tensor(-20.0), torch.tensor(20.0)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if torch.sigmoid(logits + middle).mean() < rate else (low, middle)
        reward = torch.bernoulli(torch.sigmoid(logits + low))
    return replace(batch, reward=reward)


def fit(blob: BLOB, batch: BanditBatch, seed: int) -> float:
    """Fit, as `BLOB.fit` does where its caller says nothing; seconds of CPU time."""
    usual = training_defaults(blob.guide, blob.model)
    size = min(usual.batch_size, len(batch))
    settings = Training(usual.epochs(len(batch), size), size, usual.learning_rate, capture=usual.capture)
    start = time.process_time()
    with seeded(seed, torch.device("cpu")), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit_guide(blob.guide, FitRequest(blob.model, batch, settings, True, False, None))
    return time.process_time() - start


def gold(blob: BLOB, batch: BanditBatch, draws: int, seed: int) -> dict[str, Any]:
    """Fill a guide with NUTS' draws, of four chains by NumPyro; how they went."""
    import jax
    import numpy as np
    from numpyro.diagnostics import summary
    from numpyro.infer import MCMC, NUTS

    jax.config.update("jax_enable_x64", True)
    start, potential = time.process_time(), Potential(blob, batch)
    with seeded(seed, torch.device("cpu")):
        check(blob, batch, potential)
        usual = {
            "w_a": -1.0, "w_b": -6.0, "w_c": float(batch.reward.mean().logit()), "log_kappa_scale": -1.0,
            "zeta": torch.zeros(EMBEDDING_DIM, EMBEDDING_DIM), "whitened_kappa": torch.zeros(NUM_ITEMS),
        }  # fmt: skip
        at = {
            name: torch.as_tensor(value).double().expand(CHAINS, *torch.as_tensor(value).shape)
            for name, value in usual.items()
        }
        initial = {name: (value + 0.1 * torch.randn_like(value)).numpy() for name, value in at.items()}
    kernel = NUTS(potential_fn=potential, target_accept_prob=0.9)
    chains = MCMC(
        kernel, num_warmup=300, num_samples=draws // CHAINS, num_chains=CHAINS, chain_method="sequential",
        progress_bar=False,
    )  # fmt: skip
    chains.run(jax.random.PRNGKey(seed), init_params=initial, extra_fields=("diverging",))
    found = {n: torch.from_numpy(np.array(v)) for n, v in chains.get_samples().items()}
    known = summary(chains.get_samples(group_by_chain=True))
    scale = found["log_kappa_scale"].exp()
    blob.guide.fill({n: v.float() for n, v in found.items()})
    return {
        "kappa_scale": float(scale.square().mean().sqrt()), "clicks": int(batch.reward.sum()),
        "cpu_seconds": time.process_time() - start,
        "divergences": int(chains.get_extra_fields()["diverging"].sum()),
        "r_hat": max(float(np.max(site["r_hat"])) for site in known.values()),
        "least_ess": min(float(np.min(site["n_eff"])) for site in known.values()),
    }  # fmt: skip


class Potential:
    """The negative log density of clicks and parameters, as `BanditModel` has it with a prior of kappa's scale.

    Of events of one context and one item once, with how many there are: what JAX differentiates.
    """

    def __init__(self, blob: BLOB, batch: BanditBatch) -> None:
        import jax.numpy as jnp

        cells, event = torch.unique(torch.stack([batch.context, batch.action]), dim=1, return_inverse=True)
        items, users = blob.model.item_embedding.double()[cells[1]], batch.interest.double()[cells[0]]
        whitened = users @ blob.model.whitening.double()
        deviation = (items.unsqueeze(-1) * whitened.unsqueeze(-2)).flatten(1)
        events = torch.bincount(event).double()
        clicks = torch.zeros_like(events).index_add(0, event, batch.reward.double())
        self.affinity, self.deviation, self.item, self.events, self.clicks = (
            jnp.asarray(t.detach().numpy()) for t in ((items * users).sum(-1), deviation, cells[1], events, clicks)
        )
        self.scale = float(blob.model.priors.kappa_scale.scale)

    def __call__(self, z: dict[str, Any]) -> Any:
        import jax
        import jax.numpy as jnp

        scale, softplus = jnp.exp(z["log_kappa_scale"]), jax.nn.softplus
        logit = softplus(z["w_a"]) * self.affinity + softplus(z["w_b"]) * (self.deviation @ z["zeta"].flatten())
        logit = logit + scale * z["whitened_kappa"][self.item] + z["w_c"]
        square = (z["w_a"] + 1) ** 2 + (z["w_b"] + 6) ** 2 + ((z["w_c"] + 4.5) / 10) ** 2
        square = square + (z["zeta"] ** 2).sum() + (z["whitened_kappa"] ** 2).sum() + (scale / self.scale) ** 2
        return 0.5 * square - z["log_kappa_scale"] - (self.clicks * logit - self.events * softplus(logit)).sum()


def check(blob: BLOB, batch: BanditBatch, potential: Potential) -> None:
    """Differences of the written-out density are the model's."""
    found = []
    for _ in range(3):
        values = {name: draw[0] for name, draw in blob.model.prior_draws(1).items()}
        trace = poutine.trace(poutine.condition(blob.model, values)).get_trace(batch)
        found.append(float(trace.log_prob_sum()) + float(potential({n: v.double().numpy() for n, v in values.items()})))
    assert max(found) - min(found) < 0.05, f"not the model's density: {found}"


def described(blob: BLOB, guide: str, rate: float, seed: int) -> list[dict[str, object]]:
    """Means over items and contexts of each posterior mean and standard deviation."""
    with seeded(seed, torch.device("cpu")), torch.no_grad():
        interest = torch.randn(50, EMBEDDING_DIM)
        coefficients = blob._parts.known.coefficients(blob._parts.known.sample(2000)).double()
        inputs = torch.cat([interest.double(), torch.ones(50, 1).double()], -1)
        logits = coefficients @ inputs.mT  # draws x items x contexts
    rows: list[dict[str, object]] = []
    for items, here in (("shown", slice(0, NUM_SHOWN)), ("unshown", slice(NUM_SHOWN, None))):
        some, probability = logits[:, here], torch.sigmoid(logits[:, here])
        rows.append(
            {
                "rate": rate, "guide": guide, "items": items, "logit_mean": float(some.mean()),
                "logit_sd": float(some.std(0).mean()), "probability_mean": float(probability.mean()),
                "probability_sd": float(probability.std(0).mean()),
            }
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gold", action="store_true", help="NUTS, in place of the guides")
    parser.add_argument("--guides", nargs="+", default=["normal", "arrowhead_normal", "laplace", "low_rank", "full"])
    parser.add_argument("--rates", nargs="+", type=float, default=RATES)
    parser.add_argument("--seed", type=int, default=200)
    parser.add_argument("--draws", type=int, default=1600)
    parser.add_argument("--scale-prior", type=float, default=SCALE_OF_SCALE, help="half-normal, of kappa's scale")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/unshown_items"))
    settings = parser.parse_args()
    torch.set_num_threads(1)
    settings.folder.mkdir(parents=True, exist_ok=True)
    path = settings.folder / ("gold.csv" if settings.gold else "guides.csv")
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    for rate in settings.rates:
        batch = events(make("normal", settings.seed), rate, settings.seed)
        for guide in ["nuts"] if settings.gold else settings.guides:
            if any((row["rate"], row["guide"]) == (rate, guide) for row in rows):
                continue
            if settings.gold:
                priors = BanditPriors(kappa_scale=dist.HalfNormal(settings.scale_prior))
                blob = make(partial(DrawsGuide, num_draws=settings.draws), settings.seed, priors)
                more = gold(blob, batch, settings.draws, settings.seed)
            else:
                blob = make(guide, settings.seed)
                seconds = fit(blob, batch, settings.seed)
                scale = float(blob.model.kappa_scale.detach())
                more = {"kappa_scale": scale, "clicks": int(batch.reward.sum()), "cpu_seconds": seconds}
            rows += [{**row, **more} for row in described(blob, guide, rate, settings.seed)]
            pd.DataFrame(rows).round(5).to_csv(path, index=False)
    table = pd.DataFrame(rows)
    if not settings.gold and (known := settings.folder / "gold.csv").exists():
        table = pd.concat([pd.read_csv(known), table]).sort_values(["rate", "items"], kind="stable")
    text = table.to_string(index=False, float_format=lambda v: f"{v:.4g}")
    print(text)
    if not settings.gold:
        (settings.folder / "table.txt").write_text(text + "\n")


if __name__ == "__main__":
    main()
