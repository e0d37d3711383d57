"""An arrowhead with blocks is a multivariate normal; its precision, products and powers against dense matrices."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from blob_pyro.distributions import BlockArrowheadNormal
from blob_pyro.distributions.multivariate import MultivariatePart, factors
from blob_pyro.distributions.powers import log_normalizer, sharpened, widened
from blob_pyro.infer.laplace.block_arrowhead_precision import BlockArrowheadPrecision

NUM_BLOCKS, WIDTHS, NUM_SHARED = 4, (3, 1), 3
SIZE = NUM_SHARED + NUM_BLOCKS * sum(WIDTHS)


def trils(*shape):
    lower = 0.5 * torch.randn(*shape, dtype=torch.float64).tril(-1)
    return lower + (0.5 + torch.rand(shape[:-1], dtype=torch.float64)).diag_embed()


def some():
    size = sum(WIDTHS)
    loading = torch.randn(NUM_BLOCKS, size, NUM_SHARED, dtype=torch.float64)
    parts = (torch.randn(SIZE, dtype=torch.float64), trils(NUM_SHARED, NUM_SHARED), loading)
    return BlockArrowheadNormal(*parts, trils(NUM_BLOCKS, size, size), WIDTHS)


def close(found, expected):
    torch.testing.assert_close(torch.as_tensor(found, dtype=torch.float64), expected, rtol=1e-7, atol=1e-8)


def test_is_a_multivariate_normal():
    d, other = some(), some()
    dense, dense_other = (dist.MultivariateNormal(x.loc, x.covariance_matrix) for x in (d, other))
    x = torch.randn(5, SIZE, dtype=torch.float64)
    close(d.log_prob(x), dense.log_prob(x))
    close(d.entropy(), dense.entropy())
    close(d.variance, dense.variance)
    close(d.precision_diagonal, dense.precision_matrix.diagonal())
    close(d.times_covariance(x[0]), d.covariance_matrix @ x[0])
    close(kl_divergence(other, d), kl_divergence(dense_other, dense))
    close(factors(d).factor @ factors(d).factor.mT, d.covariance_matrix)
    draws = d.expand((20_000, 1)).rsample()
    assert draws.shape == (20_000, 1, SIZE)
    deviation = d.variance.sqrt()
    error = (torch.cov(draws[:, 0].mT) - d.covariance_matrix) / deviation / deviation.unsqueeze(-1)
    assert error.abs().max() < 6 / 20_000**0.5 * 2**0.5


def test_the_divergence_of_many_blocks_takes_no_square_matrix():
    torch.manual_seed(1)
    blocks, size, shared = 3_000, sum(WIDTHS), 3
    d, other = (
        BlockArrowheadNormal(
            torch.randn(shared + blocks * size), trils(shared, shared).float(),
            torch.randn(blocks, size, shared), trils(blocks, size, size).float(), WIDTHS,
        )
        for _ in range(2)
    )  # fmt: skip
    with torch.profiler.profile(profile_memory=True) as profile:
        divergence = kl_divergence(other, d)
    assert divergence > 0
    assert max(event.cpu_memory_usage for event in profile.events()) < 4 * len(d.loc) * 200


def test_parts_are_made_of_the_rows_of_their_vector():
    d = some()
    root = torch.linalg.cholesky(d.covariance_matrix)
    for start, stop in ((0, NUM_SHARED), (1, NUM_SHARED), (1, NUM_SHARED + 4), (NUM_SHARED + 2, SIZE)):
        part = MultivariatePart(d.sample(), d, start, torch.Size((stop - start,)))
        factor, rows = part.factors.factor.mT, root[start:stop]
        close(factor @ factor.mT, rows @ rows.mT)


def test_blocks_are_independent_given_what_is_shared():
    d = some()
    precision = torch.linalg.inv(d.covariance_matrix)
    block = torch.cat([torch.arange(NUM_BLOCKS).repeat_interleave(width) for width in WIDTHS])
    apart = block.unsqueeze(-1) != block
    own = precision[NUM_SHARED:, NUM_SHARED:]
    assert own[apart].abs().max() < 1e-9 * own.abs().max()
    assert (own[~apart].abs() > 1e-9).all()


def test_precision():
    d, other = some(), some()
    dense, found = torch.linalg.inv(d.covariance_matrix), BlockArrowheadPrecision.of(d)
    x = torch.randn(SIZE, dtype=torch.float64)
    close(found.normal(d.loc).covariance_matrix, d.covariance_matrix)
    close(found.log_det(), torch.logdet(dense))
    close(found.solve(x), d.covariance_matrix @ x)
    both = found + BlockArrowheadPrecision.of(other)
    close(both.solve(x), torch.linalg.solve(dense + torch.linalg.inv(other.covariance_matrix), x))
    close(found.damped(0.3).solve(x), torch.linalg.solve(dense + 0.3 * dense.diagonal().diag(), x))
    given = dense.clone()
    given[1], given[:, 1] = 0, 0
    given[1, 1] = 1
    close(found.conditional(1).solve(x), torch.linalg.solve(given, x))
    negative = found.damped(-2.0)
    assert negative.factor() is negative.log_det() is negative.solve(x) is negative.normal(x) is None


def test_powers_and_products():
    d = some()
    dense = torch.linalg.inv(d.covariance_matrix)
    close(widened(d, 3.0).covariance_matrix, 9 * d.covariance_matrix)
    precision, loc = 2 * torch.rand(SIZE, dtype=torch.float64), torch.randn(SIZE, dtype=torch.float64)
    product = sharpened(d, precision, loc)
    close(product.covariance_matrix, torch.linalg.inv(dense + precision.diag()))
    close(product.loc, torch.linalg.solve(dense + precision.diag(), dense @ d.loc + precision * loc))
    back = sharpened(product, -precision, loc)
    close(back.covariance_matrix, d.covariance_matrix)
    close(back.loc, d.loc)
    x = torch.randn(7, SIZE, dtype=torch.float64)
    tilt = 0.5 * (precision * (x - loc).square()).sum(-1)
    close(d.log_prob(x) - tilt - product.log_prob(x), log_normalizer(d, product, precision, loc).expand(7))
    too_much = torch.zeros(SIZE, dtype=torch.float64)
    too_much[NUM_SHARED:] = -1e6
    left = sharpened(d, too_much, loc)
    assert torch.isfinite(left.covariance_matrix).all()
    assert (left.own_scale_tril.diagonal(dim1=-2, dim2=-1) > d.own_scale_tril.diagonal(dim1=-2, dim2=-1)).all()


def test_shapes_that_do_not_match():
    d = some()
    with pytest.raises(ValueError, match=r"for a loading of \(4, 4, 3\) expected loc.*\(19,\).*got .*\(18,\)"):
        BlockArrowheadNormal(d.loc[1:], d.shared_scale_tril, d.loading, d.own_scale_tril, WIDTHS)
    with pytest.raises(ValueError, match=r"widths that sum to 4; got .* and \(3, 2\)"):
        BlockArrowheadNormal(d.loc, d.shared_scale_tril, d.loading, d.own_scale_tril, (3, 2))
