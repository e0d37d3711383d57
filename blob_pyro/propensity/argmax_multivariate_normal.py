"""The index of the largest of jointly normal scores with a full covariance."""

import dataclasses
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor

from blob_pyro.propensity._checks import (
    check_batch_shapes,
    check_covariance,
    check_finite,
    check_matrix,
    check_sampling,
    check_vectors,
)
from blob_pyro.propensity._index import EstimatedIndexDistribution, wants_validation
from blob_pyro.propensity._types import check_no_tangent
from blob_pyro.propensity.kernels.draws import two_sum
from blob_pyro.propensity.kernels.jointly_normal import (
    METHODS,
    JointlyNormal,
    Sampling,
    choose_method,
    default_points,
    working_bytes,
)

__all__ = ["ArgmaxJointlyNormal", "ArgmaxMultivariateNormal"]


class ArgmaxJointlyNormal(EstimatedIndexDistribution):
    """The base of full and low-rank covariances: a way to compute is chosen, used, and drawn from.

    Attributes:
        method: the way of computation, see `blob_pyro.propensity.kernels.jointly_normal`.
        num_points: points of each replicate.
        num_replicates: independent randomisations.
        seed: of the randomisations.
    """

    loc: Tensor
    method: str
    num_points: int
    num_replicates: int
    seed: int

    def _configure(self, method: str | None, num_points: int | None, num_replicates: int, seed: int) -> None:
        owner = type(self).__name__
        check_sampling(owner, method, tuple(METHODS), num_points, num_replicates, seed)
        for name in self.event_dims:
            check_no_tangent(owner, name, getattr(self, name))
        with torch.no_grad():
            self.method = choose_method(self._normalized_scores()) if method is None else method
        self.num_points = num_points or default_points(self.method, self.loc.shape[-1])
        self.num_replicates, self.seed = num_replicates, seed

    def _scores(self) -> JointlyNormal:
        """The parameters in float64 and a flat batch."""
        raise NotImplementedError(f"{type(self).__name__} must define _scores")

    def _normalized_scores(self) -> JointlyNormal:
        scores = self._scores()
        return (dataclasses.replace(scores, loc=-scores.loc) if self.minimum else scores).normalized()

    def _copy_attributes(self, new: Any) -> None:
        for name in ("method", "num_points", "num_replicates", "seed"):
            setattr(new, name, getattr(self, name))

    def _working_bytes(self) -> int:
        rows, num_actions = self.loc[..., 0].numel(), self.num_actions
        return super()._working_bytes() + working_bytes(self.method, rows, num_actions, self.num_replicates)

    def _estimate(self) -> tuple[Tensor, Tensor]:
        scores = self._normalized_scores()
        probs, error = METHODS[self.method](scores, Sampling(self.num_points, self.num_replicates, self.seed))
        shape = (*self.batch_shape, self.num_actions)
        return probs.reshape(shape).to(self.loc.dtype), error.reshape(shape).to(self.loc.dtype)

    def _draw_scores(self, sample_shape: torch.Size) -> tuple[Tensor, ...]:
        scores = self._scores()
        shape = sample_shape + self.loc.shape
        noise = scores.loc.new_empty(shape).normal_() * scores.diagonal.sqrt().reshape(self.loc.shape)
        factor = scores.factor.reshape(self.loc.shape + scores.factor.shape[-1:])
        shared = scores.loc.new_empty(sample_shape + self.batch_shape + factor.shape[-1:]).normal_()
        return two_sum(self.loc.double(), noise + (factor @ shared.unsqueeze(-1)).squeeze(-1))


