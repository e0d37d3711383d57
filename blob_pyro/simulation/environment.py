"""A simulated catalogue, which says what a user will view next and what they will click."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from blob_pyro.simulation.memory import require_room_for_catalogue
from blob_pyro.simulation.parameters import Settings, draw_static_parameters

__all__ = ["Environment", "click_response"]


def click_response(logit: Tensor) -> Tensor:
    """Map affinity to click probability as RecoGym does (``ff`` of its ``reco_env_v1.py``), elementwise.

    ``sigmoid(5 sigmoid(2 sigmoid(0.3 x) - 2) - 6)``: increasing, between 0.45 % and 2.93 %.

    >>> [round(p, 4) for p in click_response(torch.tensor([-20.0, 0.0, 20.0])).tolist()]
    [0.0045, 0.0094, 0.0291]
    """
    inner = torch.sigmoid(0.3 * logit).mul_(2).sub_(2).sigmoid_()
    return inner.mul_(5).sub_(6).sigmoid_()


@dataclass(frozen=True, eq=False)
class Environment(Settings):
    """A catalogue with the static parameters of RecoGym 0.1.3.0, and the probabilities that they imply.

    Args:
        device: where tensors live and users are simulated; the CPU by default. The other arguments are those of
            `blob_pyro.simulation.parameters.Settings`.

    Attributes:
        gamma, beta: ``num_items x embedding_dim``, float64: item embeddings for views and for clicks.
        mu_organic, mu_bandit: ``num_items``, float64: item popularity for views and for clicks.
    """

    device: torch.device | str | None = None
    gamma: Tensor = field(init=False, repr=False)
    mu_organic: Tensor = field(init=False, repr=False)
    beta: Tensor = field(init=False, repr=False)
    mu_bandit: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_room_for_catalogue(self)
        catalogue = draw_static_parameters(self)
        for name in ("gamma", "mu_organic", "beta", "mu_bandit"):
            value = torch.from_numpy(getattr(catalogue, name)).to(self.device or "cpu")
            object.__setattr__(self, name, value)  # frozen: settings and parameters cannot come to disagree

    @property
    def click_ceiling(self) -> float:
        """The bound that no click probability exceeds."""
        return float(click_response(torch.tensor(torch.inf, dtype=torch.float64)))

    def organic_probability(self, omega: Tensor) -> Tensor:
        """Return the probability of each item to be viewed next: ``softmax(gamma omega + mu_organic)``.

        Args:
            omega: ``batch_shape x embedding_dim``, float64.

        Returns:
            ``batch_shape x num_items``.
        """
        return torch.softmax(omega @ self.gamma.T + self.mu_organic, dim=-1)

    def click_probability(self, omega: Tensor, actions: Tensor | None = None) -> Tensor:
        """Return the probability of a click on each recommended item: ``click_response(beta omega + mu_bandit)``.

        Args:
            omega: ``batch_shape x embedding_dim``, float64.
            actions: item numbers, ``batch_shape``, int64. Default: every item.

        Returns:
            ``batch_shape``, or ``batch_shape x num_items`` for every item.
        """
        if actions is None:
            return click_response(omega @ self.beta.T + self.mu_bandit)
        flat = actions.reshape(-1)
        beta = self.beta.index_select(0, flat).view(*actions.shape, self.embedding_dim)
        affinity = torch.einsum("...k,...k->...", beta, omega)
        return click_response(affinity.add_(self.mu_bandit.index_select(0, flat).view(actions.shape)))
