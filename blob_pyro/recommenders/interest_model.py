"""The questions that an organic model and its guide answer: interests, and what is viewed next."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import pandas as pd
import torch
from pyro.distributions import Normal, TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from blob_pyro.data import EventLog, Histories, Vocabulary, as_histories
from blob_pyro.guides import AmortizedGuide
from blob_pyro.infer import Bound, expectation_maximization, online_expectation_maximization
from blob_pyro.models import OrganicModel
from blob_pyro.ops.arguments import one_of, true_or_false, whole_number
from blob_pyro.ops.exclusive import own_parameter_store
from blob_pyro.ops.memory import require_memory
from blob_pyro.ops.modules import require_finite
from blob_pyro.ops.row_chunks import MAX_ELEMENTS
from blob_pyro.ops.seeds import check_seed, seeded, standard_normal
from blob_pyro.recommenders.top_items import top_items

if TYPE_CHECKING:
    from blob_pyro.diagnostics import ViewEvaluation

__all__ = ["InterestModel", "Parts", "TopItems", "sessions_of"]

_WITHOUT_ENCODER: dict[str, Callable[..., TorchDistribution]] = {
    "em": expectation_maximization,
    "online_em": online_expectation_maximization,
}


class Parts(NamedTuple):
    """The parts that answer, replaced as a whole: another thread sees the old or the new, and never half of each."""

    model: OrganicModel
    guide: AmortizedGuide
    bound: Bound | None
    items: Vocabulary

    def trained(self) -> list[nn.Module]:
        """Return the modules that training changes: model, guide, and the bound's own if it has one."""
        own = None if self.bound is None else self.bound.module
        return [self.model, self.guide, *([] if own is None else [own])]

    @property
    def device(self) -> torch.device:
        """The device that the parameters are on."""
        return self.model.item_embedding.device

    def logits(self, interest: Tensor) -> Tensor:
        """Return ``Psi omega + rho``, ``N x P``."""
        return torch.addmm(self.model.item_intercept, interest, self.model.item_embedding.mT)


class TopItems(NamedTuple):
    """The likeliest next items of each history.

    Attributes:
        item: item *numbers*, likeliest first, ``N x k``; ``blo.items.decode`` gives their ids.
        probability: of each to be the next view, ``N x k``.
    """

    item: Tensor
    probability: Tensor


