"""Explicit seeds: draws that can be repeated, and generators that are left as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from blob_pyro.ops.arguments import whole_number
from blob_pyro.ops.exclusive import exclusive

__all__ = ["check_seed", "derived_seed", "generator", "seeded", "standard_normal"]

_MOST = 2**63 - 1


def check_seed(seed: int, argument: str = "seed") -> int:
    """Return the seed as an int, or say what is wrong with it.

    Raises:
        TypeError: for anything but a whole number.
        ValueError: outside ``0 .. 2**63 - 1``.
    """
    return whole_number(seed, argument, at_least=0, at_most=_MOST)


def derived_seed(seed: int, purpose: int) -> int:
    """Return another seed, for a second stream that has nothing in common with the first (NumPy's ``SeedSequence``)."""
    (word,) = np.random.SeedSequence([seed, purpose]).generate_state(1, np.uint64)
    return int(word) & _MOST


@contextmanager
def seeded(seed: int, device: torch.device | str) -> Iterator[None]:
    """Seed torch's default generators of the CPU and of ``device`` inside, and put them back as they were afterwards.

    This is for what can only draw from them: Pyro, torch's initialisers, distributions. They are the process's, so
    `blob_pyro.ops.exclusive` is held meanwhile; it says what that cannot stop.

    Args:
        seed: a whole number, 0 or more.
        device: generators of other devices are neither seeded nor changed.

    Raises:
        TypeError: if the seed is no whole number.
        ValueError: if it is out of range.
    """
    seed, device = check_seed(seed), torch.device(device)
    with exclusive():
        cpu = torch.get_rng_state()
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        try:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every CUDA device, too
            if cuda is not None:
                _cuda_generator(device).manual_seed(seed)
            yield
        finally:
            torch.set_rng_state(cpu)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda, device)


def _cuda_generator(device: torch.device) -> torch.Generator:
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[index]


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a generator of its own, for draws that need not come from torch's default one: no lock, no other thread.

    Args:
        seed: see `seeded`.
        device: a CUDA device, or the CPU for any other.
    """
    device = torch.device(device)
    made = torch.Generator(device if device.type == "cuda" else "cpu")
    return made.manual_seed(check_seed(seed))


def standard_normal(shape: tuple[int, ...], seed_or_generator: int | torch.Generator, like: Tensor) -> Tensor:
    """Draw standard normal numbers with the dtype and on the device of ``like``, from a generator of their own."""
    own = seed_or_generator
    source = own if isinstance(own, torch.Generator) else generator(own, like.device)
    return torch.randn(shape, generator=source, dtype=like.dtype, device=source.device).to(like.device)
