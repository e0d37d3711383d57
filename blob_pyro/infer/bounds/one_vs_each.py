"""The one-vs-each bound."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.nn.functional import logsigmoid

from blob_pyro.distributions import SoftmaxViews
from blob_pyro.infer.bounds.bound import Bound, draw_items, draws_of, register_bound, require_positive
from blob_pyro.ops.row_chunks import in_row_chunks
from blob_pyro.ops.selection import distinct

__all__ = ["OneVsEach"]


@register_bound("one_vs_each")
@dataclass(frozen=True)
class OneVsEach(Bound):
    r"""The one-vs-each bound (Titsias 2016; Sakhi et al. 2020, section 6.2): no variational parameter at all.

    .. math:: \log \text{softmax}_v(x) \ge \sum_{p \ne v} \log \sigma(x_v - x_p)

    A sum per *view*, not per session; omega is sampled.

    Args:
        num_negatives: estimate the sum from so many items, drawn uniformly at each step; None to take all.
        num_samples: draws of omega.
    """

    num_negatives: int | None = None
    num_samples: int = 1

    def __post_init__(self) -> None:
        require_positive(num_samples=self.num_samples, num_negatives=self.num_negatives)

    def expected_log_prob(self, views: SoftmaxViews, q: TorchDistribution, value: Tensor) -> Tensor:
        """Return the bound, in nats; see `Bound.expected_log_prob`."""
        draws = draws_of(views, q, self.num_samples)
        # What was viewed twice counts twice, but is computed once.
        pair = views.session_of_view(value) * views.num_items + views.viewed(value)
        pair, _, times = distinct(pair, len(pair))
        session, item = pair.div(views.num_items, rounding_mode="floor"), pair % views.num_items
        if self.num_negatives is None:
            others = torch.arange(views.num_items, device=value.device)
            psi, rho, weight = views.item_embedding, views.item_intercept, 1.0
        else:
            others = draw_items(views, self.num_negatives)
            psi, rho = views.rows(others)
            weight = views.num_items / self.num_negatives

        def against_others(item: Tensor, item_psi: Tensor, item_rho: Tensor, draws: Tensor) -> Tensor:
            logit = (draws @ item_psi.unsqueeze(-1)).squeeze(-1) + item_rho.unsqueeze(-1)
            against = logsigmoid(logit.unsqueeze(-1) - (draws @ psi.mT + rho))
            is_other = (item.unsqueeze(-1) != others).unsqueeze(-2)
            return weight * (against * is_other).sum(-1).mean(-1)

        width = 2 * self.num_samples * rho.shape[0]
        per_pair = in_row_chunks(against_others, item, *views.rows(item), draws[session], width=width)
        return per_pair.new_zeros(len(value)).index_add(0, session, times * per_pair)