class InterestModel:
    """A posterior over each user's interest, and the questions that it answers; `blob_pyro.BLO` fits it.

    Many threads may ask at once, also while one of them fits: they get the answers of before until it is done.

    Attributes:
        num_items: size ``P`` of the catalogue.
        embedding_dim: ``K``.
        fits: settings of the fit.
    """

    num_items: int
    embedding_dim: int
    fits: list[dict[str, Any]]
    _parts: Parts

    @property
    def model(self) -> OrganicModel:
        """The generative story, with its parameters."""
        return self._parts.model

    @property
    def guide(self) -> AmortizedGuide:
        """The encoder, as a guide of the model."""
        return self._parts.guide

    @property
    def items(self) -> Vocabulary:
        """The catalogue, as the log had it."""
        return self._parts.items

    @items.setter
    def items(self, items: Vocabulary) -> None:
        self._parts = self._parts._replace(items=items)

    @property
    def device(self) -> torch.device:
        """The device that the parameters are on."""
        return self._parts.device

    @property
    def fitted(self) -> bool:
        """True after a fit; ``fits`` has the settings of each."""
        return bool(self.fits)

    def mark_fitted(self, log: EventLog | Histories) -> None:
        """Say that you have trained ``model`` and ``guide`` yourself, by Pyro's own means, and that they may answer.

        Args:
            log: what they were trained on, whose catalogue becomes the model's; recorded in ``fits`` is how many
                sessions that were.

        Raises:
            ValueError: if the log has no views or another number of items, or a parameter is not finite.
        """
        items = self._catalogue(log)
        require_finite({"model": self.model, "guide": self.guide}, "mark_fitted")
        self.items = items
        self.fits = [*self.fits, {"call": "mark_fitted", "num_rows": len(sessions_of(log))}]

    def user_posterior(self, histories: Histories | Any, method: str = "encoder", **options: Any) -> TorchDistribution:
        """Return the posterior of the latent interest omega after each history.

        Args:
            histories: `Histories`, a list of item-id sequences, or an ``N x P`` count matrix.
            method: "encoder", one pass through the trained encoder; "em", the best Gaussian under Bouchard's bound,
                with a full covariance and no use of the encoder; "online_em", the same from a few items at a time.
            **options: of `blob_pyro.infer.expectation_maximization` (``num_cycles``, ``tolerance``) or of
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
        self, histories: Histories | Any, chunk_size: int = 65_536, method: str = "encoder", **options: Any
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

    def __repr__(self) -> str:
        state = "fitted" if self.fitted else "not fitted"
        return f"{type(self).__name__}({self.num_items:,} items, embedding_dim={self.model.embedding_dim}, {state})"

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

    def _require_fitted(self, call: str) -> None:
        if not self.fitted:
            raise ValueError(
                f"{call}: the model is not fitted; call fit(log) first, or mark_fitted(log) if you have trained model "
                "and guide yourself"
            )

    def _require_memory(self, num_histories: int, what: str, remedy: str) -> None:
        num_bytes = 2 * num_histories * self.num_items * self.model.item_intercept.element_size()
        shape = f"{num_histories:,} histories x {self.num_items:,} items"
        require_memory(num_bytes, f"{what} of {shape}", remedy, self.device)

    def _catalogue(self, log: EventLog | Histories, argument: str = "log") -> Vocabulary:
        if not isinstance(log, (EventLog, Histories)):
            raise TypeError(
                f"{argument}: expected an EventLog or Histories, got a {type(log).__name__}; make one with "
                "EventLog.from_tables(...)"
            )
        if log.num_items != self.num_items:
            raise ValueError(
                f"{argument}: has {log.num_items} items, but this model was made with num_items={self.num_items}"
            )
        if isinstance(log, EventLog):
            log.require_views()
            return log.items
        if not len(log):
            raise ValueError(f"{argument}: has no sessions; the organic model needs some")
        return self.items if argument == "validation" else Vocabulary.numbered(self.num_items)


def sessions_of(log: EventLog | Histories) -> Histories:
    """Return the sessions to learn from."""
    return log.sessions if isinstance(log, EventLog) else log


def _posterior(
    parts: Parts, history: Histories, method: str, *, argument: str = "method", **options: Any
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
    parts: Parts, history: Histories, chunk_size: int = 65_536, method: str = "encoder", **options: Any
) -> Tensor:
    """See `InterestModel.embed`."""
    size = whole_number(chunk_size, "chunk_size")
    chunks = (history[i : i + size] for i in range(0, max(len(history), 1), size))
    return torch.cat([_posterior(parts, chunk, method, **options).mean for chunk in chunks])


def _checked(posterior: Any, num_histories: int, embedding_dim: int) -> TorchDistribution:
    """A posterior of the caller's."""
    if not isinstance(posterior, torch.distributions.Distribution):
        raise TypeError(
            "posterior: expected 'encoder', 'em', 'online_em' or a distribution of each history's interest, got a "
            f"{type(posterior).__name__}"
        )
    found = (tuple(posterior.batch_shape), tuple(posterior.event_shape))
    if found != ((num_histories,), (embedding_dim,)):
        raise ValueError(
            f"posterior: expected batch shape ({num_histories},), the number of histories, and event shape "
            f"({embedding_dim},), the embedding_dim; got {found[0]} and {found[1]}. Use .to_event(1)"
        )
    return posterior


def _next_items(
    parts: Parts, history: Histories, draws: Tensor, exclude_seen: bool, top_k: int | None
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
