"""The index of the largest of independent Beta scores."""

from typing import ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor

from blob_pyro.propensity._checks import check_concentration, check_vectors
from blob_pyro.propensity._index import IndexDistribution, wants_validation
from blob_pyro.propensity.kernels.beta import argmax_beta_log_probs

__all__ = ["ArgmaxBeta", "draw_beta_logits"]


def draw_beta_logits(
    concentration1: Tensor,
    concentration0: Tensor,
    sample_shape: torch.Size,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw logits of Beta values, sample_shape x batch_shape x A, in float64.

    A Beta draw is G1 / (G1 + G0) for Gamma draws G; for small concentrations both underflow and the draw is 0 / 0.
    Their logarithms do not: log Gamma(a) has the distribution of log Gamma(a + 1) + log(U) / a.
    """

    def log_gamma_draw(concentration: Tensor) -> Tensor:
        concentration = concentration.detach().double().expand(sample_shape + concentration.shape)
        uniform = torch.rand(
            concentration.shape, dtype=concentration.dtype, device=concentration.device, generator=generator
        ).clamp_min(torch.finfo(torch.float64).tiny)
        return torch._standard_gamma(concentration + 1, generator=generator).log() + uniform.log() / concentration

    return log_gamma_draw(concentration1) - log_gamma_draw(concentration0)


class ArgmaxBeta(IndexDistribution):
    r"""Thompson-sampling propensities for independent Beta posteriors of click probabilities.

    .. math:: \pi_i = P(Y_i > Y_j \text{ for all } j \ne i),
        \qquad Y_j \sim \mathrm{Beta}(\mathrm{concentration1}_j, \mathrm{concentration0}_j).

    Any real concentrations from 1e-45 to 1e12 (the paper's formulas need integers and grow exponentially with the
    number of actions). Computed in logit space, where every Beta density is log-concave, by panel-wise quadrature with
    cumulated distribution functions: cost A x Q for the whole vector, first derivatives for both concentrations. For
    concentrations from 0.01 to 1e6 log-probabilities are good to 1e-11 down to probabilities of 1e-40; beyond,
    probabilities are good to 1e-10.

    Args:
        concentration1: batch_shape x A, positive: successes plus prior.
        concentration0: batch_shape x A, positive: failures plus prior.
        minimum: take the index of the smallest score instead (the concentrations change places).
        validate_args: as for `ArgmaxNormal`.

    Raises:
        ValueError: concentrations outside 1e-45 to 1e12, or so different in one context that no quadrature resolves
            them (when probabilities are asked for); shapes that do not fit, no actions. An action
            outside 0..A-1 in `log_prob` raises torch's support error.

    Source: O. Jeunen, "Counterfactual Inference under Thompson Sampling" (2025), section 3.2: eq. 5 with Beta
    densities; eq. 15 is the same number for integers (`blob_pyro.propensity.closed_form`).

    >>> d = ArgmaxBeta(torch.tensor([2.0, 10.0, 0.5]), torch.tensor([8.0, 30.0, 0.5]))
    >>> d.probs
    tensor([0.1259, 0.2304, 0.6437])
    >>> _ = torch.manual_seed(0)
    >>> d.sample((5,))
    tensor([2, 2, 2, 1, 2])
    """

    event_dims: ClassVar[dict[str, int]] = {"concentration1": 1, "concentration0": 1}
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "concentration1": constraints.independent(constraints.positive, 1),
        "concentration0": constraints.independent(constraints.positive, 1),
    }

    def __init__(
        self,
        concentration1: Tensor,
        concentration0: Tensor,
        *,
        minimum: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        owner = type(self).__name__
        self.concentration1, self.concentration0 = check_vectors(
            owner, concentration1=concentration1, concentration0=concentration0
        )
        if wants_validation(validate_args):
            check_concentration(owner, "concentration1", concentration1)
            check_concentration(owner, "concentration0", concentration0)
        shape = self.concentration1.shape
        self._finish(shape[:-1], shape[-1], minimum, validate_args)

    def _compute_log_probs(self) -> Tensor:
        if self.minimum:
            return argmax_beta_log_probs(self.concentration0, self.concentration1)
        return argmax_beta_log_probs(self.concentration1, self.concentration0)

    def _draw_scores(self, sample_shape: torch.Size) -> tuple[Tensor, ...]:
        return (draw_beta_logits(self.concentration1, self.concentration0, sample_shape),)
