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
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from pyro.distributions import Independent, Normal, TorchDistribution
from torch import Tensor
from torch.nn.functional import softplus

from blob_pyro.guides.bandit import NormalGuide
from blob_pyro.infer.training.workers import Workers
from blob_pyro.models import BanditBatch, BanditModel, StreamedBatch
from blob_pyro.models.priors.now import prior_distributions
from blob_pyro.models.sites import KAPPA, W_C

__all__ = [
    "MOST_EVENTS",
    "SCALE_OF_SCALE",
    "EventsOfItems",
    "ItemsOwnLogits",
    "kappa_scale_posterior",
    "log_prior_of_scale",
    "on_a_grid",
    "span_of_scale",
    "spread_kappa_scale",
]

SCALE_OF_SCALE = 0.5
"""Standard deviation, in logits, of the half-normal prior of kappa's scale where its uncertainty is asked for."""

MOST_EVENTS = 1 << 20
"""Of more the scale is left at its mode: so many events know it to a few per cent."""

_SMALLEST, _LARGEST = 0.01, 5 * SCALE_OF_SCALE  # of the grid; at least three times the mode
_OF_EXPONENTIAL = 0.02, 15.0  # in units of its mean: what the grid spans, too, where the prior is one
_NODES, _ZOOMS, _ENOUGH = 15, 4, 4.0  # of a grid, of how many grids, and how many nodes must share the weight
_DEPTH = 9.0  # nats below the best node where the next grid ends
_STEPS, _LONGEST, _STILL = 60, 2.0, 1e-6  # Newton's, in logits


def log_prior_of_scale(scale: float, rate: float = 0.0) -> float:
    """Return the log density of kappa's scale before any event, without its constant.

    Args:
        scale: in logits.
        rate: of its exponential prior; 0 for the half-normal one, `SCALE_OF_SCALE`.
    """
    return -rate * scale if rate else -0.5 * (scale / SCALE_OF_SCALE) ** 2


def span_of_scale(rate: float, mode: float) -> tuple[float, float]:
    """Return the ends of a grid that has room for the prior and the posterior of kappa's scale, in logits.

    Args:
        rate: of its exponential prior; 0 for the half-normal one.
        mode: where the posterior is.
    """
    smallest, largest = (end / rate for end in _OF_EXPONENTIAL) if rate else (_SMALLEST, _LARGEST)
    return min(_SMALLEST, smallest), max(_LARGEST, largest, 3 * mode)


def on_a_grid(log_density: Callable[[float], float], low: float, high: float) -> tuple[Tensor, Tensor]:
    """Find probabilities of a positive number on a grid of its logarithm that is fine where they are.

    Args:
        log_density: of the number, without its constant; it is asked in ascending order.
        low: where the first grid begins.
        high: where it ends.

    Returns:
        Numbers and their probabilities, which sum to one; both float64.
    """
    first, last = math.log(low), math.log(high)
    for _ in range(_ZOOMS):
        numbers = torch.linspace(first, last, _NODES, dtype=torch.float64).exp()
        log = torch.tensor([log_density(number) for number in numbers.tolist()], dtype=torch.float64) + numbers.log()
        weights = torch.softmax(log, 0)
        if 1 / float(weights.square().sum()) > _ENOUGH:
            break
        step, near = (last - first) / (_NODES - 1), (log > log.max() - _DEPTH).nonzero().flatten()
        first, last = (float(numbers[near[end]].log()) + side * step for end, side in ((0, -1), (-1, 1)))
    return numbers, weights


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
    means = {name: guide.site_posterior(name).mean for name in model.site_priors()}
    problem, before = ItemsOwnLogits.of(model, means, batch, workers), model.kappa_scale.detach().clone()
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
def kappa_scale_posterior(model: BanditModel, means: Mapping[str, Tensor], batch: BanditBatch) -> tuple[Tensor, Tensor]:
    """Find the posterior of kappa's learned scale on a grid.

    Args:
        model: fitted, with a learned ``kappa_scale`` and the usual prior of kappa.
        means: of each site's posterior.
        batch: all events.

    Returns:
        Scales, in logits, and their probabilities, which sum to one; both float64.
    """
    return ItemsOwnLogits.of(model, means, batch).posterior(float(model.kappa_scale.detach()))


