"""Comparisons of guides, or of priors: fits side by side, down to the decisions that the choice changes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from blob_pyro.data import EventLog
from blob_pyro.diagnostics.calibration import calibrate
from blob_pyro.diagnostics.click_calibration import clustered_error
from blob_pyro.diagnostics.diagnose import held_out_calibration
from blob_pyro.diagnostics.psis import psis
from blob_pyro.infer import HasNoELBO
from blob_pyro.models import BanditPriors
from blob_pyro.ope import evaluate
from blob_pyro.ops.arguments import whole_number
from blob_pyro.ops.seeds import check_seed, derived_seed
from blob_pyro.policies import ThompsonSampling
from blob_pyro.policies.total_variation import total_variation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from blob_pyro.recommenders.blob import BLOB

__all__ = ["Comparison", "compare_guides", "compare_priors"]

_EFFECTIVE = "delta_snips"


@dataclass(frozen=True, repr=False)
class Comparison:
    """Fits side by side, and what plays differently from the first of them; see `compare_guides`.

    Attributes:
        table: a row per choice. ``elbo`` and ``elbo_error`` in nats per event; ``k_hat`` of guide against model;
            ``log_score`` of held-out clicks, the mean log-probability of what happened, nats per event (higher is
            better, as in `blob_pyro.BLOB.evaluate`), and ``log_score_gain`` over the first choice with its error,
            clustered by user; ``seconds`` of the fit; ``converged``. Of decisions, against the first choice:
            ``total_variation`` between Thompson propensities, averaged over contexts, with
            ``total_variation_error`` (how much of it the propensities' own errors explain) and ``_low`` and ``_high``
            (95 % interval over contexts); ``greedy_changes``, the share of contexts whose best item is another, with
            ``_low`` and ``_high``; ``value_gain``, the click rate of Thompson sampling from this choice minus the
            first's, by off-policy estimate, with ``_low`` and ``_high`` (95 %, clustered by user; NaN without
            logged propensities, or with ``value=False``). With calibrations,
            ``sbc_failed``: the sites that are not calibrated.
        reference: the first choice.
        contexts: how many contexts were asked about.
        models: the fitted models, by choice.
    """

    table: pd.DataFrame
    reference: str
    contexts: int
    models: dict[str, BLOB] = field(compare=False)

    def __repr__(self) -> str:
        shown = self.table[[c for c in self.table if not str(c).endswith(("_low", "_high", "_error"))]]
        head = f"{len(self.table)} choices; decisions against {self.reference!r}, over {self.contexts} contexts"
        lines = [head, shown.to_string(float_format=lambda v: f"{v:.4g}")]
        for name, row in self.table.iloc[1:].iterrows():
            lines.append(
                f"{name}: {row.total_variation:.1%} of Thompson's decisions would be others "
                f"[{row.total_variation_low:.1%}, {row.total_variation_high:.1%}], the best item changes in "
                f"{row.greedy_changes:.1%} of contexts [{row.greedy_changes_low:.1%}, {row.greedy_changes_high:.1%}]"
                + (
                    ""
                    if np.isnan(row.value_gain)
                    else f", click rate {row.value_gain:+.5f} [{row.value_gain_low:+.5f}, {row.value_gain_high:+.5f}]"
                )
            )
        return "\n".join(lines)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot how far each choice moves decisions: total variation and changed best items, with intervals.

        Args:
            ax: where to draw; default a new figure.
        """
        from matplotlib import pyplot

        others = self.table.iloc[1:]
        if ax is None:
            _, ax = pyplot.subplots(figsize=(7, 1.8 + 0.5 * len(others)), layout="constrained")
        labels = {"total_variation": "Thompson's decisions that change", "greedy_changes": "best items that change"}
        for offset, (column, label) in enumerate(labels.items()):
            at = np.arange(len(others)) + 0.16 * (2 * offset - 1)
            low, high = 100 * others[f"{column}_low"], 100 * others[f"{column}_high"]
            ax.hlines(at, low, high, color=f"C{offset}")
            ax.plot(100 * others[column], at, "o", color=f"C{offset}", label=label)
        floor = 100 * others.total_variation_error
        ax.plot(floor, np.arange(len(others)) - 0.16, "|", color="0.4", markersize=12, label="explained by error")
        ax.set_yticks(range(len(others)), list(others.index))
        ax.set_ylim(len(others) - 0.5, -0.5)
        ax.set(xlabel=f"% of decisions, against {self.reference}", xlim=(-1, None))
        ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
        return ax


