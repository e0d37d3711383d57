"""ArgmaxBeta against exact rationals, 50 digits and closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blob_pyro.propensity import ArgmaxBeta
from tests.propensity.fifty_digits import BETAS, fifty_digits
from tests.propensity.propensity_oracles import beta_log_prob, double, exact_beta_rank_probs, standard_errors

INTEGER_CASES = {
    "counts": ([3, 1, 5], [4, 2, 9]),
    "five arms": ([2, 3, 1, 4, 2], [5, 4, 2, 9, 3]),
    "rare": ([30, 2], [2, 60]),
    "rarer": ([40, 3, 20], [2, 40, 3]),
    "one dominates": ([25, 1, 1], [1, 25, 20]),
}


@pytest.mark.parametrize(("a", "b"), INTEGER_CASES.values(), ids=INTEGER_CASES)
def test_integers_match_exact_rationals(a, b):
    log_probs = ArgmaxBeta(double(*a), double(*b)).log_probs
    for arm, row in enumerate(exact_beta_rank_probs(a, b)):
        # A rational may be too small for a float: its logarithm is a difference of two.
        exact = math.log(row[0].numerator) - math.log(row[0].denominator)
        assert exact > math.log(1e-40)
        assert abs(log_probs[arm].item() - exact) < 1e-11


@pytest.mark.parametrize(("a", "b"), BETAS.values(), ids=BETAS)
def test_real_concentrations_match_fifty_digits(a, b):
    log_probs = ArgmaxBeta(double(*a), double(*b)).log_probs
    for action in range(len(a)):
        assert abs(log_probs[action].item() - float(fifty_digits(beta_log_prob, a, b, action))) < 1e-11


@given(logs=st.lists(st.floats(math.log(1e-2), math.log(1e6)), min_size=2, max_size=2))
@settings(max_examples=25, deadline=None)
def test_power_functions_have_a_closed_form(logs):
    """Beta(a, 1) has F(y) = y^a, so P(Y_i largest) = a_i / sum a for any concentrations."""
    a = torch.tensor([*logs, 0.0], dtype=torch.float64).exp()
    log_probs = ArgmaxBeta(a, torch.ones_like(a)).log_probs
    torch.testing.assert_close(log_probs, (a / a.sum()).log(), rtol=0, atol=1e-11)


@given(logs=st.lists(st.floats(math.log(1e-2), math.log(1e6)), min_size=8, max_size=8))
@settings(max_examples=15, deadline=None)
def test_any_concentrations_sum_to_one_and_are_symmetric(logs):
    a, b = torch.tensor(logs, dtype=torch.float64).exp().reshape(2, 4)
    d = ArgmaxBeta(a, b)
    assert abs(d.probs.sum().item() - 1) < 1e-11
    torch.testing.assert_close(ArgmaxBeta(b, a, minimum=True).log_probs, d.log_probs, rtol=0, atol=0)


@given(size=st.floats(10, 1e6), share=st.floats(0.01, 0.99), lift=st.floats(-3, 3))
@settings(max_examples=20, deadline=None)
def test_large_concentrations_are_nearly_normal(size, share, lift):
    """Two arms with the same variance: an independent check of location and scale up to concentrations of 1e6."""
    a = torch.tensor([size * share, size * share * (1 + lift * 0.1 / math.sqrt(size))], dtype=torch.float64)
    b = torch.tensor([size * (1 - share)] * 2, dtype=torch.float64)
    beta = torch.distributions.Beta(a, b)
    z = (beta.mean[1] - beta.mean[0]) / beta.variance.sum().sqrt()
    # Edgeworth corrections are of the order 1 / min(a, b).
    assert abs(ArgmaxBeta(a, b).probs[1].item() - torch.special.ndtr(z).item()) < 0.5 / min(a.min(), b.min()) + 1e-9


def test_gradients():
    a = double(2.5, 3.0, 0.3).requires_grad_()
    b = double(4.0, 7.5, 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: ArgmaxBeta(x, y).log_probs, (a, b))
    assert torch.autograd.gradcheck(lambda x, y: ArgmaxBeta(x, y, minimum=True).probs, (a, b))


@pytest.mark.parametrize("action", [0, 1])
def test_gradients_of_power_functions_are_exact(action):
    a = double(0.5, 2.0, 30.0).requires_grad_()
    (gradient,) = torch.autograd.grad(ArgmaxBeta(a, torch.ones_like(a)).probs[action], a)
    exact = torch.nn.functional.one_hot(torch.tensor(action), 3) / a.sum() - a[action] / a.sum().square()
    assert (gradient - exact).abs().max() < 1e-12


def test_many_rows_are_computed_in_chunks():
    torch.manual_seed(0)
    a, b = torch.exp(torch.randn(300, 5).double() * 2), torch.exp(torch.randn(300, 5).double() * 2)
    together = ArgmaxBeta(a, b).log_probs
    for row in (0, 150, 299):
        torch.testing.assert_close(together[row], ArgmaxBeta(a[row], b[row]).log_probs, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        pytest.param([2.0, 10.0, 0.5], [8.0, 30.0, 0.5], id="ordinary"),
        pytest.param([0.01, 0.02, 0.03], [0.01, 0.01, 0.02], id="draws that underflow"),
    ],
)
@pytest.mark.parametrize("minimum", [False, True], ids=["argmax", "argmin"])
def test_samples_follow_the_probabilities(a, b, minimum):
    d = ArgmaxBeta(double(*a), double(*b), minimum=minimum)
    frequency = torch.bincount(d.sample((200_000,)), minlength=3) / 200_000
    assert standard_errors(d.probs, frequency, 200_000) < 4


def test_float32_keeps_its_digits():
    a, b = torch.tensor([2.0, 10.0, 0.5]), torch.tensor([8.0, 30.0, 0.5])
    single, exact = ArgmaxBeta(a, b), ArgmaxBeta(a.double(), b.double())
    assert single.probs.dtype == torch.float32
    assert (single.probs - exact.probs).abs().max() < 5e-7
    assert (single.log_probs - exact.log_probs).abs().max() < 2e-5


@pytest.mark.cuda
def test_cuda_agrees_with_cpu():
    a, b = double(2.0, 10.0, 0.5), double(8.0, 30.0, 0.5)
    on_device = ArgmaxBeta(a.cuda(), b.cuda()).log_probs
    assert on_device.is_cuda
    torch.testing.assert_close(on_device.cpu(), ArgmaxBeta(a, b).log_probs, rtol=0, atol=1e-11)
