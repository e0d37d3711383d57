"""One action's probability by itself: closed forms, SciPy, the kernel for all actions; however unequal the scales."""

import math

import pytest
import torch
from scipy.stats import multivariate_normal, norm

from blob_pyro.propensity import ArgmaxNormal, ArgmaxNormalMixture, argmax_normal_log_probs
from blob_pyro.propensity.kernels import played_normal as kernel
from blob_pyro.propensity.kernels.played_normal import played_normal_log_probs
from tests.propensity.fifty_digits import ONE_SHARP, fifty_digits
from tests.propensity.propensity_oracles import double, normal_log_prob


def problems(rows, num_arms, ratio, spread, seed=0):
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(rows, num_arms, dtype=torch.float64, generator=generator)
    scale = torch.exp((uniform - 0.5) * math.log(ratio))
    unit = scale.gather(1, torch.randint(num_arms, (rows, 1), generator=generator))
    loc = torch.randn(rows, num_arms, dtype=torch.float64, generator=generator) * spread * unit
    return loc, scale, torch.randint(num_arms, (rows,), generator=generator)


@pytest.mark.parametrize("ratio", [1.0, 30.0, 1e4, 1e8])
def test_two_arms_in_closed_form(ratio):
    loc, scale, action = problems(300, 2, ratio, 5.0)
    rows = torch.arange(300)
    z = (loc[rows, action] - loc[rows, 1 - action]) / scale.square().sum(-1).sqrt()
    expected = torch.from_numpy(norm.logcdf(z.numpy()))
    found = played_normal_log_probs(loc, scale, action)
    seen = expected > -650
    assert seen.sum() > 100
    torch.testing.assert_close(found[seen], expected[seen], rtol=0, atol=1e-11)
    assert (found[~seen] < -640).all()


@pytest.mark.parametrize(("num_arms", "rows"), [(3, 300), (40, 60), (1500, 6)])
@pytest.mark.parametrize("ratio", [1.0, 30.0, 1e4, 1e8])
@pytest.mark.parametrize("spread", [0.1, 2.0, 30.0])
def test_the_same_as_all_arms_together(num_arms, rows, ratio, spread):
    loc, scale, action = problems(rows, num_arms, ratio, spread, seed=1)
    action[::2] = (loc + scale).argmax(-1)[::2]
    found = played_normal_log_probs(loc, scale, action)
    expected = argmax_normal_log_probs(loc, scale).gather(-1, action[:, None]).squeeze(-1)
    seen = expected > -650
    torch.testing.assert_close(found[seen], expected[seen], rtol=0, atol=1e-11)
    assert (found[~seen] < -640).all()


def test_the_orthant_probability_of_scipy():
    loc, scale, action = problems(1, 4, 8.0, 1.0, seed=3)
    (m, s, i), rest = (loc[0], scale[0], int(action)), [j for j in range(4) if j != int(action)]
    covariance = s[i] ** 2 + torch.diag(s[rest].square())
    orthant = multivariate_normal(cov=covariance.numpy(), abseps=1e-11, releps=1e-11, maxpts=10**7)
    exact = orthant.cdf((m[i] - m[rest]).numpy())
    assert played_normal_log_probs(loc, scale, action).exp().item() == pytest.approx(exact, abs=1e-7)


def test_mpmath_where_one_rival_is_sharp():
    loc, scale = ONE_SHARP
    for action in range(3):
        found = played_normal_log_probs(double(*loc)[None], double(*scale)[None], torch.tensor([action]))
        assert found.item() == pytest.approx(float(fifty_digits(normal_log_prob, loc, scale, action)), abs=1e-12)


def test_scales_in_common_are_given_once():
    loc, scale, action = problems(50, 30, 10.0, 2.0)
    torch.testing.assert_close(
        played_normal_log_probs(loc, scale[:1], action),
        played_normal_log_probs(loc, scale[:1].expand(50, 30), action),
        rtol=0, atol=1e-14,
    )  # fmt: skip


