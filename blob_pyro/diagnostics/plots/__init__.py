"""Pictures of a fit, of what it says and of what became of it: each function draws into ``Axes`` and returns them.

None calls ``show``. ``ax`` is where to draw, a new figure by default. Where there are more items, views or rows than
can be read, the most telling are drawn, and the title says how many of how many.

| question | picture |
|---|---|
| has the fit arrived? | `plot_training` |
| how far is the organic signal trusted? | `plot_prior_posterior` |
| which items are known, and how well? | `plot_click_rates` |
| what did clicks change? | `plot_embeddings` |
| what will be played here? | `plot_propensities` |
| what does a user's next view change? | `plot_growing_history`, `plot_growing_interest` |
| can this log value that policy? | `plot_importance_weights`, `plot_estimates` |
| is the posterior right? | `plot_ranks`, `plot_reliability`, `plot_predictive_check` |
| what does the choice of guide or prior change? | `plot_comparison` |
| what is gained? | `plot_ab_test`, `plot_regret` |
"""

from blob_pyro.diagnostics.plots.histories import plot_growing_history, plot_growing_interest
from blob_pyro.diagnostics.plots.items import plot_click_rates, plot_embeddings
from blob_pyro.diagnostics.plots.off_policy import plot_importance_weights
from blob_pyro.diagnostics.plots.parameters import plot_prior_posterior
from blob_pyro.diagnostics.plots.propensities import plot_propensities
from blob_pyro.diagnostics.plots.reports import (
    plot_ab_test,
    plot_comparison,
    plot_estimates,
    plot_predictive_check,
    plot_ranks,
    plot_regret,
    plot_reliability,
)
from blob_pyro.diagnostics.plots.training import plot_training
from blob_pyro.ops.renamed import renamed_in_module

__all__ = [
    "plot_ab_test",
    "plot_click_rates",
    "plot_comparison",
    "plot_embeddings",
    "plot_estimates",
    "plot_growing_history",
    "plot_growing_interest",
    "plot_importance_weights",
    "plot_predictive_check",
    "plot_prior_posterior",
    "plot_propensities",
    "plot_ranks",
    "plot_regret",
    "plot_reliability",
    "plot_training",
]

__getattr__ = renamed_in_module(__name__, {"plot_elbo": "plot_training"}, globals())
