"""Beta scores with concentrations from 1e-45 to 1e12 give the right probabilities, or an error that says why not."""

import math

import pytest
import torch
from hypothesis import strategies as st

from blob_pyro.propensity import ArgmaxBeta, RankBeta
from tests.fuzzing import fuzz
from tests.propensity.extremes import probabilities


@st.composite
def concentrations(draw, most=5):
    """From the whole range that is taken, and around one size."""
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    exponent = st.floats(-44.8, 12)
    if draw(st.booleans()):
        middle = draw(st.floats(-40, 9))
        exponent = st.floats(middle - 3, middle + 3)
    values = draw(st.lists(exponent.map(lambda x: 10.0**x), min_size=1, max_size=most))
    values += draw(st.lists(st.sampled_from(values), max_size=2))
    return torch.tensor(values, dtype=torch.float64).clamp(2e-45, 1e12).to(dtype)


def check_refusal(a):
    assert a.double().max() > 1e6 * a.double().min()


@fuzz(a=concentrations(), ordinary=25)
def test_powers_of_uniforms(a):
    """Beta(a, 1) is U^(1/a): the best is i with probability a_i over their sum, and so on (Plackett and Luce)."""
    one = torch.ones_like(a).requires_grad_()
    a = a.requires_grad_()
    probs = probabilities(lambda: ArgmaxBeta(a, one))
    exact = a.detach().double() / a.detach().double().sum()
    if probs is None:
        return check_refusal(a.detach())
    torch.testing.assert_close(probs.double(), exact, rtol=0, atol=2e-6 if a.dtype == torch.float32 else 1e-10)
    mirrored = ArgmaxBeta(one.detach(), a.detach(), minimum=True).probs
    torch.testing.assert_close(mirrored, probs, rtol=0, atol=1e-12 if a.dtype == torch.float64 else 1e-6)
    assert all(g.isfinite().all() for g in torch.autograd.grad(probs[0], (a, one)))


@pytest.mark.parametrize("a", [1e-44, 1e-19, 3e-7, 1.0, 1e12])
def test_one_action_is_the_best(a):
    """1e-19 by itself was refused: no mesh of it came out."""
    a = torch.tensor([a], dtype=torch.float64).requires_grad_()
    d = ArgmaxBeta(a, torch.ones_like(a))
    assert d.probs.tolist() == [1.0]
    assert d.log_prob(torch.tensor(0)).item() == 0
    assert torch.autograd.grad(d.probs[0], a)[0].tolist() == [0.0]


@pytest.mark.parametrize("a", [[1e-19] * 3, [1e-20, 1e-21], [2.4e-21, 1.2e-18], [2e-19, 1.9e-19, 2e-20]], ids=str)
def test_meshes_that_begin_too_coarse_begin_again(a):
    """These were refused: look after look was no closer than the one before."""
    a = torch.tensor(a, dtype=torch.float64)
    torch.testing.assert_close(ArgmaxBeta(a, torch.ones_like(a)).probs, a / a.sum(), rtol=0, atol=1e-12)


@fuzz(a=concentrations(most=3), ordinary=40)
def test_ranks_of_powers_of_uniforms(a):
    one = torch.ones_like(a)
    d = RankBeta(a, one, num_ranks=len(a))
    probs = probabilities(lambda: d)
    if probs is None:
        return check_refusal(a)
    log_prob = d.ordering_log_prob(torch.arange(len(a)))
    a = a.double()
    atol = 2e-6 if probs.dtype == torch.float32 else 1e-9
    torch.testing.assert_close(probs[:, 0].double(), a / a.sum(), rtol=0, atol=atol)
    left = a.flip(0).cumsum(0).flip(0)
    torch.testing.assert_close(log_prob.exp().double(), (a / left).prod(), rtol=0, atol=atol)


@fuzz(exponents=st.lists(st.tuples(st.floats(-44.8, -8), st.floats(-44.8, -8)), min_size=1, max_size=3), ordinary=40)
def test_tiny_concentrations_are_coins(exponents):
    """Scores are 1 (probability a / (a + b)) or 0; of several 1s the closest is best, Exp(b_i) away in logits."""
    a, b = (10.0 ** torch.tensor(column, dtype=torch.float64) for column in zip(*exponents))
    a, b = a.clamp(min=1e-45), b.clamp(min=1e-45)
    probs = probabilities(lambda: ArgmaxBeta(a, b))
    if probs is None:
        return check_refusal(torch.cat([a, b]))
    torch.testing.assert_close(probs, best_coin(a.tolist(), b.tolist()), rtol=0, atol=1e-6)


def test_tiny_concentrations_of_alike_arms_are_no_difference_in_scale():
    """Logits reach out to 1e11 around a bend of width 1: the mesh must look closely over eleven orders of magnitude."""
    a = torch.tensor([[1e-8], [3e-10], [5e-12], [2e-7]], dtype=torch.float64)
    b = torch.tensor([[1e-9], [2e-10], [7e-9], [6e-12]], dtype=torch.float64)
    torch.testing.assert_close(ArgmaxBeta(a, b).probs, torch.ones(4, 1, dtype=torch.float64), rtol=0, atol=1e-9)
    a, b = [3.4e-9, 3.1e-10, 4e-10], [1.7e-10, 1.6e-10, 2.2e-10]
    probs = ArgmaxBeta(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)).probs
    torch.testing.assert_close(probs, best_coin(a, b), rtol=0, atol=1e-6)


def best_coin(a, b):
    """Exponentials of rates b compete for the longest, where any coin shows 1; else of rates a for the shortest."""
    actions = range(len(a))
    result = [0.0] * len(a)
    for shown in range(2 ** len(a)):
        ones = [i for i in actions if shown >> i & 1]
        chance = math.prod((a[i] if i in ones else b[i]) / (a[i] + b[i]) for i in actions)
        for i in ones or actions:
            if not ones:
                result[i] += chance * a[i] / sum(a)
                continue
            others = [j for j in ones if j != i]
            for excluded in range(2 ** len(others)):
                rates = [b[j] for k, j in enumerate(others) if excluded >> k & 1]
                result[i] += chance * (-1) ** len(rates) * b[i] / (b[i] + sum(rates))
    return torch.tensor(result, dtype=torch.float64)
