"""A/B tests: the right rate, intervals that cover, pairing that pays."""

import sys

import numpy as np
import pytest
import torch

from blob_pyro.policies import SessionPopularity, Uniform
from blob_pyro.simulation import ABTest, RecoGym, ab_test

ENVIRONMENT = RecoGym(num_items=20, num_flips=5, seed=0)
POLICIES = {"random": Uniform(20), "popular": SessionPopularity(20), "oracle": ENVIRONMENT.oracle()}


@pytest.fixture(scope="module")
def truth():
    """Rates from 150 times the users of one of the tests below."""
    return ab_test(ENVIRONMENT, POLICIES, num_users=15_000, seed=1)


@pytest.fixture(scope="module")
def many(truth):
    """300 independent tests of 100 users each, cut from one."""
    big = ab_test(ENVIRONMENT, POLICIES, num_users=30_000, seed=2)

    def part(totals, n):
        return {name: total[100 * n : 100 * (n + 1)] for name, total in totals.items()}

    return [ABTest(part(big.impressions, n), part(big.clicks, n), big.plays, "random") for n in range(300)]


@pytest.fixture(scope="module", params=["expected", "sampled"])
def population(request):
    """Users from whom tests are drawn with replacement: the truth is their own rate."""
    return ab_test(ENVIRONMENT, POLICIES, num_users=20_000, seed=3, clicks=request.param)


def drawn(population, num_users, num_tests):
    """Independent A/B tests of ``num_users`` users each."""
    for _ in range(num_tests):
        who = torch.randint(20_000, (num_users,))
        impressions, clicks = (
            {name: total[who] for name, total in totals.items()}
            for totals in (population.impressions, population.clicks)
        )
        yield ABTest(impressions, clicks, population.plays, "random")


def test_ratio_of_totals():
    clicks, shown = [1.0, 1.0, 4.0], [10.0, 20.0, 30.0]
    result = ABTest(
        {"a": torch.tensor(shown).double()}, {"a": torch.tensor(clicks).double()}, {"a": torch.tensor([45, 15])}, "a"
    )
    rate = result.click_rate("a")
    assert rate.value == pytest.approx(0.1)
    without = np.array([5 / 50, 5 / 40, 2 / 30])
    error = np.sqrt(2 / 3 * ((without - without.mean()) ** 2).sum())  # Efron and Stein (1981), with n = 3
    assert rate.standard_error == pytest.approx(error)
    assert rate.upper == pytest.approx(0.1 + 4.302653 * error)  # Student's t with two degrees of freedom
    assert rate.lower == 0.0
    assert result.table().loc["a", "top_item_share"] == 0.75


@pytest.mark.parametrize("policy", ["random", "oracle"])
def test_with_many_users_the_standard_error_is_the_delta_method_s(truth, policy):
    clicks, shown = truth.clicks[policy], truth.impressions[policy]
    residual = clicks - clicks.sum() / shown.sum() * shown
    expected = residual.std() / shown.mean() / len(shown) ** 0.5
    assert truth.click_rate(policy).standard_error == pytest.approx(float(expected), rel=2e-3)
    assert truth.click_rate(policy).standard_error > expected  # the jackknife's is never the smaller one


def test_intervals_of_rates_stay_within_bounds():
    totals = {"a": torch.tensor([1.0, 1.0, 1.0]).double()}
    rate = ABTest(totals, {"a": torch.tensor([0.0, 0.0, 1.0]).double()}, {"a": torch.tensor([3])}, "a").click_rate("a")
    assert (rate.lower, rate.upper) == (0.0, 1.0)  # 1 / 3 + 4.3 / 3


@pytest.mark.parametrize(("num_users", "num_tests", "least"), [
    (20, 2000, 0.905), pytest.param(50, 2000, 0.92, marks=pytest.mark.slow),
    pytest.param(200, 700, 0.92, marks=pytest.mark.slow), (2000, 200, 0.89),
])  # fmt: skip
def test_few_users_are_covered_as_many_are(population, num_users, num_tests, least):
    """Nominal 95 %, less what bias and skewness cost (3 points at 20 users, 1.5 at 50) and 3.5 binomial errors."""
    names = [("random",), ("popular",), ("oracle",), ("popular", "random"), ("oracle", "popular")]
    truth, covered = {}, dict.fromkeys(names, 0)
    for n in names:
        rates = [float(population.clicks[p].sum() / population.impressions[p].sum()) for p in n]
        truth[n] = rates[0] - sum(rates[1:])
    for test in drawn(population, num_users, num_tests):
        for n in names:
            found = test.click_rate(*n) if len(n) == 1 else test.difference(*n)
            covered[n] += found.lower <= truth[n] <= found.upper
    fractions = {n: count / num_tests for n, count in covered.items()}
    assert all(least < fraction < 0.985 for fraction in fractions.values()), fractions
    # The planted error, normal quantiles of the delta method, falls short of this by 2 points at 20 users, 1 at 50.
    if num_users <= 50:
        assert sum(fractions.values()) / len(names) > {20: 0.920, 50: 0.936}[num_users], fractions


