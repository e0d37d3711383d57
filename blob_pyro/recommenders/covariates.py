"""Covariates that a bandit model's terms ask for, of what users hand over, checked and in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blob_pyro.data import Covariate, EventLog, Histories
from blob_pyro.data.covariates import read_covariates
from blob_pyro.models import BanditModel, EventCovariates, PositionEffects
from blob_pyro.models.placed_terms import PlacedTerm
from blob_pyro.models.priors.positions import POSITION

__all__ = ["DecisionPoints", "are_further_down", "covariates_of_histories", "decision_points"]

_OF_EVENTS = (EventCovariates, PositionEffects)

USER = "user"
"""The name of the matrix of `UserCovariates` where covariates come by name."""


@dataclass(frozen=True)
class DecisionPoints:
    """The distinct contexts of a log's events: a history of a user, and what else was known.

    Attributes:
        context: of each event, ``N``.
        history: row of ``log.contexts`` of each decision point, ``C``.
        covariates: ``C x F``, or None where the model asks for none.
    """

    context: Tensor
    history: Tensor
    covariates: Tensor | None

    def histories(self, log: EventLog) -> Histories:
        """Return the views before each decision point, ``C``."""
        return log.contexts[self.history]


def are_further_down(model: BanditModel, covariates: Tensor | None) -> bool:
    """Say whether some rows are not in the first position, which is what closed forms are of.

    Args:
        model: whose columns they are.
        covariates: ``N x F``, or None where the model asks for none.
    """
    terms = zip(model.terms, model.covariate_columns)
    where = next((columns for term, columns in terms if isinstance(term.term, PositionEffects)), None)
    return covariates is not None and where is not None and bool(covariates[:, where].any())


def decision_points(model: BanditModel, log: EventLog, covariates: Any = None) -> DecisionPoints:
    """Find the decision points of a log, with the covariates that the model's terms ask for.

    Events that share a history and differ in an event covariate are decided in different contexts.

    Args:
        model: whose terms they are for.
        log: with bandit events; the source of `EventCovariates`.
        covariates: those of users, in the order of ``log.users``: ``log.num_users x F``, or ``{"user": ...}``, or
            ``{name: ...}`` for terms with names.

    Raises:
        ValueError: naming what is missing or misshapen.
    """
    every = torch.arange(len(log.contexts))
    if not model.num_covariates:
        _refuse_unwanted(covariates, "log")
        return DecisionPoints(log.context, every, None)
    user = torch.zeros(len(log.contexts), dtype=torch.int64)
    user[log.context] = log.user
    by_name = dict(log.covariates)
    if log.position is not None:
        by_name.setdefault(POSITION, Covariate(log.position.double()))
    of_events: list[int] = []
    parts: list[Tensor] = []
    of_users = iter(_of_users(model, covariates, log.num_users, "log.num_users"))
    for term in model.terms:
        if isinstance(term.term, _OF_EVENTS):
            of_events.append(len(parts))
            parts.append(term.term.encode(by_name, "log"))
        elif term.num_covariates:
            parts.append(next(of_users)[user])
    context, history = log.context, every
    if of_events:
        key = torch.cat([log.context.double().unsqueeze(-1), *(parts[i] for i in of_events)], -1)
        distinct, inverse = np.unique(key.numpy(), axis=0, return_inverse=True)
        context, history = torch.from_numpy(inverse.reshape(-1)), torch.from_numpy(distinct[:, 0].astype(np.int64))
        some_event = torch.zeros(len(distinct), dtype=torch.int64)
        some_event[context] = torch.arange(len(context))
        parts = [part[some_event] if i in of_events else part[history] for i, part in enumerate(parts)]
    return DecisionPoints(context, history, torch.cat([part.to(model.item_embedding.cpu()) for part in parts], -1))


def covariates_of_histories(model: BanditModel, covariates: Any, num_histories: int) -> Tensor | None:
    """Check the covariates that come with histories.

    Args:
        model: whose terms they are for.
        covariates: ``num_histories x F``, in the order of `BanditModel.covariate_columns`; or by name: columns of
            ``num_histories`` values each for `EventCovariates`, and the matrix of `UserCovariates` under ``"user"``, or
            under the name of the term, if it has one.
        num_histories: expected rows.

    Returns:
        ``num_histories x F`` on the model's device, or None where the model asks for none.

    Raises:
        ValueError: naming what is missing, misshapen or unknown.
    """
    if not model.num_covariates:
        _refuse_unwanted(covariates, "histories")
        return None
    positions = next((term.term for term in model.terms if isinstance(term.term, PositionEffects)), None)
    if positions is not None:
        return _with_positions(model, positions, covariates, num_histories)
    return _of_histories(model, covariates, num_histories)


def _with_positions(model: BanditModel, positions: PositionEffects, covariates: Any, num_histories: int) -> Tensor:
    """Columns of positions, which come first, the first position by default; and of what other terms ask for."""
    size = positions.num_covariates
    if isinstance(covariates, Tensor) and covariates.shape[-1:] == (model.num_covariates,):
        return _matrix(covariates, num_histories, model.num_covariates, "the number of histories").to(
            model.item_embedding
        )
    rest, own = covariates, model.item_embedding.new_zeros(num_histories, size)
    if isinstance(covariates, Mapping) and POSITION in covariates:
        named = read_covariates({POSITION: covariates[POSITION]})
        if len(named[POSITION]) != num_histories:
            raise ValueError(f"covariates: 'position' has {len(named[POSITION])} values for {num_histories} histories")
        own = positions.encode(named).to(model.item_embedding)
        rest = {name: column for name, column in covariates.items() if name != POSITION} or None
    if model.num_covariates == size:
        _refuse_unwanted(rest, "histories")
        return own
    return torch.cat([own, _of_histories(model, rest, num_histories)], -1)


def _of_histories(model: BanditModel, covariates: Any, num_histories: int) -> Tensor:
    what, named = "the number of histories", any(isinstance(t.term, EventCovariates) for t in model.terms)
    num_covariates = sum(t.num_covariates for t in model.terms if not isinstance(t.term, PositionEffects))
    if covariates is None or isinstance(covariates, Tensor) or not (named or isinstance(covariates, Mapping)):
        matrix = _matrix(covariates, num_histories, num_covariates, what)
        return matrix.to(model.item_embedding)
    keys = {term.name or USER for term in _terms_of_users(model)}
    by_name = _by_name(covariates, keys) if named else {}
    for name, covariate in by_name.items():
        if len(covariate) != num_histories:
            raise ValueError(f"covariates: {name!r} has {len(covariate)} values for {num_histories} histories")
    parts = []
    of_users = iter(_of_users(model, covariates, num_histories, what))
    for term in model.terms:
        if isinstance(term.term, EventCovariates):
            parts.append(term.term.encode(by_name))
        elif term.num_covariates and not isinstance(term.term, PositionEffects):
            parts.append(next(of_users).double())
    return torch.cat(parts, -1).to(model.item_embedding)


def _terms_of_users(model: BanditModel) -> list[PlacedTerm]:
    return [t for t in model.terms if t.num_covariates and not isinstance(t.term, _OF_EVENTS)]


def _of_users(model: BanditModel, covariates: Any, expected: int, what: str) -> list[Tensor]:
    """The matrix of each term that asks for covariates of users: by its name, or its columns of one matrix of all."""
    terms = _terms_of_users(model)
    if isinstance(covariates, Mapping):
        return [_matrix(covariates, expected, t.num_covariates, what, t.name or USER) for t in terms]
    if not terms:
        return []
    sizes = [term.num_covariates for term in terms]
    return list(_matrix(covariates, expected, sum(sizes), what).split(sizes, -1))


def _by_name(covariates: Any, keys: set[str]) -> dict[str, Covariate]:
    if isinstance(covariates, Mapping):
        return read_covariates({name: column for name, column in covariates.items() if name not in keys})
    return read_covariates(covariates)


def _matrix(covariates: Any, expected: int, size: int, what: str, name: str = USER) -> Tensor:
    """The covariates of users or contexts as a finite matrix, by themselves or under their name."""
    if isinstance(covariates, Mapping):
        covariates = covariates.get(name)
    matrix = None if covariates is None else torch.as_tensor(covariates)
    found = None if matrix is None else tuple(matrix.shape)
    if matrix is None or found != (expected, size):
        which = "covariates" if name == USER else f"covariates[{name!r}]"
        raise ValueError(f"{which}: expected {expected} x {size} ({what} x the model's num_covariates), got {found}")
    bad = ~torch.isfinite(matrix.double())
    if bad.any():
        row, column = (int(i) for i in bad.nonzero()[0])
        raise ValueError(f"covariates: row {row}, column {column}: expected a finite number, got {matrix[row, column]}")
    return matrix.cpu()


def _refuse_unwanted(covariates: Any, what: str) -> None:
    if covariates is not None:
        raise ValueError(
            f"covariates: came with {what}, and no term of the model asks for any; add UserCovariates or "
            "EventCovariates to BanditPriors(terms=...)"
        )
