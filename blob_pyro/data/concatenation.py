"""Several logs as one: users and items by their ids, times on one clock, and nothing counted twice in silence."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from blob_pyro.data.clock import NUMBER
from blob_pyro.data.covariates import Covariate
from blob_pyro.data.readers import Rows
from blob_pyro.data.repeated_rows import Kind, source_of, views_at_the_same_time, warn_of_two_lives
from blob_pyro.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from blob_pyro.data.event_log import EventLog

__all__ = ["DUPLICATES", "Duplicates", "concatenate"]

Duplicates = Literal["refuse", "drop", "keep"]
DUPLICATES: tuple[Duplicates, ...] = ("refuse", "drop", "keep")

_EPOCHS = {"seconds": 1e8, "milliseconds": 1e11, "microseconds": 1e14, "nanoseconds": 1e17}
"""Numbers from here, up to a hundred times as much, are likely times since 1970 in this unit: 1973 to 2286."""
_OPTIONAL = ("propensity", "propensity_error", "position", "score")
_NAMED = (("policy", "policies"), ("policy_version", "policy_versions"))


def concatenate(
    logs: Sequence[EventLog],
    duplicates: Duplicates,
    items: Vocabulary | None,
    earlier: Sequence[EventLog] = (),
    names: Sequence[str] = (),
) -> Rows:
    """Join the rows of all logs; `EventLog.concat` has checked the arguments.

    At equal times of one user each log's own order is kept, and otherwise an impression precedes a view.

    Args:
        logs: one or more.
        duplicates: see `EventLog.concat`.
        items: the catalogue, or None.
        earlier: more logs, of whose views those of the users of ``logs`` count in contexts, beside what each log
            remembers itself. One that ``logs`` have too counts once.
        names: of ``logs`` and of ``earlier``, for errors.
    """
    names = [*names] or [f"logs[{number}]" for number in range(len(logs))]
    own = len(logs)
    remembered = [(f"{name}.earlier", log.earlier) for name, log in zip(names, logs) if log.earlier is not None]
    logs = [*logs, *earlier, *(log for _, log in remembered)]
    names = [*names, *(name for name, _ in remembered)]
    time, view_time, clock = _one_clock(logs, names)
    catalogue, item_numbers = _catalogue(logs, names, items)
    users, user_numbers = _users(logs, names, own)
    user = np.concatenate([new[log.user.numpy()] for new, log in zip(user_numbers, logs)])
    view_user = np.concatenate([new[log.view_user.numpy()] for new, log in zip(user_numbers, logs)])
    action = np.concatenate([new[log.action.numpy()] for new, log in zip(item_numbers, logs)])
    view_item = np.concatenate([new[log.view_item.numpy()] for new, log in zip(item_numbers, logs)])
    shown = Kind(names, "impression", user, time, action, source_of([log.num_impressions for log in logs]))
    viewed = Kind(names, "view", view_user, view_time, view_item, source_of([log.num_views for log in logs]))
    columns: dict[str, Any] = {name: _column(logs, names, name) for name in _OPTIONAL}
    for name, plural in _NAMED:
        columns[name], columns[plural] = _named_column(logs, names, name, plural)
    reward = np.concatenate([log.reward.numpy() for log in logs])
    past = viewed.source >= own
    kept, kept_views = np.ones(len(user), dtype=bool), ~past
    if duplicates != "keep":
        facts = [reward, *(columns[name] for name in ("propensity",) if columns[name] is not None)]
        key = [columns["position"]] if columns["position"] is not None else []
        kept = shown.not_repeated(duplicates == "drop", key, facts)
        kept_views[~past] = viewed.of(~past).not_repeated(duplicates == "drop", [], [])
    warn_of_two_lives(shown, viewed.of(~past), clock, kept, kept_views[~past])
    known = past & (view_user >= 0)
    if known.any():  # what is remembered counts once, however many logs remember it
        there = known | kept_views
        kept_views[there] |= viewed.of(there).not_repeated(True, [], [])
        past = known & (view_time < _first_times(len(users), (user, time, kept), (view_user, view_time, ~past)))
    views_before, views_at_once = (np.concatenate(part) for part in zip(*map(views_at_the_same_time, logs)))
    tie = np.concatenate([2 * views_before[kept], 2 * views_at_once[kept_views] + 1])
    first = np.argsort(tie, kind="stable")  # the sort by user and time that follows is stable
    is_view = np.arange(len(tie)) >= kept.sum()
    impressions = first[~is_view[first]]  # into the impressions that are kept

    def in_order(column: np.ndarray | None) -> np.ndarray | None:
        return None if column is None else column[kept][impressions]

    rows: dict[str, Any] = {name: in_order(columns[name]) for name in (*_OPTIONAL, *(name for name, _ in _NAMED))}
    rows["row"] = in_order(None if own > 1 or logs[0].row is None else logs[0].row.numpy())
    here = torch.from_numpy(np.flatnonzero(kept)[impressions])
    return Rows(
        items=catalogue,
        users=users,
        user=np.concatenate([user[kept], view_user[kept_views]])[first],
        time=np.concatenate([time[kept], view_time[kept_views]])[first],
        is_view=is_view[first],
        item=np.concatenate([action[kept], view_item[kept_views]])[first],
        reward=reward[kept][impressions],
        **rows,
        policies=columns["policies"],
        policy_versions=columns["policy_versions"],
        covariates={name: covariate[here] for name, covariate in _covariates(logs, names).items()},
        clock=clock,
        earlier=np.concatenate([np.zeros(kept.sum(), dtype=bool), past[kept_views]])[first] if known.any() else None,
    )


def _first_times(num_users: int, *kinds: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """For each row of the last kind, the time of its user's first event among the marked rows of all kinds."""
    first = np.full(num_users, np.inf) if any(k[1].dtype.kind == "f" for k in kinds) else np.full(num_users, 2**63 - 1)
    for user, time, marked in kinds:
        np.minimum.at(first, user[marked], time[marked])
    of_rows: np.ndarray = first[kinds[-1][0]]
    return of_rows