@pytest.mark.parametrize("policy", POLICIES)
def test_coverage_of_rates(many, truth, policy):
    value = truth.click_rate(policy).value
    covered = sum(test.click_rate(policy).lower <= value <= test.click_rate(policy).upper for test in many)
    assert 0.90 < covered / len(many) < 0.985  # 95 % within 4 binomial standard errors below, 3 above


@pytest.mark.parametrize(("policy", "other"), [("popular", "random"), ("oracle", "popular")])
def test_coverage_of_differences(many, truth, policy, other):
    value = truth.difference(policy, other).value
    differences = [test.difference(policy, other) for test in many]
    covered = sum(d.lower <= value <= d.upper for d in differences)
    assert 0.90 < covered / len(many) < 0.985


def test_intervals_that_take_events_for_independent_would_not_cover(many, truth):
    """The planted error: expected clicks of one user are much alike."""
    value, covered = truth.click_rate("popular").value, 0
    for test in many:
        shown, clicks = test.impressions["popular"].sum(), test.clicks["popular"].sum()
        # The most that events could say if each were its own user: within-user variation left out.
        spread = (test.clicks["popular"] / test.impressions["popular"].clamp(min=1)).std()
        covered += abs(float(clicks / shown) - value) < 1.96 * float(spread / shown.sqrt())
    assert covered / len(many) < 0.8


def test_pairing_pays():
    paired = ab_test(ENVIRONMENT, POLICIES, num_users=2_000)
    error = {name: paired.click_rate(name).standard_error for name in POLICIES}
    difference = paired.difference("popular", "oracle")
    assert difference.standard_error < 0.8 * (error["popular"] ** 2 + error["oracle"] ** 2) ** 0.5
    assert paired.difference("popular", "popular") == (0, 0, 0, 0)


def test_expected_clicks_agree_with_sampled_ones_and_vary_less():
    expected = ab_test(ENVIRONMENT, POLICIES, num_users=4_000)
    sampled = ab_test(ENVIRONMENT, POLICIES, num_users=4_000, clicks="sampled")
    for name in POLICIES:
        ours, theirs = expected.click_rate(name), sampled.click_rate(name)
        assert torch.equal(expected.impressions[name], sampled.impressions[name]), "the same lives"
        assert abs(ours.value - theirs.value) < 3.5 * theirs.standard_error
        assert ours.standard_error < 0.4 * theirs.standard_error
        assert bool((sampled.clicks[name] == sampled.clicks[name].round()).all())


def test_batches_do_not_matter_and_seeds_do():
    result = ab_test(ENVIRONMENT, POLICIES, num_users=60)
    again = ab_test(ENVIRONMENT, POLICIES, num_users=60, batch_size=9)
    other = ab_test(ENVIRONMENT, POLICIES, num_users=60, seed=1)
    for name in POLICIES:
        assert torch.equal(result.impressions[name], again.impressions[name])
        assert torch.allclose(result.clicks[name], again.clicks[name], rtol=1e-12)
        assert not torch.equal(result.impressions[name], other.impressions[name])


def test_users_are_not_those_of_a_log_with_the_same_seed():
    log = ENVIRONMENT.simulate(POLICIES["random"], num_users=60)
    shown = ab_test(ENVIRONMENT, POLICIES, num_users=60).impressions["random"]
    assert torch.bincount(log.user, minlength=60).tolist() != shown.tolist()


def test_history_matters_to_those_who_read_it():
    everything = ab_test(ENVIRONMENT, POLICIES, num_users=1_000)
    forgetful = ab_test(ENVIRONMENT, POLICIES, num_users=1_000, history="since_last_action")
    assert forgetful.click_rate("popular").upper < everything.click_rate("popular").lower
    assert forgetful.click_rate("random") == everything.click_rate("random")
    assert forgetful.click_rate("oracle") == everything.click_rate("oracle")


