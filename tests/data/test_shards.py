"""Shards of a log: every event is in one of them, and each knows the whole."""

import dataclasses

import pytest
import torch

from blob_pyro import EventLog
from blob_pyro.data.shards import fingerprint


@pytest.fixture(scope="module")
def shop() -> EventLog:
    """Six users, whose events differ in number; one only looks, one only is shown something."""
    return EventLog.from_tables(
        views={"user": [1, 1, 2, 3, 3, 3, 5, 6], "time": [0, 4, 1, 1, 2, 8, 0, 1], "item": list("abcabcab")},
        impressions={
            "user": [1, 1, 2, 3, 4, 6], "time": [1, 5, 2, 4, 4, 9], "action": list("bbcaca"),
            "reward": [1, 0, 0, 1, 0, 0], "position": [1, 2, 1, 1, 1, 2],
        },
    )  # fmt: skip


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_event_is_in_one_shard_with_what_was_known_then(shop, world):
    shards = [shop.shard(rank, world) for rank in range(world)]
    rows = torch.cat([s.part_of.impressions for s in shards])
    assert rows.sort().values.tolist() == list(range(shop.num_impressions))
    assert torch.cat([s.part_of.sessions for s in shards]).sort().values.tolist() == list(range(len(shop.sessions)))
    histories, sessions = shop.contexts.to_sequences(), shop.sessions.to_sequences()
    for rank, shard in enumerate(shards):
        where = shard.part_of
        assert (where.rank, where.world) == (rank, world)
        assert shard.action.tolist() == shop.action[where.impressions].tolist()
        assert shard.sessions.to_sequences() == [sessions[n] for n in where.sessions.tolist()]
        known = [shard.contexts.to_sequences()[c] for c in shard.context.tolist()]
        assert known == [histories[c] for c in shop.context[where.impressions].tolist()]
        assert shard.users.ids == tuple(shop.users.decode(where.users))
        assert shard.items == shop.items


def test_a_shard_knows_the_whole(shop):
    first, second = shop.shard(0, 2), shop.shard(1, 2)
    whole = first.part_of.whole
    assert (whole.num_users, whole.num_views, whole.num_sessions, whole.num_impressions) == (6, 8, 5, 6)
    assert (whole.num_rewarded, whole.num_shown, whole.positions.tolist()) == (2, 3, [1, 2])
    assert whole.fingerprint == second.part_of.whole.fingerprint == fingerprint(shop)
    assert second.reward.sum() == 0
    second.require_contrast()  # the whole log's rewards are not all equal, whatever these are
    assert second.all_positions.tolist() == [1, 2]


def test_a_fingerprint_is_of_all_that_is_learned_from(shop):
    reward = shop.reward.clone()
    reward[-1] = 1
    seen = {fingerprint(shop), fingerprint(dataclasses.replace(shop, reward=reward))}
    seen.add(fingerprint(dataclasses.replace(shop, view_item=shop.view_item.roll(1))))
    seen.add(fingerprint(shop.with_items([*shop.items.ids, "d"])))
    seen.add(fingerprint(dataclasses.replace(shop, position=3 - shop.position)))
    assert len(seen) == 5
    assert fingerprint(EventLog.concat([shop])) == fingerprint(shop)


def test_part_of_a_shard_is_no_shard(shop):
    left, right = shop.shard(0, 2).split(users=0.5)
    assert left.part_of is None is right.part_of
    wider = shop.shard(0, 2).with_items([*shop.items.ids, "d"])
    assert wider.part_of.whole.num_impressions == 6, "the same events, with more items"


@pytest.mark.parametrize(
    ("rank", "world", "kind", "message"),
    [
        (2, 2, ValueError, r"rank: workers are numbered 0 to world - 1 = 1, got 2"),
        (-1, 2, ValueError, r"rank: workers are numbered 0 to world - 1 = 1, got -1"),
        (0, 0, ValueError, r"world: the number of workers is at least 1, got 0"),
        (0.0, 2, TypeError, r"rank: expected a whole number, got 0.0 \(a float\)"),
        (0, True, TypeError, r"world: expected a whole number, got True"),
        (0, 7, ValueError, r"world: 7 shards of 6 users leave worker 6 and those after it without an event; use 6"),
    ],
)
def test_no_such_shard(shop, rank, world, kind, message):
    with pytest.raises(kind, match=message):
        shop.shard(rank, world)


def test_a_shard_has_none(shop):
    with pytest.raises(ValueError, match="this log is shard 1 of 2 already; take it of the whole"):
        shop.shard(1, 2).shard(0, 2)
