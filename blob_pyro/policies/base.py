"""The policy contract: a view history in, a distribution over actions out; and what is logged of its decisions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol, runtime_checkable

import pandas as pd
from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.data import Histories, Vocabulary, as_histories
from blob_pyro.policies.deciding import ChunkedSlates, decide
from blob_pyro.policies.restricted import categorical
from blob_pyro.policies.slates import Contexts, Slates, slates_of
from blob_pyro.policies.slates.base import RepeatableSlates
from blob_pyro.policies.slates.distinct import distinct_contexts
from blob_pyro.policies.versions import version_of

__all__ = ["Policy", "Scorer", "categorical"]


class Policy(ABC):
    """Chooses items for each view history; knows the exact probability of each choice.

    Subclasses implement `action_distribution`; all else follows from it. Policies are functions of the view history
    alone: between two organic sessions a user's action distribution does not change.

    A subclass may say more of itself. ``_slates(contexts, num_slots)`` returns `blob_pyro.policies.slates.Slates`: what
    it shows in several slots, and what candidates mean to it; by default see `blob_pyro.policies.slates.slates_of`.
    ``_scores(contexts)`` returns ``n x P`` numbers that it ranks items by.

    Args:
        items: the catalogue, or its size when ids are ``0 .. num_items - 1``.
    """

    _numbers_at_once: int = 1 << 21  # contexts times items times slots of a chunk
    _catalogue_of: ClassVar[str] = ""  # the attribute whose catalogue the policy's is, and goes on to be

    def __init__(self, items: Vocabulary | int) -> None:
        self.items = items if isinstance(items, Vocabulary) else Vocabulary.numbered(items)

    @property
    def items(self) -> Vocabulary:
        """The catalogue; that of the model, where one acts and has been extended since.

        Raises:
            ValueError: if the model has another catalogue than when the policy was made.
        """
        known: Vocabulary = self.__dict__["items"]
        owner = self.__dict__.get(self._catalogue_of)
        if owner is not None and (now := self._followed(known, owner)) is not known:
            known = self.__dict__["items"] = now
        return known

    @items.setter
    def items(self, items: Vocabulary) -> None:
        self.__dict__["items"] = items

    def _followed(self, known: Vocabulary, owner: Any) -> Vocabulary:
        now: Vocabulary = owner.items
        if now is known or (len(now) >= len(known) and tuple(now.ids[: len(known)]) == tuple(known.ids)):
            return now
        raise ValueError(
            f"{self._catalogue_of}: {type(owner).__name__} has another catalogue than when this policy was made; it "
            "was fitted since, so make the policy anew"
        )

    @property
    def num_items(self) -> int:
        """The number of items in the catalogue, ``P``."""
        return len(self.items)

    @property
    def name(self) -> str:
        """The name of this policy in logs: its class's, unless it is given another one."""
        name: str = self.__dict__.get("_name", type(self).__name__)
        return name

    @name.setter
    def name(self, name: str) -> None:
        self.__dict__["_name"] = _text(name, "name")

    @property
    def version(self) -> str:
        """A fingerprint of everything that the policy's choices depend on: 16 hexadecimal digits.

        Computed anew each time, so that a model that has been fitted again is another version. It is the same in every
        process, for a model that was saved and loaded too. It may be set, to a name that its owner answers for.

        Raises:
            TypeError: for a policy that holds what no fingerprint can be made of, naming the attribute.
        """
        return self.__dict__.get("_version") or version_of(self)

    @version.setter
    def version(self, version: str) -> None:
        self.__dict__["_version"] = _text(version, "version")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_items} items)"

    @abstractmethod
    def action_distribution(self, histories: Histories | Any) -> TorchDistribution:
        """Return the distribution of the item number played after each of ``N`` histories.

        Args:
            histories: `Histories`, a list of item-id sequences, or an ``N x P`` count matrix.

        Returns:
            A distribution with ``batch_shape`` ``(N,)`` over ``0 .. P - 1``: ``sample``, ``log_prob`` (exact
            log-propensity) and ``probs`` (``N x P``).
        """

    def slate_distribution(
        self, histories: Histories | Any, slots: int = 1, *, candidates: Any = None, covariates: Any = None
    ) -> ChunkedSlates:
        """Return the distribution of the slates shown after each of ``N`` histories, a few contexts at a time.

        Args:
            histories: as `action_distribution`.
            slots: ``L``; 1 for single actions.
            candidates: see `decide`.
            covariates: see `decide`.

        Returns:
            ``propensities(items)`` of slates of item ids, ``probs`` (``N x P x L``) and their errors.
        """
        return ChunkedSlates(self, histories, slots, candidates, covariates)

    def decide(
        self,
        histories: Histories | Any,
        *,
        user: Any = None,
        time: Any = None,
        candidates: Any = None,
        slots: int = 1,
        seed: int,
        covariates: Any = None,
    ) -> pd.DataFrame:
        """Choose what to show after each history, as the rows to be logged.

        The propensity of a row is the probability, in this context and with these candidates, that *this position*
        holds *this item*, whatever the other positions hold; it sums to 1 over items in each position. (It is not the
        probability of the slate, nor that of the item given the items above it.) The item in position 1 has its
        propensity as a single action. Policies fill the other positions so:

        ====================  ==================================================================================
        `Uniform`             a random order: 1/A in each position, of A candidates
        `Softmax`             one after another, in proportion to exp(score / temperature) (Plackett-Luce)
        `Greedy`              in the order of scores; ties in a random order
        `EpsilonGreedy`       each position the best that is left, or with probability epsilon any that is left
        `SessionPopularity`   each position what was viewed, in proportion, or with probability epsilon another item,
                              of what is left
        `ThompsonSampling`    the best few of one draw of all scores
        `Mixture`             the whole slate of one of its policies
        a policy of yours     see `blob_pyro.policies.slates.slates_of`
        ====================  ==================================================================================

        Args:
            histories: ``N`` of them, as `action_distribution`.
            user: ``N`` ids of users; default the numbers of the histories, each a user of its own.
            time: ``N`` times, or one for all; default now, in UTC.
            candidates: which items may be shown: ids, or ``P`` booleans, for all contexts; or a collection of ids for
                each, or ``N x P`` booleans. Default all. Probabilities are over the candidates alone.
            slots: ``L`` different items are shown in each context.
            seed: of the draws: the same seed makes the same decisions.
            covariates: what the policy's model asks for beside histories.

        Returns:
            ``N L`` rows, context by context and slot by slot: ``user``, ``time``, ``action`` (the catalogue's own id),
            ``position`` (from 1), ``score`` (by which the policy's model ranks the item; NaN where it has none),
            ``propensity``, ``propensity_error`` (its standard error; 0 where it is exact), ``policy`` and
            ``policy_version``. With a column ``reward`` beside it, written to Parquet or not, it is what
            `blob_pyro.EventLog` reads as impressions.

        Raises:
            ValueError: naming argument and row: for an unknown id, an empty set of candidates, fewer candidates than
                slots, lengths that differ.
            TypeError: for an argument of another type.

        Example:
            >>> from blob_pyro.policies import Uniform
            >>> frame = Uniform(4).decide([[0], []], user=["ann", "bob"], time=7, candidates=[1, 3], seed=0)
            >>> frame[["user", "time", "position", "propensity", "propensity_error"]].values.tolist()
            [['ann', 7, 1, 0.5, 0.0], ['bob', 7, 1, 0.5, 0.0]]
        """
        slates = self.slate_distribution(histories, slots, candidates=candidates, covariates=covariates)
        return decide(slates, user, time, seed)

    def histories(self, histories: Histories | Any) -> Histories:
        """Make `Histories` over this policy's catalogue of whatever the caller holds."""
        return as_histories(histories, self.items)

    def _slates(self, contexts: Contexts, num_slots: int) -> Slates:
        """What is shown in these contexts."""
        first, kind = distinct_contexts(contexts)
        if 2 * len(first) > len(contexts):
            return self._slates_of(contexts, num_slots)
        try:
            return self._slates_of(contexts[first], num_slots).repeated(kind)
        except ValueError:  # which named one of a few contexts: all of them have their own numbers
            return self._slates_of(contexts, num_slots)

    def _slates_of(self, contexts: Contexts, num_slots: int) -> RepeatableSlates:
        more = {} if contexts.covariates is None else {"covariates": contexts.covariates}
        return slates_of(self.action_distribution(contexts.histories, **more), contexts, num_slots)

    def _scores(self, contexts: Contexts) -> Tensor | None:
        """What items are ranked by, ``n x P``: what a method ``scores`` says; None where there is none."""
        own = getattr(self, "scores", None)
        return own(contexts.histories) if callable(own) else None

    def _scores_of(self, contexts: Contexts, items: Tensor) -> Tensor | None:
        """What some items of each context are ranked by, ``n x L`` item numbers; None where there is none."""
        scores = self._scores(contexts)
        return None if scores is None else scores.gather(1, items.to(scores.device))


@runtime_checkable
class Scorer(Protocol):
    """A model that `Greedy`, `EpsilonGreedy` and `Softmax` can play: `blob_pyro.BLO`, `blob_pyro.BLOB`, a baseline."""

    @property
    def items(self) -> Vocabulary:
        """The catalogue that is scored."""

    def scores(self, histories: Histories | Any) -> Tensor:
        """Score every item after every history, ``N x P``: higher is better."""


def _text(value: Any, argument: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{argument}: expected text, got {value!r} (a {type(value).__name__})")
    if not value:
        raise ValueError(f"{argument}: is empty; logs tell policies apart by it")
    return value
