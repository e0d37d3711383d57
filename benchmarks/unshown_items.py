"""What guides say of items that were never shown, beside NUTS: at click rates of .1, 1, 15 and 99.9 %.

    python benchmarks/unshown_items.py --gold  # NUTS, some minutes for each click rate
    python benchmarks/unshown_items.py         # the guides, beside the gold values that are there

Twenty-four items in five dimensions, eight of which are never shown; 3,000 impressions in 150 contexts. The gold has a
posterior over kappa's scale, under the prior that `blob_pyro.infer.kappa_scale` has. Standard deviations of an
item are averaged over 50 contexts. Both parts write into ``--folder``; gold values that are there are kept.
NUTS runs on the density written out, with less to do for each step, which is checked against the model.
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
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import split_gelman_rubin
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from blob_pyro import BLO, BLOB, BanditPriors
from blob_pyro.guides.draws import DrawsGuide
from blob_pyro.infer import FitRequest, Training, fit_guide, training_defaults
from blob_pyro.infer.kappa_scale import SCALE_OF_SCALE
from blob_pyro.models import BanditBatch
from blob_pyro.ops.seeds import seeded

NUM_ITEMS, NUM_SHOWN, EMBEDDING_DIM, NUM_EVENTS, NUM_CONTEXTS = 24, 16, 5, 3000, 150
RATES = (0.001, 0.01, 0.15, 0.999)
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
    """Fit, as `BLOB.fit` does where its caller says nothing; seconds."""
    usual = training_defaults(blob.guide, blob.model)
    size = min(usual.batch_size, len(batch))
    settings = Training(usual.epochs(len(batch), size), size, usual.learning_rate, capture=usual.capture)
    start = time.perf_counter()
    with seeded(seed, torch.device("cpu")), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit_guide(blob.guide, FitRequest(blob.model, batch, settings, True, False, None))
    return time.perf_counter() - start


def gold(blob: BLOB, batch: BanditBatch, draws: int, seed: int) -> dict[str, Any]:
    """Fill a guide with NUTS' draws, of two chains; how they went."""
    start, potential = time.perf_counter(), Potential(blob, batch)
    with seeded(seed, torch.device("cpu")):
        check(blob, batch, potential)
        rate = float(batch.reward.mean())
        chains = []
        for _ in range(2):
            usual = {
                "w_a": -1.0, "w_b": -6.0, "w_c": torch.tensor(rate).logit(), "log_kappa_scale": -1.0,
                "zeta": torch.zeros(EMBEDDING_DIM, EMBEDDING_DIM), "whitened_kappa": torch.zeros(NUM_ITEMS),
            }  # fmt: skip
            at = {name: torch.as_tensor(value).double() for name, value in usual.items()}
            initial = {name: value + 0.1 * torch.randn_like(value) for name, value in at.items()}
            kernel = NUTS(potential_fn=potential)
            chain = MCMC(kernel, draws // 2, 300, initial_params=initial, disable_progbar=True)
            chain.run()
            chains.append(chain)
    found = {n: torch.cat([c.get_samples()[n] for c in chains]) for n in potential.sites}
    blob.guide.fill({n: v.float() for n, v in found.items()})
    scale = found["log_kappa_scale"].exp()
    return {
        "kappa_scale": float(scale.square().mean().sqrt()), "clicks": int(batch.reward.sum()),
        "seconds": time.perf_counter() - start,
        "divergences": sum(len(c.diagnostics()["divergences"]["chain 0"]) for c in chains),
        "r_hat": max(float(split_gelman_rubin(torch.stack([c.get_samples()[n] for c in chains])).max()) for n in found),
    }  # fmt: skip


class Potential:
    """The negative log density of clicks and parameters, as `BanditModel` has it with a prior of kappa's scale."""

    sites = ("w_a", "w_b", "w_c", "log_kappa_scale", "zeta", "whitened_kappa")

    def __init__(self, blob: BLOB, batch: BanditBatch) -> None:
        psi, interest = blob.model.item_embedding.double(), batch.interest.double()
        items, users = psi[batch.action], interest[batch.context]
        whitened = users @ blob.model.whitening.double()
        self.affinity, self.sign = (items * users).sum(-1), 2 * batch.reward.double() - 1
        self.deviation = (items.unsqueeze(-1) * whitened.unsqueeze(-2)).flatten(1)
        self.action, self.scale = batch.action, float(blob.model.priors.kappa_scale.scale)

    def __call__(self, z: dict[str, Tensor]) -> Tensor:
        scale = z["log_kappa_scale"].exp()
        logit = softplus(z["w_a"]) * self.affinity + softplus(z["w_b"]) * (self.deviation @ z["zeta"].flatten())
        logit = logit + scale * z["whitened_kappa"][self.action] + z["w_c"]
        square = (z["w_a"] + 1).square() + (z["w_b"] + 6).square() + ((z["w_c"] + 4.5) / 10).square()
        square = square + z["zeta"].square().sum() + z["whitened_kappa"].square().sum() + (scale / self.scale).square()
        return 0.5 * square - z["log_kappa_scale"] - logsigmoid(self.sign * logit).sum()


def check(blob: BLOB, batch: BanditBatch, potential: Potential) -> None:
    """Differences of the written-out density are the model's."""
    found = []
    for _ in range(3):
        values = {name: draw[0] for name, draw in blob.model.prior_draws(1).items()}
        trace = poutine.trace(poutine.condition(blob.model, values)).get_trace(batch)
        found.append(float(trace.log_prob_sum() + potential({n: v.double() for n, v in values.items()})))
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
    parser.add_argument("--guides", nargs="+", default=["normal", "low_rank", "laplace", "full"])
    parser.add_argument("--rates", nargs="+", type=float, default=RATES)
    parser.add_argument("--seed", type=int, default=200)
    parser.add_argument("--draws", type=int, default=600)
    parser.add_argument("--scale-prior", type=float, default=SCALE_OF_SCALE, help="half-normal, of kappa's scale")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/unshown_items"))
    settings = parser.parse_args()
    torch.set_num_threads(1)
    settings.folder.mkdir(parents=True, exist_ok=True)
    path = settings.folder / ("gold.csv" if settings.gold else "guides.csv")
    rows = pd.read_csv(path).to_dict("records") if settings.gold and path.exists() else []
    for rate in settings.rates:
        if settings.gold and any(row["rate"] == rate for row in rows):
            continue
        batch = events(make("normal", settings.seed), rate, settings.seed)
        if settings.gold:
            priors = BanditPriors(kappa_scale=dist.HalfNormal(settings.scale_prior))
            blob = make(partial(DrawsGuide, num_draws=settings.draws), settings.seed, priors)
            more = gold(blob, batch, settings.draws, settings.seed)
            found = described(blob, "nuts", rate, settings.seed)
            rows += [{**row, **more} for row in found]
        else:
            for guide in settings.guides:
                blob = make(guide, settings.seed)
                seconds = fit(blob, batch, settings.seed)
                found = described(blob, guide, rate, settings.seed)
                more = {"kappa_scale": float(blob.model.kappa_scale.detach()), "clicks": int(batch.reward.sum())}
                rows += [{**row, **more, "seconds": seconds} for row in found]
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
