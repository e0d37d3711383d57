"""Whatever is put into an environment, a simulation or an A/B test: it works, or the error names the argument."""

import warnings

import torch
from hypothesis import strategies as st

from blob_pyro.policies import SessionPopularity, Uniform
from blob_pyro.simulation import RecoGym, ab_test
from tests.fuzzing import fuzz, require_named

ODD = st.one_of(
    st.none(), st.booleans(), st.text(max_size=3), st.integers(-3, 5), st.integers(2**62, 2**70), st.floats(),
    st.lists(st.integers(), max_size=2), st.just(torch.tensor(2.0)), st.just(1j),
)  # fmt: skip
RARELY = st.integers(0, 9).map(lambda n: n == 0)


def odd_or(good):
    """Mostly what is meant, so that several arguments at once have a chance."""
    return RARELY.flatmap(lambda odd: ODD if odd else good)


SETTINGS = {
    "num_items": odd_or(st.integers(1, 12)),
    "num_flips": odd_or(st.integers(0, 6)),
    "seed": odd_or(st.integers(0, 2**32 - 1)),
    "embedding_dim": odd_or(st.integers(1, 4)),
    "sigma_omega_initial": odd_or(st.floats(0, 50)),
    "sigma_omega": odd_or(st.floats(0, 5)),
    "sigma_mu_organic": odd_or(st.floats(0, 50)),
    "prob_leave_organic": odd_or(st.floats(0.01, 0.6)),
    "prob_bandit_to_organic": odd_or(st.floats(0, 0.6)),
    "prob_organic_to_bandit": odd_or(st.floats(0, 0.6)),
    "normalize_beta": odd_or(st.booleans()),
    "change_omega_for_bandits": odd_or(st.booleans()),
}
CALL = {
    "policy": odd_or(st.sampled_from([None, Uniform(8), SessionPopularity(8)])),
    "num_users": odd_or(st.integers(0, 3)),
    "num_organic_users": odd_or(st.integers(0, 3)),
    "seed": odd_or(st.integers(0, 9)),
    "history": odd_or(st.sampled_from(["all", "since_last_action"])),
    "propensities": odd_or(st.booleans()),
    "batch_size": odd_or(st.sampled_from([None, 1, 3, 100])),
}
TEST = {
    "environment": odd_or(st.just(RecoGym(num_items=8, seed=1))),
    "policies": odd_or(
        st.sampled_from([{}, {"a": Uniform(8)}, {"a": Uniform(8), "b": SessionPopularity(8)}, {"a": 3}])
    ),
    "num_users": odd_or(st.integers(2, 8)),
    "history": CALL["history"],
    "clicks": odd_or(st.sampled_from(["expected", "sampled"])),
    "reference": odd_or(st.sampled_from([None, "a"])),
    "confidence": odd_or(st.floats(0.01, 0.99)),
    "batch_size": CALL["batch_size"],
    "seed": CALL["seed"],
}


@fuzz(settings=st.fixed_dictionaries({}, optional=SETTINGS), ordinary=60)
def test_environments(settings):
    try:
        environment = RecoGym(**settings)
    except (ValueError, TypeError, MemoryError) as error:
        require_named(error, SETTINGS)
        return
    try:
        log = environment.simulate(num_users=2, num_organic_users=1)
    except MemoryError as error:  # of sessions that hardly end
        require_named(error, ["num_users", "num_organic_users"])
        return
    assert log.num_users >= 1
    if log.propensity is not None and log.num_impressions:
        assert torch.allclose(log.propensity, torch.tensor(1 / environment.num_items).double())
    assert all(torch.isfinite(getattr(environment, n)).all() for n in ("gamma", "mu_organic", "beta", "mu_bandit"))


@fuzz(arguments=st.fixed_dictionaries({}, optional=CALL), ordinary=60)
def test_simulations(arguments):
    environment = RecoGym(num_items=8, seed=1)
    if "num_users" not in arguments:
        arguments["num_users"] = 3
    try:
        log = environment.simulate(**arguments)
    except (ValueError, TypeError) as error:
        require_named(error, CALL)
        return
    assert log.num_users == arguments["num_users"] + arguments.get("num_organic_users", 0)
    assert (log.propensity is None) == (arguments.get("propensities") is False)


@fuzz(arguments=st.fixed_dictionaries({}, optional=TEST), ordinary=60)
def test_ab_tests(arguments):
    arguments = {
        "environment": RecoGym(num_items=8, seed=1), "policies": {"a": Uniform(8)}, "num_users": 4, **arguments
    }  # fmt: skip
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            result = ab_test(**arguments)
        except (ValueError, TypeError, MemoryError) as error:
            require_named(error, TEST)
            return
    table = result.table()
    assert len(told) == (table["clicks"] == 0).sum()
    assert all("so that there is no interval" in str(warning.message) for warning in told)
    assert list(table.index) == sorted(table.index, key=lambda name: -table["click_rate"][name])
    assert ((table["lower"] <= table["click_rate"]) & (table["click_rate"] <= table["upper"])).all()
