"""The choice of what is exported of a posterior within a number of bytes, and of what is left out."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["GROUPS", "OF_A_LOG", "ExportWarning", "Plan", "Sizes", "plan_export"]

OF_A_LOG = (
    "sample_stats", "posterior_predictive", "prior_predictive", "log_likelihood", "observed_data", "constant_data",
)  # fmt: skip
"""Groups that are about the events of a log."""
GROUPS = ("posterior", "prior", "log_prior", *OF_A_LOG)
"""Every group there is."""

_BYTES = 4  # of a number of a draw
_BYTES_OF_EVENT = {"posterior_predictive": 1, "prior_predictive": 1, "log_likelihood": 4}
_MOST_LIKELIHOODS = 4_000_000_000  # draws times events, for which nobody has asked


class ExportWarning(UserWarning):
    """Something was left out of an export because it would have been too large."""


@dataclass(frozen=True)
class Sizes:
    """Counts of the numbers that there are to export.

    Attributes:
        num_draws: of the parameters.
        num_items: ``P``.
        num_events: of the log; 0 without one.
        sites: numbers of each site.
        of_items: sites whose first dimension is the items.
        popularity: of each item, ``P``: the most popular ones are kept where not all fit.
    """

    num_draws: int
    num_items: int
    num_events: int
    sites: Mapping[str, int]
    of_items: Collection[str]
    popularity: np.ndarray


@dataclass(frozen=True)
class Plan:
    """The choice of what to export.

    Attributes:
        groups: their names.
        sites: the sites of the groups posterior and prior.
        items: numbers of the items whose entries are kept, in ascending order.
        events: rows of the log that are kept, in ascending order.
        left_out: a sentence for each thing that did not fit.
    """

    groups: tuple[str, ...]
    sites: tuple[str, ...]
    items: np.ndarray
    events: np.ndarray
    left_out: tuple[str, ...]

    def warn(self, stacklevel: int) -> None:
        """Say what was left out, as one `ExportWarning`."""
        if self.left_out:
            warnings.warn(f"to_inference_data: {'; '.join(self.left_out)}", ExportWarning, stacklevel=stacklevel + 1)


def plan_export(
    sizes: Sizes,
    groups: Iterable[str] | None,
    sites: Sequence[str] | None,
    items: np.ndarray | None,
    num_events: int | None,
    max_bytes: float,
) -> Plan:
    """Choose what fits: what has been asked for is kept, or refused; of the rest as much as there is room for.

    Args:
        sizes: of all there is.
        groups: names of groups; None for all that can be had.
        sites: names of sites; None for all.
        items: numbers of items; None for all, or the most popular ones.
        num_events: how many events; None for all, or as many as fit, at even distances in the log.
        max_bytes: of all groups together.

    Raises:
        ValueError: for an unknown group or site, a group of a log without one, or what does not fit.
    """
    asked = groups is not None
    chosen = _groups(sizes, groups)
    left_out = []
    if not asked and sizes.num_draws * sizes.num_events > _MOST_LIKELIHOODS:
        chosen = tuple(name for name in chosen if name != "sample_stats")
        left_out.append(
            f"sample_stats would take {sizes.num_draws * sizes.num_events:.1e} log-likelihoods (name it in groups=, or "
            "ask for fewer num_draws)"
        )
    names = tuple(sizes.sites) if sites is None else _sites(sizes, sites)
    copies = _BYTES * sizes.num_draws * sum(name in chosen for name in ("posterior", "prior"))
    fixed = copies * sum(sizes.sites[name] for name in names if name not in sizes.of_items)
    per_item = copies * sum(sizes.sites[name] // sizes.num_items for name in names if name in sizes.of_items)
    per_event = sizes.num_draws * sum(_BYTES_OF_EVENT.get(name, 0) for name in chosen)
    want_items = sizes.num_items if items is None else len(items)
    want_events = sizes.num_events if num_events is None else min(num_events, sizes.num_events)
    room = max(max_bytes - fixed, 0.0)
    of_items, of_events = per_item * want_items, per_event * want_events
    if of_items + of_events > room:
        if items is None:
            share = room - of_events if num_events is not None else max(room / 2, room - of_events)
            want_items = _fitting(want_items, per_item, share)
        if num_events is None:
            want_events = _fitting(want_events, per_event, room - per_item * want_items)
    needed = fixed + per_item * want_items + per_event * want_events
    if needed > max_bytes or want_items < 1 <= sizes.num_items or want_events < 1 <= sizes.num_events:
        raise ValueError(
            f"max_gib: what is asked for takes {(fixed + of_items + of_events) / 2**30:,.2f} GiB at "
            f"{sizes.num_draws:,} draws, more than {max_bytes / 2**30:,.2f}; ask for fewer num_draws, sites=[...], "
            "items=[...], num_events= or groups=[...]"
        )
    if items is None:
        items = np.sort(np.argsort(-sizes.popularity, kind="stable")[:want_items])
    if want_items < sizes.num_items and len(items) == want_items and of_items > per_item * want_items:
        left_out.append(f"kept are the {want_items:,} most viewed of {sizes.num_items:,} items (choose others: items=)")
    events = np.arange(sizes.num_events)
    if want_events < sizes.num_events:
        events = np.linspace(0, sizes.num_events - 1, want_events).round().astype(np.int64)
    if num_events is None and want_events < sizes.num_events:
        left_out.append(f"kept are {want_events:,} of {sizes.num_events:,} events, evenly spaced (choose: num_events=)")
    return Plan(chosen, names, items, events, tuple(left_out))


def _groups(sizes: Sizes, groups: Iterable[str] | None) -> tuple[str, ...]:
    known = GROUPS if sizes.num_events else tuple(name for name in GROUPS if name not in OF_A_LOG)
    if groups is None:
        return known
    asked = [groups] if isinstance(groups, str) else list(groups)
    for name in asked:
        if name not in GROUPS:
            raise ValueError(f"groups: unknown group {name!r}; there are {', '.join(GROUPS)}")
        if name not in known:
            raise ValueError(f"groups: {name!r} is about events; give the log, to_inference_data(log)")
    return tuple(name for name in GROUPS if name in asked)


def _sites(sizes: Sizes, sites: Sequence[str]) -> tuple[str, ...]:
    asked = [sites] if isinstance(sites, str) else list(sites)
    for name in asked:
        if name not in sizes.sites:
            raise ValueError(f"sites: the model has no site {name!r}; it has {list(sizes.sites)}")
    return tuple(name for name in sizes.sites if name in asked)


def _fitting(wanted: int, size: float, room: float) -> int:
    return wanted if size == 0 or size * wanted <= room else max(0, int(room // size))
