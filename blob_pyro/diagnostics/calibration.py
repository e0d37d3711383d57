"""Simulation-based calibration: whether a guide, fitted to data from its own model, knows how much it does not know.

If parameters are drawn from the prior and clicks from the parameters, the rank of a true number among draws of an exact
posterior is uniform. Talts, Betancourt, Simpson, Vehtari & Gelman (2018), arXiv:1804.06788; bands for the ranks:
`blob_pyro.diagnostics.ecdf_bands`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from blob_pyro.data import EventLog
from blob_pyro.diagnostics.calibration_report import LOGIT, Calibration
from blob_pyro.infer import FitRequest, Training, fit_guide, training_defaults
from blob_pyro.models import BanditBatch
from blob_pyro.ops.arguments import whole_number
from blob_pyro.ops.fingerprints import content_hash
from blob_pyro.ops.seeds import check_seed, derived_seed, seeded
from blob_pyro.posteriors.event_densities import event_logits

if TYPE_CHECKING:
    from blob_pyro.recommenders.blob import BLOB

__all__ = ["calibrate"]

_NUM_LOGITS = 12  # events whose logits are ranked


def calibrate(
    blob: BLOB,
    log: EventLog | None = None,
    *,
    num_simulations: int = 100,
    guide: str | Callable[..., Any] | None = None,
    num_draws: int = 199,
    num_events: int = 800,
    training: Training | None = None,
    covariates: Any = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
) -> Calibration:
    """Draw parameters from the prior and clicks from them, fit, and rank the truth among the posterior's draws.

    The design stays as it is: who was shown what. Only clicks are simulated. Learned scales are drawn at their present
    values and learned anew in each fit.

    Args:
        blob: model, priors and guide to be judged; need not be fitted, and is left as it is.
        log: whose contexts and actions are the design. Default: ``num_events`` events, each item as often as the
            others, in fifty contexts whose interests are standard normal.
        num_simulations: fits.
        guide: another guide to judge; default the model's own.
        num_draws: of each posterior, ``L``; ``L + 1`` must be a multiple of 20.
        num_events: of the design, where there is no log.
        training: settings of SVI; default as `blob_pyro.BLOB.fit` has them.
        covariates: see `blob_pyro.BLOB.batch`.
        seed: of parameters, clicks, fits and draws.
        checkpoint: a file to which every simulation is added, and from which a run that was stopped goes on.

    Returns:
        Ranks of every number of every site, and of the logits of twelve events; with a table, verdicts and a plot.

    Raises:
        ValueError: for a number of draws that bands do not fit, or a checkpoint of another calibration.
        KeyboardInterrupt: on Ctrl-C; what is in the checkpoint is of finished fits.
    """
    num_simulations, seed = whole_number(num_simulations, "num_simulations", at_least=10), check_seed(seed)
    if whole_number(num_draws, "num_draws") % 20 != 19:
        raise ValueError(f"num_draws: plus one must be a multiple of 20, as 199 is, got {num_draws}")
    recipe = blob._recipe if guide is None else guide
    model = blob.model
    batch = blob.batch(log, covariates) if log is not None else _usual_design(blob, num_events, seed)
    about = {
        "guide": str(recipe), "seed": seed, "num_draws": num_draws, "data": content_hash(batch),
        "priors": repr(model.priors), "training": repr(training),
    }  # fmt: skip
    rows = _read(checkpoint, about)
    shown = torch.linspace(0, len(batch) - 1, min(_NUM_LOGITS, len(batch))).round().long()
    for number in range(len(rows), num_simulations):
        own = derived_seed(seed, number)
        with seeded(own, blob.device), torch.no_grad():
            truth = {name: values.detach() for name, values in model.prior_draws(1).items()}
            loc, scale = event_logits(model, batch, truth)
            noisy = loc if scale is None else loc + scale * torch.randn_like(loc)
            data = replace(batch, reward=torch.bernoulli(torch.sigmoid(noisy[0])).to(batch.interest.dtype))
        parts = blob._build(blob.blo, model.priors, model.jitter, recipe, derived_seed(own, 1))
        for name in model.learned:
            getattr(parts.known.model, f"{name}_unconstrained").data.copy_(getattr(model, f"{name}_unconstrained"))
        settings, extend = training, training is None
        if settings is None:
            usual = training_defaults(parts.known.guide, parts.known.model)
            size = min(usual.batch_size, len(batch))
            epochs = usual.epochs(len(batch), size)
            settings = Training(epochs, size, usual.learning_rate, capture=usual.capture)
        with seeded(derived_seed(own, 2), blob.device), _quietly(), torch.enable_grad():
            trace = fit_guide(parts.known.guide, FitRequest(parts.known.model, data, settings, extend, False, None))
            if trace.attrs.get("interrupted"):  # a fit ends well on Ctrl-C, and the others are not to follow
                raise KeyboardInterrupt
            draws = parts.known.sample(num_draws)
        exact, drawn = {**truth}, {**draws}
        exact[LOGIT] = event_logits(model, batch[shown], truth)[0]
        drawn[LOGIT] = event_logits(model, batch[shown], draws)[0]
        rows.append(
            {
                "converged": bool(trace.attrs.get("converged", True)),
                "rank": {name: _ranks(exact[name], drawn[name]) for name in exact},
                "z": {name: _scores(exact[name], drawn[name]) for name in exact},
            }
        )
        _write(checkpoint, rows[-1])
    rows = rows[:num_simulations]
    names = list(rows[0]["rank"])
    return Calibration(
        {name: np.array([row["rank"][name] for row in rows]) for name in names},
        {name: np.array([row["z"][name] for row in rows]) for name in names},
        num_draws,
        recipe if isinstance(recipe, str) else getattr(recipe, "__name__", type(recipe).__name__),
        float(np.mean([row["converged"] for row in rows])),
    )


def _usual_design(blob: BLOB, num_events: int, seed: int) -> BanditBatch:
    """Each item as often as the others, in fifty contexts of standard normal interests."""
    num_events = whole_number(num_events, "num_events", at_least=blob.num_items)
    psi = blob.model.item_embedding
    contexts = min(50, num_events)
    with seeded(derived_seed(seed, num_events), blob.device):
        interest = torch.randn(contexts, psi.shape[1], device=psi.device, dtype=psi.dtype)
        context = torch.randint(contexts, (num_events,), device=psi.device)
    action = torch.arange(num_events, device=psi.device) % blob.num_items
    if blob.model.num_covariates or blob.omega == "sample":
        raise ValueError("log: a model with covariates, or with omega='sample', is calibrated on the contexts of a log")
    return BanditBatch(interest, context, action, None, num_events)


def _ranks(truth: Tensor, draws: Tensor) -> list[int]:
    """How many draws lie below the truth, of each number."""
    return (draws < truth).sum(0).flatten().tolist()


def _scores(truth: Tensor, draws: Tensor) -> list[float]:
    """How many posterior standard deviations the truth lies above the posterior's mean, of each number."""
    spread = draws.double().std(0).clamp_min(1e-12)
    return ((truth[0] - draws.double().mean(0)) / spread).flatten().tolist()


@contextmanager
def _quietly() -> Iterator[None]:
    """Fits are judged together, by the share of them that converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read(path: str | Path | None, about: dict[str, Any]) -> list[dict[str, Any]]:
    if path is None:
        return []
    path = Path(path)
    if not path.exists():
        path.write_text(json.dumps(about) + "\n")
        return []
    first, *rows = path.read_text().splitlines()
    if json.loads(first) != about:
        raise ValueError(f"checkpoint: {path} is of another calibration, {first}; give another file, or delete it")
    return [json.loads(row) for row in rows]


def _write(path: str | Path | None, row: dict[str, Any]) -> None:
    if path is not None:
        with Path(path).open("a") as file:
            file.write(json.dumps(row) + "\n")
