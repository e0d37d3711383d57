"""The bandit model's priors, as one replaceable object."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyro.distributions as dist
from pyro.distributions import TorchDistribution

__all__ = ["BanditPriors", "Learned"]


@dataclass(frozen=True)
class Learned:
    """A positive number that training chooses, by maximising the ELBO over it (empirical Bayes).

    Args:
        start: where it starts.
    """

    start: float

    def __post_init__(self) -> None:
        if not self.start > 0:
            raise ValueError(f"Learned: must start positive, got {self.start}")


@dataclass(frozen=True)
class BanditPriors:
    """Priors of Sakhi et al. (2020, section 3.2).

    Args:
        w_a: strength of the action-history distance, before the softplus.
        w_b: strength of the learned deviation, before the softplus.
        w_c: base click logit.
        kappa_scale: standard deviation, in logits, of an item's own click rate around the base: a positive number,
            or `Learned`. The paper fixes it at 0.01, which all but switches kappa off; learning it from the log is
            the one change to the paper's priors that pays most.

    Example:
        >>> BanditPriors.paper().kappa_scale
        0.01
        >>> BanditPriors(w_c=dist.Normal(-3.0, 1.0)).w_c
        Normal(loc: -3.0, scale: 1.0)
    """

    w_a: TorchDistribution = field(default_factory=lambda: dist.Normal(-1.0, 1.0))
    w_b: TorchDistribution = field(default_factory=lambda: dist.Normal(-6.0, 1.0))
    w_c: TorchDistribution = field(default_factory=lambda: dist.Normal(-4.5, 10.0))
    kappa_scale: float | Learned = field(default_factory=lambda: Learned(0.1))

    def __post_init__(self) -> None:
        for name in ("w_a", "w_b", "w_c"):
            prior = getattr(self, name)
            if not hasattr(prior, "log_prob") or tuple(prior.batch_shape) != () or tuple(prior.event_shape) != ():
                raise ValueError(f"{name}: expected a distribution over one number, got {prior!r}")
        if not isinstance(self.kappa_scale, Learned) and not self.kappa_scale > 0:
            raise ValueError(f"kappa_scale: must be positive or Learned(start), got {self.kappa_scale}")

    @classmethod
    def paper(cls) -> BanditPriors:
        """The published setting (section 4.2.1)."""
        return cls(kappa_scale=0.01)
