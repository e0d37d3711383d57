"""The table of random numbers: the right function, uniform, independent in every coordinate."""

import pytest
import torch
from scipy import stats

from blob_pyro.ops.seeds import seeded
from blob_pyro.simulation.random import CounterRandom, hash_key, torch_seed
from blob_pyro.simulation.random import _mix_ as mix
from blob_pyro.simulation.random import _mix_int as mix_int
from blob_pyro.simulation.random import _signed as signed

GRID = 64


def test_splitmix64_known_answers():
    # The first outputs of SplitMix64 seeded with 0 and with 1234567, from the reference implementation.
    golden = 0x9E3779B97F4A7C15
    assert mix_int(golden) == 0xE220A8397B1DCDAF
    assert mix_int((1234567 + golden) % 2**64) == 6457827717110365317


@pytest.mark.parametrize("word", [0, 1, 2**63, 2**64 - 1, 0x0123456789ABCDEF])
def test_torch_mixer_is_the_unsigned_one(word):
    assert int(mix(torch.tensor([signed(word)]))) == signed(mix_int(word))


def numbers(table):
    """``users x events x slots``."""
    axis = torch.arange(GRID)
    return table.uniform(table.page(axis[:, None, None], axis[:, None] - 1), axis)


def pair_p_value(u, axis, lag=1):
    """Chi-squared test that neighbours along an axis are independent and uniform, on 16 x 16 cells."""
    first, second = u.narrow(axis, 0, GRID - lag), u.narrow(axis, lag, GRID - lag)
    cell = (first * 16).long() * 16 + (second * 16).long()
    return stats.chisquare(torch.bincount(cell.flatten(), minlength=256).numpy()).pvalue


@pytest.mark.parametrize("key", [0, 1, 2**63])
def test_uniform(key):
    u = numbers(CounterRandom(key)).flatten().numpy()
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert u.min() > 0
    assert u.max() < 1


@pytest.mark.parametrize("lag", [1, 2, 3])
@pytest.mark.parametrize("axis", [0, 1, 2], ids=["user", "event", "slot"])
def test_neighbours_are_independent(axis, lag):
    assert pair_p_value(numbers(CounterRandom(3)), axis, lag) > 1e-3


def test_a_generator_that_does_not_mix_is_caught():
    axis = torch.arange(GRID)
    counter = axis[:, None, None] * 0.618033988749895 + axis[:, None] * 0.4142135623730951 + axis * 0.7320508075688772
    assert all(pair_p_value((counter % 1).double(), axis) < 1e-6 for axis in range(3))


def test_every_bit_is_fair():
    table = CounterRandom(11)
    bits = table.bits(table.page(torch.arange(20_000), 0), 0)
    ones = torch.stack([(bits >> shift) & 1 for shift in range(64)]).double().mean(1)
    assert float((ones - 0.5).abs().max()) < 4.5 * 0.5 / 20_000**0.5


def test_keys_give_unrelated_tables():
    tables = torch.stack([numbers(CounterRandom(0, seed)).flatten() for seed in range(4)])
    correlation = torch.corrcoef(tables) - torch.eye(4, dtype=torch.float64)
    assert float(correlation.abs().max()) < 4.5 / GRID**1.5


def test_normal():
    table = CounterRandom(5)
    z = table.normal(table.page(torch.arange(5_000)[:, None], -1), torch.arange(5))
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    correlation = torch.corrcoef(z.T) - torch.eye(5, dtype=torch.float64)
    assert float(correlation.abs().max()) < 4.5 / 5_000**0.5


def test_a_number_does_not_depend_on_how_it_is_asked_for():
    table = CounterRandom(7)
    together = table.uniform(table.page(torch.arange(10)[:, None], torch.arange(4)), 2)
    alone = table.uniform(table.page(torch.tensor([6]), 3), torch.tensor([2]))
    assert together[6, 3] == alone


@pytest.mark.parametrize("parts", [(0, 1), (1, 0), (0,), (0, 0), (-1,), (2**70,)], ids=str)
def test_hash_key_tells_keys_apart(parts):
    assert hash_key(*parts) != hash_key(2, 3)
    assert 0 <= hash_key(*parts) < 2**64


def test_forked_rng_is_reproducible_and_leaves_no_trace():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    draws = []
    for _ in range(2):
        with seeded(torch_seed(9), "cpu"):
            draws.append(torch.rand(3))
    assert torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), before)
