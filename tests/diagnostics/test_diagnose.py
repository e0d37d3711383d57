"""One call, a verdict on each question; what is planted is found, and what cannot be judged is said."""

import matplotlib
import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib import pyplot

from blob_pyro import BLOB, BanditPriors, EventLog
from blob_pyro.diagnostics import diagnose
from blob_pyro.diagnostics.diagnose import _prior, _sensitivities
from blob_pyro.models import UserCovariates

matplotlib.use("Agg")
QUICK = {"num_draws": 200, "max_events": 1000}


@pytest.fixture(scope="module")
def fitted(blo, log):
    blob = BLOB(blo, "laplace", BanditPriors(kappa_scale=0.3))
    return blob, blob.fit(log, progress=False, device="cpu")


@pytest.fixture(scope="module")
def report(fitted, log):
    return diagnose(fitted[0], log, trace=fitted[1], **QUICK)


def test_every_question_is_answered(report):
    names = [check.name for check in report.checks]
    assert names == [
        "guide against model", "convergence", "clicks by item", "clicks by history length",
        "clicks by tenth of the log", "click probabilities", "prior sensitivity", "known widths",
    ]  # fmt: skip
    assert list(report.table.columns) == ["flagged", "value", "says"]
    assert report["convergence"].flagged is False
    assert report["clicks by item"].flagged is False
    assert "k-hat" in report["guide against model"].says
    assert "over constant" in report["click probabilities"].says
    assert repr(report).startswith("guide laplace on 3,825 events (1,000 of them checked, evenly spaced): ")
    with pytest.raises(KeyError, match="no check 'widths' in this diagnosis; there are guide against model"):
        report["widths"]


def test_the_figure_has_a_panel_for_each(report):
    figure = report.plot()
    assert [ax.get_xlabel() for ax in figure.axes] == [
        "predicted click probability, %", "item", "history length", "tenth of the log",
    ]  # fmt: skip
    pyplot.close("all")


def test_leave_one_out_is_arvizs(fitted, report, log):
    from blob_pyro.diagnostics.inference_data import import_arviz

    data = fitted[0].to_inference_data(log, 200, groups=["posterior", "log_likelihood"], num_events=1000)
    loo = import_arviz().loo(data)
    elpd = float(loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd)  # ArviZ 0.x, 1.x
    assert -1000 * report.calibration.scores.loc["model", "log"] == pytest.approx(elpd, abs=0.05)


def test_a_narrow_guide_is_found(fitted, log):
    blob = BLOB(fitted[0].blo, "laplace", BanditPriors(kappa_scale=0.3))
    blob.guide.load_state_dict(fitted[0].guide.state_dict())
    blob.fits = [{"call": "fit"}]
    for name in ("node_shared_scale_tril", "node_own_scale"):
        getattr(blob.guide, name).mul_(0.4)
    found = diagnose(blob, log, **QUICK)
    assert found["guide against model"].flagged
    assert found["guide against model"].value > 0.6
    assert found["convergence"].flagged is None
    assert found["prior sensitivity"].flagged is None


