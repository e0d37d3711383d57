"""The parts of an environment: its settings, and the static parameters drawn from its seed.

The draws are RecoGym 0.1.3.0's (`Rohde et al. 2018 <https://arxiv.org/abs/1808.00720>`_), number for number:
the same ``RandomState``, in the same order, so that both simulators have the same catalogue to the last bit.
RecoGym's names are kept: ``gamma`` and ``mu_organic`` for views, ``beta`` and ``mu_bandit`` for clicks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blob_pyro.ops.arguments import number_between, true_or_false, whole_number

__all__ = ["Settings", "StaticParameters", "draw_static_parameters", "pair_similar_items"]

Array = npt.NDArray[np.float64]

_LARGEST_SIGMA = 1e6  # beyond it logits are a lottery of overflows


@dataclass(frozen=True)
class StaticParameters:
    """The catalogue: how items are viewed and how recommendations are clicked.

    Attributes:
        gamma: ``num_items x embedding_dim``, item embeddings for views.
        mu_organic: ``num_items``, item popularity for views.
        beta: ``num_items x embedding_dim``, item embeddings for clicks: ``gamma`` with its flipped rows exchanged.
        mu_bandit: ``num_items``, ``mu_organic`` with the same items exchanged.
    """

    gamma: Array
    mu_organic: Array
    beta: Array
    mu_bandit: Array


@dataclass(frozen=True)
class Settings:
    """RecoGym's settings under this library's names, with its defaults.

    Args:
        num_items: size of the catalogue, P.
        num_flips: pairs of similar items whose click behaviour is exchanged: 0 makes views and clicks agree,
            P / 2 makes views mislead as much as they can.
        seed: of the static parameters, 0 to 2**32 - 1.
        embedding_dim: of the users' interests, K. RecoGym's default; 10 gives the level of click rates that
            Sakhi et al. (2020) publish.
        sigma_omega_initial: standard deviation of a new user's interests.
        sigma_omega: standard deviation of one step of their drift.
        sigma_mu_organic: standard deviation of the items' popularity, in logits.
        prob_leave_bandit: accepted, and without effect: RecoGym 0.1.3.0 writes ``prob_leave_organic``
            in both rows of its transition matrix.
        prob_leave_organic: probability that an event, of either kind, is the user's last.
        prob_bandit_to_organic: probability of going back to browsing after a recommendation without a click.
        prob_organic_to_bandit: probability of recommendations after a view.
        normalize_beta: scale the rows of ``beta`` to length one.
        change_omega_for_bandits: let interests drift at recommendations too.

    Raises:
        ValueError: for a setting outside its range; the message names it, what came, and what is allowed.
        TypeError: for one of the wrong type, likewise.
        MemoryError: for a catalogue that does not fit, naming the setting and the number of bytes.
    """

    num_items: int = 100
    num_flips: int = 0
    seed: int = 0
    embedding_dim: int = 5
    sigma_omega_initial: float = 1.0
    sigma_omega: float = 0.1
    sigma_mu_organic: float = 3.0
    prob_leave_bandit: float = 0.01
    prob_leave_organic: float = 0.01
    prob_bandit_to_organic: float = 0.05
    prob_organic_to_bandit: float = 0.25
    normalize_beta: bool = False
    change_omega_for_bandits: bool = False

    def __post_init__(self) -> None:
        for name in ("num_items", "embedding_dim"):
            whole_number(getattr(self, name), name)
        whole_number(self.seed, "seed", at_least=0, at_most=2**32 - 1)  # of NumPy's RandomState
        whole_number(self.num_flips, "num_flips", at_least=0)
        for name in ("normalize_beta", "change_omega_for_bandits"):
            true_or_false(getattr(self, name), name)
        if not 0 <= self.num_flips <= self.num_items // 2:
            raise ValueError(
                f"num_flips must be between 0 and num_items // 2 = {self.num_items // 2} (a flip exchanges two "
                f"items, and an item is exchanged once), got {self.num_flips}; flip fewer pairs or add items"
            )
        for name in ("sigma_omega_initial", "sigma_omega", "sigma_mu_organic"):
            number_between(getattr(self, name), name, 0, _LARGEST_SIGMA)
        for name in ("prob_leave_bandit", "prob_leave_organic", "prob_bandit_to_organic", "prob_organic_to_bandit"):
            number_between(getattr(self, name), name, 0, 1)
        if self.prob_leave_organic == 0:
            raise ValueError("prob_leave_organic must be above 0, got 0: nobody would ever leave; try 0.01")
        for name in ("prob_bandit_to_organic", "prob_organic_to_bandit"):
            if self.prob_leave_organic + getattr(self, name) > 1:
                raise ValueError(
                    f"prob_leave_organic + {name} must be at most 1, got "
                    f"{self.prob_leave_organic} + {getattr(self, name)}; lower one of them"
                )


def draw_static_parameters(settings: Settings) -> StaticParameters:
    """Draw the catalogue that RecoGym 0.1.3.0 draws for these settings (``RecoEnv1.set_static_params``).

    >>> catalogue = draw_static_parameters(Settings(num_items=4, num_flips=1, seed=3))
    >>> catalogue.gamma.shape, int((catalogue.beta != catalogue.gamma).any(1).sum())
    ((4, 5), 2)
    """
    rng = np.random.RandomState(settings.seed)
    gamma = rng.normal(size=(settings.num_items, settings.embedding_dim))
    mu_organic = rng.normal(0, settings.sigma_mu_organic, size=(settings.num_items, 1)).ravel()
    exchange = np.arange(settings.num_items)
    if settings.num_flips:
        first, second = pair_similar_items(gamma, settings.num_flips).T
        exchange[first], exchange[second] = second, first
    beta = gamma[exchange]
    if settings.normalize_beta:
        beta = beta / np.sqrt((beta**2).sum(1)[:, np.newaxis])
    return StaticParameters(gamma, mu_organic, beta, mu_organic[exchange])


def pair_similar_items(embedding: Array, num_pairs: int) -> npt.NDArray[np.int64]:
    """Pair items as a greedy matching by inner product does, most similar pair first.

    RecoGym sorts all P**2 inner products and walks down the list in Python. Two items that are each other's
    best remaining partner will be matched by that walk whatever comes before, so all such pairs can be taken at
    once, the rest matched anew, and the pairs sorted at the end: the same matching in about log P rounds.

    RecoGym sets the diagonal to zero and leaves it in the list, so an item is spent on itself before it is
    matched with one of negative inner product: there may be fewer pairs than were asked for, as there.

    Args:
        embedding: ``num_items x embedding_dim``.
        num_pairs: how many pairs at most.

    Returns:
        ``pairs x 2`` item numbers, each item at most once.
    """
    similarity = embedding @ embedding.T
    np.fill_diagonal(similarity, 0.0)
    unmatched = np.arange(len(embedding))
    pairs = []
    while len(unmatched):
        remaining = similarity[np.ix_(unmatched, unmatched)]
        partner = remaining.argmax(1)
        # On the diagonal: nobody left but items of negative similarity. The item stays as it is.
        alone = remaining[np.arange(len(unmatched)), partner] <= 0
        mutual = ~alone & (partner[partner] == np.arange(len(unmatched)))
        lower = np.flatnonzero(mutual & (np.arange(len(unmatched)) < partner))
        pairs.append(np.stack([unmatched[lower], unmatched[partner[lower]]], axis=1))
        unmatched = unmatched[~(alone | mutual)]
    found = np.concatenate(pairs)
    order = np.argsort(-similarity[found[:, 0], found[:, 1]], kind="stable")
    return found[order[:num_pairs]]
