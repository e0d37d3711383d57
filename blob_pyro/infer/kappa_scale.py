r"""The uncertainty of kappa's learned scale, which is what is known of an item that was never shown.

Training puts a learned scale ``s`` where the ELBO is largest. Clicks say of ``s`` what some items' kappas can: with
sixteen items its posterior has a width of a fifth, with three clicks that of its prior. An item that was never shown
has ``kappa ~ N(0, s^2)`` under each ``s``, and so a variance of ``E s^2``, which the mode falls short of: at the mode,
it may be nothing. So ``s`` is moved from the mode to the root of its posterior mean square, and kappa's posterior too.

The posterior is found as Rue, Martino & Chopin (2009, section 3) find that of a hyperparameter: for every ``s`` of a
grid Laplace's approximation integrates kappa and ``w_c``, by Newton steps whose curvature is an arrowhead, with all
else in the logit at its posterior mean:

.. math:: \log p(s \mid \text{clicks}) = \log p(s) + \log p(\text{clicks}, \hat\kappa, \hat w_c \mid s)
    - \tfrac12 \log \det H(s) + \text{constant}

The prior of ``s`` is half-normal, `SCALE_OF_SCALE`, as Gelman (2006, *Prior distributions for variance parameters in
hierarchical models*) has it for groups that may be few; exponential where `Learned` has a rate, as in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from pyro.distributions import Independent, Normal, TorchDistribution
from torch import Tensor
from torch.nn.functional import logsigmoid

from blob_pyro.guides.bandit import NormalGuide
from blob_pyro.infer.training.workers import Workers
from blob_pyro.models import BanditBatch, BanditModel, StreamedBatch
from blob_pyro.models.priors.now import prior_distributions
from blob_pyro.models.sites import KAPPA, W_C

__all__ = ["MOST_EVENTS", "SCALE_OF_SCALE", "kappa_scale_posterior", "scale_on_a_grid", "spread_kappa_scale"]

SCALE_OF_SCALE = 0.5
"""Standard deviation, in logits, of the half-normal prior of kappa's scale where its uncertainty is asked for."""

MOST_EVENTS = 1 << 20
"""Of more the scale is left at its mode: so many events know it to a few per cent."""

_SMALLEST, _LARGEST = 0.01, 5 * SCALE_OF_SCALE  # of the grid; at least three times the mode
_OF_EXPONENTIAL = 0.02, 15.0  # in units of its mean: what the grid spans, too, where the prior is one
_NODES, _ZOOMS, _ENOUGH = 15, 4, 4.0  # of a grid, of how many grids, and how many nodes must share the weight
_DEPTH = 9.0  # nats below the best node where the next grid ends
_STEPS, _LONGEST, _STILL = 60, 2.0, 1e-6  # Newton's, in logits


def scale_on_a_grid(log_evidence: Callable[[float], float], mode: float, rate: float = 0.0) -> tuple[Tensor, Tensor]:
    """Find the posterior of kappa's scale on a grid of its logarithm that is fine where the probability is.

    Args:
        log_evidence: of a scale, in logits, without its constant; it is asked for ascending scales.
        mode: where the posterior may be, beside where its prior is.
        rate: of its exponential prior; 0 for the half-normal one, `SCALE_OF_SCALE`.

    Returns:
        Scales, in logits, and their probabilities, which sum to one; both float64.
    """
    smallest, largest = (end / rate for end in _OF_EXPONENTIAL) if rate else (_SMALLEST, _LARGEST)
    low, high = math.log(min(_SMALLEST, smallest)), math.log(max(_LARGEST, largest, 3 * mode))
    for _ in range(_ZOOMS):
        scales = torch.linspace(low, high, _NODES, dtype=torch.float64).exp()
        found = torch.tensor([log_evidence(scale) for scale in scales.tolist()], dtype=torch.float64)
        prior = -rate * scales if rate else -0.5 * (scales / SCALE_OF_SCALE).square()
        log = found + prior + scales.log()
        weights = torch.softmax(log, 0)
        if 1 / float(weights.square().sum()) > _ENOUGH:
            break
        step, near = (high - low) / (_NODES - 1), (log > log.max() - _DEPTH).nonzero().flatten()
        low, high = (float(scales[near[end]].log()) + side * step for end, side in ((0, -1), (-1, 1)))
    return scales, weights


