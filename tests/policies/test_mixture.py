"""A mixture's propensities are weighted sums of its policies', whichever of them acted."""

import numpy as np
import pytest
import torch

from blob_pyro.data import Vocabulary
from blob_pyro.policies import Mixture, SessionPopularity, ThompsonSampling, Uniform

HISTORIES = [[0, 2, 2], [], [0, 1, 2, 3]]
PARTS = [SessionPopularity(4, 0.1), Uniform(4)]


@pytest.mark.parametrize("weights", [None, [0.8, 0.2], np.array([0.8, 0.2]), torch.tensor([0.0, 1.0])], ids=repr)
def test_probabilities(weights):
    mixture = Mixture(PARTS, weights)
    first, second = [0.5, 0.5] if weights is None else [float(w) for w in weights]
    of_parts = [p.action_distribution(HISTORIES).probs.double() for p in PARTS]
    expected = first * of_parts[0] + second * of_parts[1]
    torch.testing.assert_close(mixture.action_distribution(HISTORIES).probs, expected, rtol=0, atol=1e-7)
    slates = [p.slate_distribution(HISTORIES, 2, candidates=[0, 1, 3]).probs for p in PARTS]
    found = mixture.slate_distribution(HISTORIES, 2, candidates=[0, 1, 3]).probs
    torch.testing.assert_close(found, first * slates[0] + second * slates[1], rtol=1e-6, atol=1e-12)
    assert sum(mixture.weights) == pytest.approx(1.0, abs=1e-15)


def test_its_errors_are_those_of_its_policies(blob):
    mixture = Mixture([ThompsonSampling(blob), Uniform(12)], [0.75, 0.25])
    frame = mixture.decide([[1], []] * 5, seed=0)
    alone = ThompsonSampling(blob).slate_distribution([[1], []] * 5)
    of_part = alone.propensities(frame.action.to_numpy()).flatten()
    np.testing.assert_allclose(frame.propensity, 0.75 * of_part + 0.25 / 12, rtol=1e-5)
    assert (frame.propensity_error > 0).all()
    assert frame.score.isna().all()  # its policies have different ones


BAD = {
    "one policy": (lambda: Mixture(PARTS[0]), TypeError, "policies: expected a list of policies, got a SessionPop"),
    "no policies": (lambda: Mixture([]), ValueError, "policies: there are none"),
    "a model": (lambda: Mixture([PARTS[0], 3]), TypeError, r"policies\[1\]: expected a Policy, got 3"),
    "another catalogue": (
        lambda: Mixture([PARTS[0], Uniform(Vocabulary([*"abcd"]))]), ValueError, r"policies\[1\]: is over Vocabulary",
    ),
    "too few weights": (lambda: Mixture(PARTS, [1.0]), ValueError, "weights: there are 1 for 2 policies"),
    "weights that are no numbers": (lambda: Mixture(PARTS, ["a", "b"]), TypeError, r"weights\[0\]: expected a number"),
    "text": (lambda: Mixture(PARTS, "ab"), TypeError, "weights: expected a number for each policy, got 'ab'"),
    "a negative weight": (lambda: Mixture(PARTS, [1.5, -0.5]), ValueError, r"weights\[0\]: must lie between 0 and 1"),
    "weights' sum": (lambda: Mixture(PARTS, [0.5, 0.4]), ValueError, "weights: must sum to 1, and sum to 0.9"),
    "no weight": (lambda: Mixture(PARTS, [float("nan"), 1]), ValueError, r"weights\[0\]: .* got nan"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(make, kind, message):
    with pytest.raises(kind, match=message):
        make()
