"""Logs to join."""

import numpy as np
import pandas as pd
import torch

from blob_pyro import EventLog


def tables(num_users, num_rows, seed, id_=str, ties=False):
    """Views and impressions with every optional column; with ``ties``, many at one time."""
    random = np.random.default_rng(seed)
    users, items = [id_(1000 + n) for n in range(num_users)], [id_(n) for n in range(6)]
    time = random.integers(0, 5, num_rows) if ties else random.permutation(num_rows)
    user = [users[n] for n in random.integers(0, num_users, num_rows)]
    item = [items[n] for n in random.integers(0, 6, num_rows)]
    is_view = random.random(num_rows) < 0.5
    frame = pd.DataFrame({"user": user, "time": time, "item": item})
    views = frame[is_view].reset_index(drop=True)
    impressions = frame[~is_view].rename(columns={"item": "action"}).reset_index(drop=True)
    size = len(impressions)
    impressions = impressions.assign(
        reward=random.integers(0, 2, size),
        propensity=random.uniform(0.1, 1, size),
        propensity_error=random.uniform(0, 0.1, size),
        position=random.integers(0, 3, size),
        score=random.normal(size=size),
        policy=random.choice(["old", "new", "other"], size),
        policy_version=random.choice(["1", "2"], size),
        hour=random.integers(0, 24, size).astype(float),
        device=random.choice(["phone", "desktop", "tv"], size),
    )
    return views, impressions


def read(views, impressions, **options):
    options = {"items": None, **options}
    covariates = () if impressions is None else ("hour", "device")
    return EventLog.from_tables(views, impressions, covariates=covariates, **options)


def same(one, other):
    """Two logs hold the same rows in the same order, by id and by name."""
    assert one.items.ids == other.items.ids
    assert one.users.ids == other.users.ids
    assert one.clock == other.clock
    for name in (
        "view_user", "view_time", "view_item", "user", "time", "action", "reward", "propensity", "propensity_error",
        "position", "score", "context",
    ):  # fmt: skip
        mine, others = getattr(one, name), getattr(other, name)
        assert (mine is None) == (others is None), name
        assert mine is None or (mine.dtype == others.dtype and torch.equal(mine, others)), name
    for column, names in (("policy", "policies"), ("policy_version", "policy_versions")):
        assert getattr(one, names) == getattr(other, names)
        if getattr(one, column) is not None:
            assert torch.equal(getattr(one, column), getattr(other, column))
    assert set(one.covariates) == set(other.covariates)
    for name, covariate in one.covariates.items():
        assert covariate.levels == other.covariates[name].levels
        assert torch.equal(covariate.values, other.covariates[name].values)
    assert one.contexts.to_sequences() == other.contexts.to_sequences()
    assert one.sessions.to_sequences() == other.sessions.to_sequences()


def small(user="ann", time=(1, 2), item=("tea", "mug"), **more):
    """Two impressions after a view at time 0."""
    impressions = {"user": [user] * 2, "time": list(time), "action": list(item), "reward": [1, 0], **more}
    covariates = tuple(name for name in more if name.startswith("x_"))
    views = {"user": [user], "time": [0 if isinstance(time[0], (int, float)) else time[0]], "item": ["tea"]}
    return EventLog.from_tables(views, impressions, covariates=covariates)
