r"""Bayesian logistic regression with a Gaussian posterior that batches of rewards update (Chapelle and Li 2011).

Their algorithm 3, with a prior :math:`w \sim N(m, Q^{-1})` and a batch of features ``x_j`` and rewards ``y_j``:

1. ``m`` becomes the minimiser of
   :math:`\frac12 (w - m)^\top Q (w - m) + \sum_j [\log(1 + e^{w^\top x_j}) - y_j w^\top x_j]`;
2. ``Q`` becomes :math:`Q + \sum_j p_j (1 - p_j) x_j x_j^\top`, :math:`p_j = \sigma(m^\top x_j)`: Laplace's
   approximation. They keep its diagonal, ``covariance="diagonal"``; ``"full"`` keeps all of it.

``Q`` holds precisions: the standard deviation of a weight is :math:`Q_{ii}^{-1/2}`. (The code published with Jeunen
2025 takes :math:`Q_{ii}^{-1}`, counts rewards of 0 as if nothing had been seen, and shifts every logit by one.)

Source: O. Chapelle and L. Li, "An Empirical Evaluation of Thompson Sampling", NeurIPS 2011, algorithm 3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from blob_pyro.ops.arguments import one_of, whole_number
from blob_pyro.ops.logistic_normal import expected_sigmoid
from blob_pyro.ops.memory import require_memory
from blob_pyro.ops.row_chunks import MAX_ELEMENTS, in_row_chunks
from blob_pyro.propensity import ArgmaxLowRankNormal, ArgmaxNormal

__all__ = ["BayesianLogisticRegression"]

_MAX_STEPS, _MAX_HALVINGS = 200, 60
_DECREMENT = 1e-19  # of the objective, relative: a Newton step that promises less is the last one
_ROUNDING = 1e-12  # of the objective, relative: less is no sign that a step was too long


class BayesianLogisticRegression(nn.Module):
    r"""The posterior of the weights of a logistic regression of rewards on features.

    Either each of ``A`` actions has weights of its own over the features of a context, and scores of different actions
    are independent; or all actions share one vector of weights over features of context *and* action, and their scores
    are correlated. All is in float64; buffers move with ``.to(device)`` and are saved by ``state_dict()``.

    Args:
        num_features: ``D``.
        num_actions: ``A`` for weights per action; None for shared weights.
        covariance: ``"diagonal"``, as published, or ``"full"``.
        prior_precision: positive; a number, or a tensor that broadcasts to the shape of ``loc``.
        prior_loc: likewise, the prior's means.

    Attributes:
        loc: means of the weights, ``A x D`` (``D`` where they are shared).
        precision: diagonal of their precision, of the same shape; or matrices, ``A x D x D`` (``D x D``).

    Raises:
        ValueError: for an unknown covariance, a size below one, or a prior that does not fit, is not finite or, as a
            precision, not positive.

    Example:
        >>> regression = BayesianLogisticRegression(num_features=2, num_actions=3)
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, -1.0]])
        >>> regression.update(x, reward=torch.tensor([1, 1, 0]), action=torch.tensor([0, 0, 1]))
        >>> regression.loc[:, 0]
        tensor([ 0.6324, -0.3374,  0.0000], dtype=torch.float64)
        >>> regression.action_distribution(torch.tensor([[1.0, 0.5]])).probs
        tensor([[0.5809, 0.1771, 0.2420]], dtype=torch.float64)
    """

    loc: Tensor
    precision: Tensor

    def __init__(
        self,
        num_features: int,
        num_actions: int | None = None,
        *,
        covariance: str = "diagonal",
        prior_precision: float | Tensor = 1.0,
        prior_loc: float | Tensor = 0.0,
    ) -> None:
        super().__init__()
        self.num_features = whole_number(num_features, "num_features")
        self.num_actions = None if num_actions is None else whole_number(num_actions, "num_actions")
        self.covariance = one_of(covariance, "covariance", ("diagonal", "full"))
        shape = (self.num_features,) if self.num_actions is None else (self.num_actions, self.num_features)
        precision = _prior("prior_precision", prior_precision, shape)
        if not bool((precision > 0).all()):
            raise ValueError("prior_precision: must be positive everywhere; a small one, such as 1e-3, says little")
        if self.covariance == "full":
            self._require_memory(3 * 8 * precision.numel() * self.num_features)
            precision = torch.diag_embed(precision)
        self.register_buffer("loc", _prior("prior_loc", prior_loc, shape))
        self.register_buffer("precision", precision)

    def extra_repr(self) -> str:
        """Return what `print` says between the brackets."""
        owner = "shared" if self.num_actions is None else f"{self.num_actions} actions"
        return f"{self.num_features} features, {owner}, covariance={self.covariance!r}"

    def update(self, features: Any, reward: Any, action: Any = None) -> None:
        """Take a batch of rewards into account: what is known so far is the prior.

        Batches one after another are the algorithm as published; their order matters a little, because each is
        approximated by a Gaussian. An action that the batch does not show stays as it is, and so does everything where
        an argument is refused.

        Args:
            features: ``N x D``, of the context where each action has weights of its own, else of what was played.
            reward: ``N``, 0 or 1.
            action: ``N`` action numbers; None where weights are shared.

        Raises:
            ValueError: naming argument, row and remedy.
            RuntimeError: where Newton's method does not arrive, which features of extreme scales may bring about.
        """
        x = _matrix("features", features, self.num_features, self.loc.device)
        y = torch.as_tensor(reward, dtype=torch.float64, device=x.device)
        if y.shape != x.shape[:1]:
            raise ValueError(f"reward: expected {len(x)} numbers, one per row of features, got shape {tuple(y.shape)}")
        _refuse("reward", (y != 0) & (y != 1), y, "a reward is 0 or 1", "Count what is missing as no row")
        if self.num_actions is None:
            if action is not None:
                raise ValueError("action: weights are shared, so features alone say what was played; leave action out")
            groups, group = torch.zeros(1, dtype=torch.int64, device=x.device), torch.zeros_like(y, dtype=torch.int64)
        else:
            a = self._actions(action, x)
            groups, group = torch.unique(a, return_inverse=True)
        if not len(x):
            return
        loc, precision = self._stacked(self.loc)[groups], self._matrices()[groups]
        self._require_memory(4 * 8 * loc.numel() * self.num_features)
        weights, hessian = _laplace(x, y, group, loc, precision)
        self._stacked(self.loc)[groups] = weights
        known = hessian if self.covariance == "full" else hessian.diagonal(dim1=-2, dim2=-1)
        self._stacked(self.precision)[groups] = known

    def logits(self, features: Any) -> tuple[Tensor, Tensor]:
        """Return the means and standard deviations of the actions' logits, ``N x A`` each.

        Args:
            features: ``N x D`` where each action has weights of its own, ``N x A x D`` where they are shared.
        """
        if self.num_actions is None:
            x = self._shared_features(features)
            return x @ self.loc, self._factor(x).square().sum(-1).sqrt()
        x = _matrix("features", features, self.num_features, self.loc.device)
        if self.covariance == "diagonal":
            return x @ self.loc.mT, (x.square() @ (1 / self.precision).mT).sqrt()
        inverse = self._inverse_factor()

        def variance(rows: Tensor) -> Tensor:
            return torch.einsum("nd,aed->nae", rows, inverse).square().sum(-1)

        return x @ self.loc.mT, in_row_chunks(variance, x, width=self.loc.numel()).sqrt()

    def action_distribution(self, features: Any) -> ArgmaxNormal | ArgmaxLowRankNormal:
        """Return the distribution that is Thompson sampling: the largest logit in one draw of the weights.

        Args:
            features: see `logits`.

        Returns:
            A distribution with ``batch_shape`` ``(N,)``: exact, `blob_pyro.propensity.ArgmaxNormal`, where each action
            has weights of its own; `blob_pyro.propensity.ArgmaxLowRankNormal`, with an error estimate, where they are
            shared and scores are correlated.
        """
        if self.num_actions is not None:
            return ArgmaxNormal(*self.logits(features))
        x = self._shared_features(features)
        loc = x @ self.loc
        return ArgmaxLowRankNormal(loc, self._factor(x), torch.zeros_like(loc))

    def click_probabilities(self, features: Any) -> Tensor:
        """Return the probability of a reward for each action, averaged over the posterior, ``N x A``.

        Args:
            features: see `logits`.
        """
        return expected_sigmoid(*self.logits(features))

    def _shared_features(self, features: Any) -> Tensor:
        x = torch.as_tensor(features, dtype=torch.float64, device=self.loc.device)
        if x.dim() != 3 or x.shape[-1] != self.num_features:
            raise ValueError(
                f"features: weights are shared, so expected contexts x actions x {self.num_features}, got shape "
                f"{tuple(x.shape)}"
            )
        _refuse("features", ~x.isfinite().all(-1).all(-1), None, "every feature is finite", "Fill what is missing")
        return x

    def _factor(self, features: Tensor) -> Tensor:
        """``F`` with ``F F'`` the covariance of the actions' logits, ``N x A x D``; weights are shared."""
        return (
            features * self.precision.rsqrt() if self.covariance == "diagonal" else features @ self._inverse_factor().mT
        )

    def _inverse_factor(self) -> Tensor:
        """``C`` with ``C' C`` the covariance of the weights, ``... x D x D``."""
        tril = torch.linalg.cholesky(self.precision)
        eye = torch.eye(self.num_features, dtype=tril.dtype, device=tril.device)
        result: Tensor = torch.linalg.solve_triangular(tril, eye.expand_as(tril), upper=False)
        return result

    def _stacked(self, of_weights: Tensor) -> Tensor:
        """A view with a first dimension of actions, which shared weights lack."""
        return of_weights if self.num_actions is not None else of_weights.unsqueeze(0)

    def _matrices(self) -> Tensor:
        precision = self._stacked(self.precision)
        return precision if self.covariance == "full" else torch.diag_embed(precision)

    def _actions(self, action: Any, x: Tensor) -> Tensor:
        if action is None:
            raise ValueError("action: each action has weights of its own, so say which one each row played")
        a = torch.as_tensor(action, device=x.device)
        if a.is_floating_point() or a.dtype == torch.bool:
            raise TypeError(f"action: expected whole numbers, got {a.dtype}")
        if a.shape != x.shape[:1]:
            raise ValueError(f"action: expected {len(x)} numbers, one per row of features, got shape {tuple(a.shape)}")
        assert self.num_actions is not None
        outside = (a < 0) | (a >= self.num_actions)
        _refuse("action", outside, a, f"an action lies in 0..{self.num_actions - 1}", "Number actions from 0")
        return a.to(torch.int64)

    def _require_memory(self, num_bytes: int) -> None:
        what = f"precision matrices of {self.num_actions or 1:,} actions x {self.num_features:,} features"
        require_memory(num_bytes, what, "take fewer features, or share weights between actions")