class ArgmaxMultivariateNormal(ArgmaxJointlyNormal):
    r"""Thompson-sampling propensities for jointly normal scores.

    .. math:: \pi_i = P(Y_i > Y_j \text{ for all } j \ne i), \qquad Y \sim N(\mathrm{loc}, \Sigma).

    With correlated scores the marginals are not enough: ignoring correlation where 20 actions shared two parameters
    moved single propensities by 0.14 and 0.38 in total variation. The way of computation is chosen by the size of the
    problem (attribute `method`): exact up to three actions and for diagonal covariances, quadrature along one or two
    shared factors, Genz's separation of variables with greedy reordering and Botev's minimax tilting up to 128 actions,
    Rao-Blackwellised quasi-Monte Carlo beyond. `error_estimate` holds the absolute error of each probability.

    What is reachable by default, over thirteen kinds of covariance (random ones of full rank and of two to twenty
    factors, equicorrelated, blocks, alternating signs, scales of ratio 1e3), common actions and rare ones down to 1e-12
    alike, relative to each probability (`python benchmarks/correlated_propensities.py`):

    =======  ======  =====  ===================
    actions  median  worst  CPU ms for a vector
    =======  ======  =====  ===================
    5        9e-7    2e-5   18
    10       7e-6    2e-4   43
    20       5e-5    1e-3   95
    24       1e-4    2e-3   77
    30       1e-4    2e-3   122
    50       5e-4    1e-2   122
    100      2e-3    4e-2   420
    =======  ======  =====  ===================

    Four times the points take four times as long and leave a third of the error. Beyond 128 actions the error grows to
    that of plain Monte Carlo as the covariance approaches singularity, and an action that is rarer than one in
    `num_points` times `num_replicates` is mostly underestimated; its `error_estimate` says what may have been missed.

    Args:
        loc: batch_shape x A.
        covariance_matrix: batch_shape x A x A, positive semi-definite.
        method: "independent" (reads only the diagonal), "exact", "orthants", "envelope" or "conditional" instead of the
            automatic choice.
        num_points: points of each replicate, a power of two; by default about 0.1 s for one vector on one core.
        num_replicates: independent randomisations, at least 2.
        seed: of the randomisation; the same seed gives the same probabilities.
        minimum: take the index of the smallest score instead.
        validate_args: as for `ArgmaxNormal`.

    Raises:
        ValueError: locations that are not finite, a covariance of the wrong shape, not symmetric, or not positive
            semi-definite; an unknown method; fewer than two replicates.

    Source: O. Jeunen, "Counterfactual Inference under Thompson Sampling" (2025), eqs. 6 and 7; A. Genz, "Numerical
    computation of multivariate normal probabilities" (1992); Z. I. Botev, "The normal law under linear restrictions:
    simulation and estimation via minimax tilting" (2017).

    >>> loc = torch.tensor([0.0, 0.0, 0.0])
    >>> covariance = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> d = ArgmaxMultivariateNormal(loc, covariance)
    >>> d.probs, d.method
    (tensor([0.2753, 0.2753, 0.4495]), 'exact')
    """

    event_dims: ClassVar[dict[str, int]] = {"loc": 1, "covariance_matrix": 2}
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real_vector,
        "covariance_matrix": constraints.independent(constraints.real, 2),
    }

    def __init__(
        self,
        loc: Tensor,
        covariance_matrix: Tensor,
        *,
        method: str | None = None,
        num_points: int | None = None,
        num_replicates: int = 16,
        seed: int = 0,
        minimum: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        owner = type(self).__name__
        (loc,) = check_vectors(owner, loc=loc)
        check_matrix(owner, "covariance_matrix", covariance_matrix, loc.shape[-1], square=True)
        batch_shape = check_batch_shapes(owner, loc=loc.shape[:-1], covariance_matrix=covariance_matrix.shape[:-2])
        self.loc = loc.expand(batch_shape + loc.shape[-1:])
        self.covariance_matrix = covariance_matrix.expand(batch_shape + covariance_matrix.shape[-2:])
        if wants_validation(validate_args):
            check_finite(owner, "loc", loc)
            check_covariance(owner, "covariance_matrix", covariance_matrix)
        self._finish(batch_shape, loc.shape[-1], minimum, validate_args)
        self._configure(method, num_points, num_replicates, seed)

    @classmethod
    def from_linear(
        cls,
        theta_loc: Tensor,
        theta_covariance: Tensor,
        features: Tensor,
        *,
        marginals_only: bool = False,
        **options: Any,
    ) -> "ArgmaxMultivariateNormal":
        r"""Make scores that are linear in normal parameters.

        .. math:: Y = \Phi\theta \sim N(\Phi\mu, \Phi\Sigma_\theta\Phi^T).

        Args:
            theta_loc: batch_shape x D.
            theta_covariance: batch_shape x D x D.
            features: batch_shape x A x D, one row per action.
            marginals_only: use the variances alone, as if actions had no parameters in common. This is how the paper
                applies its eq. 6 after eq. 7, and it is wrong wherever actions do share parameters: with 20
                actions that shared two, single propensities were off by up to 0.14 and the whole vector by 0.38 in
                total variation. For comparison with published numbers only.
            options: passed to the constructor.

        Source: Jeunen 2025, eq. 7.

        >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.7, 0.7]])
        >>> ArgmaxMultivariateNormal.from_linear(torch.zeros(2), torch.eye(2), features).probs
        tensor([0.4394, 0.4394, 0.1211])
        >>> ArgmaxMultivariateNormal.from_linear(torch.zeros(2), torch.eye(2), features, marginals_only=True).probs
        tensor([0.3338, 0.3338, 0.3324])
        """
        loc = (features @ theta_loc.unsqueeze(-1)).squeeze(-1)
        covariance = features @ theta_covariance @ features.mT
        # Rounding breaks the symmetry that the product has.
        covariance = (covariance + covariance.mT) / 2
        if marginals_only:
            covariance = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
        return cls(loc, covariance, **options)

    def _scores(self) -> JointlyNormal:
        num_actions = self.loc.shape[-1]
        loc = self.loc.reshape(-1, num_actions).double()
        covariance = self.covariance_matrix.reshape(-1, num_actions, num_actions).double()
        diagonal = covariance.diagonal(dim1=-2, dim2=-1)
        if not bool((covariance - torch.diag_embed(diagonal)).any()):
            return JointlyNormal(loc, covariance.new_zeros(*diagonal.shape, 1), diagonal)
        return JointlyNormal.from_covariance(loc, covariance)