class _Given(NamedTuple):
    """Kappa and ``w_c`` given a scale: where they are, curvature by the events and by the prior, log evidence."""

    kappa: Tensor
    w_c: Tensor
    events: Tensor
    prior: Tensor
    evidence: float


@torch.no_grad()
def spread_kappa_scale(
    model: BanditModel, guide: NormalGuide, batch: BanditBatch | StreamedBatch, workers: Workers | None = None
) -> dict[str, float]:
    """Move kappa's learned scale to the root of its posterior mean square, and the posterior of kappa with it.

    Each kappa's variance is changed as its curvature is, and its mean as the mode is, so that what training found is
    kept where events say all. Done where kappa has the usual prior, and there are at most `MOST_EVENTS` events.

    Args:
        model: fitted; its ``kappa_scale`` is moved.
        guide: fitted; its kappa and the mean of its ``w_c`` are moved.
        batch: of events.
        workers: who have the other events, where there are some.

    Returns:
        ``kappa_scale_mode``, where training has left it, and ``kappa_scale``, where it is now, in logits. Empty where
        nothing is done.
    """
    number = len(batch) if workers is None else workers.share.num_rows
    if model.learned.get("kappa_scale") != KAPPA or model.vector_prior is not None or number > MOST_EVENTS:
        return {}
    if not hasattr(guide, f"{KAPPA}_scale") or not hasattr(guide, f"{KAPPA}_loc"):
        return {}  # a guide of one's own, with other parameters
    if model.kappa_prior is not None or _normal(model.site_priors()[KAPPA]) is None:
        return {}
    if isinstance(batch, StreamedBatch):
        batch = batch[torch.arange(len(batch))]  # so few fit into memory
    problem, before = _ItemsOwnLogits(model, guide, batch, workers), model.kappa_scale.detach().clone()
    scales, weights = problem.posterior(float(before))
    after = before.new_tensor(float((weights * scales.square()).sum().sqrt()))
    old, new = problem.given(float(before)), problem.given(float(after))
    model.kappa_scale = after
    guide.kappa_loc = guide.kappa_loc + (new.kappa - old.kappa).to(before)
    guide.kappa_scale = guide.kappa_scale * ((old.events + old.prior) / (new.events + new.prior)).sqrt().to(before)
    if problem.base_rate is not None and hasattr(guide, f"{W_C}_loc"):
        guide.w_c_loc = guide.w_c_loc + (new.w_c - old.w_c).to(before)
    return {"kappa_scale_mode": float(before), "kappa_scale": float(after)}


@torch.no_grad()
def kappa_scale_posterior(model: BanditModel, guide: NormalGuide, batch: BanditBatch) -> tuple[Tensor, Tensor]:
    """Find the posterior of kappa's learned scale on a grid.

    Args:
        model: fitted, with a learned ``kappa_scale`` and the usual prior of kappa.
        guide: fitted.
        batch: all events.

    Returns:
        Scales, in logits, and their probabilities, which sum to one; both float64.
    """
    return _ItemsOwnLogits(model, guide, batch).posterior(float(model.kappa_scale.detach()))


