"""A log as plain arrays in the order of time."""

import numpy as np

from blob_pyro import EventLog
from blob_pyro.ope.auditing import LogFacts


def test_rows_in_time_with_keys_of_equal_histories():
    log = EventLog.from_tables(
        views={"user": [1, 1, 2, 2, 3], "time": [0, 1, 0, 1, 0], "item": ["a", "b", "b", "a", "a"]},
        impressions={
            "user": [1, 2, 3, 4], "time": [9, 5, 7, 6], "action": list("abab"), "reward": [1, 0, 0, 1],
            "propensity": [0.5, 0.25, 0.2, 0.1], "position": [2, 1, 1, 2],
        },
    )  # fmt: skip
    facts = LogFacts.of(log, None, 1e-3)
    assert len(facts) == 4
    assert facts.time.tolist() == [5, 6, 7, 9]
    assert facts.propensity.tolist() == [0.25, 0.1, 0.2, 0.5]
    assert facts.reward.tolist() == [0, 1, 0, 1]
    assert facts.slot.tolist() == [0, 1, 0, 1]
    assert log.time.numpy()[facts.row].tolist() == [5, 6, 7, 9]
    of_2, of_4, of_3, of_1 = facts.history
    assert of_1 == of_2  # the same items, in another order
    assert len({of_1, of_3, of_4}) == 3
    assert of_4 == 0  # nothing was viewed


def test_weights_of_the_usable_rows():
    from tests.ope.auditing.facts_by_hand import facts

    found = facts([0.5, 0.0, 1.5, 0.1])
    assert found.usable.tolist() == [True, False, False, True]
    np.testing.assert_allclose(found.uniform_weight, [0.5, 2.5])
