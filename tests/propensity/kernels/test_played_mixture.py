"""Few actions of many finite mixtures: against the kernel for all actions, however alike or unlike the scores are."""

import math

import pytest
import torch

from blob_pyro.propensity.kernels import played_mixture as kernel
from blob_pyro.propensity.kernels.normal import argmax_normal_log_probs
from blob_pyro.propensity.kernels.played_mixture import played_mixture_log_probs


def problems(contexts, points, arms, ratio, spread, played=4, seed=0, shared_scale=True):
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(1 if shared_scale else contexts, arms, dtype=torch.float64, generator=generator)
    scale = torch.exp((uniform - 0.5) * math.log(ratio))
    loc = torch.randn(contexts, points, arms, dtype=torch.float64, generator=generator) * spread
    loc = loc / 2 + torch.randn(contexts, 1, arms, dtype=torch.float64, generator=generator) * spread
    action = torch.randint(arms, (contexts, played), generator=generator)
    action[:, 0] = (loc.mean(1) + scale).argmax(-1)
    return loc, scale[0] if shared_scale else scale, action


def expected(loc, scale, action, groups=1):
    own = scale.expand(len(loc), -1).unsqueeze(1).expand_as(loc)
    probs = argmax_normal_log_probs(loc, own).exp().unflatten(1, (groups, -1)).mean(2)
    return probs.gather(-1, action.unsqueeze(1).expand(-1, groups, -1))


@pytest.mark.parametrize("shared_scale", [True, False])
@pytest.mark.parametrize("arms", [2, 5, 100, 400])
@pytest.mark.parametrize(
    ("ratio", "spread"), [(1, 0), (1, 1), (3, 0.7), (7.9, 1), (3, 4), (3, 40), (20, 0.5), (60, 3), (100, 1)]
)
def test_the_same_as_all_arms_point_by_point(arms, ratio, spread, shared_scale):
    loc, scale, action = problems(7, 6, arms, ratio, spread, shared_scale=shared_scale)
    found, truth = played_mixture_log_probs(loc, scale, action).exp(), expected(loc, scale, action)
    assert found.shape == (7, 1, 4)
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-14)
    assert bool((truth[:, 0, 0] > 1e-3).all())


@pytest.mark.parametrize("ratio", [3, 15])
def test_most_of_what_resembles_a_posterior_is_left_to_nobody_else(ratio, monkeypatch):
    """Else it is right and slow."""
    loc, scale, action = problems(40, 16, 100, ratio, 0.8)
    asked = []
    one_by_one = kernel._one_by_one
    monkeypatch.setattr(kernel, "_one_by_one", lambda *a: asked.append(len(a[0])) or one_by_one(*a))
    truth = expected(loc, scale, action)
    found = played_mixture_log_probs(loc, scale, action).exp()
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=0)
    assert sum(asked) <= int((truth < 1e-6).sum()) + 2


@pytest.mark.parametrize("narrow", [0.3, 0.02])
@pytest.mark.parametrize("shift", torch.linspace(0, 1, 7).tolist())
def test_what_is_narrow_is_not_missed_between_nodes(shift, narrow):
    """Two scores far apart in a wide range, at any place of it."""
    scale = torch.tensor([narrow, narrow, 1.0])
    loc = torch.tensor([[[20.0 + shift, 20.2 + shift, 0.0], [-20.0 - shift, -20.0, 0.0]]])
    action = torch.tensor([[0, 1, 2]])
    torch.testing.assert_close(
        played_mixture_log_probs(loc, scale, action).exp(), expected(loc.double(), scale.double(), action), rtol=1e-9,
        atol=0,
    )  # fmt: skip


def test_groups_are_averages_of_successive_points():
    loc, scale, action = problems(3, 6, 10, 2, 1)
    found = played_mixture_log_probs(loc, scale, action, groups=3).exp()
    torch.testing.assert_close(found, expected(loc, scale, action, 3), rtol=1e-9, atol=0)
    parts = [played_mixture_log_probs(loc[:, i : i + 2], scale, action).exp() for i in (0, 2, 4)]
    torch.testing.assert_close(found, torch.cat(parts, 1), rtol=1e-9, atol=0)


def test_scores_without_doubt_and_no_contexts():
    loc, scale, action = problems(3, 4, 5, 1, 1)
    scale = torch.tensor([0.0, 1.0, 1.0, 0.5, 0.0]).double()
    action = torch.tensor([[0, 1, 4, 2]] * 3)
    torch.testing.assert_close(
        played_mixture_log_probs(loc, scale, action).exp(), expected(loc, scale, action), rtol=1e-9, atol=1e-300
    )
    assert played_mixture_log_probs(loc[:0], scale, action[:0]).shape == (0, 1, 4)


def test_a_part_does_not_depend_on_the_rest():
    loc, scale, action = problems(9, 4, 30, 2, 1)
    whole = played_mixture_log_probs(loc, scale, action)
    torch.testing.assert_close(whole[4:5], played_mixture_log_probs(loc[4:5], scale, action[4:5]), rtol=0, atol=1e-9)
