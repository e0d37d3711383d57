"""Every propensity distribution on another device: the CPU's numbers, for a stated number of reads."""

import re

import pyro.distributions as dist
import pytest
import torch

import blob_pyro.propensity as propensity
from blob_pyro.propensity import (
    Argmax,
    ArgmaxBeta,
    ArgmaxConditionallyNormal,
    ArgmaxLogNormal,
    ArgmaxLowRankNormal,
    ArgmaxMultivariateNormal,
    ArgmaxNormal,
    ArgmaxNormalMixture,
    RankBeta,
    RankNormal,
    interpolated_argmax_normal_probs,
)

A = 30


def parameters(num_actions=A, num_contexts=2):
    """Unequal scales, and a distribution of its own in each context."""
    shape = (num_contexts, num_actions)
    return {
        "loc": torch.randn(shape, dtype=torch.float64),
        "scale": 0.2 + torch.rand(shape, dtype=torch.float64),
        "clicks": 1 + 5 * torch.rand(shape, dtype=torch.float64),
        "others": 1 + 50 * torch.rand(shape, dtype=torch.float64),
        "factor": torch.randn(*shape, 3, dtype=torch.float64) * torch.tensor([0.9, 0.5, 0.2]),
    }


def covariance(factor, scale):
    return factor @ factor.mT + torch.diag_embed(scale.square())


def conditionally_normal(loc, scale):
    return ArgmaxConditionallyNormal(
        lambda z: loc.unsqueeze(-2) + 0.3 * z.sum(-1, keepdim=True) * loc.unsqueeze(-2), scale, 2
    )


def mixture(loc, scale):
    points = torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None].to(loc.device)
    return ArgmaxNormalMixture(lambda z: loc.unsqueeze(-2) * (1 + 0.3 * z), scale, points)


CASES = {
    "ArgmaxNormal": lambda p: ArgmaxNormal(p["loc"], p["scale"]),
    "ArgmaxLogNormal": lambda p: ArgmaxLogNormal(p["loc"], p["scale"]),
    "ArgmaxBeta": lambda p: ArgmaxBeta(p["clicks"], p["others"]),
    "ArgmaxConditionallyNormal": lambda p: conditionally_normal(p["loc"], p["scale"]),
    "ArgmaxNormalMixture": lambda p: mixture(p["loc"], p["scale"]),
    "ArgmaxLowRankNormal": lambda p: ArgmaxLowRankNormal(p["loc"], p["factor"], p["scale"].square()),
    "ArgmaxMultivariateNormal": lambda p: ArgmaxMultivariateNormal(p["loc"], covariance(p["factor"], p["scale"])),
    "Argmax": lambda p: Argmax(dist.Gamma(p["clicks"], p["others"])),
    "RankNormal": lambda p: RankNormal(p["loc"], p["scale"], 3),
    "RankBeta": lambda p: RankBeta(p["clicks"], p["others"], 3),
}


def budget():
    """The table of `blob_pyro.propensity`: name, and what construction, `probs` and `sample` may read."""
    rows = re.findall(r"^(`.*?)  +(\d+|none) +(\d+|none) +(\d+|none)$", propensity.__doc__, re.MULTILINE)
    numbers = {}
    for names, *counts in rows:
        for name in re.findall(r"`(\w+)`", names):
            numbers[name] = [0 if count == "none" else int(count) for count in counts]
    return numbers


def to(parameters, device):
    return {name: value.to(device).requires_grad_(value.requires_grad) for name, value in parameters.items()}


@pytest.mark.parametrize("num_contexts", [pytest.param(1, marks=pytest.mark.slow), 5])
@pytest.mark.parametrize("name", CASES)
def test_budget_of_reads(reads, name, num_contexts):
    there = to(parameters(num_contexts=num_contexts), "pretend")
    counts = []
    reads.clear()
    distribution = CASES[name](there)
    counts.append(len(reads))
    distribution.probs  # noqa: B018 - computed at first
    counts.append(len(reads) - sum(counts))
    distribution.sample()
    counts.append(len(reads) - sum(counts))
    allowed = budget()[name]
    assert all(count <= most for count, most in zip(counts, allowed)), f"{counts}, allowed {allowed}: {reads}"


