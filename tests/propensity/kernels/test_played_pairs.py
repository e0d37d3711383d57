"""Pairs of context and action are asked for once, and every event gets its pair's answer."""

import torch

from blob_pyro.propensity.kernels.played_pairs import log_probs_of_pairs


def test_every_event_gets_its_own_answer_and_no_pair_is_asked_for_twice():
    generator = torch.Generator().manual_seed(0)
    context, action = (torch.randint(n, (200,), generator=generator) for n in (9, 7))
    context[context == 4] = 5  # of 4 nothing is asked
    table, asked = torch.randn(9, 7, dtype=torch.float64, generator=generator), []

    def log_probs(some, actions):
        assert len(some) <= 2
        asked.extend(zip(some.repeat_interleave(actions.shape[1]).tolist(), actions.flatten().tolist()))
        return table[some[:, None], actions]

    found = log_probs_of_pairs(context, action, 9, 7, 2, log_probs)
    assert torch.equal(found, table[context, action])
    assert set(asked) == set(zip(context.tolist(), action.tolist()))
    assert len(asked) <= len(set(asked)) + 9  # what fills up a row that is shorter than its neighbour's


def test_nothing_is_asked_of_no_events():
    none = torch.zeros(0, dtype=torch.int64)
    assert log_probs_of_pairs(none, none, 3, 4, 10, None).shape == (0,)
