"""The questions that an organic model, a bandit model and a guide of it answer together."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.data import EventLog, Histories, as_histories
from blob_pyro.ops.arguments import one_of, positive_number, whole_number
from blob_pyro.ops.renamed import renamed_argument
from blob_pyro.ops.seeds import check_seed, derived_seed, seeded, standard_normal
from blob_pyro.posteriors.drawn_click_logits import DrawnClickLogits, linear_features
from blob_pyro.posteriors.guide_posterior import GuidePosterior
from blob_pyro.posteriors.logits_of_contexts import LogitsOfContexts
from blob_pyro.recommenders.covariates import are_further_down, covariates_of_histories, decision_points
from blob_pyro.recommenders.of_events import averaged_over_draws, picked_for_events
from blob_pyro.recommenders.ranked_items import RankedItems

if TYPE_CHECKING:
    from blob_pyro.diagnostics import ClickEvaluation

__all__ = ["ClickModel"]

_OF_INTERESTS = 1  # what a second seed is derived for


class ClickModel(RankedItems):
    """A posterior over every item's click logit, and the questions that it answers; `blob_pyro.BLOB` fits it.

    Many threads may ask at once, also while one of them fits: they get the answers of before until it is done.
    """

    def posterior(self) -> dict[str, TorchDistribution]:
        """Return the guide's distribution of each site, by name, detached from its parameters.

        Parameters that a number holds fixed are ``Delta``; a site that the guide can only draw is ``Empirical``, over
        1,000 draws. Sites of a joint guide are `MultivariatePart`: their ``mean`` and ``variance`` are the marginals'.

        Raises:
            ValueError: if the model is not fitted.
        """
        self._require_fitted("posterior")
        return self._parts.known.distributions()

    def sample(self, num_samples: int) -> dict[str, Tensor]:
        """Draw the parameters jointly from the guide, each ``num_samples x shape of the site``.

        From torch's default generator, as every ``sample``.

        Raises:
            ValueError: if the model is not fitted.
        """
        self._require_fitted("sample")
        return self._parts.known.sample(whole_number(num_samples, "num_samples"))

    def click_logits(
        self,
        histories: Histories | Any,
        covariates: Any = None,
        *,
        num_draws: int = 500,
        seed: int = 0,
    ) -> LogitsOfContexts | DrawnClickLogits:
        """Return the posterior of all items' click logits after each history.

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
        self._require_fitted("click_logits")
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
    ) -> LogitsOfContexts | DrawnClickLogits:
        """Return the posterior of all items' click logits up to what moves all items alike: what a policy has to know.

        As `click_logits`, except that terms such as `UserCovariates`, which are the same for every item, may be left
        out: without ``covariates`` they are, and the logits are then known up to a number that is common to all items
        of a context. The order of items, and so what Thompson sampling plays and with which propensity, is the same.

        Args:
            histories: as `click_logits`.
            covariates: as `click_logits`; needed only by terms that do not move all items alike.
            num_draws: as `click_logits`.
            seed: as `click_logits`.
        """
        self._require_fitted("ranking_logits")
        if covariates is not None or not self._ranks_without_covariates:
            return self.click_logits(histories, covariates, num_draws=num_draws, seed=seed)
        contexts = as_histories(histories, self.items)
        rows = self.model.item_embedding.new_zeros(len(contexts), self.model.num_covariates)
        return self._click_logits(contexts, rows if rows.shape[1] else None, num_draws, seed, up_to_common=True)

    def drawn_click_logits(
        self, histories: Histories | Any, covariates: Any = None, *, num_draws: int = 500, seed: int = 0
    ) -> DrawnClickLogits:
        """Return the posterior of all items' click logits by draws of the parameters, with a closed form or without.

        The same seed gives the same draws of the parameters after every history: a policy that plays the best item of
        one of them is a finite mixture, whose propensities are counts.

        Args:
            histories: as `click_logits`.
            covariates: as `click_logits`.
            num_draws: of the parameters.
            seed: of these draws.
        """
        self._require_fitted("drawn_click_logits")
        contexts = as_histories(histories, self.items)
        rows = covariates_of_histories(self.model, covariates, len(contexts))
        blo, known = self._parts
        interest, scale = self._interest(blo, contexts)
        return self._drawn(known, interest, scale, rows, whole_number(num_draws, "num_draws"), check_seed(seed))

    def _click_logits(
        self, contexts: Histories, rows: Tensor | None, num_draws: int, seed: int, up_to_common: bool = False
    ) -> LogitsOfContexts | DrawnClickLogits:
        num_draws, seed = whole_number(num_draws, "num_draws"), check_seed(seed)
        blo, known = self._parts
        interest, scale = self._interest(blo, contexts)
        if scale is None and not are_further_down(known.model, rows):
            logits = known.click_logits(interest * known.model.column_norms, up_to_common)
            if logits is not None:
                return logits
        return self._drawn(known, interest, scale, rows, num_draws, seed)

    @staticmethod
    def _drawn(
        known: GuidePosterior, interest: Tensor, scale: Tensor | None, rows: Tensor | None, num_draws: int, seed: int
    ) -> DrawnClickLogits:
        coefficients = known.coefficients(known.draws(num_draws, seed))
        if scale is not None:
            # The same noise in every context: what is said of one must not depend on which others are asked about.
            shape = (num_draws, 1, interest.shape[-1])
            noise = standard_normal(shape, derived_seed(seed, _OF_INTERESTS), interest)
            full = scale.dim() == 3  # a Cholesky factor
            interest = interest + ((scale @ noise.unsqueeze(-1)).squeeze(-1) if full else scale * noise)
        return DrawnClickLogits(coefficients, linear_features(interest, rows))

    def scores(self, histories: Histories | Any, covariates: Any = None) -> Tensor:
        """Return the posterior mean of each item's click logit, ``N x P``; see `ranking_logits` on covariates."""
        self._require_fitted("scores")
        with torch.no_grad():
            return self.ranking_logits(histories, covariates).mean

    def click_probabilities(
        self,
        histories: Histories | Any,
        method: Literal["averaged", "plug_in"] = "averaged",
        covariates: Any = None,
    ) -> Tensor:
        """Return the probability of a click on each item, ``N x P``.

        Args:
            histories: as `click_logits`.
            method: "averaged" over the posterior, ``E sigmoid(logit)``; "plug_in" at the posterior mean of every
                parameter, which is faster and, where little is known, too extreme.
            covariates: as `click_logits`.
        """
        one_of(method, "method", ("averaged", "plug_in"))
        self._require_fitted("click_probabilities")
        if method == "averaged":
            return self.click_logits(histories, covariates).click_probability()
        contexts = as_histories(histories, self.items)
        rows = covariates_of_histories(self.model, covariates, len(contexts))
        blo, known = self._parts
        return torch.sigmoid(linear_features(self._interest(blo, contexts)[0], rows) @ known.mean_coefficients().mT)

    def event_probabilities(self, log: EventLog, covariates: Any = None) -> Tensor:
        """Compute the probability of a click at each impression of a log, averaged over the posterior, ``N``.

        Args:
            log: with bandit events; its catalogue may be a part of the model's.
            covariates: of users, as `batch`.

        Returns:
            On the CPU, in the log's order.

        Raises:
            ValueError: as `batch`; if the model is not fitted.
        """
        self._require_fitted("event_probabilities")
        known = self._known_log(log)
        points = decision_points(self.model, known, covariates)
        if self.omega == "mean" and are_further_down(self.model, points.covariates):
            draws = self._parts.known.draws(500, 0)
            return averaged_over_draws(self.model, self._batch(self._parts, known, covariates), draws)
        with torch.no_grad():
            return picked_for_events(
                known, points, lambda part, rows: self._click_logits(part, rows, 500, 0).click_probability()
            )

    def evaluate(self, log: EventLog, *, covariates: Any = None, level: float = 0.95) -> ClickEvaluation:
        """Judge click probabilities by the events of a log, best of all one that the model was not fitted to.

        Args:
            log: see `EventLog.split`; its catalogue may be a part of the model's.
            covariates: of users, as `batch`.
            level: of the intervals, which are clustered by user.

        Returns:
            Log score, Brier score, area under the curve, normalised entropy and calibration, each beside that of one
            click rate for all; see `blob_pyro.diagnostics.ClickEvaluation`.

        Raises:
            ValueError: as `batch`; if all rewards are equal; if the model is not fitted.
        """
        from blob_pyro.diagnostics import evaluate_clicks  # below in the order of imports

        return evaluate_clicks(self._known_log(log), self.event_probabilities(log, covariates), level)

    def click_intervals(
        self, histories: Histories | Any, level: float = 0.95, covariates: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Return a central credible interval of each item's click probability: lower and upper ends, ``N x P`` each.

        Args:
            histories: as `click_logits`.
            level: probability that it holds.
            covariates: as `click_logits`.
        """
        if isinstance(level, bool) or not isinstance(level, numbers.Real):
            raise TypeError(f"level: expected a number between 0 and 1, got {level!r} (a {type(level).__name__})")
        if not 0 < level < 1:
            raise ValueError(f"level: must lie between 0 and 1, got {level}")
        level = float(level)
        logits = self.click_logits(histories, covariates)
        return torch.sigmoid(logits.icdf((1 - level) / 2)), torch.sigmoid(logits.icdf((1 + level) / 2))

    def prior_click_rates(
        self, histories: Histories | Any, num_samples: int = 200, seed: int = 0, covariates: Any = None
    ) -> Tensor:
        """Draw the click probabilities that the *prior* implies, before any event: ``num_samples x N x P``.

        Each sample is one catalogue that the prior holds possible. A prior whose samples click at 40 %, or whose best
        item is never better than its worst, says what nobody believes.

        Args:
            histories: as `click_logits`.
            num_samples: draws of the parameters.
            seed: of the draws.
            covariates: as `click_logits`.
        """
        num_samples, seed = whole_number(num_samples, "num_samples"), check_seed(seed)
        contexts = as_histories(histories, self.items)
        blo, known = self._parts
        interest, _ = self._interest(blo, contexts)
        rows = covariates_of_histories(known.model, covariates, len(contexts))
        with seeded(seed, known.device), torch.no_grad():
            draws = known.model.prior_draws(num_samples)
        return torch.sigmoid(linear_features(interest, rows) @ known.coefficients(draws).mT)

    @property
    def beta_hat(self) -> Tensor:
        """Point estimate of the bandit embedding, ``P x K``: ``sp(E w_a) Psi + sp(E w_b) Psi E[zeta] L'`` and terms.

        Source: Sakhi et al. 2020, section 3.2.
        """
        self._require_fitted("beta_hat")
        known = self._parts.known
        return known.mean_coefficients()[:, : known.model.embedding_dim]

    @renamed_argument("num_samples", "num_draws")
    def to_inference_data(
        self,
        log: EventLog | None = None,
        num_draws: int = 1000,
        *,
        groups: Sequence[str] | None = None,
        sites: Sequence[str] | None = None,
        items: Sequence[Any] | None = None,
        num_events: int | None = None,
        covariates: Any = None,
        seed: int = 0,
        max_gib: float = 2.0,
    ) -> Any:
        """Put draws, densities and data into ArviZ's container; with a log, every usual call of ArviZ works on it.

        Groups: ``posterior``, ``prior`` and ``log_prior`` (by site). With a log also ``observed_data`` and
        ``posterior_predictive``, ``prior_predictive``, ``log_likelihood`` (all of ``click``, by ``event``: rows of the
        log), ``constant_data`` (action, user, context, history_length, time, and position and propensity if the log
        has them) and ``sample_stats``: of each draw ``log_p`` (log density of clicks and parameters, nats), ``lp``,
        the same under ArviZ's name, and ``log_q`` (log density of the guide; absent where it has none). They are what
        importance weights need: see `blob_pyro.diagnostics.psis`.

        Draws of a guide are independent and lie along one chain; those of "nuts" keep their chains. What does not fit
        into ``max_gib`` is left out, items and events first, which a warning and the attribute ``left_out`` of every
        group say.

        Args:
            log: with bandit events, such as the one of the fit.
            num_draws: of posterior and prior each; of "nuts" as many of its own, evenly spaced.
            groups: names of those to export; default all that can be had.
            sites: names of the parameters to export; default all.
            items: ids of the items to export, for sites with an entry per item; default all.
            num_events: of the log, evenly spaced, for groups about events; default all.
            covariates: see `batch`.
            seed: of the draws.
            max_gib: of all groups together, in GiB.

        Returns:
            ``arviz.InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (1.x), with dimensions ``chain`` and ``draw``.

        Raises:
            ValueError: if the model is not fitted; for an unknown group, site or item; a group of events without a log;
                for a shard; what is asked for by name and does not fit.

        Warns:
            ExportWarning: of what was left out.
        """
        from blob_pyro.diagnostics.export import export  # below in the order of imports, and slow to import

        self._require_fitted("to_inference_data")
        if log is not None:
            log = self._known_log(log)
            log.require_whole("BLOB.to_inference_data")
        return export(
            self,
            log,
            whole_number(num_draws, "num_draws"),
            groups=groups,
            sites=sites,
            items=items,
            num_events=None if num_events is None else whole_number(num_events, "num_events"),
            covariates=covariates,
            seed=check_seed(seed),
            max_bytes=positive_number(max_gib, "max_gib") * 2**30,
            stacklevel=4,
        )