def _prior(argument: str, value: float | Tensor, shape: tuple[int, ...]) -> Tensor:
    tensor = torch.as_tensor(value, dtype=torch.float64).detach()
    try:
        tensor = tensor.expand(shape).clone()
    except RuntimeError:
        raise ValueError(f"{argument}: has shape {tuple(tensor.shape)}, which does not fit {shape}") from None
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{argument}: must be finite everywhere")
    return tensor


def _matrix(argument: str, value: Any, width: int, device: torch.device) -> Tensor:
    x = torch.as_tensor(value, dtype=torch.float64, device=device)
    if x.dim() != 2 or x.shape[-1] != width:
        raise ValueError(f"{argument}: expected rows x {width}, got shape {tuple(x.shape)}")
    _refuse(argument, ~x.isfinite().all(-1), None, "every feature is finite", "Fill what is missing, or drop the row")
    return x


def _refuse(argument: str, bad: Tensor, values: Tensor | None, expected: str, remedy: str) -> None:
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        got = "" if values is None else f", got {values[row].item():g}"
        raise ValueError(f"{argument}[{row}]: {expected}{got}. {remedy}")


def _laplace(x: Tensor, y: Tensor, group: Tensor, loc: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Mode and curvature of ``G`` posteriors side by side, by Newton's method with backtracking.

    Args:
        x: ``N x D``.
        y: ``N``.
        group: ``N``, in ``0 .. G - 1``.
        loc: ``G x D``, the priors'.
        precision: ``G x D x D``, the priors'.
    """

    def sums(terms: Tensor) -> Tensor:
        return torch.zeros(len(loc), *terms.shape[1:], dtype=x.dtype, device=x.device).index_add_(0, group, terms)

    sign = 2 * y - 1

    def logits(weights: Tensor) -> Tensor:
        return (x * weights[group]).sum(-1)

    def objective(weights: Tensor) -> Tensor:
        off = weights - loc
        return 0.5 * torch.einsum("gd,gde,ge->g", off, precision, off) - sums(logsigmoid(sign * logits(weights)))

    def slope(weights: Tensor) -> Tensor:
        residual = sign * torch.sigmoid(-sign * logits(weights))  # to full precision where it is next to nothing
        return torch.einsum("gde,ge->gd", precision, weights - loc) - sums(residual.unsqueeze(-1) * x)

    def curvature(weights: Tensor) -> Tensor:
        logit = logits(weights).unsqueeze(-1)
        weight = torch.sigmoid(logit) * torch.sigmoid(-logit)
        if len(loc) == 1:
            return precision + (x * weight).mT @ x
        total = precision.clone()
        rows = max(1, MAX_ELEMENTS // x.shape[1] ** 2)
        for part in (slice(start, start + rows) for start in range(0, len(x), rows)):
            total.index_add_(0, group[part], (x[part] * weight[part]).unsqueeze(-1) * x[part].unsqueeze(-2))
        return total

    weights, value = loc.clone(), objective(loc)
    for _ in range(_MAX_STEPS):
        gradient = slope(weights)
        tril = torch.linalg.cholesky(curvature(weights))
        step = torch.cholesky_solve(gradient.unsqueeze(-1), tril).squeeze(-1)
        decrement = (gradient * step).sum(-1)
        size = torch.ones_like(value)
        last = decrement <= _DECREMENT * (1 + value.abs())
        for _ in range(_MAX_HALVINGS):
            new = weights - size.unsqueeze(-1) * step
            new_value = objective(new)
            worse = ~last & ~(new_value <= value - 1e-4 * size * decrement + _ROUNDING * value.abs())
            if not bool(worse.any()):
                break
            size = torch.where(worse, size / 2, size)
        weights, value = new, new_value
        if bool(last.all()):
            return weights, curvature(weights)
    raise RuntimeError(
        "update: Newton's method has not arrived at the posterior mode; bring the features to like scales, or raise "
        "prior_precision"
    )
