"""Distribution functions by cumulated panel integrals, against SciPy's exponential and normal ones."""

import numpy as np
import torch
from scipy import integrate as quadrature
from scipy import stats

from blob_pyro.propensity.kernels.cumulative import Distributions, integrate, panel_nodes, panel_weights

SCALES = np.array([0.5, 1.0, 2.0])
EDGES = torch.linspace(-14, 14, 41, dtype=torch.float64)[None]


ARMS = [stats.norm(0.3 * i, scale) for i, scale in enumerate(SCALES)]


def normals():
    nodes, width = panel_nodes(EDGES)
    log_density = torch.stack([torch.tensor(arm.logpdf(nodes.numpy())) for arm in ARMS], -1)
    below = torch.tensor([[arm.cdf(-14) for arm in ARMS]])
    above = torch.tensor([[arm.sf(14) for arm in ARMS]])
    return nodes, Distributions.cumulate(log_density, width, below, above)


def test_both_tails_keep_their_digits():
    nodes, d = normals()
    x = nodes.flatten().numpy()
    for i, arm in enumerate(ARMS):
        inside = np.abs(x) < 6 * SCALES[i]
        for found, expected in ((d.log_cdf, arm.logcdf), (d.log_survival, arm.logsf)):
            np.testing.assert_allclose(found[0, inside, i].numpy(), expected(x[inside]), rtol=1e-6, atol=1e-12)


def test_argmax_and_argmin_against_scipy():
    _, d = normals()

    def expected(i, tail):
        one, other = (getattr(arm, tail) for j, arm in enumerate(ARMS) if j != i)
        return quadrature.quad(lambda y: ARMS[i].pdf(y) * one(y) * other(y), -14, 14, epsabs=1e-11)[0]

    for found, tail in ((d.argmax_log_probs(), "cdf"), (d.reversed().argmax_log_probs(), "sf")):
        np.testing.assert_allclose(found[0].exp().numpy(), [expected(i, tail) for i in range(3)], atol=1e-9)


def test_integrals_up_to_every_node():
    nodes, d = normals()
    log_integrand = -nodes.flatten(1).square() / 2
    found = d.log_integral_below(log_integrand, nodes.shape[-1]).exp()[0].numpy()
    x = nodes.flatten().numpy()
    np.testing.assert_allclose(found, np.sqrt(2 * np.pi) * stats.norm.cdf(x), atol=1e-10)


def test_weights_and_whole_integrals():
    nodes, width = panel_nodes(EDGES)
    torch.testing.assert_close(panel_weights(width).sum(-1), torch.tensor([28.0]).double())
    log_density = torch.tensor(stats.norm(0.3, 0.5).logpdf(nodes.numpy()))
    torch.testing.assert_close(integrate(log_density, width), torch.ones(1).double())
