"""Every picture is drawn of three models, by the code of `benchmarks/gallery.py`, with labels that give units."""

import importlib.util
from pathlib import Path

import matplotlib.pyplot
import numpy as np
import pandas as pd
import pytest

from blob_pyro.diagnostics import plots
from blob_pyro.diagnostics.calibration_report import Calibration
from blob_pyro.diagnostics.comparison import Comparison
from blob_pyro.diagnostics.diagnose import diagnose
from blob_pyro.experiments.rounds_result import RoundsResult
from blob_pyro.ope import evaluate
from blob_pyro.policies import Uniform
from blob_pyro.simulation import RecoGym, ab_test

PATH = Path(__file__).parents[3] / "benchmarks" / "gallery.py"


@pytest.fixture(scope="module")
def gallery():
    spec = importlib.util.spec_from_file_location("gallery", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _nothing_is_shown(monkeypatch):
    def show(*_, **__):
        raise AssertionError("a picture was shown")

    monkeypatch.setattr(matplotlib.pyplot, "show", show)


@pytest.fixture(scope="module")
def reports(fitted, log):
    ranks = np.random.default_rng(0).integers(0, 100, (40, 3))
    table = pd.DataFrame(
        {"total_variation": [0.0, 0.2], "total_variation_low": [0.0, 0.1], "total_variation_high": [0.0, 0.3],
         "total_variation_error": [0.0, 0.01], "greedy_changes": [0.0, 0.05], "greedy_changes_low": [0.0, 0.0],
         "greedy_changes_high": [0.0, 0.2]}, index=["normal", "laplace"],
    )  # fmt: skip
    rows = [
        {"environment": e, "log": 0, "agent": a, "round": n, "regret": n * (e + r)}
        for e in (1, 2) for n in (1, 2) for r, a in enumerate(("greedy", "Thompson"))
    ]  # fmt: skip
    environment = RecoGym(num_items=12, num_flips=4, seed=3)
    blob, trace = fitted["normal"]
    return {
        "calibrate": Calibration({"logit": ranks}, {"logit": ranks / 99.0}, 99, "normal", 1.0),
        "diagnose": diagnose(blob, log, trace=trace, num_draws=100, max_events=300),
        "compare_guides": Comparison(table, "normal", 20, {}),
        "evaluate": evaluate(log, Uniform(12)),
        "ab_test": ab_test(environment, {"random": Uniform(12), "oracle": environment.oracle()}, 50),
        "rounds": RoundsResult(pd.DataFrame(rows)),
    }


def labelled(ax):
    return ax.get_xlabel() and (ax.get_ylabel() or ax.get_yticklabels() or not len(ax.get_yticks()))


@pytest.mark.parametrize("guide", ["normal", "laplace", "low_rank"])
def test_of_a_model(gallery, fitted, log, guide, tmp_path):
    blob, trace = fitted[guide]
    history = gallery.longest_history(log)[:5]
    for name, draw in gallery.of_a_model(blob, log, trace, history).items():
        drawn = draw()
        for ax in drawn if isinstance(drawn, list) else [drawn]:
            assert labelled(ax), name
            assert ax.has_data(), name
        if guide == "laplace":
            gallery.figure_of(drawn).savefig(tmp_path / f"{name}.png", dpi=40)


def test_of_reports(gallery, reports, tmp_path):
    for name, draw in gallery.of_reports(reports).items():
        figure = gallery.figure_of(draw())
        assert all(labelled(ax) for ax in figure.axes if ax.axison), name
        figure.savefig(tmp_path / f"{name}.png", dpi=40)


def test_the_gallery_has_every_picture(gallery):
    text = PATH.read_text()
    missing = [name for name in plots.__all__ if f"plots.{name}(" not in text]
    assert not missing


def test_given_axes_are_used(gallery, fitted, log, reports):
    blob, trace = fitted["laplace"]
    calls = {
        plots.plot_training: (trace,), plots.plot_click_rates: (blob,), plots.plot_embeddings: (blob,),
        plots.plot_propensities: (Uniform(12),), plots.plot_growing_history: (blob, [1, 2]),
        plots.plot_growing_interest: (blob.blo, [1, 2]), plots.plot_importance_weights: (log, Uniform(12)),
        plots.plot_ranks: (reports["calibrate"],), plots.plot_reliability: (reports["diagnose"],),
        plots.plot_predictive_check: (reports["diagnose"],), plots.plot_comparison: (reports["compare_guides"],),
        plots.plot_estimates: (reports["evaluate"],), plots.plot_ab_test: (reports["ab_test"],),
        plots.plot_regret: (reports["rounds"],),
    }  # fmt: skip
    assert {call.__name__ for call in calls} | {"plot_prior_posterior"} == set(plots.__all__)
    for call, arguments in calls.items():
        _, ax = matplotlib.pyplot.subplots()
        assert call(*arguments, ax=ax) is ax, call.__name__
