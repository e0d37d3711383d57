"""Every usual call of ArviZ works on what is exported, and its numbers are the model's own."""

import uuid
import warnings
from importlib.metadata import version

import matplotlib
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from matplotlib import pyplot

from blob_pyro import BLO, BLOB, BanditPriors, EventLog
from blob_pyro.diagnostics import ExportWarning, summary
from blob_pyro.diagnostics.inference_data import import_arviz
from blob_pyro.guides import DrawsGuide
from blob_pyro.infer import fit_nuts
from blob_pyro.models import ItemDeviations

matplotlib.use("Agg")
OLD = version("arviz").startswith("0.")
QUICK = {"num_epochs": 3, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def az():
    return import_arviz()


@pytest.fixture(scope="module")
def data(blob, log):
    return blob.to_inference_data(log, num_draws=200)


@pytest.fixture(scope="module")
def nuts(blo, log):
    """Two chains of forty draws, from some of the events."""
    some = slice(0, 150)
    arrays = (log.view_user, log.view_time, log.view_item, log.user[some], log.time[some], log.action[some])
    few = EventLog.from_arrays(log.num_items, *arrays, log.reward[some])
    blob = BLOB(blo, "nuts", BanditPriors(w_a=-1.0, w_b=-6.0, w_c=dist.Normal(-4.0, 1.0), zeta=0.0, kappa_scale=0.3))
    blob.guide = DrawsGuide(blob.model, 80, num_chains=2)
    torch.manual_seed(0)
    trace = fit_nuts(blob.guide, blob.model, blob.batch(few), warmup_steps=20, progress=False)
    blob.mark_fitted(few)
    return blob, few, trace


def new_or_old(az, new, old):
    return getattr(az, old if OLD else new)


CALLS = {
    "summary": lambda az, d: az.summary(d, var_names=["w_a", "w_b", "w_c"]),
    "plot_trace": lambda az, d: az.plot_trace(d, var_names=["w_a", "w_c"]),
    "plot_forest": lambda az, d: az.plot_forest(d, var_names=["kappa"]),
    "plot_posterior or plot_dist": lambda az, d: new_or_old(az, "plot_dist", "plot_posterior")(d, var_names=["w_a"]),
    "plot_ppc or plot_ppc_dist": lambda az, d: new_or_old(az, "plot_ppc_dist", "plot_ppc")(d, num_pp_samples=20)
    if OLD
    else az.plot_ppc_dist(d, num_samples=20),
    "prior predictive check": lambda az, d: az.plot_ppc(d, group="prior", num_pp_samples=20)
    if OLD
    else az.plot_ppc_dist(d, group="prior_predictive", num_samples=20),
    "plot_loo_pit": lambda az, d: az.plot_loo_pit(d, y="click") if OLD else az.plot_loo_pit(d),
    "plot_ecdf or plot_dist": lambda az, d: az.plot_ecdf(
        d["posterior"]["w_a"].values.flatten(), eval_points=np.linspace(-3, 0, 9)  # a copy: it sorts in place
    )
    if OLD
    else az.plot_dist(d, var_names=["w_a"], kind="ecdf"),  # plot_ecdf_pit is for ranks: it asks for a group prior_sbc
    "loo": lambda az, d: az.loo(d),
    "compare": lambda az, d: az.compare({"one": d, "two": d}),
    "plot_khat": lambda az, d: az.plot_khat(az.loo(d, pointwise=True)),
    "plot_prior_posterior or plot_dist_comparison": lambda az, d: new_or_old(
        az, "plot_prior_posterior", "plot_dist_comparison"
    )(d, var_names=["w_a", "w_c"]),
    "psense or psens": lambda az, d: [az.psens(d, component=c, var_names=["w_a"]) for c in ("prior", "likelihood")]
    if OLD
    else az.psense_summary(d, var_names=["w_a", "w_c"]),
    "hdi": lambda az, d: az.hdi(d, var_names=["kappa"]),
    "plot_pair": lambda az, d: az.plot_pair(d, var_names=["w_a", "w_c"]),
    "extract": lambda az, d: az.extract(d, num_samples=20),
    "to_netcdf": lambda az, d: None,
}  # fmt: skip


@pytest.mark.filterwarnings(
    "ignore:.*arviz|The default|Estimated shape|Variables click in|divide by zero encountered in divide|The number of:"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_every_usual_call_works(az, data, call):
    assert call(az, data) is not False
    pyplot.close("all")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Estimated shape")
@pytest.mark.parametrize("call", ["summary", "plot_trace", "plot_forest", "loo", "plot_loo_pit"])
def test_they_work_on_chains_too(az, nuts, call):
    blob, few, _ = nuts
    data = blob.to_inference_data(few)
    if call in ("summary", "plot_trace"):
        assert getattr(az, call)(data, var_names=["w_c"]) is not None
    else:
        assert CALLS[call](az, data) is not None
    pyplot.close("all")


def test_chains_are_kept(az, nuts):
    blob, few, trace = nuts
    posterior = blob.to_inference_data()["posterior"]
    assert dict(posterior["kappa"].sizes) == {"chain": 2, "draw": 40, "item": 12}
    stored = blob.guide.draws["kappa"].view(2, 40, 12).numpy()
    assert (posterior["kappa"].values == stored).all()
    table = summary(blob.to_inference_data(), ["w_c", "kappa"], round_to="none")
    assert {"r_hat", "ess_bulk"} <= set(table.columns)
    assert table.r_hat.notna().all()
    assert not np.allclose(stored[0], stored[1])
    assert trace.attrs["r_hat"] > 0
    assert len(trace) == 80
    thinned = blob.to_inference_data(few, num_draws=11)
    assert dict(thinned["posterior"]["w_c"].sizes) == {"chain": 2, "draw": 5}
    assert (thinned["posterior"]["w_c"].values[:, [0, -1]] == posterior["w_c"].values[:, [0, -1]]).all()
    assert "log_q" not in thinned["sample_stats"]
    assert np.isfinite(thinned["sample_stats"]["log_p"].values).all()


def test_chains_are_saved(nuts, tmp_path):
    blob = nuts[0]
    blob.save(tmp_path / "model")
    assert BLOB.load(tmp_path / "model", device="cpu").guide.num_chains == 2
    with pytest.raises(ValueError, match=r"num_draws: must be a multiple of num_chains.*got 5 draws of 2 chains"):
        DrawsGuide(blob.model, 5)


def test_groups_hold_what_was_observed(blob, log, data):
    rows = np.arange(log.num_impressions)
    constant, observed = data["constant_data"], data["observed_data"]
    assert (observed["click"].values == log.reward.numpy()).all()
    assert (observed["event"].values == rows).all()
    assert constant["action"].values.tolist() == log.items.decode(log.action)
    assert constant["user"].values.tolist() == log.users.decode(log.user)
    assert (constant["context"].values == log.context.numpy()).all()
    assert (constant["history_length"].values == log.contexts.lengths[log.context].numpy()).all()
    assert (constant["propensity"].values == log.propensity.numpy()).all()
    assert data["log_likelihood"]["click"].dims == ("chain", "draw", "event")


def test_likelihood_and_clicks_are_the_models(blob, log, data):
    """Of each event against click_logits at its own history; of the clicks, their frequencies."""
    draws = {n: torch.as_tensor(data["posterior"][n].values[0]) for n in blob.model.site_priors()}
    coefficients = torch.vmap(blob.model.coefficients)(draws).detach()
    features = torch.cat([blob.blo.embed(log.contexts), torch.ones(len(log.contexts), 1)], -1)
    logits = torch.einsum("nf,dnf->dn", features[log.context], coefficients[:, log.action])
    expected = torch.where(log.reward > 0, logits.sigmoid(), (-logits).sigmoid()).log()
    assert np.allclose(data["log_likelihood"]["click"].values[0], expected, atol=1e-4)
    clicks = data["posterior_predictive"]["click"].values[0]
    rate = logits.sigmoid().double()
    error = float((rate * (1 - rate)).sum().sqrt())
    assert abs(clicks.sum() - float(rate.sum())) < 5 * error
    assert set(np.unique(clicks)) <= {0, 1}
    total = data["sample_stats"]["log_p"].values[0] - expected.double().sum(-1).numpy()
    priors = sum(data["log_prior"][n].values[0] for n in draws)
    assert np.allclose(total, priors, atol=0.05)


def test_prior_predictive_clicks_have_the_priors_rate(blob, log):
    data = blob.to_inference_data(log, 400, groups=["prior", "prior_predictive"])
    rates = torch.sigmoid(torch.as_tensor(data["prior"]["w_c"].values)).mean()
    clicks = data["prior_predictive"]["click"].values.mean((0, 2))
    assert clicks.mean() == pytest.approx(float(rates), abs=5 * clicks.std() / 20)
    assert set(data.groups() if OLD else data.children) == {"prior", "prior_predictive"}


def test_the_same_seed_gives_the_same_whatever_else_is_asked(blob, log, data):
    again = blob.to_inference_data(log, 200, groups=["posterior", "posterior_predictive"], num_events=100)
    assert (again["posterior"]["kappa"].values == data["posterior"]["kappa"].values).all()
    other = blob.to_inference_data(log, 200, groups=["posterior"], seed=1)
    assert not (other["posterior"]["kappa"].values == data["posterior"]["kappa"].values).any()
    events = again["posterior_predictive"]["event"].values
    assert len(events) == 100
    assert events[-1] == log.num_impressions - 1


def test_a_part_is_the_part_of_the_whole(blob, log, data):
    part = blob.to_inference_data(log, 200, sites=["kappa", "w_a"], items=[7, 2], num_events=50)
    assert list(part["posterior"].data_vars) == ["w_a", "kappa"]
    assert part["posterior"]["item"].values.tolist() == [2, 7]
    assert (part["posterior"]["kappa"].sel(item=7).values == data["posterior"]["kappa"].sel(item=7).values).all()
    events = part["log_likelihood"]["event"].values
    whole = data["log_likelihood"]["click"].sel(event=events).values
    assert np.allclose(part["log_likelihood"]["click"].values, whole, atol=1e-5)
    assert np.allclose(part["sample_stats"]["log_p"].values, data["sample_stats"]["log_p"].values)  # of all events


def test_what_is_left_out_is_said(blo, log, tmp_path):
    blob = BLOB(blo, priors=BanditPriors(terms={"own": ItemDeviations(0.2)}, kappa_scale=0.2))
    blob.fit(log, **QUICK)
    with pytest.warns(ExportWarning, match=r"kept are the 6 most viewed of 12 items.*; kept are .* of 3,825 events"):
        data = blob.to_inference_data(log, 100, max_gib=0.00005)
    assert data["posterior"]["own_beta_deviation"].dims == ("chain", "draw", "item", "own_beta_deviation_dim_1")
    assert dict(data["posterior"].sizes)["item"] == 6
    popular = blob.model.item_intercept.argsort(descending=True)[:6].sort().values
    assert data["posterior"]["item"].values.tolist() == popular.tolist()
    assert "6 most viewed" in data["posterior"].attrs["left_out"]
    assert sum(data[g].nbytes for g in ("posterior", "prior", "log_likelihood")) < 0.00005 * 2**30
    data.to_netcdf(str(tmp_path / "part.nc"))


def test_ids_of_any_kind_are_labels(tmp_path):
    ids = [uuid.UUID(int=i) for i in range(4)]
    log = EventLog.from_tables(
        views={"user": [("a", 1), ("a", 1), ("b", 2), ("b", 2)], "time": [0, 1, 0, 1], "item": ids},
        impressions={"user": [("a", 1), ("b", 2), ("b", 2)], "time": [2, 3, 4], "action": ids[:3], "reward": [1, 0, 0],
                     "position": [1, 1, 2]},
    )  # fmt: skip
    blo = BLO(log.num_items, embedding_dim=2)
    blo.fit(log, num_epochs=2, progress=False)
    blob = BLOB(blo)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="log: 1 of 4 items")
        blob.fit(log, **QUICK)
    data = blob.to_inference_data(log, 20)
    assert data["posterior"]["item"].values.tolist() == [str(i) for i in ids]
    assert data["constant_data"]["action"].values.tolist() == [str(i) for i in ids[:3]]
    assert data["constant_data"]["position"].values.tolist() == [1, 1, 2]
    data.to_netcdf(str(tmp_path / "data.nc"))


def test_other_logs_are_refused(blob):
    with pytest.raises(TypeError, match="log: expected an EventLog, got a int; make one with"):
        blob.to_inference_data(20)
    with pytest.raises(ValueError, match="groups: 'sample_stats' is about events; give the log"):
        blob.to_inference_data(groups=["sample_stats"])


@pytest.mark.parametrize("guide", ["delta", "matrix_normal", "laplace"])
def test_other_guides(blo, log, guide):
    blob = BLOB(blo, guide, BanditPriors(kappa_scale=0.3))
    blob.fit(log, **QUICK)
    data = blob.to_inference_data(log, num_draws=30, num_events=40)
    assert ("log_q" in data["sample_stats"]) == (guide != "delta")
    assert data["posterior"].attrs["draws"] == f"independent draws from the guide {guide!r}"


def test_the_density_over_the_guides_is_the_elbo(blo, log):
    """E_q(log p - log q), by the draws' own error, against blob.elbo."""
    for guide in ("normal", "laplace"):
        blob = BLOB(blo, guide, BanditPriors(kappa_scale=0.3))
        blob.fit(log, **QUICK)
        stats = blob.to_inference_data(log, 1000, groups=["sample_stats"])["sample_stats"]
        difference = (stats["log_p"] - stats["log_q"]).values.ravel()
        elbo = blob.elbo(log, num_draws=150)
        error = (difference.var() / 1000 + (elbo.standard_error * log.num_impressions) ** 2) ** 0.5
        assert abs(difference.mean() - elbo.value * log.num_impressions) < 4.5 * error
