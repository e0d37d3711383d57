r"""The events' share of a bandit posterior's curvature, from the moments of each item's contexts.

Every logit is a linear form of its context, ``x_n' u_{a_n}`` with ``x = (omega, 1, covariates)``, so the events enter
through each item's moments alone. How ``u`` depends on the parameters is read off the model's own statements: each uses
its site through a linear operation (`blob_pyro.models.operations`), whose coefficients are its derivative.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from torch import Size, Tensor
from torch.nn.functional import softplus

from blob_pyro.models import BanditBatch, BanditModel
from blob_pyro.models.operations import LinearOperation

__all__ = ["GroupedEvents", "LaplaceRefuses", "Linearization"]

_MAX_ELEMENTS = 1 << 22  # of the Jacobian, at once: 32 MiB


class LaplaceRefuses(ValueError):
    """A model or a batch that Laplace's approximation does not take; the message says what it needs."""


class GroupedEvents:
    """Events of one context and one action as one, in equal blocks that each belong to one item.

    Blocks are as long as an item's groups are on average, so that at most half of them is padding, which counts as no
    event.

    Args:
        model: whose items and covariates they are.
        batch: all events, with rewards.
    """

    def __init__(self, model: BanditModel, batch: BanditBatch) -> None:
        assert batch.reward is not None, "there are clicks to learn from"
        num_contexts, self.num_items = len(batch.interest), model.num_items
        pair, group = torch.unique(batch.action * num_contexts + batch.context, return_inverse=True)
        zeros = torch.zeros(len(pair), dtype=torch.float64, device=pair.device)
        events = zeros.index_add(0, group, torch.ones_like(batch.reward, dtype=torch.float64))
        clicks = zeros.index_add(0, group, batch.reward.double())
        action, context = pair // num_contexts, pair % num_contexts
        features = [batch.interest.double(), batch.interest.new_ones(num_contexts, 1, dtype=torch.float64)]
        if model.num_covariates:
            assert batch.covariates is not None, "BLOB.batch has asked for them"
            features.append(batch.covariates.double())
        size = -(-len(pair) // self.num_items)
        counts = torch.bincount(action, minlength=self.num_items)
        blocks = (counts + size - 1) // size
        self.item = torch.arange(self.num_items, device=pair.device).repeat_interleave(blocks)  # of each block
        number = torch.arange(len(self.item), device=pair.device) - (blocks.cumsum(0) - blocks)[self.item]
        offset = number.unsqueeze(-1) * size + torch.arange(size, device=pair.device)  # within the item
        is_event = offset < counts[self.item].unsqueeze(-1)
        index = ((counts.cumsum(0) - counts)[self.item].unsqueeze(-1) + offset).clamp(max=len(pair) - 1)
        self.features = torch.cat(features, -1)[context[index]]  # blocks x size x F
        self.events, self.clicks = events[index] * is_event, clicks[index] * is_event

    def _logits(self, coefficients: Tensor) -> Tensor:
        return (self.features @ coefficients[self.item].unsqueeze(-1)).squeeze(-1)

    def log_likelihood(self, coefficients: Tensor) -> Tensor:
        """Compute the log-likelihood of all clicks, given each item's coefficients, ``P x F``."""
        logits = self._logits(coefficients)
        return (self.clicks * logits - self.events * softplus(logits)).sum()

    def moments(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Sum per item (click - probability) x, ``P x F``, and the variance times x x', ``P x F x F``."""
        probability = self._logits(coefficients).sigmoid()
        slack = self.clicks - self.events * probability
        weighted = (self.events * probability * (1 - probability)).unsqueeze(-1) * self.features
        size = self.features.shape[-1]
        residual = slack.new_zeros(self.num_items, size)
        residual.index_add_(0, self.item, (slack.unsqueeze(-2) @ self.features).squeeze(-2))
        moments = slack.new_zeros(self.num_items, size, size)
        return residual, moments.index_add_(0, self.item, self.features.mT @ weighted)


class _Statement(NamedTuple):
    """A statement of the model that uses a site: ``operation(X, *coefficients)``, a number per event."""

    site: str
    operation: LinearOperation
    coefficients: tuple[Tensor, ...]
    result: Tensor

    def design(self, rows: Tensor, shape: Size) -> Tensor:
        """Derivatives of its result by each number of the site, at some events: ``rows x numel``."""
        return self.operation.jacobian(shape, *(c[rows] for c in self.coefficients)).to(self.result)


class _RecordStatements(Messenger):
    """Answers each linear operation by its result as a leaf, to be differentiated by."""

    def __init__(self, num_events: int) -> None:
        super().__init__()
        self.num_events = num_events
        self.statements: list[_Statement] = []

    def _pyro_linear(self, msg: dict[str, Any]) -> None:
        value, operation, *coefficients = msg["args"]
        result = operation.value(value.detach(), *coefficients)
        result = result.expand(self.num_events).clone().requires_grad_()
        self.statements.append(_Statement(msg["name"], operation, tuple(coefficients), result))
        msg["value"], msg["done"] = result, True


class Linearization:
    """The coefficients of every item to first order (and second, if asked for) around given values of the sites.

    Args:
        model: whose coefficients they are.
        values: of its sites.
        second: whether second derivatives are needed.

    Raises:
        LaplaceRefuses: if the logit uses a site without a linear operation.
    """

    def __init__(self, model: BanditModel, values: dict[str, Tensor], second: bool = False) -> None:
        self.num_items, self.one = model.num_items, model.embedding_dim
        batch = model.unit_contexts()
        record = _RecordStatements(len(batch))
        with torch.enable_grad(), record:
            total = model.logit(values, batch).sum()
            results = [statement.result for statement in record.statements]
            self.slopes = list(torch.autograd.grad(total, results, create_graph=second))
        unseen = sorted(set(values) - {statement.site for statement in record.statements})
        if unseen:
            raise LaplaceRefuses(
                f"guide 'laplace': the logit uses {', '.join(unseen)} without blob_pyro.models.operations (LogitTerm)"
            )
        self.statements = record.statements
        self.second_derivatives: dict[tuple[int, int], Tensor] = {}
        if second:
            for i, slope in enumerate(self.slopes):
                if slope.requires_grad:
                    found = torch.autograd.grad(slope.sum(), results, allow_unused=True, retain_graph=True)
                    self.second_derivatives.update(
                        {(i, j): derivative for j, derivative in enumerate(found) if derivative is not None}
                    )
        self.slopes = [slope.detach() for slope in self.slopes]

    def jacobian(self, layout: dict[str, slice], shapes: dict[str, Size]) -> Iterator[tuple[slice, Tensor]]:
        """Return the derivatives of the coefficients by the numbers of some sites, a few items at a time.

        Args:
            layout: where each site's numbers are, side by side from 0.
            shapes: of each site.

        Yields:
            Which items, and ``items x F x S``.
        """
        num_points = len(self.slopes[0]) // self.num_items
        width = max((here.stop for here in layout.values()), default=0)
        step = max(1, _MAX_ELEMENTS // max(1, num_points * width))
        for start in range(0, self.num_items, step):
            items = torch.arange(start, min(start + step, self.num_items), device=self.slopes[0].device)
            rows = (torch.arange(num_points, device=items.device).unsqueeze(-1) * self.num_items + items).flatten()
            logits = self.slopes[0].new_zeros(len(rows), width)
            for statement, slope in zip(self.statements, self.slopes):
                if statement.site in layout:
                    logits[:, layout[statement.site]] += slope[rows].unsqueeze(-1) * statement.design(
                        rows, shapes[statement.site]
                    )
            at_zero, at_units = logits.view(num_points, len(items), width).split([1, num_points - 1])
            slopes = at_units - at_zero
            jacobian = torch.cat([slopes[: self.one], at_zero, slopes[self.one :]])
            yield slice(start, start + len(items)), jacobian.movedim(0, 1)

    def curvature(self, residual: Tensor, layout: dict[str, slice], shapes: dict[str, Size]) -> Tensor:
        """Return the second derivatives of ``sum(residual * coefficients)``, ``S x S``: what Gauss-Newton leaves out.

        Args:
            residual: ``P x F``.
            layout: as `jacobian`.
            shapes: as `jacobian`.
        """
        width = max((here.stop for here in layout.values()), default=0)
        curvature = residual.new_zeros(width, width)
        at_zero = residual[:, self.one]
        slopes = torch.cat([residual[:, : self.one], residual[:, self.one + 1 :]], -1)
        weight = torch.cat([(at_zero - slopes.sum(-1)).unsqueeze(0), slopes.mT]).flatten()  # of each unit context
        for (i, j), derivative in self.second_derivatives.items():
            first, second = self.statements[i], self.statements[j]
            if first.site in layout and second.site in layout:
                here, there = layout[first.site], layout[second.site]
                rows = (derivative != 0).nonzero().squeeze(-1)
                left = first.design(rows, shapes[first.site])
                right = (weight * derivative)[rows].unsqueeze(-1) * second.design(rows, shapes[second.site])
                curvature[here, there] += left.mT @ right
        return curvature