class _ItemsOwnLogits:
    """The part of the posterior that the scale is in: items' own click logits, and the base that they share."""

    def __init__(
        self, model: BanditModel, guide: NormalGuide, batch: BanditBatch, workers: Workers | None = None
    ) -> None:
        assert batch.reward is not None, "there are clicks to explain"
        self.model, self.action, self.reward, self.workers = model, batch.action, batch.reward.double(), workers
        priors = model.site_priors()
        means = {name: guide.site_posterior(name).mean for name in priors}
        self.base_rate = _normal(priors[W_C]) if W_C in priors else None
        self.start = means[KAPPA].double(), means.get(W_C, means[KAPPA].new_zeros(())).double()
        means[KAPPA] = torch.zeros_like(means[KAPPA])
        if self.base_rate is not None:
            means[W_C] = torch.zeros_like(means[W_C])
        else:
            self.start = self.start[0], self.start[1] * 0
        self.offset = model.logit(means, replace(batch, interest_scale=None)).double()
        (self.clicks,) = self._by_item(self.reward)

    @torch.no_grad()
    def posterior(self, mode: float) -> tuple[Tensor, Tensor]:
        """Scales and their probabilities."""
        rate = self.model.scale_rates.get("kappa_scale", 0.0)
        return scale_on_a_grid(lambda scale: self.given(scale).evidence, mode, rate)

    def given(self, scale: float) -> _Given:
        """Mode, curvature and log evidence under one scale; the search begins at the mode of the last."""
        loc, precision, earlier = self._prior(scale)
        kappa, w_c = self.start
        base_loc, base_precision = (0.0, math.inf) if self.base_rate is None else self.base_rate
        for _ in range(_STEPS):
            p = torch.sigmoid(self.offset + w_c + kappa[self.action])
            expected, events = self._by_item(p, p * (1 - p))
            residual = self.clicks - expected
            slope, curvature = residual - precision * (kappa - loc), events + precision
            if self.base_rate is None:
                corner, step = torch.ones_like(w_c), torch.zeros_like(w_c)
            else:
                corner = base_precision + (events * precision / curvature).sum()  # kappa eliminated
                common = residual.sum() - base_precision * (w_c - base_loc)
                step = (common - (events * slope / curvature).sum()) / corner
            steps = torch.cat([step.view(1), (slope - events * step) / curvature])
            steps = steps * min(1.0, _LONGEST / max(float(steps.abs().max()), 1e-12))
            w_c, kappa = w_c + steps[0], kappa + steps[1:]
            if float(steps.abs().max()) < _STILL:
                break
        self.start = kappa, w_c
        likelihood = self._whole(logsigmoid((2 * self.reward - 1) * (self.offset + w_c + kappa[self.action])).sum())
        prior = 0.5 * (precision.log() - precision * (kappa - loc).square()).sum()
        if self.base_rate is not None:
            prior = prior - 0.5 * base_precision * (w_c - base_loc).square()
        evidence = likelihood + prior - 0.5 * (corner.log() + curvature.log().sum()) + earlier
        return _Given(kappa, w_c, events, precision, float(evidence))

    def _prior(self, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """Kappa's prior mean and precision under a scale, and what earlier events say of it."""
        before = self.model.kappa_scale.detach().clone()
        try:
            self.model.kappa_scale = before.new_tensor(scale)
            distributions = prior_distributions(self.model)
            found = _normal(distributions.sites[KAPPA])
            assert found is not None, "it has been one"
            return *found, distributions.evidence.double()
        finally:
            self.model.kappa_scale = before

    def _by_item(self, *values: Tensor) -> Tensor:
        """Add up some values of events, of all workers, by item: a row of ``P`` for each."""
        sums = torch.stack([v.new_zeros(self.model.num_items).index_add_(0, self.action, v) for v in values])
        return self._whole(sums)

    def _whole(self, sums: Tensor) -> Tensor:
        return sums if self.workers is None else self.workers.sum(sums)


def _normal(prior: TorchDistribution) -> tuple[Tensor, Tensor] | None:
    """The mean and the precision of independent normal numbers; None for another prior."""
    base = prior.base_dist if isinstance(prior, Independent) else prior
    if not isinstance(base, Normal):
        return None
    return base.loc.double().expand(prior.event_shape), base.scale.double().square().reciprocal().expand(
        prior.event_shape
    )
