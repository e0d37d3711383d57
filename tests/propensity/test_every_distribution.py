"""What every distribution over actions or slates does alike: nothing of nothing, gradients, sizes that do not fit."""

import re

import pytest
import torch

from blob_pyro.propensity import ArgmaxBeta, ArgmaxLowRankNormal, ArgmaxNormal, RankNormal
from tests.propensity.every_distribution import BUILD

ALL = pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)


@ALL
@pytest.mark.parametrize("batch_shape", [(0,), (0, 2), (2, 0)], ids=str)
def test_an_empty_batch_has_an_empty_answer(build, batch_shape):
    x = torch.zeros(*batch_shape, 4, dtype=torch.float64, requires_grad=True)
    d = build(x)
    assert d.batch_shape == batch_shape
    assert d.probs.shape[: len(batch_shape) + 1] == (*batch_shape, 4)
    assert d.sample((3,)).shape == (3, *batch_shape, *d.event_shape)
    assert d.log_prob(d.sample()).shape == batch_shape
    assert d.expand((5, *batch_shape)).probs.shape[:-1] == (5, *d.probs.shape[:-1])
    (gradient,) = torch.autograd.grad(d.probs.sum(), x)
    assert gradient.shape == x.shape
    if not d.event_shape:
        assert d.entropy().shape == d.mode.shape == batch_shape
        assert d.enumerate_support().shape == (4, *batch_shape)
    if hasattr(d, "error_estimate"):
        assert d.error_estimate.shape == d.probs.shape


@ALL
def test_no_draws_are_no_draws(build):
    d = build(torch.zeros(2, 4))
    assert d.sample((0,)).shape == (0, 2, *d.event_shape)
    assert d.expand((0, 2)).sample().shape == (0, 2, *d.event_shape)


@ALL
def test_torch_func_grad_is_autograd(build):
    x = torch.tensor([0.0, 0.3, 1.0, -0.5], dtype=torch.float64)

    def first(x):
        return build(x).probs.flatten()[0]

    (expected,) = torch.autograd.grad(first(x.requires_grad_()), x)
    torch.testing.assert_close(torch.func.grad(first)(x.detach()), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("transform", "name"),
    [(torch.func.vmap, name) for name in ("normal", "beta", "multivariate")]
    + [(torch.func.jacrev, name) for name in ("normal", "beta")],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_torch_func_vmap_says_what_to_use(transform, name):
    with pytest.raises(ValueError, match="batch_shape x A at once"):
        transform(lambda x: BUILD[name](x).probs)(torch.zeros(2, 4, dtype=torch.float64))


def test_torch_func_jacrev_of_orthants_is_the_jacobian():
    x = torch.tensor([[0.0, 0.3, 1.0, -0.5], [0.0, 0.0, 0.2, 0.0]], dtype=torch.float64)
    assert BUILD["multivariate"](x).method == "orthants"

    def probs(x):
        return BUILD["multivariate"](x).probs

    expected = torch.autograd.functional.jacobian(probs, x)
    torch.testing.assert_close(torch.func.jacrev(probs)(x), expected, rtol=0, atol=1e-12)


FORWARD = {
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
    "jacfwd": lambda f, x: torch.func.jacfwd(f)(x).sum(-1),
    "hessian": lambda f, x: torch.func.hessian(lambda x: f(x).flatten()[0])(x),
}


@pytest.mark.parametrize("transform", FORWARD.values(), ids=FORWARD)
@ALL
def test_forward_mode_is_right_or_says_what_to_use(transform, build):
    """All scores moved alike: no probability of normal scores changes."""
    x = torch.tensor([0.0, 0.3, 1.0, -0.5], dtype=torch.float64)
    refusal = ""
    try:
        found = transform(lambda x: build(x).probs, x)
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert re.search(r"forward mode, .* Take reverse mode: torch.func.grad", refusal)
        return
    directions = torch.autograd.functional.jacobian(lambda x: build(x).probs, x).sum(-1)
    if found.shape == directions.shape:
        torch.testing.assert_close(found, directions, rtol=0, atol=1e-9)


@ALL
def test_expanding_keeps_the_checks(build):
    d = build(torch.zeros(4)).expand((3,))
    with pytest.raises(ValueError, match="support"):
        d.log_prob(torch.full((3, *d.event_shape), 4))
    unchecked = build(torch.zeros(4))
    unchecked._validate_args = False
    assert unchecked.expand((2,))._validate_args is False


@ALL
def test_many_draws_come_in_parts(build, monkeypatch):
    d = build(torch.tensor([[0.0, 0.5, 1.0, -1.0], [0.0, 0.0, 0.0, 3.0]]))
    monkeypatch.setattr("blob_pyro.propensity._index.MAX_SCORES", 32)
    draw, sizes = type(d)._draw_scores, []
    monkeypatch.setattr(type(d), "_draw_scores", lambda self, shape: sizes.append(shape.numel()) or draw(self, shape))
    drawn = d.sample((20, 50))
    assert max(sizes, default=0) <= 4  # times two contexts of four actions
    assert drawn.shape == (20, 50, 2, *d.event_shape)
    frequency = torch.nn.functional.one_hot(drawn.reshape(1000, 2, -1)[..., 0], 4).double().mean(0)
    probs = d.probs if not d.event_shape else d.probs[..., 0]
    assert ((frequency - probs).abs() < 5 * (probs * (1 - probs) / 1000).sqrt() + 0.005).all()
    assert build(torch.zeros(3, 40, 4)).sample().shape[:2] == (3, 40)


HUGE = {
    "normal": lambda x: ArgmaxNormal(x, x),
    "beta": lambda x: ArgmaxBeta(x, x),
    "low rank": lambda x: ArgmaxLowRankNormal(x, torch.ones(1, 1).expand(x.shape[-1], 1), x, method="conditional"),
}


@pytest.mark.parametrize("build", HUGE.values(), ids=HUGE)
def test_more_than_fits_is_refused_in_bytes(build):
    """Three numbers for all contexts and actions: nothing of their size is made, by the constructor either."""
    d = build(torch.ones(1, 1).expand(10**6, 10**6))
    with pytest.raises(
        MemoryError, match=r"1,000,000 contexts x 1,000,000 actions would take .* bytes.*fewer contexts"
    ):
        _ = d.probs


def test_ranks_of_many_actions_are_refused_in_bytes():
    """Where no two densities lie together: a mesh of all of them has three panels for each."""
    d = RankNormal(torch.arange(100_000.0), torch.full((100_000,), 1e-3))
    with pytest.raises(MemoryError, match=r"RankNormal of 1 contexts x 100,000 actions would take"):
        _ = d.probs
    with pytest.raises(MemoryError, match=r"RankNormal of 1 contexts x 100,000 actions would take"):
        d.log_prob(torch.tensor([5, 4, 3]))
    with pytest.raises(MemoryError, match=r"RankNormal of 1,000,000 contexts x 1,000,000 actions would take"):
        _ = RankNormal(torch.ones(1, 1).expand(10**6, 10**6), torch.ones(1, 1).expand(10**6, 10**6)).probs
    assert d.sample().shape == (3,)
