"""Splits of sessions: whole ones to either side, and the last view of each to predict."""

import pytest

from blob_pyro.data import Histories
from blob_pyro.data.splits import leave_last_out, split_sessions


def test_a_split_is_of_whole_sessions():
    sessions = Histories.from_sequences([[n] * (n % 3) + [n] for n in range(50)], num_items=50)
    train, test = split_sessions(sessions, 0.3, seed=1)
    assert (len(train), len(test)) == (35, 15)
    assert sorted(train.to_sequences() + test.to_sequences()) == sorted(sessions.to_sequences())
    assert split_sessions(sessions, 0.3, seed=1)[1].to_sequences() == test.to_sequences()
    assert split_sessions(sessions, 0.3, seed=2)[1].to_sequences() != test.to_sequences()


def test_short_histories_keep_the_most_recent_views():
    sessions = Histories.from_sequences([[0, 1, 2, 3, 4], [], [5], [6, 7]], num_items=8)
    histories, target = leave_last_out(sessions, max_views=2)
    assert histories.to_sequences() == [[2, 3], [], [6]]
    assert target.tolist() == [4, 5, 7]


BAD = {
    "fraction": (
        lambda: split_sessions(Histories.from_sequences([[0], [0]], 1), 1.0),
        "test_fraction: must lie between",
    ),
    "one session": (lambda: split_sessions(Histories.from_sequences([[0]], 1)), "sessions: a split needs at least two"),
    "max_views": (lambda: leave_last_out(Histories.from_sequences([[0]], 1), -1), "max_views: must not be negative"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