# --- what the logs must agree on ---------------------------------------------------------------------------------


def _one_clock(logs: Sequence[EventLog], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray, str]:
    """Times of impressions and of views, and what they are."""
    for name, log in zip(names, logs):
        if log.clock != logs[0].clock:
            raise ValueError(
                f"{name}: its clock is {log.clock!r}, and that of {names[0]} is {logs[0].clock!r}; read all logs with "
                "times of one kind: numbers, dates, timestamps without a zone, or with one"
            )
    times = [[log.time.numpy() for log in logs], [log.view_time.numpy() for log in logs]]
    if logs[0].clock == NUMBER:
        units: dict[str, str] = {}
        for name, log in zip(names, logs):
            unit = _unit(log)
            if unit is not None:
                units.setdefault(unit, name)
        if len(units) > 1:
            (one, first), (other, second) = list(units.items())[:2]
            raise ValueError(
                f"{second}: its times are numbers that look like {other} since 1970, and those of {first} like {one}; "
                "multiply one of them, or read timestamps instead of numbers"
            )
    some = [values for kind in times for values in kind if len(values)]
    if len({values.dtype for values in some}) > 1:
        for number, name in enumerate(names):
            for values in (times[0][number], times[1][number]):
                if values.dtype == np.int64 and len(values) and np.abs(values.astype(np.float64)).max() > 2**53:
                    raise ValueError(
                        f"{name}: has integer times beyond 2**53, which cannot be put in order with the fractions of "
                        "another log; give all logs integer times"
                    )
        times = [[values.astype(np.float64) for values in kind] for kind in times]
    dtype = np.result_type(*(values.dtype for values in some))
    shown, viewed = (np.concatenate([values.astype(dtype, copy=False) for values in kind]) for kind in times)
    return shown, viewed, logs[0].clock


def _unit(log: EventLog) -> str | None:
    """The unit since 1970 that a log's numbers look like, all of them; None where they look like none."""
    some = [times for times in (log.time, log.view_time) if len(times)]
    low, high = min(float(times.min()) for times in some), max(float(times.max()) for times in some)
    return next((unit for unit, start in _EPOCHS.items() if start <= low and high < 100 * start), None)


def _catalogue(
    logs: Sequence[EventLog], names: Sequence[str], items: Vocabulary | None
) -> tuple[Vocabulary, list[np.ndarray]]:
    """One catalogue, and the number in it of each item of each log."""
    catalogues = [log.items for log in logs]
    if items is not None:
        numbers = []
        for name, catalogue in zip(names, catalogues):
            try:
                numbers.append(items.encode(catalogue.ids, f"{name}.items"))
            except ValueError as error:
                raise ValueError(f"items: must hold all items of {name}: {error}") from None
        return items, numbers
    if all(catalogue == catalogues[0] for catalogue in catalogues[1:]):
        return catalogues[0], [np.arange(len(catalogues[0]))] * len(logs)
    largest = max(catalogues, key=len)
    try:
        return largest, [largest.encode(catalogue.ids) for catalogue in catalogues]
    except ValueError:  # none holds them all
        return Vocabulary.union(catalogues, [f"{name}.items" for name in names])


