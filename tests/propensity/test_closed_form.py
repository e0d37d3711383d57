"""The paper's formulas: checked against each other, exact rationals, and used to check the distributions."""

from fractions import Fraction

import pytest
import torch

from blob_pyro.propensity import ArgmaxBeta, ArgmaxNormal
from blob_pyro.propensity.closed_form import (
    beta_max_by_inclusion_exclusion,
    beta_max_by_symmetry,
    beta_minimum,
    beta_two_arms,
    normal_argmax_probs,
)
from tests.propensity.propensity_oracles import double, exact_beta_rank_probs

BETAS = {"two": ([3, 5], [4, 9]), "three": ([3, 1, 5], [4, 2, 9]), "four": ([2, 3, 1, 4], [5, 4, 2, 3])}


@pytest.mark.parametrize(("a", "b"), BETAS.values(), ids=BETAS)
def test_beta_formulas_match_exact_polynomials(a, b):
    table = exact_beta_rank_probs(a, b)
    for action in range(len(a)):
        assert beta_max_by_symmetry(a, b, action) == table[action][0]
        assert beta_max_by_inclusion_exclusion(a, b, action) == table[action][0]
        assert beta_minimum(a, b, action) == table[action][-1]


def test_millers_formula_matches_exact_polynomials():
    assert beta_two_arms([3, 5], [4, 9]) == exact_beta_rank_probs([3, 5], [4, 9])[1][0]


def test_miller_for_hundreds_of_counts_matches_the_distribution():
    a, b = [120, 95], [900, 640]
    exact = beta_two_arms(a, b)
    assert abs(ArgmaxBeta(double(*a), double(*b)).probs[1].item() - float(exact)) < 1e-13


@pytest.mark.parametrize("scale", [[1.0, 2.0, 0.5], [0.2, 3.0, 1.0]], ids=str)
def test_normal_formula_matches_the_distribution(scale):
    loc = [0.0, 0.5, 1.0]
    expected = torch.from_numpy(normal_argmax_probs(loc, scale))
    torch.testing.assert_close(ArgmaxNormal(double(*loc), double(*scale)).probs, expected, rtol=0, atol=1e-6)


def test_standard_deviations_in_place_of_variances_are_caught():
    """The published code's slip: its numbers sum to one and are wrong, so the oracle must tell them apart."""
    loc, scale = [0.0, 0.5, 1.0], [0.05, 4.0, 0.2]
    slipped = torch.from_numpy(normal_argmax_probs(loc, [s**0.5 for s in scale]))
    assert abs(slipped.sum().item() - 1) < 1e-6
    assert (ArgmaxNormal(double(*loc), double(*scale)).probs - slipped).abs().max() > 0.04


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: beta_minimum([1, 2], [1], 0), "a has 2 arms and b has 1"),
        (lambda: beta_two_arms([1, 2], [1, 0.5]), r"b\[1\] is 0.5, but the closed form needs positive integers"),
        (lambda: beta_max_by_symmetry([0, 2], [1, 1], 0), r"a\[0\] is 0"),
        (lambda: beta_max_by_symmetry([9] * 8, [99] * 8, 0), r"9.32e\+13 terms.*would take 9.32e\+07 s"),
        (lambda: beta_max_by_inclusion_exclusion([9] * 8, [99] * 8, 0), r"1e\+07 terms, more than max_terms"),
    ],
    ids=["lengths", "fraction", "zero", "cost by symmetry", "cost by inclusion"],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_results_are_rationals():
    assert isinstance(beta_max_by_symmetry([1, 2], [1, 1], 0), Fraction)
