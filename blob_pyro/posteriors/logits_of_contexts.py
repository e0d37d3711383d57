"""Posteriors of all items' click logits, in each context: what each answers from a few primitives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Self

import pandas as pd
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor
from torch.distributions import constraints

from blob_pyro.ops.memory import require_memory
from blob_pyro.ops.quadrature import hermite
from blob_pyro.ops.row_chunks import MAX_ELEMENTS

__all__ = ["LogitsOfContexts"]

_LOGIT_NODES = 12  # of Gauss-Hermite quadrature, for a logit given the weights
_BISECTIONS = 40


class LogitsOfContexts(TorchDistribution):
    """Posterior of the click logits of ``P`` items, for each of ``N`` independent contexts.

    Given standard normal numbers that items share the logits are independent normals, all with the same ``w_c`` added.
    Answers of ``N x P`` are computed a few contexts at a time, and refused before they are allocated where they do not
    fit in memory.

    Args:
        item_embedding: Psi, ``P x K``.
        interest: omega, ``N x K``.

    Raises:
        MemoryError: by a method whose answer would not fit, naming its size.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}  # the guide has checked them
    support = constraints.real_vector
    has_rsample = True
    is_certain: bool
    """Whether every number is a point mass, so that there is no doubt about any logit."""

    def __init__(self, item_embedding: Tensor, interest: Tensor) -> None:
        self.item_embedding, self.interest = item_embedding, interest
        super().__init__(interest.shape[:1], item_embedding.shape[:1], validate_args=False)

    # --- what a posterior of its own says ------------------------------------------------------------------------

    @property
    @abstractmethod
    def num_factors(self) -> int:
        """The number of standard normals that items share."""

    @property
    @abstractmethod
    def own_scale(self) -> Tensor:
        """The standard deviation of what each item adds by itself, given what they share: ``P`` or ``N x P``."""

    @abstractmethod
    def given_shared(self, factors: Tensor) -> Tensor:
        """Return each logit's mean given what all items share, ``... x N x P``; without ``w_c``, which moves all alike.

        Args:
            factors: standard-normal numbers, ``... x num_factors``, of any precision, broadcast against the ``N``
                contexts: pass ``... x 1 x num_factors`` for the same draws in every context.
        """

    @abstractmethod
    def rounding(self, shared: Tensor) -> Tensor:
        """Return a bound of how much `given_shared` is off by rounding to the posterior's own precision, ``N``.

        Args:
            shared: one draw for each context, ``N x num_factors``.
        """

    @abstractmethod
    def in_contexts(self, interest: Tensor) -> Self:
        """Return the same posterior in other contexts, of interests ``N x K``."""

    @abstractmethod
    def of_items(self, index: Tensor) -> Self:
        """Return the logits of some of the items, the event being those: a hundred of a large catalogue are cheap.

        Args:
            index: item numbers.
        """

    @abstractmethod
    def double(self) -> Self:
        """Return the same posterior in double precision: what is exact given its numbers depends on no rounding."""

    @abstractmethod
    def best_each(self, counts: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Draw the item with the highest logit ``counts[n]`` times; see `blob_pyro.posteriors.best_items.best_each`."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """The mean of each logit, ``N x P``."""

    @property
    @abstractmethod
    def variance(self) -> Tensor:
        """The variance of each logit, ``N x P``."""

    @abstractmethod
    def _rsample(self, sample_shape: Size) -> Tensor:
        """`rsample`, of few contexts."""

    @abstractmethod
    def _mixture(self, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Average over the weights of ``function`` of each logit's location and scale given them."""

    # --- what follows from it ------------------------------------------------------------------------------------

    def expand(self, batch_shape: Size, _instance: TorchDistributionMixin | None = None) -> Self:
        """Repeat a single context: see `pyro.distributions.TorchDistribution.expand`."""
        (size,) = torch.Size(batch_shape)
        return self.in_contexts(self.interest.expand(size, -1))

    def __getitem__(self, index: Tensor | slice) -> Self:
        """Some of the contexts."""
        return self.in_contexts(self.interest[index])

    def _by_rows(self, function: Callable[[Self, slice], Tensor], num_draws: int = 1) -> Tensor:
        """``function`` of a few contexts at a time, put together along the contexts, the last dimension but one."""
        (num_contexts,), (num_items,) = self.batch_shape, self.event_shape
        if num_draws * num_contexts * num_items <= MAX_ELEMENTS:
            return function(self, slice(None))
        require_memory(
            2 * num_draws * num_contexts * num_items * self.interest.element_size(),
            f"Click logits of {num_draws:,} x {num_contexts:,} contexts x {num_items:,} items",
            "ask for fewer contexts at a time, logits[:1000], or let a policy choose: that takes no such matrix",
            self.interest.device,
        )
        rows = max(1, MAX_ELEMENTS // (num_draws * num_items))
        parts = [slice(i, i + rows) for i in range(0, num_contexts, rows)]
        return torch.cat([function(self[part], part) for part in parts], -2)

    def rsample(self, sample_shape: Size | tuple[int, ...] = Size()) -> Tensor:  # noqa: B008 - torch's own default
        """Draw reparameterised logits, ``sample_shape x N x P``; fresh parameters for every context."""
        sample_shape = torch.Size(sample_shape)
        return self._by_rows(lambda part, _: part._rsample(sample_shape), sample_shape.numel())

    def best(
        self,
        sample_shape: Size | tuple[int, ...] = Size(),  # noqa: B008 - torch's own default
        allowed: Tensor | None = None,
    ) -> Tensor:
        """Draw the item with the highest logit, ``sample_shape x N`` int64; no draw of logits is kept.

        Args:
            sample_shape: how many draws for each context.
            allowed: ``N x P`` booleans, which items may be the best; None for all.
        """
        shape, (num_contexts,), (num_items,) = torch.Size(sample_shape), self.batch_shape, self.event_shape
        rows = max(1, min(num_contexts, MAX_ELEMENTS // num_items))
        draws = max(1, min(shape.numel(), MAX_ELEMENTS // (rows * num_items)))
        best = torch.empty(shape.numel(), num_contexts, dtype=torch.int64, device=self.interest.device)
        with torch.no_grad():
            for row in range(0, num_contexts, rows):
                part = self[row : row + rows]
                for draw in range(0, shape.numel(), draws):
                    size = torch.Size((min(draws, shape.numel() - draw),))
                    logits = part._rsample(size)
                    if allowed is not None:
                        logits = logits.masked_fill(~allowed[row : row + rows], -torch.inf)
                    best[draw : draw + draws, row : row + rows] = logits.argmax(-1)
        return best.view(shape + self.batch_shape)

    def __repr__(self) -> str:
        contexts = "x".join(map(str, self.batch_shape)) or "1"
        return f"{type(self).__name__}({contexts} contexts, {self.event_shape[0]} items)"

    def _repr_html_(self) -> str:
        figures = {
            "contexts": "x".join(map(str, self.batch_shape)) or "1",
            "items": self.event_shape[0],
            "numbers that items share": self.num_factors,
            "in doubt": "no" if self.is_certain else "yes",
        }
        return pd.DataFrame({type(self).__name__: figures}).to_html()

    def cdf(self, value: Tensor) -> Tensor:
        """Return the CDF of each item's logit by itself, at ``value`` (broadcast against ``N x P``)."""
        shape = torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape)
        value = value.expand(shape)
        return self._by_rows(lambda part, rows: part._cdf(value[..., rows, :]), shape[:-2].numel())

    def _cdf(self, value: Tensor) -> Tensor:
        return self._mixture(lambda loc, scale: torch.special.ndtr((value - loc) / scale))

    def icdf(self, probability: float) -> Tensor:
        """Return the quantile of each item's logit by itself, ``N x P``: by bisection of `cdf`."""
        if not 0 < probability < 1:
            raise ValueError(f"probability: must lie between 0 and 1, got {probability}")
        return self._by_rows(lambda part, _: part._icdf(probability))

    def _icdf(self, probability: float) -> Tensor:
        reach = self.variance.sqrt() * (
            2 + max(probability / (1 - probability), (1 - probability) / probability) ** 0.5
        )
        low, high = self.mean - reach, self.mean + reach  # Cantelli's inequality
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            above = self._cdf(middle) > probability
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        result: Tensor = (low + high) / 2
        return result

    def click_probability(self) -> Tensor:
        """Return the click probability averaged over the posterior, ``E sigmoid(logit)``, ``N x P``."""
        nodes, weights = hermite(_LOGIT_NODES, self.interest)

        def average(loc: Tensor, scale: Tensor) -> Tensor:
            return torch.stack([w * torch.sigmoid(loc + scale * x) for x, w in zip(nodes, weights)]).sum(0)

        return self._by_rows(lambda part, _: part._mixture(average))