def compare_guides(
    blob: BLOB,
    guides: Sequence[str | Callable[..., Any]] | Mapping[str, str | Callable[..., Any]],
    log: EventLog,
    *,
    held_out: EventLog | None = None,
    **options: Any,
) -> Comparison:
    """Fit several guides to one log, and say what the choice changes.

    Args:
        blob: model and priors; left as it is.
        guides: names or classes, or either by a name of yours; the first is what others are compared with.
        log: to fit to; its contexts are those of the decisions, its propensities those of the off-policy estimate.
        held_out: later events, for the log score. Default: each event of the log from all others.
        options: ``num_contexts=200`` (evenly spaced in the log), ``num_simulations=0`` (of `calibrate`, for each
            choice), ``num_draws=1000``, ``max_events=5000`` (for k-hat and log score), ``seed=0``, ``value=True``
            (whether the off-policy estimate is made: it asks for Thompson's propensities in every context of the log,
            at 10,000 items CPU seconds each), ``covariates`` of the log's users and ``held_out_covariates`` (see
            `blob_pyro.BLOB.batch`), ``fit={}``: keyword arguments of ``BLOB.fit``.

    Returns:
        A table with a row per choice, a figure, and the fitted models.

    Raises:
        ValueError: for fewer than two choices, or two of one name.
    """
    named = guides if isinstance(guides, Mapping) else {_name(guide): guide for guide in guides}
    if len(named) < len(guides):
        raise ValueError("guides: two have one name; pass a mapping from names of yours to guides")
    recipes = {name: (guide, blob.model.priors) for name, guide in named.items()}
    return _compare(blob, recipes, log, held_out, "guides", **options)


def compare_priors(
    blob: BLOB,
    priors: Mapping[str, BanditPriors],
    log: EventLog,
    *,
    held_out: EventLog | None = None,
    **options: Any,
) -> Comparison:
    """Fit a log under several priors, and say what the choice changes.

    ELBOs of different priors are bounds of different evidences: the larger one speaks for its prior, as far as the
    bounds are tight.

    Args:
        blob: model and guide; left as it is.
        priors: by a name of yours; the first is what others are compared with.
        log: see `compare_guides`.
        held_out: see `compare_guides`.
        options: see `compare_guides`.

    Returns:
        As `compare_guides`.

    Raises:
        ValueError: for fewer than two choices.
    """
    return _compare(blob, {n: (blob._recipe, p) for n, p in priors.items()}, log, held_out, "priors", **options)


