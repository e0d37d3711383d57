"""The index of the largest of independent normal (or lognormal) scores."""

from typing import ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor

from blob_pyro.propensity._checks import check_finite, check_found, check_scale, check_vectors
from blob_pyro.propensity._index import IndexDistribution, wants_validation
from blob_pyro.propensity.kernels.draws import best_index, draw_normals
from blob_pyro.propensity.kernels.normal import argmax_normal_log_probs, without_the_rest
from blob_pyro.propensity.kernels.played_mixture import played_mixture_log_probs
from blob_pyro.propensity.kernels.played_normal import played_normal_log_probs
from blob_pyro.propensity.kernels.played_pairs import log_probs_of_pairs

__all__ = ["ArgmaxLogNormal", "ArgmaxNormal"]


_SCORES_AT_ONCE = 1 << 20


class ArgmaxNormal(IndexDistribution):
    r"""Thompson-sampling propensities for independent normal posteriors.

    The action is the index of the largest score, :math:`Y_j \sim N(\mathrm{loc}_j, \mathrm{scale}_j^2)`:

    .. math:: \pi_i = P(Y_i > Y_j \text{ for all } j \ne i)
        = \int f_i(y) \prod_{j \ne i} F_j(y)\, dy.

    All A probabilities come from one adaptive grid in log space, to rounding error, for probabilities down to 1e-300,
    locations of any size and scales that differ by up to 140 orders of magnitude: every finite float32 input has an
    answer. First derivatives are exact (closed form); there are no second ones, and those beyond the largest number of
    the dtype (scales below 1e-38 in float32) are that number. The computation is in float64 for every dtype of the
    parameters, and takes four numbers of their dtype for each context and action at once. `log_prob` of the one
    action that was played in each context, without gradients, does not compute those of the others, unless they are
    known: it takes a fifth of the time, and agrees to 1e-12.

    Args:
        loc: batch_shape x A.
        scale: batch_shape x A, standard deviations. A scale of 0 makes a score deterministic; where several
            deterministic scores tie for the highest, they share its probability equally (and gradients are those
            of the shared probability: at a tie there is no derivative).
        minimum: take the index of the smallest score instead, by symmetry.
        validate_args: check the arguments and the values given to `log_prob`; torch's default if None.

    Raises:
        ValueError: locations that are not finite, scales that are not finite or negative, shapes that do not fit,
            no actions; in float64, scales that matter and differ by more than 1e140 or are below 1e-307 (when
            probabilities are asked for). An action outside 0..A-1 in `log_prob` raises torch's support error.

    Source: O. Jeunen, "Counterfactual Inference under Thompson Sampling" (2025), section 3, eq. 5, of which eq. 6
    is the same number as a multivariate normal CDF.

    >>> d = ArgmaxNormal(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([3.0, 1.0, 0.1]))
    >>> d.probs
    tensor([0.3463, 0.2178, 0.4358])
    >>> d.log_prob(torch.tensor(2))
    tensor(-0.8305)
    >>> _ = torch.manual_seed(0)
    >>> d.sample((6,))
    tensor([2, 2, 2, 0, 1, 1])
    """

    event_dims: ClassVar[dict[str, int]] = {"loc": 1, "scale": 1}
    _restrictable: ClassVar[bool] = True
    _knows_few: ClassVar[bool] = True
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.nonnegative, 1),
    }

    def __init__(self, loc: Tensor, scale: Tensor, *, minimum: bool = False, validate_args: bool | None = None) -> None:
        owner = type(self).__name__
        self.loc, self.scale = check_vectors(owner, loc=loc, scale=scale)
        if wants_validation(validate_args):
            check_finite(owner, "loc", loc)
            check_scale(owner, "scale", scale)
        self._finish(self.loc.shape[:-1], self.loc.shape[-1], minimum, validate_args)

    def _parameters(self) -> tuple[Tensor, Tensor]:
        """Locations and scales of scores of which the largest wins, and only those that may."""
        loc, scale = -self.loc if self.minimum else self.loc, self.scale
        return (loc, scale) if self.allowed is None else without_the_rest(loc, scale, self.allowed)

    def _compute_log_probs(self) -> Tensor:
        return argmax_normal_log_probs(*self._parameters())

    def _log_prob_of_few(self, index: Tensor) -> Tensor:
        loc, scale = (t.expand((*index.shape, -1)).flatten(0, -2) for t in self._parameters())
        result = played_normal_log_probs(loc, scale, index.flatten()).reshape(index.shape)
        check_found(type(self).__name__, result)
        if self.allowed is not None:
            result = result.masked_fill(~self._pick(self.allowed, index), -torch.inf)
        return result.to(self.loc.dtype)

    def _draw_scores(self, sample_shape: torch.Size) -> tuple[Tensor, ...]:
        return draw_normals(self.loc, self.scale, sample_shape)

    def sample_each(self, counts: Tensor) -> Tensor:
        """Draw actions for each of N contexts, ``counts[n]`` for the nth, and no more scores than decide.

        Args:
            counts: N, int64, 0 or more; the batch shape must be (N,).

        Returns:
            ``counts.sum()`` int64: all actions of the first context, then all of the second, and so on.
        """
        context = torch.arange(len(counts), device=self._device).repeat_interleave(counts.to(self._device))
        actions = [context[:0]]
        with torch.no_grad():
            for part in context.split(max(1, _SCORES_AT_ONCE // self.num_actions)):
                scores = draw_normals(self.loc[part], self.scale.expand_as(self.loc)[part], torch.Size())
                if self.allowed is not None:
                    worst = torch.inf if self.minimum else -torch.inf
                    scores = (scores[0].masked_fill(~self.allowed[part], worst), *scores[1:])
                actions.append(best_index(scores, self.minimum))
        return torch.cat(actions)

    def log_prob_each(self, counts: Tensor, actions: Tensor) -> Tensor:
        """Return the log-probabilities of actions laid out as `sample_each` draws them.

        The product over all actions is computed once for each context, and shared by all that were played there.

        Args:
            counts: N, int64, 0 or more; the batch shape must be (N,).
            actions: ``counts.sum()`` int64.
        """
        context = torch.arange(len(counts), device=self._device).repeat_interleave(counts.to(self._device))
        actions = actions.to(self._device)
        known = self._source is not None or self._cached_log_probs is not None
        if known or self.allowed is not None or (torch.is_grad_enabled() and self._is_differentiable()):
            return self.log_probs[context, actions]
        loc, scale = (t.expand(len(counts), -1) for t in self._parameters())

        def log_probs(some: Tensor, action: Tensor) -> Tensor:
            return played_mixture_log_probs(loc[some].unsqueeze(1), scale[some], action).squeeze(1)

        at_once = _SCORES_AT_ONCE // self.num_actions
        found = log_probs_of_pairs(context, actions, len(counts), self.num_actions, at_once, log_probs)
        check_found(type(self).__name__, found)
        return found.to(self.loc.dtype)


class ArgmaxLogNormal(ArgmaxNormal):
    r"""Thompson-sampling propensities for independent lognormal posteriors.

    :math:`\log Y_j \sim N(\mathrm{loc}_j, \mathrm{scale}_j^2)`. An increasing map of the scores leaves their order
    unchanged, so this is `ArgmaxNormal` on the logarithms; the class exists to say what the scores are.

    Args:
        loc: batch_shape x A, the means of the logarithms.
        scale: batch_shape x A, the standard deviations of the logarithms.
        minimum: take the index of the smallest score instead.
        validate_args: as for `ArgmaxNormal`.

    Raises:
        ValueError: as for `ArgmaxNormal`.

    Source: O. Jeunen, "Counterfactual Inference under Thompson Sampling" (2025), section 3.1.2.

    >>> ArgmaxLogNormal(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])).probs
    tensor([0.3274, 0.6726])
    """
