"""Versions: the same for the same policy, in another process too; another for whatever decides otherwise."""

import copy
import warnings

import pytest
import torch

from blob_pyro import BLO, BLOB
from blob_pyro.data import Vocabulary
from blob_pyro.policies import (
    POLICIES,
    EpsilonGreedy,
    Greedy,
    Mixture,
    Policy,
    SessionPopularity,
    Softmax,
    ThompsonSampling,
    Uniform,
)
from blob_pyro.policies.baselines import ItemKNN, Popularity, SessionFrequency


def test_policies_that_differ_never_share_a_version(blob, blo, log):
    other = copy.deepcopy(blob)
    with torch.no_grad():
        next(other.guide.parameters()).flatten()[0] += 1e-6
    numbered, named = Vocabulary.numbered(12), Vocabulary([f"item-{n}" for n in range(12)])
    policies = [
        Uniform(12), Uniform(13), Uniform(named), SessionPopularity(12), SessionPopularity(12, 0.31),
        SessionPopularity(named), Greedy(blob), Greedy(blo), Greedy(other), Greedy(Popularity(log)),
        Greedy(ItemKNN(log)), Greedy(SessionFrequency(12)), Greedy(SessionFrequency(named)), EpsilonGreedy(blob, 0.1),
        EpsilonGreedy(blob, 0.2), Softmax(blob), Softmax(blob, 2.0), Softmax(blob, torch.tensor(3.0)), Softmax(other),
        ThompsonSampling(blob), ThompsonSampling(other), ThompsonSampling(blob, seed=1),
        ThompsonSampling(blob, num_points=32), ThompsonSampling(blob, shared_draws=8),
        ThompsonSampling(blob, shared_draws=9), Mixture([Uniform(12), Greedy(blob)]),
        Mixture([Greedy(blob), Uniform(12)]), Mixture([Uniform(12), Greedy(blob)], [0.4, 0.6]),
    ]  # fmt: skip
    assert numbered == Uniform(12).items
    versions = [policy.version for policy in policies]
    assert len(set(versions)) == len(versions)
    assert all(len(version) == 16 and int(version, 16) >= 0 for version in versions)


@pytest.mark.parametrize("name", POLICIES)
def test_deciding_changes_no_version(name, blob):
    policy = POLICIES[name](blob)
    before = policy.version
    frame = policy.decide([[1], []], seed=0)
    assert policy.version == before == POLICIES[name](blob).version
    assert set(frame.policy_version) == {before}
    assert set(frame.policy) == {type(policy).__name__}


def test_a_saved_model_has_the_same_version(blob, blo, tmp_path):
    blob.save(tmp_path / "blob")
    blo.save(tmp_path / "blo")
    loaded = BLOB.load(tmp_path / "blob", device="cpu")
    assert loaded.fingerprint() == blob.fingerprint()
    assert BLO.load(tmp_path / "blo", device="cpu").fingerprint() == blo.fingerprint()
    assert ThompsonSampling(loaded).version == ThompsonSampling(blob).version
    assert blob.fingerprint() != blo.fingerprint()


def test_how_a_model_came_to_be_does_not_count(blob):
    told = copy.deepcopy(blob)
    told.fits = [*told.fits, {"call": "mark_fitted", "num_rows": 3}]
    assert told.fingerprint() == blob.fingerprint()


def test_a_refitted_model_is_another_version(log, blo):
    model = copy.deepcopy(blo)
    policy = Greedy(model)
    before = policy.version
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fit that has not arrived
        model.fit(log, num_epochs=1, seed=5, progress=False, device="cpu")
    assert policy.version != before


def own(bonus):
    class Own(Policy):
        def action_distribution(self, histories):
            return torch.distributions.Categorical(logits=self.histories(histories).counts() + bonus)

    return Own(3)


def test_code_of_ones_own_counts():
    assert own(torch.zeros(3)).version == own(torch.zeros(3)).version
    assert own(torch.zeros(3)).version != own(torch.ones(3)).version


def test_names_and_versions_may_be_given():
    policy = Uniform(3)
    assert (policy.name, repr(policy)) == ("Uniform", "Uniform(3 items)")
    version = policy.version
    policy.name = "explorers"
    assert policy.version == version
    policy.version = "2026-11-25"
    frame = policy.decide([[]], seed=0)
    assert frame[["policy", "policy_version"]].values.tolist() == [["explorers", "2026-11-25"]]
    for name in ("name", "version"):
        with pytest.raises(TypeError, match=f"{name}: expected text, got 3"):
            setattr(policy, name, 3)
        with pytest.raises(ValueError, match=f"{name}: is empty"):
            setattr(policy, name, "")


def test_what_has_no_fingerprint_is_named():
    policy = Uniform(3)
    policy.rows = (n for n in range(3))
    with pytest.raises(TypeError, match=r"version of policy\['rows'\]: is a generator, and no fingerprint"):
        policy.decide([[]], seed=0)
