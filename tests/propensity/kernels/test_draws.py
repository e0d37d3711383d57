"""Scores drawn to twice the working precision, against exact fractions."""

from fractions import Fraction

import pytest
import torch

from blob_pyro.propensity.kernels.draws import best_index, best_indices, draw_normals, two_sum


def test_a_sum_and_what_was_rounded_away_are_exact():
    torch.manual_seed(0)
    loc = torch.randn(50, dtype=torch.float64) * 10.0 ** torch.randint(-12, 12, (50,)).double()
    deviation = torch.randn(50, dtype=torch.float64)
    total, rest = two_sum(loc, deviation)
    assert torch.equal(total, loc + deviation)
    for a, b, s, r in zip(loc.tolist(), deviation.tolist(), total.tolist(), rest.tolist()):
        assert Fraction(a) + Fraction(b) == Fraction(s) + Fraction(r)


def test_very_large_numbers_keep_their_order():
    total, _ = two_sum(*torch.tensor([[1.7e308, 1.6e308], [1e308, 1.5e308]], dtype=torch.float64))
    assert torch.isfinite(total).all()
    assert total[1] > total[0]


def test_draws_are_normal():
    torch.manual_seed(1)
    total, rest = draw_normals(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]), torch.Size((40_000,)))
    scores = total + rest
    error = torch.tensor([0.5, 3.0]).double() / 200
    assert ((scores.mean(0) - torch.tensor([1.0, -2.0])).abs() < 4 * error).all()
    assert ((scores.std(0) / torch.tensor([0.5, 3.0]) - 1).abs() < 0.02).all()


@pytest.mark.parametrize("minimum", [False, True])
def test_the_second_part_decides_ties_of_the_first(minimum):
    sign = -1 if minimum else 1
    first, second = sign * torch.tensor([[1.0, 2.0, 2.0, 0.0]]), sign * torch.tensor([[9.0, 0.1, 0.2, 9.0]])
    assert best_index((first, second), minimum).tolist() == [2]
    assert best_indices((first, second), 3, minimum).tolist() == [[2, 1, 0]]


def test_what_ties_in_all_parts_is_drawn_from():
    torch.manual_seed(2)
    index = best_index((torch.tensor([1.0, 1.0, 0.0]).expand(4000, -1),), False)
    counts = torch.bincount(index, minlength=3)
    assert counts[2] == 0
    assert abs(int(counts[0]) - 2000) < 4 * 1000**0.5
