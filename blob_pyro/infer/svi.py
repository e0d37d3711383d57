"""SVI of any guide: a start, a schedule, and rounds of it until a test says that it has arrived."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.poutine.messenger import Messenger
from torch import nn

from blob_pyro.guides.bandit import NormalGuide
from blob_pyro.guides.certainty import certain_sites
from blob_pyro.guides.registry import guide_name
from blob_pyro.guides.training_defaults import TrainingDefaults
from blob_pyro.infer.elbo import GuidedELBO, Posterior, RecordDistributions
from blob_pyro.infer.elbo_estimate import rough_elbo
from blob_pyro.infer.fit_request import FitRequest
from blob_pyro.infer.kappa_scale import spread_kappa_scale
from blob_pyro.infer.local_reparameterization.handler import LocalReparameterization
from blob_pyro.infer.local_reparameterization.projections import project
from blob_pyro.infer.start import move_to_usual_start
from blob_pyro.infer.training.checkpoints import Checkpoint
from blob_pyro.infer.training.loop import train
from blob_pyro.infer.training.not_finite import NotFiniteError
from blob_pyro.infer.training.trace import ELBO, EPOCH, LOG_JOINT, SECONDS
from blob_pyro.infer.training.workers import Workers
from blob_pyro.models import BanditBatch, BanditModel, StreamedBatch
from blob_pyro.ops.exclusive import own_parameter_store
from blob_pyro.ops.interrupts import to_the_end
from blob_pyro.ops.seeds import seeded

__all__ = ["fit_by_svi", "training_defaults", "warn_of_own_betas"]

_MOST_ROUNDS = 3  # each twice as long as the one before


def training_defaults(guide: nn.Module, model: BanditModel) -> TrainingDefaults:
    """Choose how to train a guide: as its ``training_defaults`` say, or else as suits what it is.

    Where every site has a Gaussian projection a step over all events has little noise, and a few hundred large ones
    arrive, as for guide "normal". Where sites are sampled, many small ones do.

    Args:
        guide: see `blob_pyro.guides.bandit`.
        model: whose sites it covers.
    """
    own: TrainingDefaults | None = getattr(guide, "training_defaults", None)
    if own is not None:
        return own
    if _sampled_sites(guide, model):
        return TrainingDefaults()
    return replace(NormalGuide.training_defaults, capture=False)  # it may count its calls


def fit_by_svi(guide: nn.Module, request: FitRequest) -> pd.DataFrame:
    """Train a guide, in place.

    One whose `TrainingDefaults` do not say that it starts by itself is first moved to the start of the library's own
    guides, if its own is worse: see `move_to_usual_start`. If ``request.extend``, and the test of convergence was not
    passed, there is another round of twice the length, and if need be a third: at half the rate if the last one was of
    use, and from its beginning at a tenth if it was not.

    Args:
        guide: see `blob_pyro.guides.bandit`.
        request: model, events and settings.

    Returns:
        See `blob_pyro.infer.training.trace`. ``attrs["start"]`` says where training began ("guide" or "prior"),
        ``attrs["rounds"]`` how many there were. After a guide of independent normals a learned ``kappa_scale`` is where
        its own uncertainty puts it, ``attrs["kappa_scale"]``, and no longer at ``attrs["kappa_scale_mode"]``: see
        `blob_pyro.infer.kappa_scale`.

    Raises:
        NotFiniteError: as `blob_pyro.infer.train`; its ``trace`` is of all rounds.
    """
    model, batch, training = request.model, request.batch, request.training
    usual = getattr(guide, "training_defaults", None)
    is_started = usual is not None and usual.start == "guide"
    start = "guide" if is_started else move_to_usual_start(guide, model, batch, request.workers)
    checkpoint = Checkpoint.at(request.checkpoint, guide)
    rounds: list[pd.DataFrame] = []
    while True:
        before = _State(model, guide, batch, request.workers) if request.extend else None
        try:
            trace = train(
                model,
                guide,
                GuidedELBO(LocalReparameterization),
                batch,
                training,
                workers=request.workers,
                progress=request.progress,
                checkpoint=_of_round(checkpoint, len(rounds) + 1),
                description=f"BLOB, round {len(rounds) + 1}" if rounds else "BLOB",
            )
        except NotFiniteError as error:
            error.trace = _whole_trace([*rounds, error.trace], start, guide, model)
            raise
        rounds.append(trace)
        arrived = trace.attrs["converged"] or trace.attrs["interrupted"]
        if before is None or arrived:
            break
        slower = 10 if before.restore_if_better() else 2
        if len(rounds) == _MOST_ROUNDS:
            break
        training = replace(training, num_epochs=2 * training.num_epochs, learning_rate=training.learning_rate / slower)
    trace = _whole_trace(rounds, start, guide, model)
    if isinstance(guide, NormalGuide) and len(trace) and not trace.attrs["interrupted"]:
        with to_the_end("kappa's scale"):
            trace.attrs.update(**spread_kappa_scale(model, guide, batch, request.workers))
    return trace


def warn_of_own_betas(guide: nn.Module, model: BanditModel, stacklevel: int = 2) -> None:
    """Warn of deviations of items whose scale the ELBO of independent numbers says next to nothing about, and SVI less.

    Args:
        guide: that SVI is to fit.
        model: whose posterior it approximates.
        stacklevel: frames between here and the user.

    Warns:
        UserWarning: of a learned scale of items' own betas, under a guide of independent normals.
    """
    own = {term.items_own for term in model.terms} - {None}
    name = next((name for name, site in model.learned.items() if site in own), None)
    if name is not None and isinstance(guide, NormalGuide | AutoNormal | AutoDiagonalNormal):
        warnings.warn(
            f"BLOB: guide {guide_name(guide)} takes the numbers of an item's own beta for independent, and SVI leaves "
            f"their scale, {name}, near its start where the log asks for another: .01 to .05 of the way from random "
            "items to the oracle were lost with 100 items. Guide 'laplace' finds it by the evidence, in less time; for "
            "a log on disk or several workers give what it finds for a part of the log, ItemDeviations(scale=...)",
            stacklevel=stacklevel + 1,
        )


def _whole_trace(rounds: list[pd.DataFrame], start: str, guide: nn.Module, model: BanditModel) -> pd.DataFrame:
    trace = _in_a_row(rounds)
    resumed = sum(trace.attrs["resumed_from_epoch"] for trace in rounds)
    trace.attrs.update(start=start, rounds=len(rounds), resumed_from_epoch=resumed)
    if certain_sites(guide, model):  # the ELBO of a point mass, less its entropy, which is minus infinity
        trace = trace.rename(columns={ELBO: LOG_JOINT})
    return trace


class _State:
    """Where a round of training began."""

    def __init__(
        self, model: BanditModel, guide: nn.Module, batch: BanditBatch | StreamedBatch, workers: Workers | None
    ) -> None:
        self.model, self.guide, self.batch, self.workers = model, guide, batch, workers
        self.modules: list[nn.Module] = [model, guide]
        self.values = [{k: v.detach().clone() for k, v in m.state_dict().items()} for m in self.modules]
        self.elbo = rough_elbo(model, guide, batch, workers=workers).value

    def restore_if_better(self) -> bool:
        """Undo the round if it has lowered the ELBO."""
        if rough_elbo(self.model, self.guide, self.batch, workers=self.workers).value > self.elbo:
            return False
        for module, values in zip(self.modules, self.values):
            module.load_state_dict(values)
        return True


def _of_round(checkpoint: Checkpoint | None, number: int) -> Checkpoint | None:
    """A file for each round: the first one's is what the caller has named."""
    if checkpoint is None or number == 1:
        return checkpoint
    return replace(checkpoint, path=checkpoint.path.with_name(f"{checkpoint.path.name}.round-{number}"))


