"""The index of the largest of normal scores that share a few factors."""

from typing import ClassVar

from pyro.distributions import constraints
from torch import Tensor

from blob_pyro.propensity._checks import (
    check_batch_shapes,
    check_finite,
    check_matrix,
    check_variance,
    check_vectors,
)
from blob_pyro.propensity._index import wants_validation
from blob_pyro.propensity.argmax_multivariate_normal import ArgmaxJointlyNormal
from blob_pyro.propensity.kernels.jointly_normal import JointlyNormal

__all__ = ["ArgmaxLowRankNormal"]


class ArgmaxLowRankNormal(ArgmaxJointlyNormal):
    r"""Thompson-sampling propensities for normal scores with a covariance of low rank plus a diagonal.

    .. math:: Y = \mathrm{loc} + F z + \sqrt{d}\, \varepsilon, \qquad z \sim N(0, I_K), \varepsilon \sim N(0, I_A).

    Given z the scores are independent, so :math:`\pi = E_z[\pi(z)]` with an exact inner vector. The outer
    expectation is a tensor quadrature for one or two factors; for more it is Genz's method on the full covariance,
    tilted as in `ArgmaxMultivariateNormal`, up to 128 actions and randomised quasi-Monte Carlo beyond. Without a
    diagonal (d = 0) the scores
    are lines along the strongest factor and their upper envelope is integrated exactly, so that one factor costs no
    error at all. The choice is in the attribute `method`, the absolute error of each probability in
    `error_estimate`. With K about 20 dominant factors and 1,000 actions the error is that of plain Monte Carlo
    with as many draws: nothing better is known.

    Args:
        loc: batch_shape x A.
        cov_factor: batch_shape x A x K.
        cov_diag: batch_shape x A, variances (as in torch's LowRankMultivariateNormal), at least 0.
        method: "independent" (ignores the factor), "exact", "envelope" (ignores the diagonal), "quadrature",
            "orthants" or "conditional" instead of the automatic choice.
        num_points: points of each replicate, a power of two; by default about 0.1 s for one vector on one core.
        num_replicates: independent randomisations, at least 2.
        seed: of the randomisation; the same seed gives the same probabilities.
        minimum: take the index of the smallest score instead.
        validate_args: as for `ArgmaxNormal`.

    An action that hardly any point shows is not said to have probability 0 with an error of 0. Without a diagonal it
    gets points of its own, around where it is likeliest to win. What no point shows then, or with a diagonal, has an
    `error_estimate` of 3 / (num_points num_replicates), or of P(it beats one rival) where that is less.

    Raises:
        ValueError: parameters that are not finite, negative variances, shapes that do not fit, an unknown method,
            fewer than two replicates.

    Source: O. Jeunen, "Counterfactual Inference under Thompson Sampling" (2025), eqs. 5 and 7.

    >>> import torch
    >>> loc, factor = torch.zeros(4), torch.tensor([[1.0], [1.0], [-1.0], [0.0]])
    >>> d = ArgmaxLowRankNormal(loc, factor, torch.tensor([0.5, 1.0, 0.5, 0.1]))
    >>> d.probs, d.method
    (tensor([0.2520, 0.2870, 0.3731, 0.0878]), 'quadrature')
    """

    event_dims: ClassVar[dict[str, int]] = {"loc": 1, "cov_factor": 2, "cov_diag": 1}
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real_vector,
        "cov_factor": constraints.independent(constraints.real, 2),
        "cov_diag": constraints.independent(constraints.nonnegative, 1),
    }

    def __init__(
        self,
        loc: Tensor,
        cov_factor: Tensor,
        cov_diag: Tensor,
        *,
        method: str | None = None,
        num_points: int | None = None,
        num_replicates: int = 16,
        seed: int = 0,
        minimum: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        owner = type(self).__name__
        loc, cov_diag = check_vectors(owner, loc=loc, cov_diag=cov_diag)
        num_actions = loc.shape[-1]
        check_matrix(owner, "cov_factor", cov_factor, num_actions, square=False)
        batch_shape = check_batch_shapes(owner, loc=loc.shape[:-1], cov_factor=cov_factor.shape[:-2])
        self.loc, self.cov_diag = loc.expand((*batch_shape, num_actions)), cov_diag.expand((*batch_shape, num_actions))
        self.cov_factor = cov_factor.expand(batch_shape + cov_factor.shape[-2:])
        if wants_validation(validate_args):
            check_finite(owner, "loc", loc)
            check_finite(owner, "cov_factor", cov_factor)
            check_variance(owner, "cov_diag", cov_diag)
        self._finish(batch_shape, num_actions, minimum, validate_args)
        self._configure(method, num_points, num_replicates, seed)

    def _scores(self) -> JointlyNormal:
        num_actions, rank = self.cov_factor.shape[-2:]
        return JointlyNormal(
            self.loc.reshape(-1, num_actions).double(),
            self.cov_factor.reshape(-1, num_actions, rank).double(),
            self.cov_diag.reshape(-1, num_actions).double(),
        )
