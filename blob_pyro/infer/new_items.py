"""Rows of item tables for items that were not in the fit: from what is known of them, or from their first views."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from blob_pyro.ops.row_chunks import MAX_ELEMENTS

__all__ = ["Prediction", "rows_from_design", "rows_from_views"]

_PENALTIES = 25  # of ridge regression, from one that is almost none to one that leaves the mean
_STEPS = 50  # of Newton's method, at most
_HALVINGS = 20  # of a step
_PRECISE = 1e-9  # steps below this are none


class Prediction(NamedTuple):
    """The rows of new items.

    Attributes:
        mean: ``M x D``.
        variance: of what such a prediction is wrong by, for each column; ``D``.
    """

    mean: Tensor
    variance: Tensor


def rows_from_design(rows: Tensor, design: Tensor, new_design: Tensor) -> Prediction:
    """Predict the rows of new items by ridge regression on what describes them, beside an intercept.

    The penalty is the one with the least error when each known item is left out in turn, which has a closed form
    (Hastie, Tibshirani & Friedman 2009, eq. 7.64). The largest penalty leaves the mean of all rows.

    Args:
        rows: of the known items, ``P x D``.
        design: what describes them, ``P x F``; with ``F = 0`` the prediction is their mean.
        new_design: what describes the new items, ``M x F``.

    Returns:
        In float64. The variance is that of the errors when items are left out.
    """
    rows, design, new_design = rows.double(), design.double(), new_design.double()
    num_items, center = len(rows), rows.mean(0)
    share = num_items / max(num_items - 1, 1)
    away = rows - center
    none = Prediction(center.expand(len(new_design), -1).clone(), (share * away).square().mean(0))
    if not design.shape[1]:
        return none
    shift, spread = design.mean(0), design.std(0, correction=0)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    left, singular, right = torch.linalg.svd((design - shift) / spread, full_matrices=False)
    if not float(singular.max()) > 0:
        return none
    scale = away.square().mean(0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    best: tuple[float, Tensor, Tensor] | None = None
    for penalty in torch.logspace(-6, 6, _PENALTIES, dtype=torch.float64) * singular.square().max():
        shrink = singular.square() / (singular.square() + penalty)
        leverage = 1 / num_items + (left.square() * shrink).sum(-1, keepdim=True)
        residual = (away - left @ (shrink.unsqueeze(-1) * (left.mT @ away))) / (1 - leverage).clamp(min=1e-9)
        error = float((residual.square().mean(0) / scale).sum())
        if best is None or error < best[0]:
            slope = right.mT @ ((shrink / singular.clamp(min=1e-300)).unsqueeze(-1) * (left.mT @ away))
            best = (error, slope, residual.square().mean(0))
    assert best is not None
    return Prediction(center + (new_design - shift) / spread @ best[1], best[2])


def rows_from_views(
    prior: Prediction, interest: Tensor, log_others: Tensor, num_known: Tensor, times: Tensor
) -> Tensor:
    r"""Find the most probable embedding and intercept of new items, given who viewed them.

    Among the known items and one new item, each view of session ``u`` is of the new one with probability
    :math:`\sigma(\psi \omega_u + \rho - \log \sum_p e^{\Psi_p \omega_u + \rho_p})`: the softmax of Sakhi et al. (2020,
    section 2), of which every subset of items has one of its own. So each new item is a logistic regression, with an
    offset and a normal prior, whose one mode Newton's method finds.

    Args:
        prior: of embedding and intercept, ``M x (K + 1)``.
        interest: omega of each session, ``U x K``, from views of known items.
        log_others: the logarithm of the sum over known items, ``U``.
        num_known: views of known items in each session, ``U``.
        times: views of each new item in each session, ``U x M``, sparse.

    Returns:
        ``M x (K + 1)``, float64.
    """
    mean, precision = prior.mean.double(), 1 / prior.variance.double().clamp(min=1e-12)
    design = torch.cat([interest.double(), interest.new_ones(len(interest), 1).double()], -1)
    offset, no = log_others.double().unsqueeze(-1), num_known.double().unsqueeze(-1)
    at_once = max(1, MAX_ELEMENTS // max(1, len(interest)))
    found = []
    for start in range(0, len(mean), at_once):
        some = torch.arange(start, min(start + at_once, len(mean)), device=times.device)
        yes = times.index_select(1, some).to_dense().double()
        found.append(_modes(mean[some], precision, design, offset, yes, no))
    return torch.cat(found) if found else mean


def _modes(mean: Tensor, precision: Tensor, design: Tensor, offset: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """The modes of some logistic regressions, by Newton's method with halved steps."""

    def objective(rows: Tensor) -> Tensor:
        logit = design @ rows.mT - offset
        likelihood = (yes * logsigmoid(logit) + no * logsigmoid(-logit)).sum(0)
        return likelihood - 0.5 * (precision * (rows - mean).square()).sum(-1)

    rows, value, users = mean, objective(mean), max(1, MAX_ELEMENTS // design.shape[1] ** 2)
    for _ in range(_STEPS):
        chance = torch.sigmoid(design @ rows.mT - offset)
        gradient = (yes - (yes + no) * chance).mT @ design - precision * (rows - mean)
        weight = (yes + no) * chance * (1 - chance)
        hessian = precision.diag().expand(len(rows), -1, -1)
        for part, known in zip(weight.split(users), design.split(users)):
            hessian = hessian + torch.einsum("um,uk,ul->mkl", part, known, known)
        step = torch.linalg.solve(hessian, gradient)
        for _ in range(_HALVINGS):
            tried = objective(rows + step)
            worse = (tried < value).unsqueeze(-1)
            if not worse.any():
                break
            step = torch.where(worse, step / 2, step)
        better = (tried >= value).unsqueeze(-1)
        rows, value = torch.where(better, rows + step, rows), torch.maximum(tried, value)
        if float(step.abs().max()) < _PRECISE:
            break
    return rows
