"""What can be asked of an organic model, a bandit model and a guide of it together."""

from __future__ import annotations

from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta, Empirical, TorchDistribution
from torch import Tensor, nn

from blob_pyro.data import EventLog, Histories, Vocabulary, as_histories
from blob_pyro.distributions.multivariate import MultivariatePart
from blob_pyro.infer.elbo import RecordDistributions
from blob_pyro.models import BanditBatch, BanditModel
from blob_pyro.ops.exclusive import own_parameter_store
from blob_pyro.ops.seeds import seeded
from blob_pyro.ops.tensors import detached
from blob_pyro.posteriors.click_logits import ClickLogits, has_closed_form
from blob_pyro.posteriors.drawn_click_logits import DrawnClickLogits, linear_features
from blob_pyro.recommenders.blo import BLO
from blob_pyro.recommenders.covariates import covariates_of_histories, decision_points

__all__ = ["ClickModel"]

_DRAWS_FOR_MOMENTS = 1000


class ClickModel:
    """A posterior over every item's click logit, and the questions that it answers; `blob_pyro.BLOB` fits it.

    Attributes:
        blo: the organic model, which says what a history means.
        model: the bandit model.
        guide: its posterior; nothing is derived from anywhere else.
        omega: "mean" or "sample": see `blob_pyro.BLOB`.
    """

    blo: BLO
    model: BanditModel
    guide: nn.Module
    omega: Literal["mean", "sample"]

    @property
    def items(self) -> Vocabulary:
        """The catalogue."""
        return self.blo.items

    @property
    def num_items(self) -> int:
        """Size ``P`` of the catalogue."""
        return self.blo.num_items

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.model.item_embedding.device

    def batch(self, log: EventLog, covariates: Any = None) -> BanditBatch:
        """The log's bandit events on this model's device, as ``model`` and ``guide`` take them.

        Every distinct context is embedded once, from all the user's views before the decision.

        Args:
            log: with bandit events over the organic model's catalogue.
            covariates: of each user, ``log.num_users x F`` in the order of ``log.users``, for `UserCovariates`; those
                of `EventCovariates` are read from the log. Events that differ in one are contexts of their own.

        Raises:
            ValueError: if the log has no bandit events, its items are not the organic model's, or covariates are
                missing or misshapen.
        """
        log.require_impressions()
        if log.items != self.items:
            raise ValueError(f"log: its items ({log.items!r}) are not those the organic model knows ({self.items!r})")
        points = decision_points(self.model, log, covariates)
        action, reward, context, history = (
            t.to(self.device) for t in (log.action, log.reward, points.context, points.history)
        )
        interest, scale = self._interest(log.contexts)
        if points.covariates is not None:
            interest, scale = interest[history], None if scale is None else scale[history]
        rows = None if points.covariates is None else points.covariates.to(self.device)
        reward = reward.to(interest.dtype)
        return BanditBatch(interest, context, action, reward, log.num_impressions, rows, scale)

    def posterior(self) -> dict[str, TorchDistribution]:
        """The guide's distribution of each site, by name, detached from its parameters.

        Parameters that a number holds fixed are ``Delta``; a site that the guide can only draw is ``Empirical``, over
        1,000 draws. Sites of a joint guide are `MultivariatePart`: their ``mean`` and ``variance`` are the marginals'.
        """
        record = RecordDistributions()
        with seeded(0, self.device), torch.no_grad(), own_parameter_store():
            trace = poutine.trace(record(self.guide)).get_trace(None)
            priors = self.model.site_priors()
        sites = {n: d for n, d in record.posterior.items() if n in priors}
        is_random = any(site["infer"].get("is_auxiliary") for site in trace.nodes.values() if site["type"] == "sample")
        drawn = [
            n for n, d in sites.items() if is_random and isinstance(d, Delta) and not isinstance(d, MultivariatePart)
        ]
        if drawn:
            with seeded(0, self.device):
                draws = self.sample(_DRAWS_FOR_MOMENTS)
            sites.update({n: Empirical(draws[n], draws[n].new_zeros(_DRAWS_FOR_MOMENTS)) for n in drawn})
        fixed = {n: Delta(v, event_dim=v.dim()) for n, v in self.model.fixed_values().items()}
        return detached({**sites, **fixed})

    def sample(self, num_samples: int) -> dict[str, Tensor]:
        """Joint draws of the parameters from the guide, each ``num_samples x shape of the site``."""
        with torch.no_grad(), own_parameter_store():
            plate = pyro.plate("draws", num_samples, dim=-2)  # -1 is the plate of events
            trace = poutine.trace(plate(self.guide)).get_trace(None)
            names = self.model.site_priors()
        return {n: trace.nodes[n]["value"].detach().expand(num_samples, 1, *names[n].event_shape)[:, 0] for n in names}

    def click_logits(
        self,
        histories: Histories | Any,
        covariates: Any = None,
        *,
        num_draws: int = 500,
        seed: int = 0,
    ) -> ClickLogits | DrawnClickLogits:
        """Posterior of all items' click logits after each history.

        In closed form where the guide is Gaussian, the model the paper's and omega at its mean; by draws otherwise.

        Args:
            histories: `Histories`, a list of item-id sequences, or an ``N x P`` count matrix.
            covariates: ``N x F``, as the model's terms ask for them; for `EventCovariates` by name, columns of ``N``
                values each, with the matrix of `UserCovariates` under ``"user"``.
            num_draws: of the parameters, where there is no closed form.
            seed: of these draws.

        Returns:
            A distribution with batch ``N`` and event ``P``: ``mean``, ``variance``, ``sample``, ``icdf``,
            ``click_probability``.
        """
        contexts = as_histories(histories, self.items)
        rows = covariates_of_histories(self.model, covariates, len(contexts))
        return self._click_logits(contexts, rows, num_draws, seed)

    def ranking_logits(
        self,
        histories: Histories | Any,
        covariates: Any = None,
        *,
        num_draws: int = 500,
        seed: int = 0,
    ) -> ClickLogits | DrawnClickLogits:
        """Posterior of all items' click logits up to what moves all items alike: what a policy has to know.

        As `click_logits`, except that terms such as `UserCovariates`, which are the same for every item, may be left
        out: without ``covariates`` they are, and the logits are then known up to a number that is common to all items
        of a context. The order of items, and so what Thompson sampling plays and with which propensity, is the same.

        Args:
            histories: as `click_logits`.
            covariates: as `click_logits`; needed only by terms that do not move all items alike.
            num_draws: as `click_logits`.
            seed: as `click_logits`.
        """
        if covariates is not None or not self._ranks_without_covariates:
            return self.click_logits(histories, covariates, num_draws=num_draws, seed=seed)
        contexts = as_histories(histories, self.items)
        rows = self.model.item_embedding.new_zeros(len(contexts), self.model.num_covariates)
        return self._click_logits(contexts, rows if rows.shape[1] else None, num_draws, seed, up_to_common=True)

    @property
    def _ranks_without_covariates(self) -> bool:
        return all(
            getattr(term, "moves_all_items_alike", False) or not getattr(term, "num_covariates", 0)
            for term in self.model.terms
        )

    def _click_logits(
        self, contexts: Histories, rows: Tensor | None, num_draws: int, seed: int, up_to_common: bool = False
    ) -> ClickLogits | DrawnClickLogits:
        interest, scale = self._interest(contexts)
        posterior = self._folded_posterior(up_to_common) if scale is None else None
        if posterior is not None and has_closed_form(posterior):
            return ClickLogits(posterior, *self.model.items, interest * self.model.column_norms)
        with seeded(seed, self.device), torch.no_grad():
            coefficients = self._coefficients(self.sample(num_draws))
            if scale is not None:
                noise = torch.randn(num_draws, *interest.shape, dtype=interest.dtype, device=self.device)
                full = scale.dim() == 3  # a Cholesky factor
                interest = interest + ((scale @ noise.unsqueeze(-1)).squeeze(-1) if full else scale * noise)
            return DrawnClickLogits(coefficients, linear_features(interest, rows))

    def scores(self, histories: Histories | Any, covariates: Any = None) -> Tensor:
        """Posterior mean of each item's click logit, ``N x P``; see `ranking_logits` for models with covariates."""
        with torch.no_grad():
            return self.ranking_logits(histories, covariates).mean

    def click_probabilities(
        self,
        histories: Histories | Any,
        method: Literal["averaged", "plug_in"] = "averaged",
        covariates: Any = None,
    ) -> Tensor:
        """Probability of a click on each item, ``N x P``.

        Args:
            histories: as `click_logits`.
            method: "averaged" over the posterior, ``E sigmoid(logit)``; "plug_in" at the posterior mean of every
                parameter, which is faster and, where little is known, too extreme.
            covariates: as `click_logits`.
        """
        if method not in ("averaged", "plug_in"):
            raise ValueError(f"method: expected 'averaged' or 'plug_in', got {method!r}")
        if method == "averaged":
            return self.click_logits(histories, covariates).click_probability()
        contexts = as_histories(histories, self.items)
        rows = covariates_of_histories(self.model, covariates, len(contexts))
        return torch.sigmoid(linear_features(self._interest(contexts)[0], rows) @ self._mean_coefficients().mT)

    def click_intervals(
        self, histories: Histories | Any, level: float = 0.95, covariates: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Central credible interval of each item's click probability: lower and upper ends, ``N x P`` each.

        Args:
            histories: as `click_logits`.
            level: probability that it holds.
            covariates: as `click_logits`.
        """
        if not 0 < level < 1:
            raise ValueError(f"level: must lie between 0 and 1, got {level}")
        logits = self.click_logits(histories, covariates)
        return torch.sigmoid(logits.icdf((1 - level) / 2)), torch.sigmoid(logits.icdf((1 + level) / 2))

    def prior_click_rates(
        self, histories: Histories | Any, num_samples: int = 200, seed: int = 0, covariates: Any = None
    ) -> Tensor:
        """Click probabilities that the *prior* implies, before any event: ``num_samples x N x P``.

        Each sample is one catalogue that the prior holds possible. A prior whose samples click at 40 %, or whose best
        item is never better than its worst, says what nobody believes.

        Args:
            histories: as `click_logits`.
            num_samples: draws of the parameters.
            seed: of the draws.
            covariates: as `click_logits`.
        """
        contexts = as_histories(histories, self.items)
        interest, _ = self._interest(contexts)
        rows = covariates_of_histories(self.model, covariates, len(contexts))
        with seeded(seed, self.device), torch.no_grad():
            draws = self.model.prior_draws(num_samples)
            return torch.sigmoid(linear_features(interest, rows) @ self._coefficients(draws).mT)

    @property
    def beta_hat(self) -> Tensor:
        """Point estimate of the bandit embedding, ``P x K``: ``sp(E w_a) Psi + sp(E w_b) Psi E[zeta] L'`` and terms."""
        return self._mean_coefficients()[:, : self.model.embedding_dim]

    def to_inference_data(self, num_samples: int = 1000, seed: int = 0) -> Any:
        """Draws from the posterior and the prior for ArviZ, along one ``sample`` dimension.

        Args:
            num_samples: draws of each.
            seed: of the draws.

        Returns:
            ``arviz.InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (1.x): groups ``posterior`` and ``prior``.
        """
        from blob_pyro.diagnostics import to_inference_data  # below in the order of imports, and slow to import

        with seeded(seed, self.device), torch.no_grad():
            posterior = self.sample(num_samples)
            prior = self.model.prior_draws(num_samples)
        coordinates: dict[str, dict[str, Any]] = {}
        for term in self.model.terms:
            coordinates.update(getattr(term, "coordinates", dict)())
        return to_inference_data({"posterior": posterior, "prior": prior}, list(self.items.ids), coordinates)

    def _folded_posterior(self, up_to_common: bool) -> dict[str, TorchDistribution] | None:
        """The posterior of the paper's sites with every term's share in them; None if a term has no such."""
        posterior: dict[str, TorchDistribution] | None = self.posterior()
        for term in self.model.terms:
            if up_to_common and getattr(term, "moves_all_items_alike", False):
                continue
            fold = getattr(term, "fold", None)
            posterior = None if fold is None or posterior is None else fold(self.model, posterior)
        return posterior

    def _interest(self, histories: Histories) -> tuple[Tensor, Tensor | None]:
        """Posterior mean of omega, and its scale (or Cholesky factor) if it is to be propagated."""
        if self.omega == "mean":
            return self.blo.embed(histories), None
        posterior = self.blo.user_posterior(histories)
        return posterior.mean, getattr(posterior, "scale_tril", posterior.stddev)

    def _coefficients(self, draws: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return torch.vmap(self.model.coefficients, chunk_size=64)(draws)

    def _mean_coefficients(self) -> Tensor:
        means = {name: d.mean for name, d in self.posterior().items()}
        with torch.no_grad():
            return self.model.coefficients(means)
