"""ArgmaxNormal against 50 digits, closed forms and the nasty cases."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blob_pyro.propensity import ArgmaxLogNormal, ArgmaxNormal
from blob_pyro.propensity.kernels.normal import EXACT, QUICK, argmax_normal_log_probs
from tests.propensity.fifty_digits import NORMALS, fifty_digits
from tests.propensity.propensity_oracles import double, normal_log_prob, normal_prob_gradient, standard_errors


@pytest.mark.parametrize(("loc", "scale"), NORMALS.values(), ids=NORMALS)
def test_log_probs_match_fifty_digits(loc, scale):
    log_probs = ArgmaxNormal(double(*loc), double(*scale)).log_probs
    ratio = max(scale) / min(scale)
    for action in range(len(loc)):
        exact = fifty_digits(normal_log_prob, loc, scale, action)
        assert exact > -690
        error = abs(float(log_probs[action].item() - exact))
        # Rounding of (y - loc) / scale, squared, is what is left at probabilities near 1e-300.
        assert error < (1e-12 if ratio <= 10 else 1e-11), (action, exact, error)
        if ratio <= 10:
            assert abs(float(log_probs[action].exp()) - float(mpmath.exp(exact))) < 1e-14


@pytest.mark.parametrize("parameter", ["loc", "scale"])
@pytest.mark.parametrize("name", ["narrow", "rare"])
def test_gradients_match_fifty_digits(name, parameter):
    loc, scale = NORMALS[name]
    parameters = {"loc": double(*loc).requires_grad_(), "scale": double(*scale).requires_grad_()}
    d = ArgmaxNormal(**parameters)
    for action in (0, 2):
        (gradient,) = torch.autograd.grad(d.probs[action], parameters[parameter], retain_graph=True)
        for arm in (0, 1):
            exact = float(fifty_digits(normal_prob_gradient, loc, scale, action, arm, parameter))
            assert abs(gradient[arm].item() - exact) < 1e-12 * max(1.0, gradient.abs().max().item())


def test_gradients_of_rare_log_probs_are_finite_and_right():
    loc, scale = double(0.0, 30.0, 12.0).requires_grad_(), double(0.5, 0.8, 0.9)
    log_prob = ArgmaxNormal(loc, scale).log_prob(torch.tensor(0))
    (gradient,) = torch.autograd.grad(log_prob, loc)
    step = 1e-5
    above, below = (
        ArgmaxNormal(loc.detach() + double(sign * step, 0, 0), scale).log_prob(torch.tensor(0)) for sign in (1, -1)
    )
    assert gradient[0].item() == pytest.approx((above - below).item() / (2 * step), rel=1e-6)
    assert gradient.isfinite().all()


def test_gradcheck():
    torch.manual_seed(1)
    loc, scale = torch.randn(2, 5, dtype=torch.float64), torch.rand(2, 5, dtype=torch.float64) + 0.1
    inputs = (loc.requires_grad_(), scale.requires_grad_())
    assert torch.autograd.gradcheck(lambda m, s: ArgmaxNormal(m, s).log_probs, inputs)
    assert torch.autograd.gradcheck(lambda m, s: ArgmaxNormal(m, s, minimum=True).probs, inputs)
    assert torch.autograd.gradcheck(lambda m, s: ArgmaxNormal(m, s).entropy(), inputs)


def test_gradcheck_beside_deterministic_arms():
    scale = double(0.5, 0.0, 2.0, 0.0)
    loc = double(0.3, 0.1, -0.5, -4.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: ArgmaxNormal(m, scale).probs, (loc,))
    random = double(0.5, 2.0).requires_grad_()
    pad = torch.zeros(1, dtype=torch.float64)

    def probs(s):
        return ArgmaxNormal(loc.detach(), torch.cat([s[:1], pad, s[1:], pad])).probs

    assert torch.autograd.gradcheck(probs, (random,))


@given(
    gap=st.floats(-30, 30), first=st.floats(1e-4, 1e4), second=st.floats(1e-4, 1e4), origin=st.sampled_from([0.0, 1e6])
)
@settings(max_examples=60, deadline=None)
def test_two_arms_have_a_closed_form(gap, first, second, origin):
    spread = math.hypot(first, second)
    loc = double(origin + gap * spread, origin)
    # The difference that two float64 locations really have.
    standard = (loc[0] - loc[1]) / spread
    log_probs = ArgmaxNormal(loc, double(first, second)).log_probs
    expected = torch.special.log_ndtr(torch.stack([standard, -standard]))
    torch.testing.assert_close(log_probs, expected, rtol=1e-11, atol=1e-12)


def _brute_force(loc, scale):
    """Trapezoidal sums on a fixed grid that is far finer than needed: no meshes, no special cases."""
    low, high = (loc - 39 * scale).max(), (loc + 39 * scale).max()
    step = (high - low) / 40_000
    y = low + step * torch.arange(40_001, dtype=torch.float64)
    z = (y[:, None] - loc) / scale
    log_cdf = torch.special.log_ndtr(z)
    log_density = -0.5 * z.square() - scale.log() - 0.5 * math.log(2 * math.pi)
    return torch.logsumexp(log_density - log_cdf + log_cdf.sum(-1, keepdim=True), 0) + step.log()


@given(
    loc=st.lists(st.floats(-20, 20), min_size=3, max_size=7),
    log_scales=st.lists(st.floats(-1.15, 1.15), min_size=7, max_size=7),
    origin=st.sampled_from([0.0, -1e6, 1e3]),
)
@settings(max_examples=25, deadline=None)
def test_random_cases_match_brute_force(loc, log_scales, origin):
    scale = torch.tensor(log_scales[: len(loc)], dtype=torch.float64).exp()
    loc = torch.tensor(loc, dtype=torch.float64) + origin
    log_probs = ArgmaxNormal(loc, scale).log_probs
    # In coordinates from the origin the brute force has no cancellation to suffer from.
    expected = _brute_force(loc - origin, scale)
    reliable = expected > -690
    assert (log_probs - expected)[reliable].abs().max() < 5e-12
    assert abs(log_probs.exp().sum().item() - 1) < 1e-13


@given(
    logs=st.lists(st.floats(-18.4, 0), min_size=2, max_size=6),
    zs=st.lists(st.floats(-6, 6), min_size=6, max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_extreme_scale_ratios_agree_with_a_much_finer_mesh(logs, zs):
    scale = torch.tensor(logs, dtype=torch.float64).exp()
    loc = torch.tensor(zs[: len(logs)], dtype=torch.float64) * scale.flip(0)
    fine = EXACT.__class__(38.0, -722.0, 45.0, 1.5, (64,) + 9 * (96,))
    log_probs, expected = argmax_normal_log_probs(loc, scale), argmax_normal_log_probs(loc, scale, fine)
    reliable = expected > -690
    assert (log_probs - expected)[reliable].abs().max() < 1e-11
    assert abs(log_probs.exp().sum().item() - 1) < 1e-13


@pytest.mark.parametrize(
    ("loc", "scale", "expected"),
    [
        pytest.param([3.0], [2.0], [1.0], id="one arm"),
        pytest.param([3.0], [0.0], [1.0], id="one deterministic arm"),
        pytest.param([1.0, 2.0, 2.0], [0.0, 0.0, 0.0], [0.0, 0.5, 0.5], id="deterministic tie"),
        pytest.param([0.0, 0.0], [1.0, 0.0], [0.5, 0.5], id="deterministic in the middle"),
        pytest.param([1.0, 0.0], [1.0, 0.0], [0.8413447460685429, 0.15865525393145707], id="one against a threshold"),
        pytest.param(
            [0.0, 1.0, 1.0, 0.0],
            [1.0, 0, 0, 0],
            [0.15865525393145707, 0.42067237303427146, 0.42067237303427146, 0.0],
            id="tie above",
        ),
        pytest.param([0.0, 0.0, 0.0], [1.0, 1e-8, 1e8], [0.25, 0.25, 0.5], id="three scales apart by 1e8"),
        pytest.param([5.0, 5.0, 5.0, 5.0], [2.0, 2.0, 2.0, 2.0], [0.25] * 4, id="exchangeable"),
    ],
)
def test_special_cases(loc, scale, expected):
    torch.testing.assert_close(ArgmaxNormal(double(*loc), double(*scale)).probs, double(*expected), rtol=0, atol=1e-8)


def test_deterministic_arm_cuts_integrands_off():
    """Far above the random arms, where their integrands fall a hundred times faster than their scales say."""
    loc, scale = double(0.0, 0.0, 1.0), double(0.05, 0.03, 0.0)
    log_probs = ArgmaxNormal(loc, scale).log_probs
    # P(Y_0 > 1, Y_0 > Y_1): arm 1 is below wherever arm 0 is above 1, to 1e-240.
    assert log_probs[0].item() == pytest.approx(torch.special.log_ndtr(double(-20.0)).item(), abs=1e-12)
    assert log_probs[2].item() == 0.0


def test_equal_arms_in_a_large_set():
    """A = 5,000 exercises the path for many arms: by symmetry every probability is 1 / A."""
    num_arms = 5000
    probs = ArgmaxNormal(torch.full((num_arms,), 2.0).double(), torch.full((num_arms,), 3.0).double()).probs
    torch.testing.assert_close(probs, torch.full_like(probs, 1 / num_arms), rtol=1e-12, atol=0)


def test_two_groups_in_a_large_set():
    """Two groups of equal arms: an integral in one dimension with powers of distribution functions."""
    counts, loc, scale = (6000, 50), double(0.0, 1.0), double(1.0, 0.6)
    step = 1e-3
    y = torch.arange(-10_000, 12_000, dtype=torch.float64) * step
    z = (y[:, None] - loc) / scale
    log_density = -0.5 * z.square() - scale.log() - 0.5 * math.log(2 * math.pi)
    log_cdf = torch.special.log_ndtr(z)
    expected = torch.logsumexp(log_density - log_cdf + (log_cdf * double(*counts)).sum(-1, keepdim=True), 0)
    expected = expected.exp() * step
    index = torch.tensor([0] * counts[0] + [1] * counts[1])
    probs = ArgmaxNormal(loc[index], scale[index]).probs
    torch.testing.assert_close(probs, expected[index], rtol=1e-11, atol=0)


def test_batches_are_computed_row_by_row():
    """Chunks and ragged panels: rows with very different meshes give what they give alone."""
    torch.manual_seed(2)
    loc, scale = torch.randn(700, 7).double(), torch.exp(torch.randn(700, 7).double() * 4)
    together = ArgmaxNormal(loc, scale).log_probs
    for row in (0, 1, 350, 699):
        torch.testing.assert_close(together[row], ArgmaxNormal(loc[row], scale[row]).log_probs, rtol=1e-12, atol=1e-12)


def test_quick_accuracy_is_what_it_says():
    torch.manual_seed(3)
    loc, scale = torch.randn(200, 10).double() * 3, torch.exp(torch.randn(200, 10).double())
    quick, exact = (argmax_normal_log_probs(loc, scale, accuracy).exp() for accuracy in (QUICK, EXACT))
    assert (quick - exact).abs().max() < 2e-8


@pytest.mark.parametrize("minimum", [False, True], ids=["argmax", "argmin"])
def test_samples_follow_the_probabilities(minimum):
    d = ArgmaxNormal(double(0.0, 0.5, 1.0, 1.0), double(3.0, 1.0, 0.1, 0.0), minimum=minimum)
    draws = d.sample((200_000,))
    frequency = torch.bincount(draws, minlength=4) / 200_000
    assert standard_errors(d.probs, frequency, 200_000) < 4


def test_deterministic_ties_are_sampled_equally():
    d = ArgmaxNormal(double(1.0, 1.0, 0.0), double(0.0, 0.0, 0.0))
    frequency = torch.bincount(d.sample((40_000,)), minlength=3) / 40_000
    assert standard_errors(d.probs, frequency, 40_000) < 4


def test_float32_keeps_its_digits():
    torch.manual_seed(4)
    loc, scale = torch.randn(50, 20), torch.rand(50, 20) + 0.1
    single, exact = ArgmaxNormal(loc, scale), ArgmaxNormal(loc.double(), scale.double())
    assert single.probs.dtype == torch.float32
    assert (single.probs - exact.probs).abs().max() < 5e-7
    assert (single.log_probs - exact.log_probs).abs().max() < 2e-5


def test_log_normal_scores_have_the_order_of_their_logarithms():
    loc, scale = double(0.0, 0.4, -1.0), double(1.0, 0.3, 2.0)
    d = ArgmaxLogNormal(loc, scale)
    draws = (loc + scale * torch.randn(200_000, 3).double()).exp().argmax(-1)
    frequency = torch.bincount(draws, minlength=3) / 200_000
    assert standard_errors(d.probs, frequency, 200_000) < 4
    assert type(d.expand((2,))) is ArgmaxLogNormal


@pytest.mark.cuda
def test_cuda_agrees_with_cpu():
    torch.manual_seed(5)
    loc, scale = torch.randn(64, 12).double(), torch.rand(64, 12).double() + 0.01
    on_device = ArgmaxNormal(loc.cuda(), scale.cuda()).log_probs
    assert on_device.is_cuda
    torch.testing.assert_close(on_device.cpu(), ArgmaxNormal(loc, scale).log_probs, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
def test_a_million_arms():
    torch.manual_seed(6)
    loc, scale = torch.randn(1_000_000).double(), torch.rand(1_000_000).double() * 0.6 + 0.4
    probs = ArgmaxNormal(loc, scale).probs
    assert abs(probs.sum().item() - 1) < 1e-12


@pytest.mark.parametrize("minimum", [False, True])
@pytest.mark.parametrize("allowed", [None, [True, False, True, True]])
def test_frequencies_of_as_many_draws_as_each_context_needs(minimum, allowed, monkeypatch):
    monkeypatch.setattr("blob_pyro.propensity.argmax_normal._SCORES_AT_ONCE", 40_000)  # several parts
    loc, scale = torch.tensor([[0.0, 0.4, 0.2, -1.0], [1.0, 0.0, 0.0, 0.9]]), torch.tensor([0.1, 1.0, 0.5, 2.0])
    d = ArgmaxNormal(loc, scale, minimum=minimum)
    d = d if allowed is None else d.restrict(torch.tensor(allowed))
    counts = torch.tensor([30_000, 10_000])
    actions = d.sample_each(counts)
    assert len(actions) == 40_000
    for row, part in enumerate(actions.split(counts.tolist())):
        frequency = torch.bincount(part, minlength=4) / len(part)
        error = (d.probs[row] * (1 - d.probs[row]) / len(part)).sqrt()
        assert bool(((frequency - d.probs[row]).abs() <= 4.5 * error + 1e-9).all())
    assert d.sample_each(torch.tensor([0, 0])).shape == (0,)
    assert d.sample_each(torch.tensor([0, 3])).shape == (3,)


@pytest.mark.parametrize("minimum", [False, True])
@pytest.mark.parametrize("allowed", [None, [True, False, True, True]])
def test_log_probs_of_as_many_actions_as_each_context_plays(minimum, allowed):
    """As in the table of all actions, which is asked where it is known, restricted, or to be differentiated."""
    loc = torch.tensor([[0.0, 0.4, 0.2, -1.0], [1.0, 0.0, 0.0, 0.9], [0.0, 9.0, 0.0, 0.0]], dtype=torch.float64)
    scale = torch.tensor([0.1, 1.0, 0.5, 2.0], dtype=torch.float64)
    counts, actions = torch.tensor([5, 0, 3]), torch.tensor([0, 2, 3, 3, 0, 3, 2, 2])

    def new():
        d = ArgmaxNormal(loc, scale, minimum=minimum)
        return d if allowed is None else d.restrict(torch.tensor(allowed))

    expected = new().log_probs[torch.tensor([0, 0, 0, 0, 0, 2, 2, 2]), actions]
    torch.testing.assert_close(new().log_prob_each(counts, actions), expected, rtol=0, atol=1e-9)
    d = new()
    assert d.log_prob_each(counts, actions).shape == (8,)
    assert (d._cached_log_probs is None) == (allowed is None)
    assert d.log_prob_each(0 * counts, actions[:0]).shape == (0,)
    variable = loc.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ArgmaxNormal(variable, scale).log_prob_each(counts, actions).sum(), variable)
    assert bool((gradient[[0, 2]] != 0).any(-1).all())
    assert not gradient[1].any()