def _compare(
    blob: BLOB,
    recipes: Mapping[str, tuple[Any, BanditPriors]],
    log: EventLog,
    held_out: EventLog | None,
    argument: str,
    *,
    num_contexts: int = 200,
    num_simulations: int = 0,
    num_draws: int = 1000,
    max_events: int = 5000,
    seed: int = 0,
    value: bool = True,
    covariates: Any = None,
    held_out_covariates: Any = None,
    fit: Mapping[str, Any] | None = None,
) -> Comparison:
    if len(recipes) < 2:
        raise ValueError(f"{argument}: a comparison takes two choices at least, got {list(recipes)}")
    seed = check_seed(seed)
    num_contexts = min(whole_number(num_contexts, "num_contexts"), len(log.contexts))
    contexts = log.contexts[torch.linspace(0, len(log.contexts) - 1, num_contexts).round().long()]
    rows: dict[str, dict[str, Any]] = {}
    models: dict[str, BLOB] = {}
    first: dict[str, Any] = {}
    for name, (guide, priors) in recipes.items():
        model = type(blob)(blob.blo, guide, priors, omega=blob.omega, interest=blob.interest, jitter=blob.model.jitter)
        mine, of_held_out = (x if model.model.num_covariates else None for x in (covariates, held_out_covariates))
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not converged|log: .* never shown|.*R-hat")
            trace = model.fit(log, **{"progress": False, "seed": seed, "covariates": mine, **(fit or {})})
        if trace.attrs.get("interrupted"):  # a fit ends well on Ctrl-C, and the others are not to follow
            raise KeyboardInterrupt
        row: dict[str, Any] = {"seconds": time.perf_counter() - start, "converged": trace.attrs.get("converged")}
        row |= _fit_of(model, log, num_draws, seed, mine)
        of_judged = mine if held_out is None else of_held_out
        judged = held_out_calibration(model, log, held_out, num_draws, max_events, seed, of_judged)
        losses, user = judged.losses, judged.user
        with warnings.catch_warnings():  # that a choice has no doubt is what the comparison is to show
            warnings.filterwarnings("ignore", message="ThompsonSampling: the posterior is a point mass")
            actions = ThompsonSampling(model, seed=seed).action_distribution(contexts)
        probs, error = actions.probs.double().cpu(), getattr(actions, "error_estimate", None)
        error = torch.zeros_like(probs) if error is None else error.double().cpu()
        best = model.scores(contexts).argmax(-1).cpu()
        found = {"losses": losses, "probs": probs, "error": error, "best": best, "model": model}
        first = first or found
        row |= _log_score(losses, first["losses"], user)
        row |= _decisions(found, first)
        row |= _value(model, first["model"], log if value else None, seed)
        if num_simulations:
            calibration = calibrate(
                model,
                log,
                num_simulations=num_simulations,
                covariates=mine,
                seed=derived_seed(seed, num_simulations),
            )
            row["sbc_failed"] = ", ".join(calibration.failed) or "none"
        rows[name], models[name] = row, model
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(argument.rstrip("s"))
    lead = [
        "elbo",
        "elbo_error",
        "k_hat",
        "log_score",
        "log_score_gain",
        "log_score_gain_error",
        "seconds",
        "converged",
    ]
    return Comparison(table[[*lead, *(c for c in table if c not in lead)]], next(iter(recipes)), num_contexts, models)


def _name(guide: Any) -> str:
    return guide if isinstance(guide, str) else getattr(guide, "__name__", type(guide).__name__)


def _fit_of(model: BLOB, log: EventLog, num_draws: int, seed: int, covariates: Any) -> dict[str, float]:
    try:
        elbo, error = model.elbo(log, seed=seed, covariates=covariates)
    except HasNoELBO:
        elbo = error = float("nan")
    stats = model.to_inference_data(log, num_draws, groups=["sample_stats"], covariates=covariates, seed=seed)
    k_hat = psis(stats).k_hat if "log_q" in stats["sample_stats"] else float("nan")
    return {"elbo": elbo, "elbo_error": error, "k_hat": k_hat}


def _log_score(losses: np.ndarray, reference: np.ndarray, user: np.ndarray) -> dict[str, float]:
    gain = reference - losses
    return {
        "log_score": -float(losses.mean()),
        "log_score_gain": float(gain.mean()),
        "log_score_gain_error": clustered_error(gain, user),
    }


def _decisions(found: dict[str, Any], first: dict[str, Any]) -> dict[str, float]:
    probs: Tensor = found["probs"]
    moved = total_variation(probs, first["probs"], (first["error"].square() + found["error"].square()).sqrt())
    changed = (found["best"] != first["best"]).double()
    row = {"total_variation_error": float(moved.error.mean())}
    if found is first:
        row["total_variation_error"] = 0.0
    for column, values in (("total_variation", moved.value), ("greedy_changes", changed)):
        mean, error = float(values.mean()), float(values.std() / max(len(values), 2) ** 0.5)
        row |= {column: mean, f"{column}_low": max(mean - 1.96 * error, 0.0), f"{column}_high": mean + 1.96 * error}
    return row


def _value(model: BLOB, reference: BLOB, log: EventLog | None, seed: int) -> dict[str, float]:
    if log is None or log.propensity is None:
        return dict.fromkeys(("value_gain", "value_gain_low", "value_gain_high"), float("nan"))
    if model is reference:
        return dict.fromkeys(("value_gain", "value_gain_low", "value_gain_high"), 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        policies = [ThompsonSampling(one, seed=seed) for one in (model, reference)]
        estimate = evaluate(log, policies[0], estimators=[_EFFECTIVE], baseline=policies[1])[_EFFECTIVE]
        low, high = estimate.interval(0.95)
    return {"value_gain": float(estimate.value), "value_gain_low": float(low), "value_gain_high": float(high)}
