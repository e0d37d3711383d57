"""`ClickLogits` by draws: for posteriors, priors and terms that have no closed form."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor
from torch.distributions import constraints

from blob_pyro.ops.memory import require_memory
from blob_pyro.ops.row_chunks import MAX_ELEMENTS

__all__ = ["DrawnClickLogits", "linear_features"]


class DrawnClickLogits(TorchDistribution):
    """Click logits of all items for each of ``N`` contexts, under a fixed set of draws of the parameters.

    Every logit is a linear form of its context, so a draw of the parameters is a matrix. A sample picks one of the
    draws for each context. The object holds ``S x P x F`` and ``N x F`` numbers; answers are computed a few contexts at
    a time, and refused before they are allocated where they do not fit in memory.

    Args:
        coefficients: ``S x P x F``: see `blob_pyro.models.BanditModel.coefficients`.
        features: ``N x F``, or ``S x N x F`` where the contexts are drawn too.

    Raises:
        MemoryError: by a method whose answer would not fit, naming its size.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, coefficients: Tensor, features: Tensor) -> None:
        self.coefficients, self.features = coefficients, features
        super().__init__(features.shape[-2:-1], coefficients.shape[1:2], validate_args=False)

    @property
    def num_draws(self) -> int:
        """The number of draws, ``S``."""
        return len(self.coefficients)

    @property
    def is_certain(self) -> bool:
        """True where all draws are the same, so that there is no doubt about any logit."""
        return self.features.dim() == 2 and bool((self.coefficients == self.coefficients[:1]).all())

    @cached_property
    def logits(self) -> Tensor:
        """The logits of every draw, ``S x N x P``."""
        self._require(self.num_draws, "use `mean`, `variance`, `best`, or fewer contexts at a time, logits[:1000]")
        return self.features @ self.coefficients.mT

    def expand(self, batch_shape: Size, _instance: TorchDistributionMixin | None = None) -> DrawnClickLogits:
        """Repeat a single context: see `pyro.distributions.TorchDistribution.expand`."""
        (size,) = torch.Size(batch_shape)
        shape = (*self.features.shape[:-2], size, self.features.shape[-1])
        return DrawnClickLogits(self.coefficients, self.features.expand(shape))

    def __getitem__(self, index: Tensor | slice) -> DrawnClickLogits:
        """Some of the contexts."""
        return DrawnClickLogits(self.coefficients, self.features[..., index, :])

    def of_items(self, index: Tensor) -> DrawnClickLogits:
        """Return the logits of some of the items: see `ClickLogits.of_items`.

        Args:
            index: item numbers.
        """
        return DrawnClickLogits(self.coefficients[:, index], self.features)

    def sample(self, sample_shape: Size | tuple[int, ...] = Size()) -> Tensor:  # noqa: B008 - torch's own default
        """Draw logits, ``sample_shape x N x P``; a draw of its own for every context."""
        shape = torch.Size(sample_shape)
        self._require(2 * shape.numel(), "draw for fewer contexts at a time, logits[:1000]")
        draw = torch.randint(self.num_draws, shape + self.batch_shape, device=self.features.device)

        def pick(part: DrawnClickLogits, rows: slice) -> Tensor:
            return part.logits[draw[..., rows], torch.arange(part.batch_shape[0], device=draw.device)]

        return self._by_rows(pick, -2)

    @property
    def mean(self) -> Tensor:
        """The mean of each logit over draws, ``N x P``."""
        return self._answer(lambda logits: logits.mean(0))

    @property
    def variance(self) -> Tensor:
        """The variance of each logit over draws, ``N x P``."""
        return self._answer(lambda logits: logits.var(0))

    def cdf(self, value: Tensor) -> Tensor:
        """Return the CDF of each item's logit by itself: the fraction of draws that are not above ``value``."""
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape))
        self._require(2, "ask for fewer contexts at a time, logits[:1000]")
        return self._by_rows(lambda part, rows: (part.logits <= value[rows]).to(part.logits.dtype).mean(0), 0)

    def icdf(self, probability: float) -> Tensor:
        """Return the quantile of each item's logit by itself, ``N x P``."""
        if not 0 < probability < 1:
            raise ValueError(f"probability: must lie between 0 and 1, got {probability}")
        return self._answer(lambda logits: logits.quantile(probability, 0))

    def click_probability(self) -> Tensor:
        """Return the click probability averaged over the posterior, ``E sigmoid(logit)``, ``N x P``."""
        return self._answer(lambda logits: logits.sigmoid().mean(0))

    def best(self, allowed: Tensor | None = None) -> Tensor:
        """Find the item with the highest logit in each draw, ``S x N`` int64.

        Args:
            allowed: ``N x P`` booleans, which items may be the best; None for all.
        """
        if allowed is None:
            return self._by_rows(lambda part, _: part.logits.argmax(-1), -1)
        return self._by_rows(lambda part, rows: part.logits.masked_fill(~allowed[rows], -torch.inf).argmax(-1), -1)

    def _answer(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """``N x P``, from the logits of a few contexts at a time."""
        self._require(2, "ask for fewer contexts at a time, logits[:1000], or let a policy choose")
        return self._by_rows(lambda part, _: function(part.logits), 0)

    def _by_rows(self, function: Callable[[DrawnClickLogits, slice], Tensor], dim: int) -> Tensor:
        (num_contexts,), (num_items,) = self.batch_shape, self.event_shape
        rows = max(1, MAX_ELEMENTS // (self.num_draws * num_items))
        if num_contexts <= rows:
            return function(self, slice(None))
        parts = [slice(i, i + rows) for i in range(0, num_contexts, rows)]
        return torch.cat([function(self[part], part) for part in parts], dim)

    def _require(self, times: int, remedy: str) -> None:
        (num_contexts,), (num_items,) = self.batch_shape, self.event_shape
        num_bytes = times * num_contexts * num_items * self.features.element_size()
        what = f"Click logits of {times:,} x {num_contexts:,} contexts x {num_items:,} items"
        require_memory(num_bytes, what, remedy, self.features.device)


def linear_features(interest: Tensor, covariates: Tensor | None) -> Tensor:
    """Return the features that a logit is a linear form of: omega, one, and the user's covariates.

    Args:
        interest: ``... x N x K``.
        covariates: ``N x F``, or None.

    Returns:
        ``... x N x (K + 1 + F)``, to go with `blob_pyro.models.BanditModel.coefficients`.
    """
    parts = [interest, interest.new_ones(*interest.shape[:-1], 1)]
    if covariates is not None:
        parts.append(covariates.expand(*interest.shape[:-1], -1))
    return torch.cat(parts, -1)
