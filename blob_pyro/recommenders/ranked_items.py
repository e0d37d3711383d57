"""The items that a click model scores highest, found exactly or through an index of very many items."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from blob_pyro.data import Histories, as_histories
from blob_pyro.data.covariates import slice_covariates
from blob_pyro.ops.arguments import one_of
from blob_pyro.ops.fingerprints import content_hash
from blob_pyro.ops.inner_products import largest_inner_products
from blob_pyro.ops.seeds import check_seed, generator
from blob_pyro.posteriors.drawn_click_logits import DrawnClickLogits
from blob_pyro.posteriors.logits_of_contexts import LogitsOfContexts
from blob_pyro.recommenders.click_model_parts import ClickModelParts, ClickParts
from blob_pyro.recommenders.item_index import ItemIndex, nearest_neighbours
from blob_pyro.recommenders.top_items import at_most, found_items, top_items

__all__ = ["RankedItems", "made_up_users", "with_one"]

_Find = Callable[[Tensor, int], tuple[Tensor, Tensor]]

_LARGE = 1 << 16  # items from which on an exact search multiplies by one table of all scores' coefficients
_USERS, _VIEWS = 512, 5
_MAKING = threading.RLock()  # one index at a time, and not under Pyro's lock: others may ask and fit meanwhile


def with_one(interest: Tensor) -> Tensor:
    """Add a one to each interest, whose coefficient is what an item adds by itself: ``N x (K + 1)``."""
    return torch.cat([interest, interest.new_ones(len(interest), 1)], -1)


def made_up_users(num_items: int, seed: int) -> Histories:
    """Draw histories of five views of random items: 512 of them."""
    item = torch.randint(num_items, (_USERS * _VIEWS,), generator=generator(seed))
    return Histories.from_ragged(item, torch.full((_USERS,), _VIEWS), num_items)


class RankedItems(ClickModelParts):
    """The best items after each history, among few or very many; `blob_pyro.BLOB` is one."""

    @abstractmethod
    def ranking_logits(self, histories: Histories | Any, covariates: Any = None) -> LogitsOfContexts | DrawnClickLogits:
        """Return all items' click logits up to what moves them alike; see `ClickModel.ranking_logits`."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash the parameters and what they mean."""

    def recommend(
        self,
        histories: Histories | Any,
        k: int = 10,
        candidates: Any = None,
        covariates: Any = None,
        *,
        method: Literal["exact", "approximate"] = "exact",
    ) -> pd.DataFrame:
        """Find the items with the highest scores after each history, without a policy: nothing is explored.

        `blob_pyro.policies.Policy.decide` is what explores, and says what to log.

        Args:
            histories: ``N``, as `click_logits`.
            k: items for each history; fewer where it has fewer candidates.
            candidates: which items may be recommended: ids, or ``P`` booleans, for all histories; or a collection of
                ids for each, or ``N x P`` booleans. Default all.
            covariates: as `ranking_logits`.
            method: "exact" looks at every item; "approximate" at those in the cells of an index that promise most, see
                `item_index`, which it makes at the first call unless you have, and keeps until the model changes. For
                catalogues of 1e5 items and more.

        Returns:
            A row for each item: ``history`` (its number, from 0), ``rank`` (from 1), ``item`` (the catalogue's own id)
            and ``score``: the posterior mean of its click logit, see `scores`.
            Computed a few histories at a time.

        Raises:
            ValueError: for ``k`` above ``num_items``, an unknown id, or an empty set of candidates; if the model is not
                fitted; for candidates or covariates of the approximate method, or a model as `item_index` refuses it.
            ImportError: by the approximate method without faiss, naming the extra.

        Example:
            >>> from blob_pyro import BLO, BLOB, EventLog
            >>> log = EventLog.from_tables(
            ...     views={"user": [1, 1, 2, 2], "time": [0, 1, 0, 1], "item": list("abbc")},
            ...     impressions={"user": [1, 2, 2], "time": [2, 3, 4], "action": list("cab"), "reward": [1, 0, 0]},
            ... )
            >>> blo = BLO(log.num_items, embedding_dim=2)
            >>> trace = blo.fit(log, num_epochs=5, progress=False)
            >>> blob = BLOB(blo)
            >>> trace = blob.fit(log, num_epochs=5, progress=False)
            >>> blob.recommend([["a"], []], k=2, candidates=["b", "c"])[["history", "rank", "item"]].values.tolist()
            [[0, 1, 'c'], [0, 2, 'b'], [1, 1, 'c'], [1, 2, 'b']]
        """
        self._require_fitted("recommend")
        one_of(method, "method", ("exact", "approximate"))
        contexts = as_histories(histories, self.items)
        rows = slice_covariates(covariates, len(contexts))
        if method == "approximate":
            for name, value in (("candidates", candidates), ("covariates", covariates)):
                if value is not None:
                    raise ValueError(f"method: 'approximate' takes no {name}; use 'exact'")
        parts, large = self._parts, self.num_items >= _LARGE
        if method == "approximate" or (large and candidates is covariates is None and self._has_linear_scores(parts)):
            k = at_most(k, self.items)
            if method == "approximate":
                find: _Find = self.item_index().search
            else:
                table = self._score_table(parts)
                find = lambda queries, k: largest_inner_products(queries, table, k)  # noqa: E731
            return found_items(lambda part: find(with_one(self._interest(parts.blo, part)[0]), k), self.items, contexts)
        return top_items(
            lambda part, where: self.ranking_logits(part, rows(where)).mean, self.items, contexts, k, candidates
        )

    def item_index(
        self,
        path: str | Path | None = None,
        *,
        histories: Histories | Any = None,
        recall: float = 0.99,
        num_lists: int | None = None,
        seed: int = 0,
    ) -> ItemIndex:
        """Make the index of items that ``recommend(method="approximate")`` looks into, or return the one made already.

        It is kept for as long as the model's parameters are what they were: a fit, an update, an extension or a load
        makes another model, with an index of its own. On disk it carries a hash of the model's `fingerprint` and of
        these arguments: a file of another model, or made with others, is replaced.

        Args:
            path: a file to read it from, and to write it to where there is none, or another one.
            histories: a sample of those to come, a few hundred, which the number of cells that are looked at is chosen
                and its recall measured on; default 512 made-up users with five views of random items each.
            recall: share of the exact top 100 that is to be found; see ``item_index().probed`` for what is.
            num_lists: cells of the index; default twice the root of the number of items.
            seed: of the cells, and of the made-up users.

        Raises:
            ImportError: without faiss, naming the extra.
            ValueError: for a model whose scores are not linear in the interest alone: with ``omega="sample"``,
                covariates that move items apart, or a posterior known by draws; for a file that is no index.
        """
        self._require_fitted("item_index")
        parts = self._parts
        if not self._has_linear_scores(parts):
            raise ValueError(
                "method: 'approximate' needs scores that are linear in the interest: omega='mean', no covariates that "
                "move items apart, and a posterior in closed form; use method='exact'"
            )
        nearest_neighbours()
        users = made_up_users(self.num_items, check_seed(seed)) if histories is None else histories
        users = as_histories(users, self.items)
        with _MAKING:
            kept: ItemIndex | None = parts.known.kept("item index")
            if kept is not None and (path, histories, recall, num_lists, seed) == (None, None, 0.99, None, 0):
                return kept
            return parts.known.keep(
                "item index",
                lambda: self._make_index(parts, path, users, recall=recall, num_lists=num_lists, seed=seed),
            )

    def _make_index(self, parts: ClickParts, path: str | Path | None, users: Histories, **options: Any) -> ItemIndex:
        table, fingerprint = self._score_table(parts), ""
        if path is not None:
            fingerprint = content_hash({"model": self.fingerprint(), "users": users, **options})
        if path is not None and Path(path).exists():
            found = ItemIndex.load(path, table, fingerprint)
            if found is not None:
                return found
        queries = with_one(self._interest(parts.blo, users)[0])
        made = ItemIndex.build(table, queries, fingerprint=fingerprint, **options)
        if path is not None:
            made.save(path)
        return made

    @staticmethod
    def _score_table(parts: ClickParts) -> Tensor:
        """Each item's score as a linear form of interest and one, ``P x (K + 1)``."""
        model, size = parts.known.model, parts.known.model.embedding_dim

        def compute() -> Tensor:
            points = torch.cat([torch.eye(size), torch.zeros(1, size)]).to(model.item_embedding)
            table = model.item_embedding.new_empty(model.num_items, size + 1)
            with torch.no_grad():
                for rows in torch.arange(size + 1).split(8):
                    logits = parts.known.click_logits(points[rows] * model.column_norms, True)
                    assert logits is not None, "it has been asked for"
                    table[:, rows] = logits.mean.mT
            table[:, :size] -= table[:, size:]
            return table

        with _MAKING:
            kept: Tensor | None = parts.known.kept("score table")
            return parts.known.keep("score table", compute) if kept is None else kept

    def _has_linear_scores(self, parts: ClickParts) -> bool:
        if self.omega != "mean" or not self._ranks_without_covariates:
            return False
        return parts.known.click_logits(parts.known.model.item_embedding[:0], True) is not None

    @property
    def _ranks_without_covariates(self) -> bool:
        return all(term.moves_all_items_alike or not term.num_covariates for term in self.model.terms)
