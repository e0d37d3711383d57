"""A mixture of slates shows the slate of one part."""

import torch

from blob_pyro.policies.slates import (
    EpsilonGreedySlates,
    MixtureSlates,
    PlackettLuceSlates,
)
from tests.policies.slates.every_slate import SCORES, every


def test_a_mixture_shows_the_slate_of_one_part():
    parts = [EpsilonGreedySlates(SCORES, 2, 0.1), PlackettLuceSlates(SCORES.double().exp(), 2)]
    distribution = MixtureSlates(parts, [0.3, 0.7])
    torch.testing.assert_close(every(distribution, 5), 0.3 * every(parts[0], 5) + 0.7 * every(parts[1], 5))
    assert distribution.draw(torch.Generator().manual_seed(1)).shape == (5, 2)
