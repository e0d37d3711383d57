"""Every picture of `blob_pyro.diagnostics.plots`, drawn of several guides and of a large catalogue, into a folder.

    python benchmarks/gallery.py --folder gallery

It is for looking; minutes for all. ``--guides laplace --large 0`` draws one guide, and no large catalogue.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from blob_pyro import BLO, BLOB, EventLog
from blob_pyro.diagnostics import calibrate, compare_guides, diagnose, plots
from blob_pyro.experiments import rounds
from blob_pyro.infer import ConvergenceWarning
from blob_pyro.ope import evaluate
from blob_pyro.policies import Greedy, Mixture, SessionPopularity, ThompsonSampling, Uniform
from blob_pyro.simulation import RecoGym, ab_test

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pictures = dict[str, Callable[[], Any]]


def of_a_model(blob: BLOB, log: EventLog, trace: pd.DataFrame | None, history: list[Any]) -> Pictures:
    """What is drawn of every fitted model, by name; ``history`` is a user's views."""
    policy = Mixture([ThompsonSampling(blob, shared_draws=4), Uniform(blob.items)], weights=[0.9, 0.1])
    drawn: Pictures = {
        "prior_posterior": lambda: plots.plot_prior_posterior(blob),
        "click_rates": lambda: plots.plot_click_rates(blob, history, log=log),
        "embeddings": lambda: plots.plot_embeddings(blob),
        "propensities": lambda: plots.plot_propensities(blob, history),
        "growing_history": lambda: plots.plot_growing_history(blob, history),
        "growing_interest": lambda: plots.plot_growing_interest(blob.blo, history),
        "importance_weights": lambda: plots.plot_importance_weights(log, policy),
    }
    return drawn if trace is None else {"training": lambda: plots.plot_training(trace), **drawn}


def of_reports(reports: Mapping[str, Any]) -> Pictures:
    """What is drawn of reports, by name; ``reports`` has them by the name of what made them."""
    return {
        "ranks": lambda: plots.plot_ranks(reports["calibrate"]),
        "reliability": lambda: plots.plot_reliability(reports["diagnose"]),
        "predictive_check": lambda: plots.plot_predictive_check(reports["diagnose"]),
        "diagnosis": lambda: reports["diagnose"].plot(),
        "comparison": lambda: plots.plot_comparison(reports["compare_guides"]),
        "estimates": lambda: plots.plot_estimates(reports["evaluate"]),
        "ab_test": lambda: plots.plot_ab_test(reports["ab_test"]),
        "regret": lambda: plots.plot_regret(reports["rounds"]),
    }


def figure_of(drawn: Any) -> Figure:
    """The figure of axes, of several axes, or of a figure."""
    first = drawn[0] if isinstance(drawn, list) else drawn
    return getattr(first, "figure", None) or first


def longest_history(log: EventLog) -> list[Any]:
    """The longest list of views before an impression, as ids."""
    row = log.contexts.lengths.argmax(keepdim=True)
    return log.items.decode(log.contexts[row].to_sequences()[0])


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("gallery"))
    parser.add_argument("--guides", nargs="+", default=["arrowhead_normal", "laplace", "low_rank"])
    parser.add_argument("--large", type=int, default=10_000, help="items of the large catalogue; 0 for none")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.filterwarnings("ignore", ".*never shown")
    settings.folder.mkdir(exist_ok=True)

    def write(name: str, drawn: Pictures) -> None:
        for what, draw in drawn.items():
            path = settings.folder / f"{name}-{what}.png"
            figure_of(draw()).savefig(path, dpi=100)
            pyplot.close("all")
            print(path)

    environment = RecoGym(num_items=100, num_flips=50, seed=200)
    log = environment.simulate(SessionPopularity(100, epsilon=0.3), num_users=200, num_organic_users=2_000)
    blo = BLO(100, embedding_dim=10)
    organic = blo.fit(log, progress=False)
    write("blo", {"training": lambda: plots.plot_training(organic)})
    history = longest_history(log)
    fitted = {}
    for guide in settings.guides:
        blob = fitted[guide] = BLOB(blo, guide)
        write(guide, of_a_model(blob, log, blob.fit(log, progress=False), history[:10]))
    first = next(iter(fitted.values()))
    played = {name: Greedy(blob) for name, blob in fitted.items()}
    reports = {
        "calibrate": calibrate(BLOB(blo, "laplace"), log, num_simulations=10, seed=200),
        "diagnose": diagnose(first, log, num_draws=400, max_events=5_000),
        "compare_guides": compare_guides(first, [*settings.guides, "normal"], log, num_draws=200, num_contexts=50),
        "evaluate": evaluate(log, Mixture([Greedy(first), Uniform(100)], weights=[0.5, 0.5]), baseline="logging"),
        "ab_test": ab_test(environment, {"random": Uniform(100), **played, "oracle": environment.oracle()}, 1_000),
        "rounds": rounds([RecoGym(num_items=30, seed=seed) for seed in (200, 201, 202)], ["greedy", "Thompson"],
                         num_rounds=3, users_per_round=100),
    }  # fmt: skip
    write("report", of_reports(reports))
    if settings.large:
        environment = RecoGym(num_items=settings.large, seed=200)
        log = environment.simulate(SessionPopularity(settings.large, epsilon=0.3), 500, num_organic_users=1_000)
        blo = BLO(settings.large, embedding_dim=10)
        blo.fit(log, num_epochs=3, progress=False)
        blob = BLOB(blo, "laplace")
        trace = blob.fit(log, progress=False)
        write("large", of_a_model(blob, log, trace, longest_history(log)))
        write("large", {"diagnosis": lambda: diagnose(blob, log, num_draws=200, max_events=5_000).plot()})


if __name__ == "__main__":
    main()
