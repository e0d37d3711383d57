"""The questions that an organic model and its guide answer: interests, and what is viewed next."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import pandas as pd
import torch
from pyro.distributions import Normal, TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor

from blob_pyro.data import EventLog, Histories, as_histories
from blob_pyro.infer import expectation_maximization, newton_posterior, online_expectation_maximization
from blob_pyro.ops.arguments import one_of, true_or_false, whole_number
from blob_pyro.ops.exclusive import own_parameter_store
from blob_pyro.ops.row_chunks import MAX_ELEMENTS
from blob_pyro.ops.seeds import check_seed, seeded, standard_normal
from blob_pyro.recommenders.interest_model_parts import InterestModelParts, OrganicParts
from blob_pyro.recommenders.top_items import top_items

if TYPE_CHECKING:
    from blob_pyro.diagnostics import ViewEvaluation

__all__ = ["AT_ONCE", "InterestModel", "TopItems"]

AT_ONCE = 65_536
"""Histories that are embedded at once, also those of a log on disk, so that the floats are the same."""

_WITHOUT_ENCODER: dict[str, Callable[..., TorchDistribution]] = {
    "em": expectation_maximization,
    "online_em": online_expectation_maximization,
    "newton": newton_posterior,
}


class TopItems(NamedTuple):
    """The likeliest next items of each history.

    Attributes:
        item: item *numbers*, likeliest first, ``N x k``; ``blo.items.decode`` gives their ids.
        probability: of each to be the next view, ``N x k``.
    """

    item: Tensor
    probability: Tensor


class InterestModel(InterestModelParts):
    """A posterior over each user's interest, and the questions that it answers; `blob_pyro.BLO` fits it.

    Many threads may ask at once, also while one of them fits: they get the answers of before until it is done.
    """

    def user_posterior(self, histories: Histories | Any, method: str = "encoder", **options: Any) -> TorchDistribution:
        """Return the posterior of the latent interest omega after each history.

        Args:
            histories: `Histories`, a list of item-id sequences, or an ``N x P`` count matrix.
            method: "encoder", one pass through the trained encoder; "newton", Laplace's approximation of the exact
                posterior, with a full covariance and no use of the encoder: the closest to it; "em", the best Gaussian
                under Bouchard's bound, which is too narrow; "online_em", the same from a few items at a time.
            **options: of `blob_pyro.infer.newton_posterior` (``num_steps``, ``tolerance``), of
                `blob_pyro.infer.expectation_maximization` (``num_cycles``, ``tolerance``) or of
                `blob_pyro.infer.online_expectation_maximization` (``num_steps``, ``num_negatives``, ``decay``,
                ``seed``).

        Returns:
            Independent normals or a `MultivariateNormal`: batch ``N``, event ``K``.

        Raises:
            ValueError: for an unknown method or an option out of range; if the model is not fitted.
            TypeError: for an option that the method does not take.
        """
        _check_options(method, "method", options)
        self._require_fitted("user_posterior")
        parts = self._parts
        return _posterior(parts, as_histories(histories, parts.items), method, **options)

    def embed(
        self, histories: Histories | Any, chunk_size: int = AT_ONCE, method: str = "encoder", **options: Any
    ) -> Tensor:
        """Return posterior means of omega, ``N x K``, by ``chunk_size`` histories at a time; see `user_posterior`."""
        self._require_fitted("embed")
        parts = self._parts
        return _means(parts, as_histories(histories, parts.items), chunk_size, method, **options)

    @overload
    def predict_next(
        self,
        histories: Histories | Any,
        method: str = ...,
        num_samples: int = ...,
        *,
        posterior: str | TorchDistribution = ...,
        exclude_seen: bool = ...,
        top_k: None = ...,
        seed: int = ...,
    ) -> Tensor: ...

    @overload
    def predict_next(
        self,
        histories: Histories | Any,
        method: str = ...,
        num_samples: int = ...,
        *,
        posterior: str | TorchDistribution = ...,
        exclude_seen: bool = ...,
        top_k: int,
        seed: int = ...,
    ) -> TopItems: ...

    def predict_next(
        self,
        histories: Histories | Any,
        method: str = "mean",
        num_samples: int = 100,
        *,
        posterior: str | TorchDistribution = "encoder",
        exclude_seen: bool = False,
        top_k: int | None = None,
        seed: int = 0,
    ) -> Tensor | TopItems:
        """Return the probability of each item to be the next view (Sakhi et al. 2020, section 6.4).

        Args:
            histories: as `user_posterior`.
            method: "mean" puts the posterior mean into the softmax; "monte_carlo" averages the softmax over draws.
            num_samples: draws for "monte_carlo".
            posterior: how to find it, as `user_posterior`'s ``method``; or what that returned.
            exclude_seen: the next *new* item: items of the history get probability zero, the others what is left,
                in proportion. After a history of all items nothing is left and the row is zero.
            top_k: only the likeliest items; the ``N x P`` matrix is then never formed.
            seed: of the draws.

        Returns:
            ``N x P``, rows sum to 1; with ``top_k``, a `TopItems`.

        Raises:
            ValueError: for an unknown method, or a ``top_k`` that is not between 1 and ``num_items``.
        """
        one_of(method, "method", ("mean", "monte_carlo"))
        num_samples, seed = whole_number(num_samples, "num_samples"), check_seed(seed)
        true_or_false(exclude_seen, "exclude_seen")
        if top_k is not None:
            top_k = whole_number(top_k, "top_k")
            if top_k > self.num_items:
                raise ValueError(f"top_k: must lie between 1 and num_items={self.num_items}, got {top_k}")
        self._require_fitted("predict_next")
        parts = self._parts
        history = as_histories(histories, parts.items).to(parts.device)
        if top_k is None:
            self._require_memory(len(history), "predict_next", "pass top_k=10, or ask for fewer histories at a time")
        with torch.no_grad():
            if isinstance(posterior, str):
                q = _posterior(parts, history, posterior, argument="posterior")
            else:
                q = _checked(posterior, len(history), self.embedding_dim)
            draws = q.mean.unsqueeze(0) if method == "mean" else _draws(q, num_samples, seed)
            rows = max(1, MAX_ELEMENTS // self.num_items)
            found = [
                _next_items(parts, history[i : i + rows], draws[:, i : i + rows], exclude_seen, top_k)
                for i in range(0, max(len(history), 1), rows)
            ]
        probability, item = (torch.cat(part) for part in zip(*found))
        return probability if top_k is None else TopItems(item, probability)

    def scores(self, histories: Histories | Any) -> Tensor:
        """Return the unnormalised log-probability of each item to be viewed next, at the posterior mean, ``N x P``."""
        self._require_fitted("scores")
        parts = self._parts
        history = as_histories(histories, parts.items)
        self._require_memory(
            len(history), "scores", "ask for fewer histories at a time, or predict_next(..., top_k=10)"
        )
        with torch.no_grad():
            return parts.logits(_means(parts, history))

    def evaluate(self, log: EventLog, *, k: int = 10, level: float = 0.95) -> ViewEvaluation:
        """Judge what is predicted of the last view of each user of a log, best of all one that was not fitted to.

        Args:
            log: see `EventLog.split`; its catalogue may be a part of the model's. Views that it remembers from before
                count as known.
            k: how many items are shown.
            level: of the intervals, over users.

        Returns:
            Recall and discounted gain at ``k``, mean reciprocal rank.

        Raises:
            ValueError: for a log without views, or with items that the model does not know; if it is not fitted.
        """
        from blob_pyro.diagnostics import evaluate_views  # below in the order of imports

        self._require_fitted("evaluate")
        return evaluate_views(self, log.with_items(self.items), k, level)

    def recommend(self, histories: Histories | Any, k: int = 10, candidates: Any = None) -> pd.DataFrame:
        """Find the items with the highest scores after each history, without a policy: nothing is explored.

        `blob_pyro.policies.Policy.decide` is what explores, and says what to log.

        Args:
            histories: ``N``, as `user_posterior`.
            k: items for each history; fewer where it has fewer candidates.
            candidates: which items may be recommended: ids, or ``P`` booleans, for all histories; or a collection of
                ids for each, or ``N x P`` booleans. Default all.

        Returns:
            A row for each item: ``history`` (its number, from 0), ``rank`` (from 1), ``item`` (the catalogue's own id)
            and ``score``: the unnormalised log-probability of the next view, see `scores`.
            Computed a few histories at a time.

        Raises:
            ValueError: for ``k`` above ``num_items``, an unknown id, or an empty set of candidates; if the model is not
                fitted.

        Example:
            >>> from blob_pyro import BLO
            >>> log = EventLog.from_tables(views={"user": [1, 1, 2, 2], "time": [0, 1, 0, 1], "item": list("abbc")})
            >>> blo = BLO(log.num_items, embedding_dim=2)
            >>> trace = blo.fit(log, num_epochs=5, progress=False)
            >>> blo.recommend([["a"], []], k=2)[["history", "rank"]].values.tolist()
            [[0, 1], [0, 2], [1, 1], [1, 2]]
        """
        self._require_fitted("recommend")
        parts = self._parts
        return top_items(lambda part, _: parts.logits(_means(parts, part)), parts.items, histories, k, candidates)


def _posterior(
    parts: OrganicParts, history: Histories, method: str, *, argument: str = "method", **options: Any
) -> TorchDistribution:
    """See `InterestModel.user_posterior`."""
    _check_options(method, argument, options)
    history = history.to(parts.device)
    with torch.no_grad():
        if method != "encoder":
            return _WITHOUT_ENCODER[method](history, parts.model.item_embedding, parts.model.item_intercept, **options)
        if not any(isinstance(module, PyroModule) for module in parts.guide.encoder.modules()):
            return parts.guide.posterior(history)  # no Pyro runs here: many threads may
        with own_parameter_store():
            return parts.guide.posterior(history)


def _check_options(method: str, argument: str, options: dict[str, Any]) -> None:
    one_of(method, argument, ("encoder", *_WITHOUT_ENCODER))
    known = [] if method == "encoder" else list(inspect.signature(_WITHOUT_ENCODER[method]).parameters)[3:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        takes = f"takes {', '.join(known)}" if known else "takes none"
        raise TypeError(f"options: {argument}={method!r} {takes}, got {', '.join(unknown)}")


def _means(
    parts: OrganicParts, history: Histories, chunk_size: int = AT_ONCE, method: str = "encoder", **options: Any
) -> Tensor:
    """See `InterestModel.embed`."""
    size = whole_number(chunk_size, "chunk_size")
    chunks = (history[i : i + size] for i in range(0, max(len(history), 1), size))
    return torch.cat([_posterior(parts, chunk, method, **options).mean for chunk in chunks])


def _checked(posterior: Any, num_histories: int, embedding_dim: int) -> TorchDistribution:
    """A posterior of the caller's."""
    if not isinstance(posterior, torch.distributions.Distribution):
        raise TypeError(
            f"posterior: expected {', '.join(map(repr, ('encoder', *_WITHOUT_ENCODER)))} or a distribution of each "
            f"history's interest, got a {type(posterior).__name__}"
        )
    found = (tuple(posterior.batch_shape), tuple(posterior.event_shape))
    if found != ((num_histories,), (embedding_dim,)):
        raise ValueError(
            f"posterior: expected batch shape ({num_histories},), the number of histories, and event shape "
            f"({embedding_dim},), the embedding_dim; got {found[0]} and {found[1]}. Use .to_event(1)"
        )
    return posterior


def _next_items(
    parts: OrganicParts, history: Histories, draws: Tensor, exclude_seen: bool, top_k: int | None
) -> tuple[Tensor, Tensor]:
    probs = torch.zeros(draws.shape[1], len(parts.items), dtype=draws.dtype, device=draws.device)
    for interest in draws:  # one after another: a hundred softmaxes at once leave the cache
        probs += parts.logits(interest).softmax(-1)
    probs /= len(draws)
    if exclude_seen:
        items, row = history.flatten()
        probs[row, items] = 0.0
        probs /= probs.sum(-1, keepdim=True).clamp(min=torch.finfo(probs.dtype).tiny)
    return probs.topk(top_k) if top_k is not None else (probs, probs.new_empty(0))


def _draws(posterior: TorchDistribution, num_samples: int, seed: int) -> Tensor:
    """``num_samples x N x K`` under a seed; of Gaussians without torch's default generator, so that no thread waits."""
    loc, scale = posterior.mean, getattr(posterior, "scale_tril", None)
    if scale is not None:
        noise = standard_normal((num_samples, *loc.shape), seed, loc)
        result: Tensor = loc + (scale @ noise.unsqueeze(-1)).squeeze(-1)
        return result
    if isinstance(getattr(posterior, "base_dist", None), Normal):
        result = loc + posterior.stddev * standard_normal((num_samples, *loc.shape), seed, loc)
        return result
    with seeded(seed, loc.device):
        result = posterior.sample((num_samples,))
        return result