class EventsOfItems(NamedTuple):
    """Events, or groups of them, that have an item and the rest of the logit in common; as many of each.

    Attributes:
        item: numbers, int64.
        rest: the logit without kappa and ``w_c``, float64.
        events: how many, float64; 0 for none.
        clicks: how many of them were clicked, float64.
    """

    item: Tensor
    rest: Tensor
    events: Tensor
    clicks: Tensor


class ItemsOwnLogits:
    """The part of the posterior that kappa's scale is in: items' own click logits, and the base that they share.

    Args:
        model: whose priors they have; it is left as it is.
        events: of this worker.
        kappa: where the search for its mode begins, ``P``.
        w_c: the same.
        workers: who have the other events, where there are some.
    """

    def __init__(
        self, model: BanditModel, events: EventsOfItems, kappa: Tensor, w_c: Tensor, workers: Workers | None = None
    ) -> None:
        self.model, self.events, self.workers, priors = model, events, workers, model.site_priors()
        self.base_rate = _normal(priors[W_C]) if W_C in priors else None
        w_c = w_c if self.base_rate is not None else torch.zeros_like(w_c)  # it is in the rest, then
        self.start = kappa.detach().double(), w_c.detach().double()
        (self.clicks,) = self._by_item(events.clicks)

    @classmethod
    def of(
        cls, model: BanditModel, means: Mapping[str, Tensor], batch: BanditBatch, workers: Workers | None = None
    ) -> ItemsOwnLogits:
        """Make them of a batch of events, with all else in the logit at its mean.

        Args:
            model: whose sites they are.
            means: of each site's posterior.
            batch: of events, with rewards.
            workers: who have the other events, where there are some.
        """
        assert batch.reward is not None, "there are clicks to explain"
        own = {name: torch.zeros_like(mean) for name, mean in means.items() if name in (KAPPA, W_C)}
        rest = model.logit({**means, **own}, replace(batch, interest_scale=None)).double()
        clicks = batch.reward.double()
        events = EventsOfItems(batch.action, rest, torch.ones_like(clicks), clicks)
        return cls(model, events, means[KAPPA], means.get(W_C, means[KAPPA].new_zeros(())), workers)

    @torch.no_grad()
    def posterior(self, mode: float) -> tuple[Tensor, Tensor]:
        """Find the posterior of the scale on a grid.

        Args:
            mode: where training has left it, in logits.

        Returns:
            Scales, in logits, and their probabilities; both float64.
        """
        rate = self.model.scale_rates.get("kappa_scale", 0.0)

        def log_density(scale: float) -> float:
            return self.given(scale).evidence + log_prior_of_scale(scale, rate)

        return on_a_grid(log_density, *span_of_scale(rate, mode))

    @torch.no_grad()
    def given(self, scale: float) -> _Given:
        """Find mode, curvature and log evidence under one scale; the search begins at the mode of the last.

        Args:
            scale: in logits.
        """
        loc, precision, earlier = self._prior(scale)
        kappa, w_c = self.start
        base_loc, base_precision = (0.0, math.inf) if self.base_rate is None else self.base_rate
        for _ in range(_STEPS):
            p = torch.sigmoid(self.events.rest + w_c + kappa[self.events.item])
            expected, events = self._by_item(self.events.events * p, self.events.events * p * (1 - p))
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
        logits = self.events.rest + w_c + kappa[self.events.item]
        likelihood = self._whole((self.events.clicks * logits - self.events.events * softplus(logits)).sum())
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
        sums = torch.stack([v.new_zeros(self.model.num_items).index_add_(0, self.events.item, v) for v in values])
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
