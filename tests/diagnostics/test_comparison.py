"""Comparisons say what a choice changes: nothing for the same choice twice, decisions where they do change."""

import matplotlib
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from matplotlib import pyplot

from blob_pyro import BLOB, BanditPriors, EventLog
from blob_pyro.diagnostics import compare_guides, compare_priors
from blob_pyro.guides import DeltaGuide, LaplaceGuide
from blob_pyro.infer import fit_guide
from blob_pyro.infer.laplace.fit import fit_laplace
from blob_pyro.models import UserCovariates
from blob_pyro.policies import ThompsonSampling
from tests.diagnostics.stopped import Stopped

matplotlib.use("Agg")
QUICK = {"num_contexts": 20, "num_draws": 100, "max_events": 200, "fit": {"device": "cpu"}}


class Mode(DeltaGuide):
    """The mode, as Laplace's approximation finds it."""


@fit_guide.register
def _(guide: Mode, request):
    around = LaplaceGuide(request.model)
    trace = fit_laplace(around, request.model, request.batch, progress=False)
    with torch.no_grad():
        for name, part in around.parts(around.mode, around.multivariate()).items():
            getattr(guide, f"{name}_value").copy_(part.v)
    return trace


@pytest.fixture(scope="module")
def few(log):
    """A quarter of the events, and eight times the clicks of item 2."""
    rows = torch.arange(0, log.num_impressions, 4)
    reward = log.reward[rows].clone()
    of_it = torch.where(log.action[rows] == 2)[0]
    reward[of_it[::4]] = 1
    arrays = (log.view_user, log.view_time, log.view_item, log.user[rows], log.time[rows], log.action[rows])
    return EventLog.from_arrays(log.num_items, *arrays, reward, log.propensity[rows])


@pytest.fixture(scope="module")
def found(blo, few):
    blob = BLOB(blo, "laplace", BanditPriors(kappa_scale=0.3))
    return compare_guides(blob, {"laplace": "laplace", "again": LaplaceGuide, "mode": Mode}, few, **QUICK)


def test_an_interrupt_ends_it(blo, few):
    blob = BLOB(blo, "laplace", BanditPriors(kappa_scale=0.3))
    with pytest.raises(KeyboardInterrupt):
        compare_guides(blob, {"stopped": Stopped, "laplace": "laplace"}, few, **QUICK)


def test_the_same_choice_changes_nothing(found):
    table = found.table
    assert list(table.index) == ["laplace", "again", "mode"]
    for column in ("total_variation", "greedy_changes", "log_score_gain", "value_gain"):
        assert table.loc["laplace", column] == 0
        assert table.loc["again", column] == pytest.approx(0, abs=1e-6)
    assert table.loc["again", "elbo"] == pytest.approx(table.loc["laplace", "elbo"], abs=1e-6)


def test_what_has_no_density_has_no_elbo(found):
    assert np.isnan(found.table.loc["mode", ["elbo", "k_hat"]].astype(float)).all()
    assert np.isfinite(found.table.loc["laplace", ["elbo", "elbo_error", "k_hat", "log_score"]].astype(float)).all()


@pytest.mark.filterwarnings("ignore:ThompsonSampling. the posterior is a point mass")
def test_no_doubt_explores_nothing(found, few):
    """Thompson sampling from a point mass plays the best item alone: against the definition of total variation."""
    row = found.table.loc["mode"]
    contexts = few.contexts[torch.linspace(0, len(few.contexts) - 1, 20).round().long()]
    probs = ThompsonSampling(found.models["laplace"], seed=0).action_distribution(contexts).probs
    best = found.models["mode"].scores(contexts).argmax(-1)
    expected = 1 - probs[torch.arange(20), best]
    assert row.total_variation == pytest.approx(float(expected.mean()), abs=1e-5)
    assert row.total_variation_low < row.total_variation < row.total_variation_high
    changed = (best != found.models["laplace"].scores(contexts).argmax(-1)).double().mean()
    assert row.greedy_changes == pytest.approx(float(changed))
    assert row.value_gain_low < row.value_gain < row.value_gain_high


def test_it_says_so(found):
    text = repr(found)
    assert "3 choices; decisions against 'laplace', over 20 contexts" in text
    assert "mode: " in text
    assert "of Thompson's decisions would be others" in text
    ax = found.plot()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["again", "mode"]
    assert ax.get_xlabel() == "% of decisions, against laplace"
    pyplot.close("all")


def test_the_off_policy_estimate_may_be_left_out(blo, few):
    blob = BLOB(blo, "laplace", BanditPriors(kappa_scale=0.3))
    found = compare_guides(blob, {"mode": Mode, "again": Mode}, few, **{**QUICK, "num_contexts": 3}, value=False)
    assert found.table[["value_gain", "value_gain_low", "value_gain_high"]].isna().to_numpy().all()
    assert found.table.total_variation.tolist() == [0, 0]
    assert "click rate" not in repr(found).splitlines()[-1]


def test_priors_change_decisions(blo, few):
    blob = BLOB(blo, "laplace")
    priors = {
        "flat": BanditPriors(kappa_scale=1.0),
        "none": BanditPriors(kappa=0.0, zeta=0.0, w_a=-20.0, w_b=-20.0, w_c=dist.Normal(-4.0, 1.0)),
    }
    found = compare_priors(blob, priors, few, **QUICK)
    assert found.table.loc["none", "total_variation"] > 0.1  # items that cannot differ are played alike
    score = found.table.log_score
    assert found.table.loc["none", "log_score_gain"] == pytest.approx(score["none"] - score["flat"])
    assert (score < 0).all()
    assert found.table.loc["none", "log_score_gain_error"] > 0
    assert "sbc_failed" not in found.table
    assert not blob.fitted


def test_covariates_of_users_are_handed_on(blo, few):
    """To every choice that asks for them, of either log; whom they call eager clicks more often."""
    train, later = few.split(users=0.3)
    eager, eager_later = (
        (torch.zeros(part.num_users).index_put((part.user,), part.reward.float(), accumulate=True) > 0).float()[:, None]
        for part in (train, later)
    )
    blob = BLOB(blo, "laplace", BanditPriors(kappa_scale=0.3, terms=(UserCovariates(1),)))
    options = {**QUICK, "value": False, "covariates": eager}
    table = compare_guides(blob, ["laplace", "normal"], train, **options).table
    assert table[["elbo", "k_hat", "log_score"]].notna().all(axis=None)
    priors = {"without": BanditPriors(kappa_scale=0.3), "with": blob.model.priors}
    table = compare_priors(blob, priors, train, held_out=later, held_out_covariates=eager_later, **options).table
    assert table.log_score_gain["with"] > 0.01
    assert table.elbo["with"] > table.elbo["without"] + 0.004


def test_one_choice_is_none(blo, few):
    blob = BLOB(blo)
    with pytest.raises(ValueError, match=r"guides: a comparison takes two choices at least, got \['normal'\]"):
        compare_guides(blob, ["normal"], few)
    with pytest.raises(ValueError, match="guides: two have one name; pass a mapping"):
        compare_guides(blob, ["normal", "normal"], few)