def test_table():
    result = ab_test(ENVIRONMENT, POLICIES, num_users=500, reference="popular")
    table = result.table()
    assert list(table.index) == ["oracle", "popular", "random"]
    assert bool(((table["lower"] < table["click_rate"]) & (table["click_rate"] < table["upper"])).all())
    assert table.loc["popular", "difference"] == 0
    assert table.loc["random", "difference_upper"] < 0 < table.loc["oracle", "difference_lower"]
    assert table.loc["random", "top_item_share"] == pytest.approx(1 / 20, abs=0.005)
    assert bool((table["click_rate"] * table["impressions"]).sub(table["clicks"]).abs().lt(1e-6).all())


def test_plot(monkeypatch):
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    result = ab_test(ENVIRONMENT, POLICIES, num_users=100)
    axes = result.plot()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["random", "popular", "oracle"]
    points = axes.lines[0].get_xdata()
    assert points[-1] == pytest.approx(100 * result.click_rate("oracle").value)
    assert "%" in axes.get_xlabel()
    assert result.plot(axes) is axes
    pyplot.close("all")

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'blob-pyro\[plot\]'"):
        result.plot()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_users": 1}, ValueError, "num_users: must be 2 or more, got 1"),
        ({"num_users": -5}, ValueError, "num_users: must be 2 or more"),
        ({"policies": {}}, ValueError, "policies is empty"),
        ({"policies": [Uniform(20)]}, TypeError, "policies: expected policies by name"),
        ({"policies": None}, TypeError, "policies: expected policies by name"),
        ({"environment": None}, TypeError, "environment: expected a RecoGym, got None"),
        ({"num_users": 20.0}, TypeError, "num_users: expected a whole number, got 20.0"),
        ({"seed": "0"}, TypeError, "seed: expected a whole number"),
        ({"confidence": float("nan")}, ValueError, "confidence: must lie between .*, got nan"),
        ({"policies": {"a": Uniform(21)}}, ValueError, r"policies\['a'\] has num_items=21, the environment has 20"),
        ({"policies": {"a": "random"}}, TypeError, r"policies\['a'\] must be a policy"),
        ({"clicks": "observed"}, ValueError, "clicks: expected 'expected' or 'sampled', got 'observed'"),
        ({"history": "some"}, ValueError, "history: expected "),
        ({"reference": "logging"}, ValueError, r"reference must be one of the policies \['random', .* got 'logging'"),
        ({"reference": ["random"]}, ValueError, r"reference must be one of the policies .* got \['random'\]"),
        ({"confidence": 95}, ValueError, "confidence: must lie between .*, got 95"),
        ({"batch_size": 0}, ValueError, "batch_size: must be between 1 and"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        ab_test(**{"environment": ENVIRONMENT, "policies": POLICIES, "num_users": 10, **arguments})


def test_unknown_policy_name():
    result = ab_test(ENVIRONMENT, {"random": Uniform(20)}, num_users=20)
    with pytest.raises(ValueError, match=r"policy must be one of \['random'\], got 'blob'"):
        result.difference("blob", "random")


def test_one_user_has_no_interval():
    shown = {"a": torch.tensor([0.0, 9.0, 0.0]).double()}
    result = ABTest(shown, {"a": torch.tensor([0.0, 1.0, 0.0]).double()}, {"a": torch.tensor([9])}, "a")
    with pytest.raises(ValueError, match="'a': fewer than two users saw a recommendation, which gives no interval"):
        result.click_rate("a")
    shy = RecoGym(num_items=20, prob_organic_to_bandit=0.005, seed=1)
    with pytest.raises(ValueError, match="num_users=3: only one of them saw a recommendation"):
        ab_test(shy, {"random": Uniform(20)}, num_users=3, seed=1)


def test_no_click_at_all_is_said():
    with pytest.warns(UserWarning, match=r"policies\['random'\]: none of 2 users clicked"):
        ab_test(ENVIRONMENT, {"random": Uniform(20)}, num_users=2, clicks="sampled", seed=9)


def test_nobody_saw_a_recommendation():
    shy = RecoGym(num_items=20, prob_organic_to_bandit=0.0)
    with pytest.raises(ValueError, match="none of them saw a recommendation; ask for more users"):
        ab_test(shy, {"random": Uniform(20)}, num_users=10)
