"""`select`: fit models of several settings, hold them against users who were kept out, and say which to take."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from blob_pyro import BLO, BLOB, EventLog
from blob_pyro.data import ViewHistory
from blob_pyro.data.splits import leave_last_out
from blob_pyro.experiments.saved_runs import SavedRuns
from blob_pyro.infer import ConvergenceWarning
from blob_pyro.ops.arguments import one_of, path_of, true_or_false, whole_number
from blob_pyro.ops.fingerprints import content_hash
from blob_pyro.ops.object_fingerprints import fingerprint
from blob_pyro.ops.row_chunks import MAX_ELEMENTS
from blob_pyro.ops.seeds import check_seed

__all__ = ["Selection", "select"]

_ORGANIC = ("embedding_dim", "encoder", "bound", "covariance", "organic_priors")
_BANDIT = ("guide", "priors", "omega")
_FOR_STOPPING = 0.15  # of the users that are learned from
_PLAIN = (int, float, str, type(None))
_LEAST = 1e-12  # a probability that rounds to 0 or 1 is this far from it
Rule = Literal["one_standard_error", "best"]


@dataclass(frozen=True)
class _Settings:
    """What makes a selection the one it is, for its folder."""

    log: str
    grid: dict[str, list[str]]
    held_out: str
    seed: int
    num_epochs: int
    patience: int


@dataclass(frozen=True)
class Selection:
    """Scores of several settings on users who were kept out, and which of them is chosen.

    Attributes:
        settings: of each fit, by number, in the order of the grid.
        labels: what the table calls their values.
        rows: of each fit a row per held-out user: ``kind`` ("views", "clicks"), ``user``, ``score`` (log-probability of
            what happened, nats, summed) and ``count`` (of views or impressions), and of the fit ``seconds``, ``epochs``
            of the organic model, ``converged``.
        criterion: "clicks" or "views".
        rule: "one_standard_error" or "best".
        blo: the chosen organic model, fitted to the whole log; None unless it was asked for.
        blob: likewise.
    """

    settings: list[dict[str, Any]]
    labels: list[dict[str, Any]]
    rows: pd.DataFrame
    criterion: str
    rule: str
    blo: BLO | None = None
    blob: BLOB | None = None

    def table(self) -> pd.DataFrame:
        """Return a row for each setting, in the order of the grid.

        ``views`` and ``clicks`` are mean log-probabilities of what happened, nats per last view of a user and per
        impression (higher is better), each with its standard error over users, ``views_error`` and ``clicks_error``;
        ``behind`` is how far the criterion is below the best setting's, with the standard error of that difference, in
        which the same users are compared; then ``seconds`` and ``epochs`` of the fits, ``converged``, and ``chosen``.
        """
        rows = []
        for number, label in enumerate(self.labels):
            mine = self.rows[self.rows["setting"] == number]
            row: dict[str, Any] = dict(label)
            for kind in ("views", "clicks"):
                if (mine["kind"] == kind).any():
                    row[kind], row[f"{kind}_error"] = _ratio(mine[mine["kind"] == kind])
            for name in ("seconds", "epochs", "converged"):
                row[name] = mine.iloc[0][name]
            rows.append(row)
        table = pd.DataFrame(rows)
        best = int(table[self.criterion].to_numpy().argmax())
        behind = np.array([self._difference(best, number) for number in range(len(table))])
        place = list(table.columns).index("seconds")
        table.insert(place, "behind", behind[:, 0])
        table.insert(place + 1, "behind_error", behind[:, 1])
        near = behind[:, 0] <= (behind[:, 1] if self.rule == "one_standard_error" else 0.0)
        table["chosen"] = np.arange(len(table)) == int(near.argmax())
        return table.rename_axis("setting")

    @property
    def chosen(self) -> dict[str, Any]:
        """The settings that are chosen, by name."""
        return self.settings[int(self.table()["chosen"].to_numpy().argmax())]

    @property
    def says(self) -> str:
        """The choice and the rule that made it, in a sentence."""
        table = self.table()
        number = int(table["chosen"].to_numpy().argmax())
        row, named = table.iloc[number], ", ".join(f"{name}={value}" for name, value in self.labels[number].items())
        if self.rule == "best":
            return f"{named}: the highest log score of {self.criterion} on held-out users"
        if row["behind"] == 0:
            return f"{named}: the highest log score of {self.criterion}; none listed before it is within its error"
        return (
            f"{named}: the first in the order given whose log score of {self.criterion} is within one standard error "
            f"of the best ({row['behind']:.5f} ± {row['behind_error']:.5f} nats behind)"
        )

    def __repr__(self) -> str:
        return f"{self.table().to_string(float_format=lambda value: f'{value:.5f}')}\n{self.says}"

    def _repr_html_(self) -> str:
        return f"{self.table().to_html(float_format=lambda value: f'{value:.5f}')}<p>{self.says}</p>"

    def _difference(self, best: int, number: int) -> tuple[float, float]:
        """How much one is behind the best, and the standard error of that over the same users."""
        some = self.rows[self.rows["kind"] == self.criterion]
        one, other = (some[some["setting"] == n].set_index("user") for n in (best, number))
        if best == number:
            return 0.0, 0.0
        return _ratio(one.assign(score=one["score"] - other["score"]))


def select(
    log: EventLog,
    grid: Mapping[str, Sequence[Any] | Mapping[str, Any]],
    *,
    users: float | Iterable[Hashable] | None = None,
    time: Any = None,
    criterion: Literal["clicks", "views"] | None = None,
    rule: Rule = "one_standard_error",
    num_epochs: int = 60,
    patience: int = 5,
    refit: bool = False,
    seed: int = 0,
    output: str | Path | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Selection:
    """Fit BLO, and BLOB where the log has impressions, for each combination of settings, and compare them.

    Users are held out for the comparison, others for early stopping of the organic model: it is fitted to the rest. Of
    these fits the organic one is shared by all settings that agree on it.

    Args:
        log: with views.
        grid: values to try, by name: ``embedding_dim``, ``encoder``, ``bound``, ``covariance``, ``organic_priors`` of
            `BLO`; ``guide``, ``priors``, ``omega`` of `BLOB`. A list, or a mapping from labels to values:
            ``{"embedding_dim": [5, 10, 20], "priors": {"paper": BanditPriors.paper(), "ours": BanditPriors()}}``. List
            what is simple first: one rule prefers it.
        users: to hold out, their ids or a fraction, as `EventLog.split`; default 0.2.
        time: to hold out what happens from then on, in place of users.
        criterion: "clicks" or "views"; default clicks, where the log has impressions.
        rule: "one_standard_error" takes the first setting, in the order given, that is no more than one standard error
            of the difference behind the best (Breiman et al. 1984, section 3.4.3, with errors of differences, since the
            same users judge all); "best" takes the best.
        num_epochs: of an organic fit, at most.
        patience: it stops after so many epochs without a better score on the users for stopping.
        refit: whether to fit the chosen setting to the whole log, for as many epochs as its best fit had.
        seed: of splits and fits.
        output: a folder that keeps each fit's scores: a call after a kill goes on where that was.
        device: where to train; default CUDA where there is one.
        progress: whether to show a progress bar.

    Returns:
        A table of all, and which of them is chosen.

    Raises:
        ValueError: for an unknown name in ``grid``, or one without values; for a log without views; if one side of a
            split is empty; if ``output`` is of another selection.
        TypeError: for an argument of another type.

    Example:
        >>> from blob_pyro.policies import Uniform
        >>> from blob_pyro.simulation import RecoGym
        >>> log = RecoGym(num_items=8, seed=0).simulate(Uniform(8), num_users=20, num_organic_users=80)
        >>> found = select(log, {"embedding_dim": [1, 2]}, criterion="views", num_epochs=5, progress=False)
        >>> found.table()["embedding_dim"].tolist(), int(found.table()["chosen"].sum())
        ([1, 2], 1)
    """
    if not isinstance(log, EventLog):
        raise TypeError(f"log: expected an EventLog, got a {type(log).__name__}")
    log.require_views()
    labels, settings = _combinations(grid)
    criterion = criterion or ("clicks" if log.num_impressions else "views")
    one_of(criterion, "criterion", ("clicks", "views"))
    one_of(rule, "rule", ("one_standard_error", "best"))
    if criterion == "clicks":
        log.require_impressions()
    num_epochs, patience, seed = (
        whole_number(num_epochs, "num_epochs"),
        whole_number(patience, "patience"),
        check_seed(seed),
    )
    true_or_false(refit, "refit"), true_or_false(progress, "progress")
    if time is not None and users is not None:
        raise TypeError("users, time: pass one of the two")
    users = 0.2 if users is None and time is None else users
    rest, judge = log.split(time=time, users=users, seed=seed)
    train, stop = rest.split(users=_FOR_STOPPING, seed=seed + 1)
    stop.require_views()
    held_out = content_hash([judge.user, judge.action, judge.time, judge.view_user, judge.view_item, judge.view_time])
    known = [log.view_user, log.view_item, log.view_time, log.user, log.action, log.time, log.reward]
    about = _Settings(content_hash(known), _marks(grid), held_out, seed, num_epochs, patience)
    folder = None if output is None else path_of(output, "output", "a folder for the scores")
    runs = SavedRuns(about, folder, ("setting",))
    fitting = _Fitting(train, stop, judge, num_epochs, patience, seed, device)
    with tqdm(total=len(settings), desc="select", unit="setting", disable=not progress) as bar:
        for (number,) in runs.complete(((n,) for n in range(len(settings))), lambda n: fitting.rows(settings[n])):
            bar.set_postfix_str(", ".join(f"{name}={value}" for name, value in labels[number].items()))
            bar.update()
    found = Selection(settings, labels, runs.frame, criterion, rule)
    if not refit:
        return found
    epochs = int(found.table().loc[lambda t: t["chosen"], "epochs"].iloc[0])
    blo, blob, _ = _fit(found.chosen, log, None, epochs, None, seed, device)
    return Selection(settings, labels, runs.frame, criterion, rule, blo, blob)


@dataclass
class _Fitting:
    """Fits to one part of a log, stopped by another and judged by a third."""

    train: EventLog
    stop: EventLog
    judge: EventLog
    num_epochs: int
    patience: int
    seed: int
    device: torch.device | str | None
    _kept: tuple[dict[str, Any], BLO, pd.DataFrame, float] | None = None

    def rows(self, setting: dict[str, Any]) -> pd.DataFrame:
        """Return a row for each held-out user and kind of event; see `Selection`."""
        organic = {name: value for name, value in setting.items() if name in _ORGANIC}
        started = monotonic()
        given = self._kept if self._kept is not None and _same(self._kept[0], organic) else None
        blo, blob, traces = _fit(
            setting, self.train, self.stop, self.num_epochs, self.patience, self.seed, self.device,
            None if given is None else (given[1], given[2]),
        )  # fmt: skip
        seconds = monotonic() - started + (0.0 if given is None else given[3])
        if given is None:
            self._kept = (organic, blo, traces[0], float(traces[0]["seconds"].sum()))
        parts = [_view_scores(blo, self.judge)]
        if blob is not None:
            parts.append(_click_scores(blob, self.judge))
        best = int(traces[0]["validation_elbo"].to_numpy().argmax()) + 1
        converged = all(bool(trace.attrs["converged"]) for trace in traces if trace.attrs["converged"] is not None)
        return pd.concat(parts, ignore_index=True).assign(seconds=seconds, epochs=best, converged=converged)


def _fit(
    setting: dict[str, Any],
    log: EventLog,
    stop: EventLog | None,
    num_epochs: int,
    patience: int | None,
    seed: int,
    device: torch.device | str | None,
    given: tuple[BLO, pd.DataFrame] | None = None,
) -> tuple[BLO, BLOB | None, list[pd.DataFrame]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the table says it
        if given is None:
            names = {"organic_priors": "priors"}
            options = {names.get(name, name): value for name, value in setting.items() if name in _ORGANIC}
            blo = BLO(log.num_items, **options)
            trace = blo.fit(
                log, seed=seed, num_epochs=num_epochs, validation=stop, patience=patience, device=device, progress=False
            )
        else:
            blo, trace = given
        if not log.num_impressions:
            return blo, None, [trace]
        blob = BLOB(blo, **{name: value for name, value in setting.items() if name in _BANDIT})
        return blo, blob, [trace, blob.fit(log, seed=seed, device=device, progress=False)]


def _view_scores(blo: BLO, log: EventLog) -> pd.DataFrame:
    """The log-probability of the last view of each user, given those before it."""
    history = ViewHistory(log)
    users = log.session_user
    sessions = history.histories(log.users.decode(users), blo.items)
    histories, target = leave_last_out(sessions)
    found, size = [], max(1, MAX_ELEMENTS // blo.num_items)
    with torch.no_grad():
        for start in range(0, len(target), size):
            score = blo.scores(histories[start : start + size]).log_softmax(-1).cpu()
            found.append(score.gather(-1, target[start : start + size].unsqueeze(-1)).squeeze(-1))
    user = users[sessions.lengths > 0]
    return pd.DataFrame({"kind": "views", "user": user.numpy(), "score": torch.cat(found).double().numpy(), "count": 1})


def _click_scores(blob: BLOB, log: EventLog) -> pd.DataFrame:
    """The log-probability of the clicks of each user."""
    if not log.num_impressions:
        raise ValueError("log: what is held out has no impressions; hold out more users, or another time")
    p, clicked = blob.event_probabilities(log).double().clamp(_LEAST, 1 - _LEAST), log.reward > 0
    score = torch.where(clicked, p.log(), torch.log1p(-p)).numpy()
    count, total = (np.bincount(log.user.numpy(), weights=w, minlength=log.num_users) for w in (None, score))
    some = count > 0
    return pd.DataFrame({"kind": "clicks", "user": np.nonzero(some)[0], "score": total[some], "count": count[some]})


def _ratio(rows: pd.DataFrame) -> tuple[float, float]:
    """The mean per event, and its standard error over users, whose numbers of events differ."""
    score, count = rows["score"].to_numpy(dtype=float), rows["count"].to_numpy(dtype=float)
    mean, groups = score.sum() / count.sum(), len(score)
    error = np.sqrt(((score - mean * count) ** 2).sum() * groups / max(groups - 1, 1)) / count.sum()
    return float(mean), float(error)


def _combinations(grid: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Labels and values of all settings, those that share an organic model side by side."""
    known = (*_ORGANIC, *_BANDIT)
    if not isinstance(grid, Mapping) or not grid:
        raise TypeError(f"grid: expected a mapping such as {{'embedding_dim': [5, 10, 20]}}, got {grid!r}")
    for name, values in grid.items():
        if name not in known:
            raise ValueError(f"grid: unknown name {name!r}; known: {', '.join(known)}")
        if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, Mapping)) or not len(values):
            raise ValueError(f"grid[{name!r}]: expected a list of values, or a mapping from labels, got {values!r}")
    names = [name for name in known if name in grid]
    columns = [_labelled(name, grid[name]) for name in names]
    chosen = list(product(*columns))
    labels = [{name: label for name, (label, _) in zip(names, one)} for one in chosen]
    return labels, [{name: value for name, (_, value) in zip(names, one)} for one in chosen]


def _labelled(name: str, values: Any) -> list[tuple[Any, Any]]:
    if isinstance(values, Mapping):
        return list(values.items())
    return [(value if isinstance(value, _PLAIN) else f"{name}[{i}]", value) for i, value in enumerate(values)]


def _marks(grid: Mapping[str, Any]) -> dict[str, list[str]]:
    """What the values are, in a form that a later process can compare."""
    return {
        name: [
            repr(v) if isinstance(v, _PLAIN) else fingerprint(v, f"grid[{name!r}]") for _, v in _labelled(name, values)
        ]
        for name, values in grid.items()
    }


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(one[name] is other[name] or one[name] == other[name] for name in one)