def _users(logs: Sequence[EventLog], names: Sequence[str], own: int) -> tuple[Vocabulary, list[np.ndarray]]:
    """Users of the first few logs with an event, and the number of each user of each log, -1 for those who are none."""
    present = [np.zeros(log.num_users, dtype=bool) for log in logs]
    for one, log in zip(present, logs):
        one[log.user.numpy()] = one[log.view_user.numpy()] = True
    some = [log.users if one.all() else Vocabulary(_picked(log.users, one)) for one, log in zip(present, logs)]
    users, numbers = Vocabulary.union(some, [f"{name}.users" for name in names])
    if len(logs) > own:
        present_somewhere = np.zeros(len(users), dtype=bool)
        for new in numbers[:own]:
            present_somewhere[new] = True
        if not present_somewhere.all():
            renumbered = np.where(present_somewhere, np.cumsum(present_somewhere) - 1, -1)
            users = Vocabulary(_picked(users, present_somewhere))
            numbers = [renumbered[new] for new in numbers]
    whole = []
    for one, number in zip(present, numbers):
        whole.append(np.full(len(one), -1))
        whole[-1][one] = number
    return users, whole


def _picked(vocabulary: Vocabulary, which: np.ndarray) -> list[Hashable]:
    ids: list[Hashable] = vocabulary.decode(np.flatnonzero(which))
    return ids


def _with_impressions(logs: Sequence[EventLog], names: Sequence[str]) -> list[tuple[str, EventLog]]:
    return [(name, log) for name, log in zip(names, logs) if log.num_impressions]


def _column(logs: Sequence[EventLog], names: Sequence[str], column: str) -> np.ndarray | None:
    """A column of the impressions that all logs have, or none."""
    some = _with_impressions(logs, names)
    lacking = [name for name, log in some if getattr(log, column) is None]
    if len(lacking) == len(some):
        return None
    if lacking:
        holder = next(name for name, log in some if getattr(log, column) is not None)
        raise ValueError(
            f"{lacking[0]}: has no {column}, and {holder} has; read it with one, or leave it out of all: "
            f"dataclasses.replace(log, {column}=None)"
        )
    return np.concatenate([getattr(log, column).numpy() for _, log in some])


def _named_column(
    logs: Sequence[EventLog], names: Sequence[str], column: str, plural: str
) -> tuple[np.ndarray | None, Vocabulary | None]:
    """A column of numbers with their names: numbered anew by these."""
    values = _column(logs, names, column)
    if values is None:
        return None, None
    some = _with_impressions(logs, names)
    vocabulary, numbers = Vocabulary.union(
        [getattr(log, plural) for _, log in some], [f"{n}.{plural}" for n, _ in some]
    )
    return np.concatenate([new[getattr(log, column).numpy()] for new, (_, log) in zip(numbers, some)]), vocabulary


def _covariates(logs: Sequence[EventLog], names: Sequence[str]) -> dict[str, Covariate]:
    """What all logs know of their impressions."""
    some = _with_impressions(logs, names)
    found: dict[str, Covariate] = {}
    for covariate in dict.fromkeys(key for _, log in some for key in log.covariates):
        lacking = next((name for name, log in some if covariate not in log.covariates), None)
        if lacking is not None:
            raise ValueError(
                f"{lacking}: has no covariate {covariate!r}, and another log has; read it with one, or leave it out of "
                "all: dataclasses.replace(log, covariates={})"
            )
        found[covariate] = _covariate([(name, log.covariates[covariate]) for name, log in some], covariate)
    return found


def _covariate(parts: Sequence[tuple[str, Covariate]], name: str) -> Covariate:
    levels = [part.levels for _, part in parts]
    if all(one is None for one in levels):
        return Covariate(torch.cat([part.values for _, part in parts]))
    for (log, _), one in zip(parts, levels):
        if (one is None) != (levels[0] is None):
            kinds = [
                "categories" if one is not None else "numbers",
                "categories" if levels[0] is not None else "numbers",
            ]
            raise ValueError(f"{log}: covariate {name!r} holds {kinds[0]}, and {kinds[1]} in {parts[0][0]}; cast it")
    union, numbers = Vocabulary.union(
        [Vocabulary(one) for one in levels if one is not None], [f"{log}.covariates[{name!r}]" for log, _ in parts]
    )
    values = [torch.from_numpy(new)[part.values] for new, (_, part) in zip(numbers, parts)]
    return Covariate(torch.cat(values), tuple(union.ids))
