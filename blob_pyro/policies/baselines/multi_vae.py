"""A variational autoencoder with a multinomial likelihood."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from blob_pyro.data import EventLog, Histories, Vocabulary, as_histories
from blob_pyro.ops.arguments import number_between, positive_number, whole_number
from blob_pyro.ops.seeds import check_seed, seeded
from blob_pyro.policies.baselines.sessions import sessions_of

__all__ = ["MultiVAE"]


class MultiVAE:
    """Scores items by the decoded probability of viewing them (Liang et al. 2018, "Mult-VAE^PR").

    View counts are scaled to length one, dropped out with probability 1/2 while training, encoded by one hidden layer
    of tanh units to a normal distribution, and decoded likewise to a softmax over items. The KL divergence is weighted
    by ``beta``, which rises linearly from 0 to ``max_beta`` over the first ``annealing`` of the steps (their section
    2.2.2).

    Args:
        num_items: size ``P`` of the catalogue.
        hidden_dim: units of the hidden layers; the paper's 600 suit catalogues of 20,000 items.
        latent_dim: dimension of the latent interest.

    Example:
        >>> log = EventLog.from_tables(
        ...     views={"user": [n for n in range(40) for _ in range(2)], "time": [0, 1] * 40, "item": list("abcd" * 20)}
        ... )
        >>> vae = MultiVAE(4, hidden_dim=16, latent_dim=2)
        >>> vae.fit(log, num_epochs=60)
        >>> vae.scores([["a"], ["d"]])[:, 1:3].argmax(-1)  # who views a views b, who views d views c
        tensor([0, 1])
    """

    def __init__(self, num_items: int, hidden_dim: int = 200, latent_dim: int = 50) -> None:
        self.num_items = whole_number(num_items, "num_items")
        self.latent_dim = whole_number(latent_dim, "latent_dim")
        self.hidden_dim = whole_number(hidden_dim, "hidden_dim")
        self.items = Vocabulary.numbered(num_items)
        self._networks: nn.ModuleDict | None = None

    def fit(
        self,
        sessions: EventLog | Histories,
        *,
        seed: int = 0,
        num_epochs: int = 30,
        batch_size: int = 500,
        learning_rate: float = 1e-3,
        max_beta: float = 0.2,
        annealing: float = 0.5,
    ) -> None:
        """Learn from all sessions, from a fresh start, by Adam.

        Args:
            sessions: a log with views, or its sessions as item numbers.
            seed: of the start, the order of sessions, the dropout and the noise.
            num_epochs: passes over the sessions.
            batch_size: sessions per step.
            learning_rate: of Adam.
            max_beta: weight of the KL divergence at the end, in [0, 1].
            annealing: fraction of the steps over which it rises, in [0, 1].

        Raises:
            TypeError: for neither a log nor sessions.
            ValueError: for another catalogue, no views, or an argument outside its range.
        """
        items, histories = sessions_of(sessions)
        if len(items) != self.num_items:
            raise ValueError(f"sessions: have {len(items)} items, but this model has num_items={self.num_items}")
        whole_number(num_epochs, "num_epochs")
        whole_number(batch_size, "batch_size")
        positive_number(learning_rate, "learning_rate")
        number_between(max_beta, "max_beta", 0, 1)
        number_between(annealing, "annealing", 0, 1)
        histories = histories.to("cpu")[histories.lengths.cpu() > 0]
        with seeded(check_seed(seed), "cpu"), torch.enable_grad():
            networks = _networks(self.num_items, self.hidden_dim, self.latent_dim)
            optimizer = torch.optim.Adam(networks.parameters(), learning_rate)
            steps_until_full = annealing * num_epochs * -(-len(histories) // batch_size)
            step = 0
            for _ in range(num_epochs):
                for rows in torch.randperm(len(histories)).split(batch_size):
                    counts, step = histories[rows].counts(), step + 1
                    beta = max_beta * min(1.0, step / steps_until_full) if steps_until_full else max_beta
                    optimizer.zero_grad()
                    negative_bound(networks, counts, beta).backward()
                    optimizer.step()
        self.items, self._networks = items, networks.eval()

    def scores(self, histories: Histories | Any) -> Tensor:
        """Return the log-probability of each item to be viewed, at the mean of the latent interest, ``N x P``.

        Raises:
            ValueError: if it is not fitted.
        """
        if self._networks is None:
            raise ValueError("scores: the model is not fitted; call fit(sessions) first")
        counts = as_histories(histories, self.items).to("cpu").counts()
        with torch.no_grad():
            loc, _ = self._networks["encoder"](nn.functional.normalize(counts)).chunk(2, -1)
            result: Tensor = self._networks["decoder"](loc).log_softmax(-1)
            return result


def _networks(num_items: int, hidden_dim: int, latent_dim: int) -> nn.ModuleDict:
    def two_layers(size_in: int, size_out: int) -> nn.Sequential:
        first, second = nn.Linear(size_in, hidden_dim), nn.Linear(hidden_dim, size_out)
        for layer in (first, second):
            nn.init.xavier_normal_(layer.weight)
            nn.init.trunc_normal_(layer.bias, std=0.001)
        return nn.Sequential(first, nn.Tanh(), second)

    networks = {"encoder": two_layers(num_items, 2 * latent_dim), "decoder": two_layers(latent_dim, num_items)}
    return nn.ModuleDict(networks)


def negative_bound(networks: nn.ModuleDict, counts: Tensor, beta: float) -> Tensor:
    """Compute the mean over sessions of ``beta KL - E log p(views | latent)``, by one draw, with dropout."""
    visible = nn.functional.dropout(nn.functional.normalize(counts), 0.5)
    loc, log_variance = networks["encoder"](visible).chunk(2, -1)
    latent = loc + (log_variance / 2).exp() * torch.randn_like(loc)
    log_likelihood = (counts * networks["decoder"](latent).log_softmax(-1)).sum(-1)
    divergence = 0.5 * (log_variance.exp() + loc.square() - 1 - log_variance).sum(-1)
    result: Tensor = (beta * divergence - log_likelihood).mean()
    return result
