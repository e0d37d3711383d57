"""Hyperparameters of a prior: fixed, or chosen by training."""

from __future__ import annotations

from dataclasses import dataclass

from blob_pyro.ops.arguments import number_of_at_least, positive_number

__all__ = ["Learned", "Scale"]


@dataclass(frozen=True)
class Learned:
    """A positive number that training chooses, by maximising the ELBO over it (empirical Bayes).

    With a ``rate`` it is maximised together with the log density of an exponential prior, ``-rate * scale``: the prior
    that penalises a standard deviation for what it adds to a model without the effect (Simpson et al. 2017,
    *Penalising model component complexity*, section 3.3). A scale that gains less than that ends at nothing. Before
    any event ``P(scale > u) = exp(-rate * u)``. For `BanditPriors.kappa_scale` it is also the prior under which
    "laplace" and guides of independent normals find the scale's root mean square, in place of a half-normal one: see
    `blob_pyro.infer.kappa_scale`.

    Args:
        start: where it starts.
        rate: of the exponential prior, per unit of the scale; 0 leaves it out.

    Example:
        >>> from blob_pyro import BanditPriors
        >>> from blob_pyro.models import ItemDeviations
        >>> priors = BanditPriors(w_b=-6.0, zeta=0.0, terms=(ItemDeviations(Learned(0.1, rate=30.0)),))
    """

    start: float
    rate: float = 0.0

    def __post_init__(self) -> None:
        positive_number(self.start, "Learned: start")
        number_of_at_least(self.rate, "Learned: rate", 0)


Scale = float | Learned
"""A standard deviation, fixed or learned."""
