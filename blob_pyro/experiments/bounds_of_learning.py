"""Policies with knowledge that no real one has: rows that tables of click rates are read against.

All of these know RecoGym's catalogue as users view it (``gamma``, ``mu_organic``), how a click follows from an
affinity, and of a user what the user has viewed; interests are the normal approximation of their posterior at its mode,
as if they had stood still. They differ in what they know of how recommendations are answered, ``beta`` and
``mu_bandit``.

An item's *answer* is its row of ``beta`` and its ``mu_bandit``. `EstimatedInterests` knows them all. A `BayesCeiling`
has a prior over answers and the log that every other agent learns from, and plays the item with the highest posterior
probability of a click:

========================  ===========================================================================================
``"swaps"``               the family itself: so many pairs of items have exchanged their answers, any set of disjoint
                          pairs alike; which ones is not known. Posterior by Metropolis sampling over sets of pairs.
``"some item"``           each item answers as some item of the catalogue is viewed, any of them alike. Exact.
``"no link"``             answers are drawn from the distribution that RecoGym draws them from, whatever the views are.
                          Posterior by importance weights of ``num_draws`` draws, the same ones for each item.
========================  ===========================================================================================

The first two know how clicks relate to views; the last is what there is to gain without. A click tells of the answer
alone here, and not of the user's interests, which views have told of already, and interests stand still: so much is
neglected of the exact posterior, which makes these too sure of what they have learned. With 100 items nothing has been
found above the first; with 1,000, all swapped, BLOB is (``blob-pyro reproduce table4``: .57 of the way, these .40 to
.42), and there they are no ceilings.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from blob_pyro.data import EventLog, Histories
from blob_pyro.ops.arguments import one_of
from blob_pyro.ops.seeds import generator
from blob_pyro.policies import Policy
from blob_pyro.policies.base import categorical
from blob_pyro.simulation import RecoGym
from blob_pyro.simulation.environment import click_response

__all__ = ["BayesCeiling", "Constant", "EstimatedInterests", "Link", "best_item", "interests", "swapped_pairs"]

Link = Literal["swaps", "some item", "no link"]

_LINKS: tuple[Link, ...] = ("swaps", "some item", "no link")
_HERMITE = ((-(3**0.5), 1 / 6), (0.0, 2 / 3), (3**0.5, 1 / 6))  # three nodes of a standard normal, and their weights
_CELLS_AT_ONCE = 1 << 21


class Constant(Policy):
    """The same item after every history.

    Args:
        num_items: catalogue.
        item: its number.
    """

    def __init__(self, num_items: int, item: int) -> None:
        super().__init__(num_items)
        self.item = item

    def action_distribution(self, histories: Histories | Any) -> dist.TorchDistribution:
        """Return the distribution of the item played; see `Policy.action_distribution`."""
        return _always(torch.full((len(self.histories(histories)),), self.item), self.num_items)


def best_item(environment: RecoGym, num_draws: int = 20_000) -> int:
    """Find the item with the highest click rate over users as they arrive."""
    omega = torch.randn(
        num_draws, environment.embedding_dim, dtype=torch.float64, generator=generator(environment.seed)
    )
    return int(environment.click_probability(environment.sigma_omega_initial * omega).mean(0).argmax())


def interests(environment: RecoGym, histories: Histories, num_steps: int = 25) -> tuple[Tensor, Tensor]:
    """Compute the posterior of users' interests, as if these had stood still, by Newton's method.

    Args:
        environment: whose ``gamma`` and ``mu_organic`` are known.
        histories: ``N`` of them.
        num_steps: of Newton's method, each no longer than 2.

    Returns:
        Modes, ``N x embedding_dim``, and the inverse of the curvature there, ``N x embedding_dim x embedding_dim``.
    """
    counts = histories.counts(torch.float64)
    gamma, total = environment.gamma, counts.sum(-1, keepdim=True)
    omega = gamma.new_zeros(len(counts), gamma.shape[1])
    prior = torch.eye(gamma.shape[1], dtype=gamma.dtype) / environment.sigma_omega_initial**2
    pairs = (gamma.unsqueeze(-1) * gamma.unsqueeze(-2)).flatten(1)  # P x K K

    def curvature(probs: Tensor, mean: Tensor) -> Tensor:
        second = (probs @ pairs).view(-1, *prior.shape) - mean.unsqueeze(-1) * mean.unsqueeze(-2)
        return total.unsqueeze(-1) * second + prior

    for _ in range(num_steps):
        probs = environment.organic_probability(omega)
        mean = probs @ gamma
        step = torch.linalg.solve(curvature(probs, mean), counts @ gamma - total * mean - omega @ prior)
        omega = omega + step * (2 / step.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)
        if not len(step) or float(step.abs().max()) < 1e-9:
            break
    probs = environment.organic_probability(omega)
    return omega, torch.linalg.inv(curvature(probs, probs @ gamma))


class EstimatedInterests(Policy):
    """Knows the catalogue and every answer, and of users what they viewed: greedy at the mode of their interests.

    Args:
        environment: whose ``gamma``, ``mu_organic``, ``beta`` and ``mu_bandit`` it knows.
    """

    def __init__(self, environment: RecoGym) -> None:
        super().__init__(environment.num_items)
        self.environment = environment

    def action_distribution(self, histories: Histories | Any) -> dist.TorchDistribution:
        """Return the distribution of the item played; see `Policy.action_distribution`."""
        mode, _ = interests(self.environment, self.histories(histories))
        return _always(self.environment.click_probability(mode).argmax(-1), self.num_items)


class BayesCeiling(Policy):
    """Learns answers from a log as well as its prior allows, and plays the item that is most probably clicked.

    Args:
        environment: of which it knows what the module's docstring says, and no more.
        log: impressions to learn from.
        link: the prior over answers.
        num_draws: of the prior, for ``"no link"``.
        seed: of these draws, or of the Metropolis chains.

    Attributes:
        weight: ``P x S``, posterior probabilities that an item has each of ``S`` answers; rows sum to 1.
        effective_draws: ``P``, the inverse of the sum of the squares of these: many, or they say too little of a
            continuous posterior.
    """

    def __init__(self, environment: RecoGym, log: EventLog, link: Link, num_draws: int = 4096, seed: int = 0) -> None:
        super().__init__(environment.num_items)
        self.environment, self.link = environment, one_of(link, "link", _LINKS)
        self.vectors, self.intercepts = environment.gamma, environment.mu_organic
        if link == "no link":
            source = generator(seed)
            size = (num_draws, environment.embedding_dim)
            self.vectors = torch.randn(size, dtype=torch.float64, generator=source)
            standard = torch.randn(num_draws, dtype=torch.float64, generator=source)
            self.intercepts = environment.sigma_mu_organic * standard
        evidence = self._evidence(log)
        if link == "swaps":
            pairs = int((environment.beta != environment.gamma).any(-1).sum()) // 2
            self.weight = swapped_pairs(evidence, pairs, seed)
        else:
            self.weight = evidence.softmax(-1)

    @property
    def effective_draws(self) -> Tensor:
        """Effective numbers of answers that are left for each item: see the attributes of the class."""
        return 1 / self.weight.square().sum(-1)

    def click_probabilities(self, histories: Histories | Any) -> Tensor:
        """Return the posterior probabilities that each item is clicked, ``N x P``."""
        history = self.histories(histories)
        rows = max(1, _CELLS_AT_ONCE // len(self.vectors))
        parts = [self._answers(history[start : start + rows]) for start in range(0, len(history), rows)]
        return torch.cat([part @ self.weight.T for part in parts])

    def action_distribution(self, histories: Histories | Any) -> dist.TorchDistribution:
        """Return the distribution of the item played; see `Policy.action_distribution`."""
        return _always(self.click_probabilities(histories).argmax(-1), self.num_items)

    def _answers(self, histories: Histories) -> Tensor:
        """Click probabilities of each answer after each history, over what is not known of interests: ``N x S``."""
        mode, covariance = interests(self.environment, histories)
        loc = torch.addmm(self.intercepts, mode, self.vectors.T)
        pairs = (self.vectors.unsqueeze(-1) * self.vectors.unsqueeze(-2)).flatten(1)  # S x K K
        scale = (covariance.flatten(1) @ pairs.T).clamp(min=0).sqrt()
        probability = torch.zeros_like(loc)
        for node, weight in _HERMITE:
            probability.add_(click_response(loc + node * scale), alpha=weight)
        return probability

    def _evidence(self, log: EventLog) -> Tensor:
        """Log-likelihood of every item's clicks under each answer, ``P x S``."""
        evidence = torch.zeros(self.num_items, len(self.vectors), dtype=torch.float64)
        cell = log.context * self.num_items + log.action
        size = len(log.contexts) * self.num_items
        shown = torch.bincount(cell, minlength=size).view(-1, self.num_items).double()
        clicked = torch.bincount(cell, weights=(log.reward > 0).double(), minlength=size).view(-1, self.num_items)
        rows = max(1, _CELLS_AT_ONCE // len(self.vectors))
        for start in range(0, len(log.contexts), rows):
            part = slice(start, start + rows)
            probability = self._answers(log.contexts[part])
            evidence += clicked[part].T @ probability.log()
            evidence += (shown[part] - clicked[part]).T @ torch.log1p(-probability)
        return evidence


def swapped_pairs(evidence: Tensor, num_pairs: int, seed: int = 0, chains: int = 64, sweeps: int = 300) -> Tensor:
    """Estimate the probabilities of whose answer each item gives, where ``num_pairs`` pairs have exchanged theirs.

    Metropolis sampling over sets of disjoint pairs, any of which is as probable as another a priori. A proposal renames
    two items, ``i`` and ``j``, which moves between any two such sets and is its own reverse. Chains start from random
    sets and are tempered over their first half, which is left out.

    Args:
        evidence: ``P x P`` log-likelihoods: of item ``i`` under the answer of item ``j``.
        num_pairs: how many.
        seed: of the chains.
        chains: how many, side by side.
        sweeps: proposals per item and chain.

    Returns:
        ``P x P``, rows and columns sum to 1.
    """
    random, size, score = np.random.default_rng(seed), len(evidence), evidence.numpy()
    answers = np.tile(np.arange(size), (chains, 1))
    order = random.random((chains, size)).argsort(-1)
    one, other = order[:, :num_pairs], order[:, num_pairs : 2 * num_pairs]
    np.put_along_axis(answers, one, other, -1)
    np.put_along_axis(answers, other, one, -1)
    counts, chain, steps = np.zeros(size * size), np.arange(chains), sweeps * size
    for step in range(steps):
        i, j = random.integers(size, size=(2, chains))
        of_i, of_j = answers[chain, i], answers[chain, j]
        # The partner of i becomes that of j and the other way round; an item without one hands that on.
        new_i, new_j = np.where(of_j == j, i, of_j), np.where(of_i == i, j, of_i)
        gain = score[i, new_i] - score[i, of_i] + score[j, new_j] - score[j, of_j]
        gain += np.where(of_i == i, 0.0, score[of_i, j] - score[of_i, i])
        gain += np.where(of_j == j, 0.0, score[of_j, i] - score[of_j, j])
        heat = min(1.0, 2 * (step + 1) / steps)
        accepts = (i != j) & (of_i != j) & (np.log(random.random(chains)) < heat * gain)
        paired_i, paired_j = accepts & (of_i != i), accepts & (of_j != j)
        answers[chain[accepts], i[accepts]], answers[chain[accepts], j[accepts]] = new_i[accepts], new_j[accepts]
        answers[chain[paired_i], of_i[paired_i]] = j[paired_i]
        answers[chain[paired_j], of_j[paired_j]] = i[paired_j]
        if 2 * step >= steps and step % size == 0:
            counts += np.bincount((np.arange(size) * size + answers).ravel(), minlength=size * size)
    weight = torch.from_numpy(counts.reshape(size, size))
    return weight / weight.sum(-1, keepdim=True)


def _always(items: Tensor, num_items: int) -> dist.TorchDistribution:
    return categorical(torch.nn.functional.one_hot(items, num_items).float())