def test_an_item_that_the_model_has_wrong_is_found(fitted, log):
    """Item 2 is clicked at 12 %, and the model believes otherwise."""
    reward = log.reward.clone()
    of_it = torch.where(log.action == 2)[0]
    reward[of_it[: len(of_it) // 8]] = 1
    arrays = (log.view_user, log.view_time, log.view_item, log.user, log.time, log.action)
    other = EventLog.from_arrays(log.num_items, *arrays, reward)
    found = diagnose(fitted[0], other, **{**QUICK, "max_events": 4000})
    assert found["clicks by item"].flagged
    assert "furthest is 2: " in found["clicks by item"].says
    assert any(verdict.startswith("clicks by item: p = ") for verdict in found.verdicts)


def test_a_model_remembers_whether_its_fit_converged(fitted, report, log, tmp_path):
    fitted[0].save(tmp_path / "model")
    found = diagnose(BLOB.load(tmp_path / "model", device="cpu"), log, num_draws=100, max_events=100)
    assert found["convergence"] == report["convergence"]
    stopped = BLOB(fitted[0].blo, "normal")
    stopped.fit(log, num_epochs=1, progress=False, device="cpu")
    assert diagnose(stopped, log, num_draws=100, max_events=100)["convergence"].flagged


def test_held_out_events_are_predicted(fitted, log):
    found = diagnose(fitted[0], log, held_out=log, num_draws=200, max_events=500)
    assert "500 of 3,825 events held out" in found["click probabilities"].says
    rows = torch.linspace(0, log.num_impressions - 1, 500).round().long()
    expected = fitted[0].click_probabilities(log.contexts[log.context[rows]])
    expected = expected[torch.arange(500), log.action[rows]].double()
    log_score = -torch.where(log.reward[rows] > 0, expected, 1 - expected).log().mean()
    assert found.calibration.scores.loc["model", "log"] == pytest.approx(float(log_score), rel=0.02)


def test_held_out_events_come_with_covariates_of_their_users(blo, log):
    train, later = log.split(users=0.3)
    known, unknown = (torch.randn(part.num_users, 1) for part in (train, later))
    blob = BLOB(blo, "laplace", BanditPriors(kappa_scale=0.3, terms=(UserCovariates(1),)))
    blob.fit(train, covariates=known, progress=False, device="cpu")
    found = diagnose(blob, train, held_out=later, covariates=known, held_out_covariates=unknown, **QUICK)
    rows = torch.linspace(0, later.num_impressions - 1, len(found.calibration.losses)).round().long()
    expected = blob.event_probabilities(later, unknown)[rows].double()
    losses = -torch.where(later.reward[rows] > 0, expected, 1 - expected).log()
    assert found.calibration.losses == pytest.approx(losses.numpy(), rel=0.15)


def test_a_point_mass_has_little_to_say(blo, log):
    blob = BLOB(blo, "delta", BanditPriors(kappa_scale=0.3))
    blob.fit(log, num_epochs=2, progress=False, device="cpu")
    found = diagnose(blob, log, **QUICK)
    assert found["guide against model"].flagged is None
    assert found["prior sensitivity"].says == "no parameter has any doubt"


def test_more_prior_is_seen(report):
    table = report.sensitivities
    assert table.loc["w_b", "says"] == "prior and data pull: both matter"
    assert table.loc["w_b", "prior"] > 3 * table.loc["w_b", "likelihood"]
    assert np.isfinite(table[["prior", "likelihood"]].to_numpy()).all()


def test_the_prior_decides_what_the_data_say_nothing_of():
    """Of two normal numbers events have seen one, whose prior is wide: the other's posterior is its prior."""
    rng = np.random.default_rng(0)
    unseen, seen = rng.normal(0, 1, 4000), rng.normal(3, 0.1, 4000)
    log_prior = {"unseen": -0.5 * unseen**2, "seen": -0.5 * (seen / 10) ** 2}
    log_likelihood = -0.5 * ((seen - 3) / 0.1) ** 2
    groups = {
        "posterior": {"unseen": unseen, "seen": seen},
        "log_prior": log_prior,
        "sample_stats": {"log_p": sum(log_prior.values()) + log_likelihood},
    }
    data = {name: xr.Dataset({n: ("sample", v) for n, v in values.items()}) for name, values in groups.items()}
    table = _sensitivities(data, None)
    assert table.says.to_dict() == {
        "unseen": "the prior decides: the data say next to nothing",
        "seen": "the prior matters little",
    }
    assert _prior(table, known=True).flagged
    assert _prior(table, known=True).says == "the prior decides unseen"
    assert _prior(table.drop("unseen"), known=True).flagged is False
    assert _prior(table, known=False).flagged is None
