"""The catalogue: RecoGym's to the last bit."""

import numpy as np
import pytest

from blob_pyro.simulation import RecoGym, RecoGymReference
from blob_pyro.simulation.parameters import Settings, pair_similar_items

NAMES = ("gamma", "mu_organic", "beta", "mu_bandit")


@pytest.mark.parametrize(
    "settings",
    [
        {"num_items": 10},
        {"num_items": 1},
        {"num_items": 2, "num_flips": 1, "seed": 4},
        {"num_items": 10, "num_flips": 3, "seed": 2**32 - 1},
        {"num_items": 11, "num_flips": 5, "seed": 2},
        {"num_items": 100, "num_flips": 20, "seed": 7},
        {"num_items": 100, "num_flips": 50, "seed": 0},
        {"num_items": 101, "num_flips": 50, "seed": 3},
        {"num_items": 60, "num_flips": 30, "seed": 5, "embedding_dim": 2},
        {"num_items": 60, "num_flips": 7, "seed": 6, "embedding_dim": 20, "sigma_mu_organic": 0.5},
        {"num_items": 40, "num_flips": 9, "seed": 8, "normalize_beta": True},
        {"num_items": 40, "num_flips": 0, "seed": 9, "normalize_beta": True},
    ],
    ids=str,
)
def test_equal_to_the_bit(settings):
    theirs, ours = RecoGymReference(**settings).static_parameters(), RecoGym(**settings)
    for name in NAMES:
        assert np.array_equal(getattr(theirs, name), getattr(ours, name).numpy()), name


def test_flips_that_find_no_similar_partner_are_not_made():
    # In one dimension, items on different sides of zero have negative similarity: RecoGym matches an odd one
    # out with itself, which exchanges nothing.
    settings = {"num_items": 20, "num_flips": 10, "embedding_dim": 1, "seed": 0}
    ours = RecoGym(**settings)
    positive = int((ours.gamma > 0).sum())
    assert positive % 2 == 1, "choose a seed with an odd item on each side"
    exchanged = int((ours.beta != ours.gamma).sum())
    assert exchanged == 18
    assert np.array_equal(RecoGymReference(**settings).static_parameters().beta, ours.beta.numpy())


@pytest.mark.parametrize("num_pairs", [1, 3, 12])
def test_pairs_are_those_of_a_walk_down_the_sorted_list(num_pairs):
    embedding = np.random.default_rng(0).normal(size=(25, 4))
    similarity = embedding @ embedding.T
    pairs, used = [], set()
    for flat in np.argsort(-similarity, axis=None):
        i, j = divmod(int(flat), 25)
        if i != j and similarity[i, j] > 0 and not {i, j} & used and len(pairs) < num_pairs:
            pairs.append({i, j})
            used |= {i, j}
    assert [set(pair) for pair in pair_similar_items(embedding, num_pairs).tolist()] == pairs


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_items": 0}, "num_items: must be 1 or more, got 0"),
        ({"num_items": 10, "num_flips": 6}, r"num_flips must be between 0 and num_items // 2 = 5 .* got 6"),
        ({"num_flips": -1}, "num_flips: must be 0 or more, got -1"),
        ({"seed": -1}, "seed: must be between 0 and"),
        ({"embedding_dim": 0}, "embedding_dim: must be 1 or more"),
        ({"sigma_omega": -0.1}, "sigma_omega: must lie between 0 and"),
        ({"sigma_mu_organic": float("nan")}, "sigma_mu_organic: must lie between 0 and .*, got nan"),
        ({"prob_organic_to_bandit": 1.5}, "prob_organic_to_bandit: must lie between 0 and 1"),
        ({"sigma_omega_initial": float("inf")}, "sigma_omega_initial: must lie between 0 and .*, got inf"),
        ({"prob_leave_organic": 0.0}, "nobody would ever leave"),
        ({"prob_leave_organic": 0.6, "prob_bandit_to_organic": 0.5}, "must be at most 1"),
    ],
    ids=str,
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Settings(**settings)
    with pytest.raises(ValueError, match=message):
        RecoGym(**settings)


def test_bandit_state_leaves_with_the_organic_probability():
    matrix = RecoGymReference(prob_leave_bandit=0.2, prob_leave_organic=0.03).make().state_transition
    assert matrix[0, 2] == matrix[1, 2] == 0.03
