"""Policies to decide with."""

import pyro.distributions as dist
import torch

from blob_pyro.data import Histories
from blob_pyro.policies import Policy
from blob_pyro.simulation.decisions import Decisions

PROBS = torch.tensor([[0.0, 0.1, 0.0, 0.6, 0.3, 0.0], [0.5, 0.0, 0.0, 0.0, 0.0, 0.5]], dtype=torch.float64)


class Opaque(dist.Categorical):
    """A distribution that the simulation must not treat as a plain Categorical."""


class Fixed(Policy):
    """The same probabilities after every history, except that an empty one plays item 0."""

    def __init__(self, probs, family):
        super().__init__(len(probs))
        self.probs, self.family = probs, family

    def action_distribution(self, histories):
        first = torch.nn.functional.one_hot(torch.tensor(0), self.num_items).to(self.probs)
        return self.family(probs=torch.where(histories.lengths[:, None] > 0, self.probs, first))


def decisions(policy, forget=False, users=3):
    histories = Histories.from_sequences([[1]] * users, policy.num_items)
    return Decisions(policy, histories, torch.zeros(users, 5), forget)
