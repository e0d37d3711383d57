"""BLOB's generative story: which recommendations are clicked (Sakhi et al. 2020, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import softplus

from blob_pyro.distributions import MatrixNormal
from blob_pyro.models.item_factors import ItemBasis, ItemFactors, whitening
from blob_pyro.models.operations import bilinear, broadcast, gather
from blob_pyro.models.placed_terms import PlacedTerm
from blob_pyro.models.priors.bandit_priors import BanditPriors, Prior
from blob_pyro.models.priors.heavy_tails import RandomScaleKappa
from blob_pyro.models.priors.learned import Learned, Scale
from blob_pyro.models.priors.now import note_scales, prior_distributions
from blob_pyro.models.priors.terms import Events, LogitTerm
from blob_pyro.models.priors.vector import VectorPrior
from blob_pyro.models.sites import CLICK, EARLIER, EVENTS, KAPPA, MULTIVARIATE, SCALES, W_A, W_B, W_C, ZETA
from blob_pyro.ops.arguments import instance_of, number_of_at_least
from blob_pyro.ops.names import unique_name
from blob_pyro.ops.renamed import renamed_attribute
from blob_pyro.ops.row_noise import RowPlate
from blob_pyro.ops.tensors import like

__all__ = ["BanditBatch", "BanditModel"]


@dataclass(frozen=True)
class BanditBatch:
    """Bandit events, or a random part of them. Events of one context share its row of ``interest``.

    Attributes:
        interest: omega of each distinct context, ``C x K``.
        context: row of ``interest`` for each event, ``B``.
        action: item number played, ``B``.
        reward: 0 or 1, ``B``; None to draw it.
        num_events: how many events the ``B`` stand for (``N``): the plate's size.
        covariates: of each distinct context, ``C x F``, where terms ask for them: `BanditModel.covariate_columns`.
        interest_scale: standard deviations of omega, ``C x K``, or Cholesky factors, ``C x K x K``: if given, events
            draw their own interest around ``interest``, which propagates the organic posterior.
    """

    interest: Tensor
    context: Tensor
    action: Tensor
    reward: Tensor | None
    num_events: int
    covariates: Tensor | None = None
    interest_scale: Tensor | None = None

    def __len__(self) -> int:
        return self.action.shape[0]

    def __getitem__(self, index: Tensor) -> BanditBatch:
        index = index.to(self.action.device)
        reward = None if self.reward is None else self.reward[index]
        return replace(self, context=self.context[index], action=self.action[index], reward=reward)

    @property
    def num_clicks(self) -> int:
        """The number of rewards that are 1, of a batch that has rewards."""
        assert self.reward is not None, "there are clicks to count"
        return int(self.reward.double().sum())

    def plate(self) -> pyro.plate:
        """Make the plate of events, which weights a part of them as if it were all."""
        rows = torch.arange(len(self), device=self.action.device)
        return RowPlate(EVENTS, self.num_events, subsample=rows)


class BanditModel(PyroModule):
    r"""Clicks given item embeddings and interests (Sakhi et al. 2020, section 3.2).

    .. math::
        w_a, w_b, w_c &\sim \text{priors}, \quad
        \kappa'_p \sim N(0, s_\kappa^2), \quad
        \zeta \sim MN(0, I_K, I_K), \quad
        L L' = \Psi' \Psi / P \\
        \lambda_n &= s^+(w_a) \Psi_{a_n} \omega_n + s^+(w_b) \Psi_{a_n} \zeta L' \omega_n + \kappa'_{a_n} + w_c
            + \text{terms} \\
        c_n &\sim \text{Bernoulli}(\sigma(\lambda_n))

    with :math:`s^+` the softplus. Equivalently :math:`\lambda_n = \beta_{a_n} \omega_n + \kappa_{a_n}` with
    :math:`\beta \mid \Psi, w \sim MN(s^+(w_a) \Psi, s^+(w_b) \Psi\Psi', s^+(w_b) \Psi'\Psi / P)`.

    Args:
        item_embedding: Psi, ``P x K``, as the organic model left it; not trained here, and not copied: whoever owns it
            leaves it as it is. `blob_pyro.BLOB` sees to that.
        priors: see `BanditPriors`.
        item_intercept: rho, ``P``, for priors that look at it; default zero.
        jitter: added to the diagonal of ``Psi' Psi / P``, in units of its mean diagonal entry, before it is
            factored; 0 or more.
        basis: what zeta is measured in, where a posterior of it is there already: see `ItemBasis`. Default: that of
            these items.

    Raises:
        TypeError: for priors that are none, or a jitter that is no number.
        ValueError: if the columns of Psi are linearly dependent (as they are where K > P) and there is no jitter, for
            the Cholesky factor of ``Psi' Psi / P`` does not exist then; for a prior of the wrong shape.
    """

    item_embedding: Tensor
    whitening: Tensor
    item_intercept: Tensor
    column_norms: Tensor
    kappa_scale: Tensor

    def __init__(
        self,
        item_embedding: Tensor,
        priors: BanditPriors | None = None,
        item_intercept: Tensor | None = None,
        jitter: float = 0.0,
        basis: ItemBasis | None = None,
    ) -> None:
        super().__init__(unique_name("bandit_model"))  # unique: Pyro's parameter store is global
        self.priors = instance_of(BanditPriors() if priors is None else priors, "priors", BanditPriors)
        self.jitter = number_of_at_least(jitter, "jitter", 0)
        self.num_items, self.embedding_dim = item_embedding.shape
        self.learned: dict[str, str] = {}
        self.scale_rates: dict[str, float] = {}
        self.scale_starts: dict[str, float] = {}
        self.terms: tuple[PlacedTerm, ...] = ()
        psi, norms = item_embedding.detach(), item_embedding.detach().new_ones(item_embedding.shape[1])
        if self.priors.normalize_embeddings:
            norms = torch.linalg.vector_norm(psi, dim=0) if basis is None else basis.column_norms
            psi = psi / norms
        self.register_buffer("column_norms", norms)
        self.register_buffer("item_embedding", psi)  # a view: Psi has one owner
        self.register_buffer("whitening", whitening(psi, jitter) if basis is None else basis.whitening)
        rho = psi.new_zeros(self.num_items) if item_intercept is None else item_intercept.detach().to(psi)
        self.register_buffer("item_intercept", rho)
        terms, self.kappa_prior = self.priors.all_terms, self.priors.kappa
        if isinstance(self.priors.kappa_scale, Distribution):
            terms = [(None, RandomScaleKappa(self.priors.kappa_scale)), *terms]
            self.kappa_prior = 0.0 if self.kappa_prior is None else self.kappa_prior
        else:
            scale = self.priors.kappa_scale
            if isinstance(scale, Learned) and isinstance(self.kappa_prior, (int, float)):
                scale = scale.start  # of no effect: there is no kappa to scale
            self.register_scale("kappa_scale", scale, KAPPA)
        for name, term in terms:
            if not isinstance(term, LogitTerm):
                raise ValueError(f"terms: {term!r} is not a LogitTerm: it needs build, site_priors and logit")
            placed = PlacedTerm(term, name)
            placed.build(self)
            self.terms = (*self.terms, placed)
        note_scales(self)
        self._check_priors()

    def register_scale(self, name: str, value: Scale, site: str) -> None:
        """Make ``self.<name>`` a constant or, if `Learned`, a positive parameter.

        Args:
            name: of the attribute.
            value: where it stands or starts.
            site: whose prior standard deviation it is.
        """
        go_on = name in self.priors.scales
        if isinstance(value, Learned) and (go_on or site not in self.priors.replaced):
            start = self.priors.scales.get(name, value.start)
            self.scale_starts[name] = value.start
            setattr(self, name, PyroParam(self.item_embedding.new_tensor(start), constraints.positive))
            self.learned[name] = site
            if value.rate:
                self.scale_rates[name] = value.rate
        else:
            constant = value.start if isinstance(value, Learned) else float(value)  # of no effect where it is Learned
            self.register_buffer(name, self.item_embedding.new_tensor(constant))

    number = renamed_attribute("number", "register_scale")
    items = renamed_attribute("items", "item_factors")

    @property
    def basis(self) -> ItemBasis:
        """The units of zeta here."""
        return ItemBasis(self.column_norms, self.whitening)

    @property
    def item_factors(self) -> ItemFactors:
        """The items as this model was given them."""
        return ItemFactors(self.item_embedding, self.whitening)

    def initial_site_priors(self) -> dict[str, TorchDistribution]:
        """Return the prior that each global site had before any event, at the present values of learned scales."""
        priors: dict[str, TorchDistribution] = {}
        for name, prior in self._fields().items():
            if not isinstance(prior, (int, float)):
                priors[name] = like(prior if isinstance(prior, Distribution) else prior(self), self.item_embedding)
        owners = dict.fromkeys((W_A, W_B, W_C, KAPPA, ZETA, CLICK, EVENTS, MULTIVARIATE), "the model itself")
        for term in self.terms:
            for name, prior in term.site_priors(self).items():
                if name in owners:
                    raise ValueError(
                        f"terms: {term!r} and {owners[name]} both have a site {name!r}, and one would be lost; give "
                        "terms names, as in BanditPriors(terms={'brand': ..., 'category': ...})"
                    )
                priors[name], owners[name] = prior, f"term {term!r}"
        for sites in {id(p): p.sites for p in (self.priors, self.priors.initial) if p is not None}.values():
            odd = next((name for name in sites if name not in owners), None)
            if odd is not None:
                raise ValueError(f"sites: the model has no site {odd!r}; it has {list(priors)}")
        first = self.priors if self.priors.initial is None else self.priors.initial
        priors.update({name: like(prior, self.item_embedding) for name, prior in first.sites.items()})
        return priors

    def site_priors(self) -> dict[str, TorchDistribution]:
        """Return the prior of each global site, in the order in which they are sampled."""
        return prior_distributions(self).sites

    @property
    def vector_prior(self) -> VectorPrior | None:
        """The prior of all sites together, where they are correlated; `site_priors` are its marginals then."""
        return prior_distributions(self).vector

    def earlier_evidence(self) -> Tensor:
        r"""Compute what the events of earlier fits say of the learned scales, as a log-likelihood ratio.

        After an update the prior of the sites is the last posterior ``q``, at the scale ``s_0`` that was learned then.
        As far as it is Gaussian, what the events said is ``q / p(. | s_0)``, so at another scale ``s`` the prior is
        ``q p(. | s) / p(. | s_0)``, normalised; its normalising constant is the ratio of the evidence of these events
        at ``s`` to that at ``s_0``, and is added to the log joint density: scales are learned from all events.

        Returns:
            The logarithm of that constant; zero if nothing has been learned before.
        """
        return prior_distributions(self).evidence

    def log_prior_of_scales(self) -> Tensor:
        """Compute the log density of the learned scales' exponential priors, without its constant: see `Learned`.

        The constant is the sum of ``log rate``. It does not change with the scales, so no fit is missing it; but ELBOs
        and evidences of models with different rates are not to be compared without it: add it to each.

        Returns:
            A scalar, in nats: minus the sum of ``rate * scale``; 0 where nothing has a rate.
        """
        losses = [rate * getattr(self, name) for name, rate in self.scale_rates.items()]
        return -torch.stack(losses).sum() if losses else self.item_embedding.new_zeros(())

    def prior_draws(self, num_samples: int) -> dict[str, Tensor]:
        """Draw every global site from the prior, each ``num_samples x shape``."""
        vector = self.vector_prior
        if vector is None:
            return {name: prior.sample((num_samples,)) for name, prior in self.site_priors().items()}
        return {name: part.v for name, part in vector.parts(vector.distribution.sample((num_samples,))).items()}

    def fixed_values(self) -> dict[str, Tensor]:
        """Return the parameters that a number holds fixed, by site name."""
        psi, shapes = self.item_embedding, {KAPPA: (self.num_items,), ZETA: (self.embedding_dim,) * 2}
        given = self.priors
        fields = {W_A: given.w_a, W_B: given.w_b, W_C: given.w_c, KAPPA: self.kappa_prior, ZETA: given.zeta}
        return {
            name: psi.new_full(shapes.get(name, ()), float(prior))
            for name, prior in fields.items()
            if isinstance(prior, (int, float)) and name not in self.priors.sites
        }

    def forward(self, batch: BanditBatch, factors: ItemFactors | None = None) -> Tensor:
        """Run the story; the clicks of ``batch`` are observed unless its reward is None.

        Args:
            batch: the events.
            factors: another Psi and its whitening; default this model's own.

        Returns:
            Clicks, ``B``.
        """
        distributions, vector, evidence = prior_distributions(self)
        if self.priors.scales:
            pyro.factor(EARLIER, evidence)
        if self.scale_rates:
            pyro.factor(SCALES, self.log_prior_of_scales())
        if vector is not None:
            pieces = vector.parts(pyro.sample(MULTIVARIATE, vector.distribution))
            distributions = {
                name: dist.Delta(pieces[name].v, event_dim=len(prior.event_shape))
                for name, prior in distributions.items()
            }
        values = {name: pyro.sample(name, distribution) for name, distribution in distributions.items()}
        with batch.plate():
            result: Tensor = pyro.sample(
                CLICK, dist.Bernoulli(logits=self.logit(values, batch, factors)), obs=batch.reward
            )
            return result

    def logit(self, values: dict[str, Tensor], batch: BanditBatch, factors: ItemFactors | None = None) -> Tensor:
        """Compute each event's click logit given values of the sites (``w_b`` of any of its plates' shapes), ``B``."""
        psi, whitening = self.item_factors if factors is None else factors
        values = {**self.fixed_values(), **values}
        w_a, w_b, w_c, kappa, zeta = (values[name] for name in (W_A, W_B, W_C, KAPPA, ZETA))
        action_embedding = psi[batch.action]
        if batch.interest_scale is not None:
            loc, scale = batch.interest[batch.context], batch.interest_scale[batch.context]
            noise = torch.randn_like(loc)
            noise = (scale @ noise.unsqueeze(-1)).squeeze(-1) if scale.dim() == 3 else scale * noise
            interest = (loc + noise) * self.column_norms
            whitened = interest @ whitening
        elif len(batch.interest) > len(batch):
            interest = batch.interest[batch.context] * self.column_norms
            whitened = interest @ whitening
        else:
            context = batch.interest * self.column_norms
            interest = context[batch.context]
            whitened = (context @ whitening)[batch.context]  # L' omega, once per distinct context
        affinity = (action_embedding * interest).sum(-1)
        logit = (
            softplus(broadcast(W_A, w_a, affinity)) * affinity
            + softplus(broadcast(W_B, w_b, affinity)) * bilinear(ZETA, zeta, action_embedding, whitened)
            + gather(KAPPA, kappa, batch.action)
            + broadcast(W_C, w_c, affinity)
        )
        if self.terms:
            covariates = None if batch.covariates is None else batch.covariates[batch.context]
            for term, columns in zip(self.terms, self.covariate_columns):
                own = None if covariates is None else covariates[:, columns]
                logit = logit + term.logit(self, values, Events(batch.action, interest, own))
        return logit

    @property
    def covariate_columns(self) -> list[slice]:
        """The columns of the covariates that each term asks for."""
        ends = list(accumulate((term.num_covariates for term in self.terms), initial=0))
        return [slice(*pair) for pair in pairwise(ends)]

    @property
    def num_covariates(self) -> int:
        """The number of covariates that the terms ask for together, ``F``."""
        return sum(term.num_covariates for term in self.terms)

    def coefficients(self, values: dict[str, Tensor]) -> Tensor:
        """Return each item's logit as a linear form of the context, given one value of every site.

        The logit is affine in interest and covariates, so it is read off at their unit vectors.

        Returns:
            ``P x (K + 1 + F)``: of omega (beta), of one (kappa), and of the covariates.
        """
        embedding_dim = self.embedding_dim
        at_zero, *at_units = self.logit(values, self.unit_contexts()).view(-1, self.num_items)
        slopes = [value - at_zero for value in at_units]
        return torch.stack([*slopes[:embedding_dim], at_zero, *slopes[embedding_dim:]], -1)

    def unit_contexts(self) -> BanditBatch:
        """Make a batch of each item once where interest and covariates are zero, and once at each of their units.

        Returns:
            ``(1 + K + F) P`` events, those of one context together.
        """
        embedding_dim, extra, psi = self.embedding_dim, self.num_covariates, self.item_embedding
        basis = torch.eye(embedding_dim + extra, dtype=psi.dtype, device=psi.device)
        points = torch.cat([psi.new_zeros(1, len(basis)), basis])
        context = torch.arange(len(points), device=psi.device).repeat_interleave(self.num_items)
        action = torch.arange(self.num_items, device=psi.device).repeat(len(points))
        interest, covariates = points.split([embedding_dim, extra], -1)
        return BanditBatch(interest, context, action, None, len(action), covariates if extra else None)

    def example_batch(self) -> BanditBatch:
        """Make a batch of one event, for what has to see the model run before there is data."""
        psi = self.item_embedding
        row = torch.zeros(1, dtype=torch.int64, device=psi.device)
        covariates = psi.new_zeros(1, self.num_covariates) if self.num_covariates else None
        return BanditBatch(psi.new_zeros(1, self.embedding_dim), row, row, psi.new_zeros(1), 1, covariates)

    def _fields(self) -> dict[str, Prior]:
        psi = self.item_embedding
        kappa, zeta = self.kappa_prior, self.priors.zeta
        if kappa is None:
            kappa = dist.Normal(psi.new_zeros(self.num_items), self.kappa_scale).to_event(1)
        if zeta is None:
            zeta = MatrixNormal.standard(psi.new_zeros(self.embedding_dim, self.embedding_dim))
        return {W_A: self.priors.w_a, W_B: self.priors.w_b, W_C: self.priors.w_c, KAPPA: kappa, ZETA: zeta}

    def _check_priors(self) -> None:
        shapes = {W_A: (), W_B: (), W_C: (), KAPPA: (self.num_items,), ZETA: (self.embedding_dim,) * 2}
        for name, prior in self.site_priors().items():
            expected = shapes.get(name)
            if tuple(prior.batch_shape) != () or (expected is not None and tuple(prior.event_shape) != expected):
                raise ValueError(
                    f"prior of {name!r}: expected event shape {expected} for {self.num_items} items and "
                    f"embedding_dim {self.embedding_dim}, and no batch shape; got {tuple(prior.event_shape)} and "
                    f"{tuple(prior.batch_shape)}. Use .expand and .to_event"
                )
            support = getattr(prior.support, "base_constraint", prior.support)
            if support is not dist.constraints.real and not hasattr(support, "matrix_normal"):
                raise ValueError(
                    f"prior of {name!r}: its support is {prior.support}, but every parameter is a real number here; "
                    "transform it: a positive one by its logarithm (w_a and w_b go through a softplus already)"
                )
