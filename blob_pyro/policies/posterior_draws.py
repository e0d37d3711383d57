"""A model whose posterior is a fixed set of draws: propensities by counting."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from blob_pyro.data import Histories, Vocabulary
from blob_pyro.ops.arguments import whole_number
from blob_pyro.ops.seeds import check_seed
from blob_pyro.posteriors.drawn_click_logits import DrawnClickLogits

__all__ = ["PosteriorDraws"]


class PosteriorDraws:
    """A fitted model's posterior, in place of which a fixed set of draws from it answers.

    ``ThompsonSampling(PosteriorDraws(blob))`` picks one of the draws for each decision and plays its best item. The
    probability of that is exact, a count, and costs no integral: for large logs it is the cheapest Thompson sampling
    with propensities. What is best in none of the draws is not played, and cannot be valued from such a log.

    Args:
        model: a fitted `blob_pyro.BLOB`.
        num_draws: of its parameters.
        seed: of the draws: the same ones after every history.

    Raises:
        TypeError: for a model that does not know its posterior by draws.

    Example:
        >>> import torch
        >>> from blob_pyro import BLO, BLOB, EventLog
        >>> from blob_pyro.policies import ThompsonSampling
        >>> log = EventLog.from_tables(
        ...     views={"user": [1, 1, 2, 2], "time": [0, 1, 0, 1], "item": list("abbc")},
        ...     impressions={"user": [1, 2, 2], "time": [2, 3, 4], "action": list("cab"), "reward": [1, 0, 0]},
        ... )
        >>> blo = BLO(log.num_items, embedding_dim=2)
        >>> _ = blo.fit(log, num_epochs=5, progress=False)
        >>> blob = BLOB(blo, guide="laplace")
        >>> _ = blob.fit(log, progress=False)
        >>> probs = ThompsonSampling(PosteriorDraws(blob, 64)).action_distribution([["a", "b"]]).probs
        >>> bool(torch.allclose(64 * probs, (64 * probs).round()))  # counts
        True
    """

    def __init__(self, model: Any, num_draws: int = 256, seed: int = 0) -> None:
        if isinstance(model, type) or not callable(getattr(model, "drawn_click_logits", None)):
            raise TypeError(
                f"model: expected a posterior with drawn_click_logits(histories), such as BLOB, got {model!r} "
                f"(a {type(model).__name__})"
            )
        self.model = model
        self.num_draws, self.seed = whole_number(num_draws, "num_draws"), check_seed(seed)

    @property
    def items(self) -> Vocabulary:
        """The model's catalogue."""
        items: Vocabulary = self.model.items
        return items

    def click_logits(self, histories: Histories | Any, covariates: Any = None) -> DrawnClickLogits:
        """Return the click logits of the draws after each of ``N`` histories."""
        logits: DrawnClickLogits = self.model.drawn_click_logits(
            histories, covariates, num_draws=self.num_draws, seed=self.seed
        )
        return logits

    def scores(self, histories: Histories | Any, covariates: Any = None) -> Tensor:
        """Average the draws' click logits, ``N x P``."""
        return self.click_logits(histories, covariates).mean
