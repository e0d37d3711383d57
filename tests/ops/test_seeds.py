"""Seeds: what is drawn under one is repeated, and what others would have drawn is left to them."""

import numpy as np
import pytest
import torch

from blob_pyro.ops.seeds import check_seed, derived_seed, generator, seeded, standard_normal


def test_the_same_seed_draws_the_same_and_the_caller_s_stream_goes_on():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = torch.rand(2)
    with seeded(1, "cpu"):
        one = torch.rand(3)
        with seeded(2, "cpu"):
            two = torch.rand(3)
        rest = torch.rand(3)
    assert torch.equal(torch.cat([first, torch.rand(2)]), expected)
    with seeded(1, "cpu"):
        assert torch.equal(torch.rand(3), one)
        assert torch.equal(torch.rand(3), rest)
    assert not torch.equal(one, two)


def test_the_stream_goes_on_after_an_error_too():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(1, "cpu"):
        torch.rand(1) @ torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_generators_of_other_devices_are_not_seeded(monkeypatch):
    def moved(*args):
        raise AssertionError("every CUDA device was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", moved)
    with seeded(1, "cpu"):
        torch.rand(1)


@pytest.mark.cuda
def test_the_device_s_own_generator_is_seeded_and_put_back():
    torch.cuda.manual_seed_all(3)
    before = torch.cuda.get_rng_state()
    draws = []
    for _ in range(2):
        with seeded(1, "cuda"):
            draws.append(torch.rand(3, device="cuda"))
    assert torch.equal(*draws)
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.parametrize("seed", [0, 2**63 - 1, np.int64(7), torch.tensor(7)], ids=repr)
def test_seeds_that_are(seed):
    assert check_seed(seed) == int(seed)
    with seeded(seed, "cpu"):
        torch.rand(1)


BAD = {
    "negative": (-1, ValueError, "seed: must be between 0 and 9223372036854775807, got -1"),
    "too large": (2**63, ValueError, "must be between 0 and .*, got 9223372036854775808"),
    "fraction": (0.5, TypeError, r"seed: expected a whole number, got 0.5 \(a float\)"),
    "float": (2.0, TypeError, r"got 2.0 \(a float\)"),
    "bool": (True, TypeError, r"got True \(a bool\)"),
    "numpy bool": (np.True_, TypeError, "expected a whole number"),
    "string": ("1", TypeError, r"got '1' \(a str\)"),
    "none": (None, TypeError, r"got None \(a NoneType\)"),
    "tensor": (torch.tensor([1, 2]), TypeError, r"got tensor\(\[1, 2\]\)"),
}


@pytest.mark.parametrize(("seed", "error", "message"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("use", [lambda s: seeded(s, "cpu").__enter__(), generator], ids=["seeded", "generator"])
def test_seeds_that_are_none(use, seed, error, message):
    before = torch.get_rng_state()
    with pytest.raises(error, match=message):
        use(seed)
    assert torch.equal(torch.get_rng_state(), before)


def test_standard_normals_of_their_own():
    like = torch.zeros(1, dtype=torch.float64)
    before = torch.get_rng_state()
    draws = standard_normal((20_000, 2), 4, like)
    assert draws.dtype == torch.float64
    assert torch.equal(draws, standard_normal((20_000, 2), generator(4), like))
    assert torch.equal(torch.get_rng_state(), before)
    assert draws.mean().abs() < 5 / 40_000**0.5
    assert (draws.var() - 1).abs() < 5 * (2 / 40_000) ** 0.5


def test_derived_seeds_differ():
    seeds = {derived_seed(seed, purpose) for seed in range(50) for purpose in range(4)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