def test_deterministic_and_enormous_scores_are_given_to_the_kernel_for_all():
    loc = double(0.0, 1.0, 1.0, -2.0).expand(4, 4).clone()
    scale = double(1.0, 0.0, 0.0, 2.0).expand(4, 4)
    loc[3] = double(1e305, -1e305, 1.0, 0.0)
    action = torch.tensor([0, 1, 3, 0])
    expected = argmax_normal_log_probs(loc, scale).gather(-1, action[:, None]).squeeze(-1)
    torch.testing.assert_close(played_normal_log_probs(loc, scale, action), expected, rtol=0, atol=1e-13)


def test_what_does_not_converge_is_given_to_the_kernel_for_all(monkeypatch):
    loc, scale, action = problems(20, 20, 30.0, 2.0)
    expected = played_normal_log_probs(loc, scale, action)
    asked = []
    monkeypatch.setattr(kernel, "_MOST_NODES", 8)
    monkeypatch.setattr(
        kernel, "argmax_normal_log_probs", lambda m, s: asked.append(len(m)) or argmax_normal_log_probs(m, s)
    )
    torch.testing.assert_close(played_normal_log_probs(loc, scale, action), expected, rtol=0, atol=1e-11)
    assert asked == [20]


def test_nothing_and_one_arm():
    assert played_normal_log_probs(torch.zeros(0, 3), torch.ones(0, 3), torch.zeros(0, dtype=torch.long)).shape == (0,)
    one = played_normal_log_probs(torch.zeros(2, 1), torch.ones(2, 1), torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(one, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-13)


def build_normal(loc, scale):
    return ArgmaxNormal(loc, scale)


def build_smallest(loc, scale):
    return ArgmaxNormal(loc, scale, minimum=True)


def build_mixture(loc, scale):
    points = double(-1.0, 0.5, 2.0)[:, None]
    return ArgmaxNormalMixture(lambda z: loc.unsqueeze(-2) * (1 + 0.3 * z), scale, points)


@pytest.mark.parametrize("build", [build_normal, build_smallest, build_mixture])
@pytest.mark.parametrize("shared", [False, True], ids=["own scales", "shared scales"])
@pytest.mark.parametrize("restricted", [False, True], ids=["all", "some"])
def test_distributions_ask_for_the_played_action_alone(build, shared, restricted, monkeypatch):
    loc, scale, action = problems(12, 20, 10.0, 2.0)
    scale = scale[:1].expand(12, 20) if shared else scale
    mask = torch.rand(12, 20, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[:10].scatter_(1, action[:10, None], True)

    def make():
        d = build(loc, scale)
        return d.restrict(mask) if restricted else d

    table, d = make(), make()
    expected = table.log_probs.gather(-1, action[:, None]).squeeze(-1)
    with monkeypatch.context() as patch:
        patch.setattr(type(d), "_compute_log_probs", lambda self: pytest.fail("all actions are computed"))
        few = d.log_prob(action)
        twice = d.log_prob(torch.stack([action, action.flip(0)]))
    torch.testing.assert_close(few, expected, rtol=0, atol=1e-11)
    assert twice.shape == (2, 12)
    torch.testing.assert_close(twice[0], expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(d.expand((3, 12)).log_prob(action)[2], expected, rtol=0, atol=1e-11)
    _ = d.probs
    assert torch.equal(d.log_prob(action), expected)


def test_gradients_are_not_lost():
    loc, scale, action = problems(2, 20, 10.0, 2.0)
    loc.requires_grad_()
    (gradient,) = torch.autograd.grad(ArgmaxNormal(loc, scale).log_prob(action).sum(), loc)
    assert gradient.abs().sum() > 0


def test_scores_too_extreme_are_refused():
    """Against the sharp arm itself nothing is extreme; against another one, it is a step of width 1e-200."""
    loc, scale = torch.zeros(1, 20).double(), torch.ones(1, 20).double()
    scale[0, 0] = 1e-200
    assert ArgmaxNormal(loc, scale).log_prob(torch.tensor([0])).item() == pytest.approx(-19 * math.log(2), abs=1e-12)
    with pytest.raises(ValueError, match="the scores are too extreme for the quadrature"):
        ArgmaxNormal(loc, scale).log_prob(torch.tensor([1]))
