"""`EventLog`: organic views and bandit events of many users, checked, ordered and numbered."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import Tensor

from blob_pyro.data import readers
from blob_pyro.data.assembly import assemble
from blob_pyro.data.concatenation import DUPLICATES, Duplicates, concatenate
from blob_pyro.data.export import to_frames
from blob_pyro.data.log_columns import LogColumns
from blob_pyro.data.log_parts import split, with_items
from blob_pyro.data.scan import scan_parquet
from blob_pyro.data.scanned_log import ScannedLog
from blob_pyro.data.shards import shard
from blob_pyro.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from blob_pyro.data.view_history import ViewHistory

__all__ = ["EventLog"]


@dataclass(frozen=True, repr=False)
class EventLog(LogColumns):
    """Views and impressions of many users, in time order per user.

    Build one with `from_tables`, `from_recogym`, `read_parquet` or `read_open_bandit`. Rows are sorted by user and
    time, stably: rows of one user at equal times keep their order in the table given. Where views and impressions
    come as two tables, an impression precedes a view of the same user at the same time, because the view may be its
    consequence.

    Times of any unit, zone and library are one clock inside. Timestamps are int64 nanoseconds since 1970, exactly, from
    1677-09-21 to 2262-04-11; those with a zone are instants (UTC). Numbers stay numbers, int64 or float64. A log that
    is legal and probably not what was meant is said with figures, as a `LogWarning`: see `from_tables`.

    What it holds is listed with `LogColumns`.
    """

    @classmethod
    def from_tables(
        cls,
        views: Any = None,
        impressions: Any = None,
        *,
        columns: Mapping[str, Hashable | None] | None = None,
        num_items: int | None = None,
        items: Iterable[Hashable] | None = None,
        covariates: Iterable[str] = (),
        history: ViewHistory | None = None,
    ) -> EventLog:
        """Make a log of two tables that speak Arrow: pandas, polars (lazy or not), pyarrow, or a dict of arrays.

        An id is an integer, text, bytes or any hashable object (`uuid.UUID`, a tuple), of one type in both tables; a
        float column of whole numbers holds integers, categories are what they stand for, and booleans are no ids.

        Args:
            views: organic views: ``user``, ``time``, ``item``. Optional.
            impressions: bandit events: ``user``, ``time``, ``action``, ``reward``, optionally ``propensity``,
                ``propensity_error``, ``position``, ``score``, ``policy``, ``policy_version``: what
                `blob_pyro.policies.Policy.decide` returns, and the rewards that followed. Optional; without them only
                the organic model can be fitted.
            columns: your names for the columns, ``{"item": "sku", "reward": "clicked", ...}``. A key such as
                ``"impressions.time"`` applies to one table; None leaves an optional column out.
            num_items: if given, item ids are the integers ``0 .. num_items - 1``.
            items: the catalogue's ids, if it holds more than the log shows. Default: the ids in the log, sorted.
            covariates: columns of ``impressions`` that say what else was known at the decision (hour, device): numbers,
                or categories. `blob_pyro.models.EventCovariates` puts them into the click logit.
            history: what users had viewed before these tables begin: their contexts start with it. It adds no views to
                the log and no items to ``items``; by default the catalogue holds its items too.

        Raises:
            ValueError: naming the table, the column, the first offending row and the remedy: for a missing column; a
                missing user, time, item, action or reward; a reward other than 0 and 1; a propensity outside (0, 1]; an
                error of one that is negative; a score that is infinite; an item outside the catalogue; ids of several
                types; times on two clocks (a date or a number against a timestamp, a zone against none) or outside
                1677-09-21 to 2262-04-11; a log without rows.
            TypeError: for what is no table, no column, or no catalogue.

        Warns:
            LogWarning: if every view precedes, or follows, every impression (of ten or more each; of two or more,
                where the times are numbers and far apart, as seconds and milliseconds are); if more than 95 % of the
                impressions of users with views have an empty history (of ten or more); if no impression belongs to a
                user with a view (of ten or more each).

        Example:
            >>> log = EventLog.from_tables(
            ...     views={"user": ["ann", "bob", "ann"], "time": [1, 1, 4], "item": ["tea", "mug", "mug"]},
            ...     impressions={"user": ["ann", "ann"], "time": [3, 5], "action": ["mug", "tea"], "reward": [1, 0]},
            ... )
            >>> log
            EventLog(2 users, 2 items, 3 views, 2 impressions in 2 distinct contexts, 1 rewarded)
            >>> log.contexts.to_sequences()  # what ann had viewed at times 3 and 5
            [[1], [1, 0]]
        """
        names = {} if columns is None else columns
        rows = readers.from_tables(views, impressions, names, num_items, items, covariates=covariates)
        return cls._assemble(cls._with_history(rows, history, num_items is not None or items is not None))

    @classmethod
    def read_parquet(
        cls,
        views: str | Path | None = None,
        impressions: str | Path | None = None,
        *,
        columns: Mapping[str, Hashable | None] | None = None,
        num_items: int | None = None,
        items: Iterable[Hashable] | None = None,
        covariates: Iterable[str] = (),
        history: ViewHistory | None = None,
    ) -> EventLog:
        """Read Parquet files (or folders of them), of which only the columns needed are read. See `from_tables`."""
        names = {} if columns is None else columns
        covariates = readers.covariate_names(covariates)
        tables = readers.read_parquet(views, impressions, names, covariates)
        rows = readers.from_tables(*tables, names, num_items, items, covariates=covariates)
        return cls._assemble(cls._with_history(rows, history, num_items is not None or items is not None))

    @classmethod
    def scan_parquet(
        cls,
        views: str | Path | None = None,
        impressions: str | Path | None = None,
        *,
        columns: Mapping[str, Hashable | None] | None = None,
        num_items: int | None = None,
        items: Iterable[Hashable] | None = None,
        buffer_size: int = 1 << 20,
        scratch: str | Path | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> ScannedLog:
        """Read Parquet files that are bigger than memory: what comes out stays on disk, and `blob_pyro.BLOB` fits it.

        The files are read twice, some row groups at a time, with all checks of `from_tables`. Views are kept in memory,
        twelve bytes each; of impressions what a fit needs is written to a scratch file, nine bytes each. A fit goes
        through that in blocks from all over the log, by way of a buffer that is shuffled (by the fit's seed): each
        epoch sees each impression once. Distinct contexts are embedded once per fit, and kept: ``4 K`` bytes each.

        Args:
            views: a file, a folder (partitioned or not), or a URL that fsspec knows (``s3://``, ``gs://``).
            impressions: likewise.
            columns: see `from_tables`, as for the next two.
            num_items: if given, or ``items``, the files need not be read for the catalogue.
            items: the catalogue's ids.
            buffer_size: impressions in memory at once, at least; where all fit, the order is that of a log in memory.
            scratch: folder for the scratch file, which is deleted with the object; default the system's for temporary
                files.
            storage_options: for fsspec: keys, endpoints.

        Raises:
            ValueError: as `from_tables`, with file, row group, and row in it; for a file that has changed or vanished
                since, also at the start of each epoch.
            FileNotFoundError: if nothing is there.
            ImportError: for a URL, if fsspec or what it needs for it is not installed.
            OSError: if there is no room for the scratch file.

        Warns:
            LogWarning: as `from_tables`.
        """
        names = {} if columns is None else columns
        return scan_parquet(views, impressions, names, num_items, items, buffer_size, scratch, storage_options)

    @classmethod
    def from_recogym(cls, frame: Any, num_items: int, *, drop_final_rows: bool = True) -> EventLog:
        """Make a log of the frame that RecoGym's ``generate_logs`` returns.

        Args:
            frame: columns ``t`` (time), ``u`` (user), ``z`` ("organic" or "bandit"), ``v`` (item viewed),
                ``a`` (action), ``c`` (click), ``ps`` (propensity).
            num_items: RecoGym's ``num_products``; ids are ``0 .. num_items - 1``.
            drop_final_rows: RecoGym appends one impression, never clicked, after each user has left. Nobody saw
                it: by default it is dropped (the last row of a user, where that is an impression without a click).

        Raises:
            ValueError: as `from_tables`, and for a ``z`` that is neither kind.

        Warns:
            LogWarning: of empty histories, as `from_tables`.
        """
        return cls._assemble(readers.from_recogym(frame, num_items, drop_final_rows))

    @classmethod
    def read_open_bandit(cls, folder: str | Path) -> EventLog:
        """Read a folder of the Open Bandit Dataset (Saito et al. 2021), such as ``obd/bts/women``.

        The data set has impressions only, and no user ids: every impression is a user of its own who has viewed
        nothing. ``position`` is 1, 2 or 3; ``propensity`` is the probability of the item at that position.

        Args:
            folder: holds ``<campaign>.csv``, named like the folder, and ``item_context.csv``, which lists the items.

        Raises:
            ValueError: if a file or a column is missing, or a value is out of range: see `from_tables`.
        """
        return cls._assemble(readers.read_open_bandit(folder))

    @classmethod
    def from_arrays(
        cls,
        num_items: int,
        view_user: Tensor,
        view_time: Tensor,
        view_item: Tensor,
        user: Tensor,
        time: Tensor,
        action: Tensor,
        reward: Tensor,
        propensity: Tensor | None = None,
    ) -> EventLog:
        """Make a log of tensors on one clock, item numbers, integer user ids and times, checked like any other log.

        Args:
            num_items: size of the catalogue.
            view_user: one entry per view, like the next two; ``V``.
            view_time: integers or floats.
            view_item: item numbers.
            user: one entry per impression, like all that follow; ``N``.
            time: on the same clock as ``view_time``.
            action: item numbers.
            reward: 0 and 1, of any type.
            propensity: with which ``action`` was played, or None.

        Raises:
            ValueError: naming the argument and the position: for a value out of range, tensors of different lengths,
                fractions where integers are needed, or a tensor that requires a gradient.
            TypeError: for what is no tensor.

        Warns:
            LogWarning: of empty histories, as `from_tables`.
        """
        return cls._assemble(
            readers.from_arrays(
                num_items,
                view_user=view_user,
                view_time=view_time,
                view_item=view_item,
                user=user,
                time=time,
                action=action,
                reward=reward,
                propensity=propensity,
            )
        )

    @classmethod
    def concat(
        cls,
        logs: Iterable[EventLog],
        *,
        duplicates: Duplicates = "refuse",
        items: Iterable[Hashable] | None = None,
    ) -> EventLog:
        """Join several logs: user ids that recur are one user, whose histories go on from log to log.

        All that logs say of impressions is kept. At equal times of one user each log's own order is kept, and an
        impression of one log precedes a view of another, as in `from_tables`.

        Args:
            logs: one or more, of any catalogues: items are matched by id.
            duplicates: what to do with a row that two logs have, the same user, time and item (and position): "refuse",
                "drop" (the earlier log's counts), or "keep" both. Rows that one log has twice are kept.
            items: the catalogue's ids. Default: the largest of the logs' catalogues if it holds all their items, else
                all their items, sorted.

        Raises:
            ValueError: naming the log, for clocks or units of time that differ, ids of several types, items outside
                ``items``, a column that only some logs have, duplicates, and duplicates that contradict each other.
            TypeError: for what is no log.

        Warns:
            LogWarning: if a user has two events of one kind at one time in two logs whose times are numbers.

        Example:
            >>> old = EventLog.from_tables(views={"user": ["ann"], "time": [1], "item": ["tea"]})
            >>> new = EventLog.from_tables(
            ...     impressions={"user": ["ann"], "time": [2], "action": ["mug"], "reward": [1]},
            ... )
            >>> log = EventLog.concat([old, new])
            >>> log.items.decode(log.contexts.to_sequences()[0])
            ['tea']
        """
        if isinstance(logs, EventLog):
            logs = [logs]
        if isinstance(logs, (str, bytes)) or not isinstance(logs, Iterable):
            raise TypeError(f"logs: expected a list of EventLogs, got a {type(logs).__name__}")
        logs = list(logs)
        for number, log in enumerate(logs):
            if not isinstance(log, EventLog):
                raise TypeError(f"logs[{number}]: expected an EventLog, got {type(log).__name__}")
        if not logs:
            raise ValueError("logs: there are none; pass one at least")
        if duplicates not in DUPLICATES:
            raise ValueError(f"duplicates: expected one of {', '.join(map(repr, DUPLICATES))}, got {duplicates!r}")
        catalogue = None if items is None else Vocabulary(items, "items")
        return cls._assemble(concatenate(logs, duplicates, catalogue))

    def split(
        self, *, time: Any = None, users: float | Iterable[Hashable] | None = None, seed: int = 0
    ) -> tuple[EventLog, EventLog]:
        """Hold some events out: a log to learn from, and one to be judged by.

        By time, the second log's contexts hold all that its users had viewed, before the split too (see ``earlier``);
        its views are those from then on. By users, all events of a user are in one of the two.

        Args:
            time: what happens from then on is held out: a number, or whatever pandas takes for a timestamp, on the
                log's clock.
            users: are held out: their ids, or the fraction of users, drawn at random and rounded to whole users.
            seed: of that draw.

        Returns:
            What is left, and what is held out, over one catalogue.

        Raises:
            ValueError: if one of the two would be empty, naming the log's range; for an unknown user, or a time on
                another clock.
            TypeError: if neither or both of ``time`` and ``users`` are given.

        Example:
            >>> log = EventLog.from_tables(
            ...     views={"user": ["ann", "ann"], "time": [1, 4], "item": ["tea", "mug"]},
            ...     impressions={"user": ["ann", "ann"], "time": [3, 5], "action": ["mug", "tea"], "reward": [1, 0]},
            ... )
            >>> train, held_out = log.split(time=4)
            >>> held_out
            EventLog(1 users, 2 items, 1 views, 1 impressions in 1 distinct contexts, 0 rewarded)
            >>> held_out.contexts.to_sequences()
            [[1, 0]]
        """
        return split(self, time, users, seed)

    def shard(self, rank: int, world: int) -> EventLog:
        """Take the part of one of several workers, to fit a model together: the events of every ``world``-th user.

        It is a log like any other, which knows of the whole what a fit needs: ``part_of``, a `blob_pyro.data.Shard`.
        `blob_pyro.BLO.fit` and `blob_pyro.BLOB.fit` of such a log take their steps with the other workers, and end
        where a fit of the whole log on one machine does.

        Args:
            rank: of the worker, ``0 .. world - 1``.
            world: how many workers there are.

        Returns:
            The same for the same arguments, on any machine. Users keep all their events.

        Raises:
            ValueError: for a rank that is not below ``world``; for more workers than users, naming the first that would
                have no event; for a log that is a shard itself.
            TypeError: for what is no whole number.

        Example:
            >>> log = EventLog.from_tables(views={"user": [1, 1, 2, 3], "time": [0, 1, 0, 1], "item": list("abbc")})
            >>> log.shard(0, 2)
            EventLog(2 users, 3 items, 3 views, 0 impressions in 0 distinct contexts, 0 rewarded)
        """
        return shard(self, rank, world)

    def with_items(self, items: Vocabulary | Iterable[Hashable]) -> EventLog:
        """Return the same events over a larger catalogue: items keep their ids, and their numbers become its.

        Args:
            items: the catalogue, which holds every item of this one; for example ``blob.items``.

        Raises:
            ValueError: for an item of this log that it lacks.
        """
        catalogue = items if isinstance(items, Vocabulary) else Vocabulary(items, "items")
        return self if catalogue == self.items else with_items(self, catalogue)

    @classmethod
    def _with_history(cls, rows: readers.Rows, history: ViewHistory | None, catalogue_is_given: bool) -> readers.Rows:
        if history is None:
            return rows
        if not hasattr(history, "rows_before"):
            raise TypeError(f"history: expected a ViewHistory, got {history!r} (a {type(history).__name__})")
        log = cls._assemble(rows, warn=False)  # of what lacks its history, and is not what is returned
        return history.rows_before(log, log.items if catalogue_is_given else None)

    @classmethod
    def _assemble(cls, rows: readers.Rows, warn: bool = True) -> EventLog:
        return cls(**assemble(rows, cls.of_views, warn))

    @classmethod
    def of_views(
        cls, items: Vocabulary, item: Tensor, users: Vocabulary, user: Tensor, time: Tensor, clock: str
    ) -> EventLog:
        """Make a log of views alone, from numbers and times as a log keeps them; ``V > 0`` each."""
        rows = user.numpy()
        return cls._assemble(
            readers.Rows(
                items=items, users=users, user=rows, time=time.numpy(), is_view=np.ones(len(rows), dtype=bool),
                item=item.numpy(), reward=np.zeros(0, dtype=np.float32), clock=clock,
            )
        )  # fmt: skip

    def to_frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Write out the two tables of a log, with its ids, times and all that is known of its impressions.

        What it remembers from before (``earlier``) is not in them: see `blob_pyro.data.ViewHistory`.

        Returns:
            Views and impressions, in the log's order, with the columns that `from_tables` reads; zoned times in UTC.
        """
        return to_frames(self)

    def to_obp(self, *, context: Any = None, action_context: Any = None, logging_probs: Any = None) -> dict[str, Any]:
        """Write the log as the Open Bandit Pipeline's ``bandit_feedback`` dictionary.

        Args:
            context: see `blob_pyro.ope.to_obp`, as for all arguments.
            action_context: features of the items.
            logging_probs: probabilities of all items in each impression.
        """
        from blob_pyro.ope.interoperability import to_obp  # ope reads logs: only who asks for this needs it here

        return to_obp(self, context=context, action_context=action_context, logging_probs=logging_probs)