def test_budget_of_interpolation(reads):
    p = to(parameters(200, 1), "pretend")
    expected = interpolated_argmax_normal_probs(p["loc"].host[0], p["scale"].host[0])
    reads.clear()
    found = interpolated_argmax_normal_probs(p["loc"][0], p["scale"][0])
    assert len(reads) <= budget()["interpolated_argmax_normal_probs"][1], str(reads)
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("num_actions", [2, pytest.param(3, marks=pytest.mark.slow), 7])
@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_the_cpu(reads, name, num_actions):
    ranks = min(num_actions, 2)
    make = {
        "RankNormal": lambda p: RankNormal(p["loc"], p["scale"], ranks),
        "RankBeta": lambda p: RankBeta(p["clicks"], p["others"], ranks),
    }
    make = make.get(name, CASES[name])
    p = parameters(num_actions)
    here, there = make(p), make(to(p, "pretend"))
    assert there.probs.device.type == "pretend"
    torch.testing.assert_close(there.probs.cpu(), here.probs, rtol=0, atol=1e-12)
    torch.manual_seed(0)
    expected = here.sample((3,))
    torch.manual_seed(0)
    found = there.sample((3,))
    assert torch.equal(found.cpu(), expected)
    torch.testing.assert_close(there.log_prob(found).cpu(), here.log_prob(expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("restricted", [False, True], ids=["all", "some"])
@pytest.mark.parametrize("name", ["ArgmaxNormal", "ArgmaxNormalMixture"])
def test_the_played_action_alone(reads, name, restricted):
    """Of scales that the one integral resolves, and of one deterministic score, which it leaves to the whole kernel."""
    p, action = parameters(num_contexts=3), torch.tensor([3, 0, 17])
    p["scale"][2, 5] = 0.0
    mask = torch.arange(A) % 4 != 2
    found = []
    for device in ("cpu", "pretend"):
        d = CASES[name](to(p, device))
        d = d.restrict(mask.to(device)) if restricted else d
        reads.clear()
        found.append(d.log_prob(action.to(device)).cpu())
        assert len(reads) <= 60, str(reads)
        assert d._cached_log_probs is None
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[0].exp(), d.probs.cpu()[torch.arange(3), action], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["ArgmaxNormal", "ArgmaxBeta", "ArgmaxMultivariateNormal", "RankNormal"])
def test_gradients_are_those_of_the_cpu(reads, name):
    gradients = []
    p = parameters(4)
    for device in ("cpu", "pretend"):
        own = {key: value.to(device).detach().requires_grad_() for key, value in p.items()}
        probs = CASES[name](own).probs
        weight = torch.linspace(-1, 2, probs.numel(), dtype=torch.float64).view(probs.shape).to(device)
        used = torch.autograd.grad((weight * probs).sum(), list(own.values()), allow_unused=True)
        gradients.append([g.cpu() for g in used if g is not None])
    assert gradients[0]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("method", ["conditional", "orthants", "envelope", "quadrature"])
def test_every_method_for_correlated_scores(reads, method):
    p = parameters(5, 1)
    factor = p["factor"][..., :2] if method == "quadrature" else p["factor"]
    noise = p["scale"] * (method != "envelope")
    probs = [
        ArgmaxLowRankNormal(p["loc"].to(d), factor.to(d), noise.square().to(d), method=method).probs.cpu()
        for d in ("cpu", "pretend")
    ]
    torch.testing.assert_close(probs[1], probs[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [(0.0, 0.5, 1.0), (0.0, 0.0, 0.3), (0.0, 0.0, 0.0)], ids=str)
def test_deterministic_scores(reads, scale):
    """On a device no one looks whether there are any: what they need is always computed, and must do no harm."""
    loc, scale = torch.tensor([0.1, 0.0, -0.3], dtype=torch.float64), torch.tensor(scale, dtype=torch.float64)
    gradients = []
    for device in ("cpu", "pretend"):
        own = [t.to(device).detach().requires_grad_() for t in (loc, scale)]
        probs = ArgmaxNormal(*own).probs
        gradients.append([probs.detach().cpu(), *(g.cpu() for g in torch.autograd.grad(probs[0] - 2 * probs[2], own))])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-12)
