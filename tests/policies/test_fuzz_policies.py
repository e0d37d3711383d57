"""Whatever is put into a policy: it works with its documented meaning, or the error names the argument."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from blob_pyro.data import Vocabulary
from blob_pyro.policies import EpsilonGreedy, Greedy, Mixture, SessionPopularity, Softmax, ThompsonSampling, Uniform
from tests.fuzzing import fuzz, require_named

ITEMS = ["tea", "mug", "pot", "cup"]


class Model:
    """Scores and nothing else."""

    items = Vocabulary(ITEMS)

    def scores(self, histories):
        return histories.counts() - torch.arange(4) / 10


ODD = st.one_of(
    st.none(), st.booleans(), st.text(max_size=3), st.integers(-3, 5), st.integers(2**62, 2**70), st.floats(),
    st.lists(st.integers(), max_size=2), st.just(np.float32(0.25)), st.just(torch.tensor(0.5)), st.just(1j),
)  # fmt: skip
ARGUMENTS = {
    "epsilon": st.one_of(st.floats(0, 1), ODD),
    "temperature": st.one_of(st.floats(0.01, 10), ODD),
    "model": st.one_of(st.just(Model()), ODD, st.just(Model)),
    "items": st.one_of(st.integers(1, 6), ODD, st.just(Vocabulary(ITEMS))),
    "num_points": st.one_of(st.sampled_from([1, 2, 4, 8]), ODD),
    "num_replicates": st.one_of(st.integers(2, 5), ODD),
    "seed": st.one_of(st.integers(0, 9), ODD),
    "shared_draws": st.one_of(st.none(), st.integers(1, 9), ODD),
    "tolerance": st.one_of(st.none(), st.floats(0.01, 1), ODD),
    "max_points": st.one_of(st.integers(40, 99), ODD),
    "propensity": st.one_of(st.sampled_from(["marginal", "conditional"]), ODD),
}
POLICIES = {
    "greedy": (Greedy, ["model"]),
    "epsilon greedy": (EpsilonGreedy, ["model", "epsilon"]),
    "softmax": (Softmax, ["model", "temperature"]),
    "session popularity": (SessionPopularity, ["items", "epsilon"]),
    "uniform": (Uniform, ["items"]),
}
HISTORIES = st.one_of(
    ODD,
    st.lists(st.lists(st.sampled_from(ITEMS), max_size=4), max_size=4),
    st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=4),
    st.lists(st.one_of(ODD, st.text(max_size=2), st.lists(ODD, max_size=2)), max_size=3),
    st.just(torch.ones(2, 4)),
    st.just(torch.full((2, 4), -1.0)),
)


@fuzz(data=st.data())
def test_policies(data):
    make, names = POLICIES[data.draw(st.sampled_from(sorted(POLICIES)))]
    arguments = {name: data.draw(ARGUMENTS[name], name) for name in names}
    histories = data.draw(HISTORIES, "histories")
    try:
        policy = make(**arguments)
        d = policy.action_distribution(histories)
    except (ValueError, TypeError) as error:
        require_named(error, [*names, "num_items", "histories", "scores"])
        return
    probs = d.probs.double()
    assert probs.shape == (*d.batch_shape, policy.num_items)
    assert ((probs >= 0) & (probs <= 1 + 1e-6)).all()
    assert torch.allclose(probs.sum(-1), torch.ones(d.batch_shape).double(), atol=1e-6)
    assert (d.log_prob(d.sample()) > -math.inf).all()  # nothing is played that cannot be


CANDIDATES = st.one_of(
    st.none(),
    ODD,
    st.lists(st.sampled_from(ITEMS), max_size=4),
    st.lists(st.lists(st.sampled_from(ITEMS), max_size=4), max_size=4),
    st.lists(st.one_of(st.none(), st.text(max_size=3), st.lists(st.sampled_from(ITEMS), min_size=1)), max_size=4),
    st.integers(0, 4).map(lambda n: torch.ones(n, 4, dtype=torch.bool)),
    st.integers(0, 4).map(lambda n: torch.eye(4).bool()[:n]),
    st.just([True, False, True, True]),
)
COLUMNS = st.one_of(st.none(), ODD, st.lists(ODD, max_size=4), st.integers(0, 4).map(lambda n: list(range(n))))


@fuzz(data=st.data(), ordinary=200)
def test_decisions(data):
    """What is decided is a row for each slot, with a probability; or the argument at fault is named."""
    make, names = POLICIES[data.draw(st.sampled_from(sorted(POLICIES)))]
    sound = {"model": Model(), "items": Vocabulary(ITEMS), "epsilon": data.draw(st.floats(0, 1)), "temperature": 0.5}
    policy = make(**{name: sound[name] for name in names})
    if data.draw(st.booleans(), "mix"):
        policy = Mixture([policy, Uniform(Vocabulary(ITEMS))], [0.5, 0.5])
    histories = data.draw(st.lists(st.lists(st.sampled_from(ITEMS), max_size=4), max_size=4), "histories")
    arguments = {"slots": data.draw(st.integers(1, 3), "slots"), "seed": 0, "candidates": data.draw(CANDIDATES)}
    odd = {"user": COLUMNS, "time": COLUMNS, "slots": ODD, "seed": ODD}
    name = data.draw(st.sampled_from(["candidates", *odd]))  # candidates are sound or not as it is
    if name in odd:
        arguments |= {name: data.draw(odd[name], name), "candidates": None}
    try:
        frame = policy.decide(histories, **arguments)
    except (ValueError, TypeError) as error:
        require_named(error, [name, "slots", "ids"])
        return
    slots = int(arguments["slots"])
    assert len(frame) == len(histories) * slots
    assert ((frame.propensity > 0) & (frame.propensity <= 1)).all()
    assert (frame.propensity_error == 0).all()
    assert frame.position.tolist() == list(range(1, slots + 1)) * len(histories)
    slates = frame.action.to_numpy().reshape(len(histories), slots)
    assert all(len(set(slate)) == slots for slate in slates.tolist())
    distribution = policy.slate_distribution(histories, slots, candidates=arguments["candidates"])
    np.testing.assert_allclose(distribution.propensities(slates).flatten(), frame.propensity, rtol=1e-9)
    assert torch.allclose(distribution.probs.sum(1), torch.ones(len(histories), slots).double(), atol=1e-9)


@fuzz(data=st.data(), ordinary=100)
def test_thompson_sampling(data):
    names = ["num_points", "num_replicates", "seed"]
    names += data.draw(st.sampled_from([[], ["shared_draws", "propensity"], ["tolerance", "max_points"]]))
    arguments = {name: data.draw(ARGUMENTS[name], name) for name in names}

    class Posterior(Model):
        def click_logits(self, histories):
            raise AssertionError("not asked in this test")

    try:
        policy = ThompsonSampling(Posterior(), **arguments)
    except (ValueError, TypeError) as error:
        require_named(error, names)
        return
    assert policy.tolerance is None or policy.max_points >= policy.num_points * policy.num_replicates
    assert policy.propensity == "marginal" or policy.shared_draws is None
    assert policy.num_points & (policy.num_points - 1) == 0
    assert policy.num_replicates >= 2


@pytest.mark.parametrize("policy", [Greedy, ThompsonSampling], ids=["greedy", "thompson"])
@pytest.mark.parametrize("model", [None, "blob", Model], ids=["None", "text", "class"])
def test_what_is_not_a_model(policy, model):
    with pytest.raises(TypeError, match=r"model: expected a (model|posterior) with .*, got "):
        policy(model)
