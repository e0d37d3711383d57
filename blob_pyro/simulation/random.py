"""Random numbers that are looked up, not drawn.

A generator with a state gives a user other numbers as soon as somebody before them takes one more. Here
every number is a pure function of ``(key, user, event, slot)``: the same user has the same interests, the
same first session and the same patience under every policy, in any batch and on any device, which is what
makes paired A/B comparisons tight (common random numbers).

The function is the output mixer of SplitMix64 (Steele, Lea and Flood, *Fast splittable pseudorandom number
generators*, OOPSLA 2014), applied once per coordinate, in the same spirit as the counter-based generators of
Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011. Torch has no unsigned 64-bit
arithmetic; two's complement int64 wraps the same way, and a logical shift is an arithmetic one under a mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["CounterRandom", "hash_key", "torch_seed"]

_MASK = (1 << 64) - 1
# The increments of the three coordinates: 2^64 / golden ratio (SplitMix64's own), and two more odd
# constants with evenly spread bits (the xxHash64 primes 1 and 2), so that no coordinate can stand in for another.
_USER, _EVENT, _SLOT = 0x9E3779B97F4A7C15, 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F
_MULTIPLIER_1, _MULTIPLIER_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned 64-bit word."""
    return word - (1 << 64) if word >> 63 else word


def _mix_int(word: int) -> int:
    """SplitMix64's mixer on a Python integer: 64 bits in, 64 bits out, a bijection."""
    word = ((word ^ (word >> 30)) * _MULTIPLIER_1) & _MASK
    word = ((word ^ (word >> 27)) * _MULTIPLIER_2) & _MASK
    return word ^ (word >> 31)


def _xor_shift_(bits: Tensor, shift: int) -> Tensor:
    return bits.bitwise_xor_((bits >> shift).bitwise_and_((1 << (64 - shift)) - 1))


def _mix_(bits: Tensor) -> Tensor:
    """SplitMix64's mixer, in place on an int64 tensor."""
    _xor_shift_(bits, 30).mul_(_signed(_MULTIPLIER_1))
    _xor_shift_(bits, 27).mul_(_signed(_MULTIPLIER_2))
    return _xor_shift_(bits, 31)


def _scaled(coordinate: Tensor | int, increment: int) -> Tensor | int:
    """The product modulo 2**64, which Torch takes by itself and Python must be told to."""
    if isinstance(coordinate, int):
        return _signed((coordinate * increment) & _MASK)
    return coordinate * _signed(increment)


def hash_key(*parts: int) -> int:
    """Hash any number of integers to one 64-bit key; the order matters.

    >>> hash_key(0, 1) != hash_key(1, 0)
    True
    """
    key = 0
    for part in parts:
        key = _mix_int((key + _USER + _mix_int(part & _MASK)) & _MASK)
    return key


def torch_seed(*parts: int) -> int:
    """Make a seed for `blob_pyro.ops.seeds.seeded` of any number of integers, as `hash_key` does.

    Distributions draw from torch's default generators; policies are sampled under such a seed, so that a simulation is
    reproducible and the caller's stream of random numbers is not disturbed.
    """
    return hash_key(*parts) & (_MASK >> 1)


class CounterRandom:
    """Uniform and normal numbers addressed by user, event and slot.

    Args:
        key: the integers that name this table of numbers (a seed, a purpose, ...).

    `page` finds the numbers of an event, `uniform` and `normal` read them. All coordinates are int64 tensors or
    integers that broadcast against each other, on any device: the 64 bits behind a number are the same on all.

    >>> table = CounterRandom(0)
    >>> together = table.uniform(table.page(torch.arange(3), 7), 0)
    >>> alone = table.uniform(table.page(torch.tensor([2]), 7), 0)
    >>> bool(together[2] == alone)
    True
    """

    def __init__(self, *key: int) -> None:
        self.key = hash_key(*key)

    def page(self, user: Tensor, event: Tensor | int, row: Tensor | None = None) -> Tensor:
        """Find where the numbers of these users' events are: an int64 hash, shaped as the coordinates broadcast.

        Args:
            user: user numbers.
            event: the events, of ``user`` or of ``user[row]``.
            row: picks the user of each event, where users have many: cheaper than ``page(user[row], event)``.
        """
        page = _mix_(user * _signed(_USER) + _signed(self.key))
        page = page if row is None else page.index_select(0, row)
        return _mix_(page + _scaled(event, _EVENT))

    def bits(self, page: Tensor, slot: Tensor | int) -> Tensor:
        """Return 64 random bits as an int64."""
        return _mix_(page + _scaled(slot, _SLOT))

    def uniform(self, page: Tensor, slot: Tensor | int) -> Tensor:
        """Draw uniformly from the *open* interval (0, 1), in float64 with 52 random bits."""
        # Half a step above the 52-bit grid: neither 0 nor 1 can occur, so quantile functions stay finite.
        grid = (self.bits(page, slot) >> 12).bitwise_and_((1 << 52) - 1)
        return grid.to(torch.float64).add_(0.5).mul_(2.0**-52)

    def normal(self, page: Tensor, slot: Tensor | int) -> Tensor:
        """Draw standard normal numbers by the quantile function, in float64."""
        result: Tensor = torch.special.ndtri(self.uniform(page, slot))
        return result
