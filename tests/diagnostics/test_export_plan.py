"""What is exported fits; what is asked for is kept or refused; what is left out is said."""

from dataclasses import replace

import numpy as np
import pytest

from blob_pyro.diagnostics.export_plan import GROUPS, Sizes, plan_export

GIB = 2**30
LARGE = Sizes(
    num_draws=1000,
    num_items=100_000,
    num_events=0,
    sites={"w_a": 1, "zeta": 64 * 64, "kappa": 100_000, "beta_deviation": 6_400_000},
    of_items={"kappa", "beta_deviation"},
    popularity=np.arange(100_000.0),
)


def size_of(plan, sizes):
    """Bytes of the groups, counted one by one."""
    per_group = sum(
        sizes.sites[n] // sizes.num_items * len(plan.items) if n in sizes.of_items else sizes.sites[n]
        for n in plan.sites
    )
    total = 4 * sizes.num_draws * per_group * len({"posterior", "prior"} & set(plan.groups))
    for name, width in (("posterior_predictive", 1), ("prior_predictive", 1), ("log_likelihood", 4)):
        total += sizes.num_draws * len(plan.events) * width * (name in plan.groups)
    return total


def plan(sizes, groups=None, sites=None, items=None, num_events=None, max_gib=2.0):
    return plan_export(sizes, groups, sites, items, num_events, max_gib * GIB)


def test_a_hundred_thousand_items_fit_by_themselves():
    usual = replace(LARGE, sites={"w_a": 1, "zeta": 64 * 64, "kappa": 100_000})
    found = plan(usual)
    assert len(found.items) == 100_000
    assert found.left_out == ()
    assert 0.7 * GIB < size_of(found, usual) < 2 * GIB


def test_items_that_do_not_fit_are_left_out_and_said():
    found = plan(LARGE)
    assert 1.9 * GIB < size_of(found, LARGE) <= 2 * GIB
    assert found.items.tolist() == list(range(100_000 - len(found.items), 100_000))  # the popular ones
    assert found.left_out == (
        f"kept are the {len(found.items):,} most viewed of 100,000 items (choose others: items=)",
    )
    with pytest.warns(UserWarning, match="to_inference_data: kept are the 4,066 most viewed"):
        found.warn(1)


def test_events_and_items_share_the_room():
    sizes = replace(LARGE, num_events=1_000_000)
    found = plan(sizes)
    assert found.groups == GROUPS
    assert 1.9 * GIB < size_of(found, sizes) <= 2 * GIB
    assert len(found.left_out) == 2
    assert found.events[0] == 0
    assert found.events[-1] == 999_999
    assert len(np.unique(np.diff(found.events))) <= 2  # at even distances
    few = plan(replace(sizes, num_events=10_000))
    assert len(few.events) == 10_000  # they need less than half: items get the rest
    assert size_of(few, sizes) > 1.9 * GIB


def test_what_is_asked_for_is_kept():
    items = np.array([3, 70_000])
    found = plan(replace(LARGE, num_events=1_000_000), items=items, num_events=1000)
    assert found.items.tolist() == [3, 70_000]
    assert len(found.events) == 1000
    assert found.left_out == ()
    assert plan(LARGE, sites=["kappa"]).sites == ("kappa",)
    assert plan(LARGE, sites="kappa", groups="posterior").groups == ("posterior",)


def test_likelihoods_without_end_are_computed_only_for_whoever_asks():
    sizes = replace(LARGE, num_events=5_000_000, sites={"w_a": 1}, of_items=())
    assert "sample_stats" not in plan(sizes).groups
    assert "sample_stats would take 5.0e+09 log-likelihoods" in plan(sizes).left_out[0]
    assert plan(sizes, groups=["sample_stats"]).groups == ("sample_stats",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"groups": ["posteriors"]}, "groups: unknown group 'posteriors'; there are pos", id="group"),
        pytest.param({"groups": ["log_likelihood"]}, "'log_likelihood' is about events; give the log", id="no log"),
        pytest.param({"sites": ["eta"]}, r"sites: the model has no site 'eta'; it has \['w_a'", id="site"),
        pytest.param({"items": np.arange(100_000)}, "max_gib: what is asked for takes 48.46 GiB at 1,000", id="items"),
        pytest.param({"max_gib": 0.001}, "ask for fewer num_draws, sites=", id="sites"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        plan(LARGE, **options)
