"""The question whether a posterior is right: against its model, its data, events that it has not seen, its prior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy.special import logsumexp

from blob_pyro.data import EventLog
from blob_pyro.diagnostics.click_calibration import ClickCalibration, calibration_of
from blob_pyro.diagnostics.known_widths import TOO_NARROW
from blob_pyro.diagnostics.power_scaling import sensitivity
from blob_pyro.diagnostics.predictive_checks import PredictiveCheck, event_groups, predictive_check
from blob_pyro.diagnostics.psis import psis, smooth
from blob_pyro.guides.registry import guide_name
from blob_pyro.ops.arguments import whole_number
from blob_pyro.ops.seeds import check_seed, derived_seed
from blob_pyro.posteriors.event_densities import click_log_probability, event_logits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from blob_pyro.recommenders.click_model import ClickModel

__all__ = ["Check", "Diagnosis", "diagnose", "held_out_calibration"]

_MATTERS = 0.05  # sensitivity to a power: see `blob_pyro.diagnostics.power_scaling.sensitivity`
_R_HAT = 1.05
_SMOOTHED = 500  # events whose weights are smoothed
_FEWEST = 0.3  # effective draws, of all, below which sensitivities are not judged


@dataclass(frozen=True)
class Check:
    """The answer to one question.

    Attributes:
        name: of the question.
        flagged: whether the posterior should not be believed in this respect; None where it could not be judged.
        says: the verdict in words, with figures.
        value: the figure that decided; NaN where there is none.
    """

    name: str
    flagged: bool | None
    says: str
    value: float = float("nan")


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """The answers to all questions, in the order in which to read them; see `diagnose`.

    Attributes:
        checks: one for each question.
        predictive: clicks by item, position, history length and time, beside those that the model draws.
        calibration: of click probabilities on events that were held out.
        sensitivities: a row per parameter: how much ``prior`` and ``likelihood`` matter, and what that means.
        guide: the name of the guide.
        num_events: of the log.
        num_checked: of these, evenly spaced, those that all but the first question look at.
    """

    checks: tuple[Check, ...]
    predictive: dict[str, PredictiveCheck]
    calibration: ClickCalibration
    sensitivities: pd.DataFrame
    guide: str
    num_events: int
    num_checked: int

    @property
    def flagged(self) -> tuple[Check, ...]:
        """The checks that speak against the posterior."""
        return tuple(check for check in self.checks if check.flagged)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """The flagged checks as text."""
        return tuple(f"{check.name}: {check.says}" for check in self.flagged)

    @property
    def part(self) -> str:
        """The number of events that were looked at, in words; empty where all were."""
        if self.num_checked == self.num_events:
            return ""
        return f" ({self.num_checked:,} of them checked, evenly spaced)"

    @property
    def table(self) -> pd.DataFrame:
        """One row per check: ``flagged``, ``value``, ``says``."""
        frame = pd.DataFrame([vars(check) for check in self.checks]).set_index("name")
        return frame[["flagged", "value", "says"]]

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check {name!r} in this diagnosis; there are {', '.join(c.name for c in self.checks)}")

    def __repr__(self) -> str:
        count = f"{len(self.flagged)} of {len(self.checks)} checks flagged" if self.flagged else "nothing flagged"
        width = max(len(check.name) for check in self.checks)
        signs = {True: "!!", False: "ok", None: "??"}
        lines = [f"{signs[check.flagged]}  {check.name:{width}}  {check.says}" for check in self.checks]
        return "\n".join([f"guide {self.guide} on {self.num_events:,} events{self.part}: {count}", *lines])

    def plot(self) -> Figure:
        """Plot the reliability curve, and observed beside predicted click rates by group."""
        from matplotlib import pyplot

        count = 1 + len(self.predictive)
        rows = (count + 1) // 2
        figure, axes = pyplot.subplots(rows, 2, figsize=(10, 3.4 * rows), layout="constrained")
        panels = list(axes.flat)
        self.calibration.plot(panels[0])
        for ax, check in zip(panels[1:], self.predictive.values()):
            check.plot(ax)
        for ax in panels[count:]:
            ax.set_axis_off()
        return figure


def diagnose(
    blob: ClickModel,
    log: EventLog,
    *,
    held_out: EventLog | None = None,
    trace: pd.DataFrame | None = None,
    num_draws: int = 1000,
    max_events: int = 20_000,
    covariates: Any = None,
    held_out_covariates: Any = None,
    seed: int = 0,
) -> Diagnosis:
    """Ask whether a fitted posterior is right.

    Six questions. Does the guide stand for the model's posterior (k-hat of its importance weights)? Has the fit
    converged? Does the model draw clicks such as those observed (by item, position, history length, and day or tenth of
    the log)? Are click probabilities right on events that were held out, and better than a constant or each item's
    rate? Does the prior decide what the data should? Which of this guide's marginals are known to be too narrow?

    Args:
        blob: a fitted model.
        log: what it was fitted to.
        held_out: later events, to predict. Default: each event of the log from all others, by importance weights
            (PSIS-LOO; Vehtari, Gelman & Gabry 2017).
        trace: what the fit returned, for its verdict on convergence. Default: what the model remembers of its last fit.
        num_draws: of the parameters.
        max_events: of a log, evenly spaced, for all but the first question.
        covariates: see `blob_pyro.BLOB.batch`; of ``log``.
        held_out_covariates: likewise; of ``held_out``.
        seed: of the draws.

    Returns:
        A report: ``print`` it; ``.table``, ``.verdicts``, ``.plot()``.

    Raises:
        ValueError: if the model is not fitted, or a log has no bandit events of its catalogue, or ``log`` is a shard.
    """
    log.require_whole("diagnose")
    num_draws, seed = whole_number(num_draws, "num_draws", at_least=100), check_seed(seed)
    max_events = whole_number(max_events, "max_events", at_least=100)
    groups = ["posterior", "log_prior", "sample_stats", "log_likelihood"]
    kept = min(max_events, log.num_impressions)
    data = blob.to_inference_data(
        log, num_draws, groups=groups, num_events=kept, covariates=covariates, seed=seed, max_gib=64.0
    )
    log_likelihood = data["log_likelihood"]["click"].values.reshape(-1, kept).astype(np.float64)
    events = torch.from_numpy(np.array(data["log_likelihood"]["event"].values))
    weights, checks = _guide_against_model(data)
    checks.append(_convergence(data, blob.fits[-1] if trace is None else trace.attrs))
    reward = log.reward[events].numpy().astype(np.float64)
    probability = np.where(reward > 0, np.exp(log_likelihood), -np.expm1(log_likelihood))
    predictive = {}
    for number, (by, (group, names)) in enumerate(event_groups(log).items()):
        some = probability[:: max(1, len(probability) // 400)]
        own = derived_seed(seed, number)
        predictive[by] = predictive_check(by, group[events.numpy()], names, reward, some, own)
        checks.append(Check(f"clicks by {by}", predictive[by].flagged, predictive[by].says, predictive[by].p_value))
    if held_out is None:
        calibration = _leave_one_out(log, events, log_likelihood, reward)
    else:
        calibration = _on_held_out(blob, log, held_out, max_events, num_draws, seed, held_out_covariates)
    checks.append(Check("click probabilities", calibration.flagged, calibration.says, calibration.p_value))
    sensitivities = _sensitivities(data, weights)
    stand = 1.0 if weights is None else float(1 / np.exp(2 * weights).sum()) / num_draws
    known = weights is not None or data["posterior"].attrs["draws"] == "NUTS"
    checks.append(_prior(sensitivities, known and stand > _FEWEST))
    name = guide_name(blob.guide).strip("'")
    checks.append(_widths(name, blob))
    return Diagnosis(tuple(checks), predictive, calibration, sensitivities, name, log.num_impressions, kept)


def held_out_calibration(
    blob: ClickModel,
    log: EventLog,
    held_out: EventLog | None,
    num_draws: int,
    max_events: int,
    seed: int,
    covariates: Any = None,
) -> ClickCalibration:
    """Compare click probabilities with clicks on later events, or on each event of a log as all others predict it.

    Args:
        blob: fitted to ``log``.
        log: as `diagnose`.
        held_out: as `diagnose`.
        num_draws: as `diagnose`.
        max_events: as `diagnose`.
        seed: of the draws.
        covariates: see `blob_pyro.BLOB.batch`; of ``held_out``, or without it of ``log``.
    """
    if held_out is not None:
        return _on_held_out(blob, log, held_out, max_events, num_draws, seed, covariates)
    kept = min(max_events, log.num_impressions)
    groups = ["log_likelihood"]
    data = blob.to_inference_data(
        log, num_draws, groups=groups, num_events=kept, covariates=covariates, seed=seed, max_gib=64.0
    )
    log_likelihood = data["log_likelihood"]["click"]
    events = torch.from_numpy(np.array(log_likelihood["event"].values))
    values = log_likelihood.values.reshape(-1, kept).astype(np.float64)
    return _leave_one_out(log, events, values, log.reward[events].numpy().astype(np.float64))


def _guide_against_model(data: Any) -> tuple[np.ndarray | None, list[Check]]:
    if data["posterior"].attrs["draws"] == "NUTS":
        return None, [Check("guide against model", None, "draws of NUTS have no density; judge them by convergence")]
    try:
        found = psis(data)
    except ValueError as error:
        return None, [Check("guide against model", None, str(error).removeprefix("data: "))]
    means = "its weighted draws give the posterior's means" if found.reliable else (
        "its draws do not stand for the posterior, weighted or not; compare with guide 'laplace', 'low_rank' or 'nuts'"
    )  # fmt: skip
    says = (
        f"k-hat {found.k_hat:.2f} ({'below' if found.reliable else 'not below'} {found.threshold:.2f}), "
        f"{found.effective_sample_size:,.0f} effective of {len(found.log_weights):,} draws: {means}"
    )
    return (found.log_weights if found.reliable else None), [
        Check("guide against model", not found.reliable, says, found.k_hat)
    ]


def _convergence(data: Any, said: Mapping[Any, Any]) -> Check:
    """Judge by what the fit said, which a model remembers and saves; draws of NUTS by themselves."""
    if "converged" in said:
        return Check("convergence", not said["converged"], str(said.get("convergence", "")))
    posterior = data["posterior"]
    if posterior.attrs["draws"] != "NUTS" or posterior.sizes["chain"] < 2 or posterior.sizes["draw"] < 4:
        return Check("convergence", None, "not judged: the model remembers no verdict of its fit")
    from pyro.ops.stats import split_gelman_rubin

    values = [torch.from_numpy(np.array(variable.values)) for variable in posterior.data_vars.values()]
    r_hat = max(float(split_gelman_rubin(value).max()) for value in values)
    return Check("convergence", not r_hat <= _R_HAT, f"largest split R-hat {r_hat:.3f} (1 is converged)", r_hat)


def _leave_one_out(
    log: EventLog, events: torch.Tensor, log_likelihood: np.ndarray, reward: np.ndarray
) -> ClickCalibration:
    """Predict each event from all the others: importance weights ``1 / p(click_n | theta)``.

    They are smoothed for the events whose weights are the most uneven; where no draw has much of the weight, smoothing
    changes nothing.
    """
    total = logsumexp(-log_likelihood, axis=0)
    log_p, worst = np.log(len(log_likelihood)) - total, -np.inf
    for n in np.argsort(log_likelihood.min(0) + total)[:_SMOOTHED]:
        found = smooth(-log_likelihood[:, n])
        worst = max(worst, found.k_hat)
        log_p[n] = logsumexp(found.log_weights + log_likelihood[:, n])
    probability = np.where(reward > 0, np.exp(log_p), -np.expm1(log_p))
    size, clicks = log.num_impressions, float(log.reward.sum())
    constant = (clicks - reward) / (size - 1)
    action = log.action.numpy()
    shown = np.bincount(action, minlength=log.num_items)[action[events.numpy()]]
    clicked = np.bincount(action, weights=log.reward.numpy(), minlength=log.num_items)[action[events.numpy()]]
    popularity = (clicked - reward + constant) / shown
    user = log.user[events].numpy()
    how = f"each event from all others by PSIS, largest k-hat {worst:.2f}"
    return calibration_of(probability, reward, constant, popularity, user, how)


def _on_held_out(
    blob: ClickModel,
    log: EventLog,
    held_out: EventLog,
    max_events: int,
    num_draws: int,
    seed: int,
    covariates: Any,
) -> ClickCalibration:
    size = min(max_events, held_out.num_impressions)
    events = torch.linspace(0, held_out.num_impressions - 1, size).round().long()
    batch = blob.batch(held_out, covariates)[events]
    draws = blob._parts.known.draws(num_draws, seed)
    loc, scale = event_logits(blob.model, batch, draws)
    probability = click_log_probability(torch.ones_like(loc), loc, scale).exp().mean(0).double().cpu().numpy()
    reward, action = held_out.reward[events].numpy().astype(np.float64), held_out.action[events].numpy()
    rate = float(log.reward.mean())
    shown = np.bincount(log.action.numpy(), minlength=log.num_items)
    clicked = np.bincount(log.action.numpy(), weights=log.reward.numpy(), minlength=log.num_items)
    popularity = ((clicked + rate) / (shown + 1))[action]
    constant = np.full(size, rate)
    user = held_out.user[events].numpy()
    part = f"{size:,} of " if size < held_out.num_impressions else ""
    return calibration_of(
        probability, reward, constant, popularity, user, f"{part}{held_out.num_impressions:,} events held out"
    )


def _sensitivities(data: Any, log_weights: np.ndarray | None) -> pd.DataFrame:
    posterior = data["posterior"]
    log_prior = sum(value.values.ravel() for value in data["log_prior"].data_vars.values())
    log_likelihood = data["sample_stats"]["log_p"].values.ravel() - log_prior
    rows = {}
    for name, values in posterior.data_vars.items():
        draws = values.values.reshape(len(log_likelihood), -1).astype(np.float64)
        label = name if draws.shape[1] == 1 else f"{name}, root mean square"
        draw = draws[:, 0] if draws.shape[1] == 1 else np.sqrt((draws**2).mean(1))
        if np.ptp(draw) == 0:
            continue
        prior, likelihood = (sensitivity(draw, part, log_weights) for part in (log_prior, log_likelihood))
        if prior < _MATTERS:
            says = "the prior matters little"
        elif likelihood < _MATTERS:
            says = "the prior decides: the data say next to nothing"
        else:
            says = "prior and data pull: both matter"
        rows[label] = {"prior": prior, "likelihood": likelihood, "says": says}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["prior", "likelihood", "says"])
    return frame.rename_axis("parameter")


def _prior(sensitivities: pd.DataFrame, known: bool) -> Check:
    if not len(sensitivities):
        return Check("prior sensitivity", None, "no parameter has any doubt")
    decides = [str(name) for name, row in sensitivities.iterrows() if "decides" in row.says]
    pulls = [str(name) for name, row in sensitivities.iterrows() if "pull" in row.says]
    parts = []
    if decides:
        parts.append(f"the prior decides {'; '.join(decides)}")
    if pulls:
        parts.append(f"prior and data both matter for {'; '.join(pulls)}")
    largest = float(sensitivities.prior.max())
    says = ". ".join(parts) or f"no parameter depends much on its prior (largest sensitivity {largest:.3f})"
    if not known:
        says = f"not judged, for the draws stand badly for the posterior; {says}"
    return Check("prior sensitivity", bool(decides) if known else None, says, largest)


def _widths(name: str, blob: ClickModel) -> Check:
    known = {site: share for site, share in TOO_NARROW.get(name, {}).items() if site in blob.model.site_priors()}
    if name == "nuts":
        return Check("known widths", False, "none is known to be too narrow")
    if name not in TOO_NARROW:
        return Check("known widths", None, "nothing is known of this guide: ask calibrate(blob, log)")
    if not known:
        return Check("known widths", False, "none is known to be too narrow")
    shares = ", ".join(f"{site} ({share:.0%} of truths outside its 90 % interval)" for site, share in known.items())
    worst = max(known.values())
    return Check("known widths", True, f"too narrow with this guide: {shares}", worst)
