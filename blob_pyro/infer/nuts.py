"""The gold posterior, for problems that are small enough: the No-U-Turn sampler on the bandit model."""

from __future__ import annotations

import math
import time

import pandas as pd
import pyro
import torch
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import split_gelman_rubin
from torch import Tensor

from blob_pyro.guides.draws import DrawsGuide
from blob_pyro.guides.multivariate import LaplaceGuide
from blob_pyro.infer.fit import fit_guide
from blob_pyro.infer.fit_request import FitRequest
from blob_pyro.infer.laplace.fit import fit_laplace
from blob_pyro.infer.training.checkpoints import Checkpoint
from blob_pyro.infer.training.convergence import Convergence
from blob_pyro.infer.training.trace import DRAW, LOG_JOINT, SECONDS, STEP_SIZE
from blob_pyro.models import BanditBatch, BanditModel
from blob_pyro.ops.exclusive import own_parameter_store

__all__ = ["fit_nuts"]

_LARGEST_R_HAT = 1.05
_FEWEST_FOR_R_HAT = 4  # draws of a chain


def fit_nuts(
    guide: DrawsGuide, model: BanditModel, batch: BanditBatch, *, warmup_steps: int = 300, progress: bool = True
) -> pd.DataFrame:
    """Fill ``guide`` with draws of its chains; the first starts at the mode, others at draws of the Gaussian around it.

    Learned scales are what Laplace's approximation makes of them: a posterior has none to learn; give them a
    distribution, ``BanditPriors(kappa_scale=dist.HalfNormal(0.3))``, to have them drawn too.

    Args:
        guide: filled in place; says how many draws of how many chains.
        model: whose posterior it is.
        batch: all events.
        warmup_steps: of each chain, for step size and mass, before the draws that count.
        progress: whether to show a progress bar.

    Returns:
        One row per draw, chain after chain: ``draw``, ``log_joint`` (log density of clicks and parameters, nats per
        event), ``seconds``, ``step_size``: see `blob_pyro.infer.training.trace`. ``attrs`` holds ``divergences`` (a
        count) and ``r_hat`` (the largest split R-hat over all numbers; NaN for chains of fewer than four draws).
    """
    start = time.perf_counter()
    mode = LaplaceGuide(model)
    fit_laplace(mode, model, batch, progress=progress)
    with own_parameter_store():
        rows: list[dict[str, float]] = []
        chains, divergences = [], 0
        few = guide.num_draws // guide.num_chains < _FEWEST_FOR_R_HAT  # for Pyro's diagnostics, all of them
        for number in range(guide.num_chains):
            vector = mode.multivariate()
            start_at = mode.parts(vector.sample() if number else mode.mode, vector)
            initial = {name: part.v for name, part in start_at.items()}
            kernel = NUTS(model, init_strategy=pyro.infer.autoguide.init_to_value(values=initial))

            def note(kernel: NUTS, draw: dict[str, Tensor], stage: str, number: int) -> None:
                if "warmup" not in stage.lower():
                    log_joint = -float(kernel.potential_fn(draw)) / batch.num_events
                    seconds = time.perf_counter() - start
                    rows.append(
                        {DRAW: len(rows) + 1, LOG_JOINT: log_joint, SECONDS: seconds, STEP_SIZE: kernel.step_size}
                    )

            mcmc = MCMC(
                kernel,
                num_samples=guide.num_draws // guide.num_chains,
                warmup_steps=warmup_steps,
                disable_progbar=not progress,
                hook_fn=note,
            )
            with torch.enable_grad():
                mcmc.run(batch)
            chains.append(mcmc.get_samples())
            if not few:
                divergences += sum(len(found) for found in mcmc.diagnostics()["divergences"].values())
    draws = {name: torch.stack([chain[name] for chain in chains]) for name in guide.shapes}
    guide.fill({name: values.flatten(0, 1) for name, values in draws.items()})
    r_hat = math.nan if few else max(float(split_gelman_rubin(values).max()) for values in draws.values())
    figures = f"{divergences} divergences, largest split R-hat {r_hat:.2f}"
    if few:
        figures = f"fewer than {_FEWEST_FOR_R_HAT} draws in a chain say nothing of divergences and R-hat"
    healthy = not divergences and r_hat <= _LARGEST_R_HAT
    verdict = Convergence(healthy, figures if healthy else f"{figures}; draw more, or give priors that say more")
    history = pd.DataFrame(rows)
    history.attrs.update(interrupted=False, divergences=divergences, r_hat=r_hat)
    verdict.write(history)
    return history


@fit_guide.register
def _(guide: DrawsGuide, request: FitRequest) -> pd.DataFrame:
    Checkpoint.at(request.checkpoint, guide)  # refuses
    return fit_nuts(guide, request.model, request.events_in_memory("nuts"), progress=request.progress)