def _in_a_row(rounds: list[pd.DataFrame]) -> pd.DataFrame:
    """Traces of one fit after another as one; its ``attrs`` are the last one's."""
    whole = rounds[0]
    for trace in rounds[1:]:
        if len(whole) and len(trace):
            trace = trace.assign(**{name: trace[name] + whole[name].iloc[-1] for name in (EPOCH, SECONDS)})
        whole = _below(whole, trace)
    return whole


def _below(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Put a trace below another, column by column: what `pandas.concat` makes of no rows, or no numbers, changes."""
    parts = [part for part in (first, second) if len(part)] or [second]
    whole = pd.DataFrame({name: np.concatenate([part[name].to_numpy() for part in parts]) for name in second.columns})
    whole.attrs = second.attrs
    return whole


def _sampled_sites(guide: nn.Module, model: BanditModel) -> set[str]:
    """Sites that local reparameterisation must leave as they were sampled."""
    record = RecordDistributions()
    with torch.no_grad(), own_parameter_store(), seeded(0, model.item_embedding.device):
        trace = poutine.trace(record(guide)).get_trace(model.example_batch())
        values = {name: trace.nodes[name]["value"] for name in model.site_priors()}
        with _Unprojected(record.posterior) as found:
            model.logit(values, model.example_batch())
    result: set[str] = found.sites
    return result


class _Unprojected(Messenger):
    """Notes the sites whose use has no Gaussian projection."""

    def __init__(self, posterior: Posterior) -> None:
        super().__init__()
        self.posterior = posterior
        self.sites: set[str] = set()

    def _pyro_linear(self, msg: dict[str, Any]) -> None:
        distribution = self.posterior.get(msg["name"])
        if distribution is None or project(distribution, *msg["args"][1:]) is None:
            self.sites.add(msg["name"])
