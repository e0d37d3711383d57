"""The synthetic problem of Jeunen (2025), appendix B: a sparse logistic reward, and a softmax policy that logs.

It is the Open Bandit Pipeline's (Saito et al. 2021, version 0.5) ``SyntheticBanditDataset`` with ten actions, ten
features, ``beta=-1.5``, ``logistic_sparse_reward_function`` and ``random_state=0``: the same coefficients, from the
same stream of random numbers. Contexts are standard normal. With ``x~`` 30 % of the monomials of a context up to
degree four, picked once, and ``e~`` likewise of an action's one-hot code, the logit of a reward is
``4 (x~' M e~ + theta' x~ + eta' e~ - shift)``, with coefficients uniform in (-1, 1). Logits are large: most
rewards are all but certain, and no linear model is right.

The original takes ``shift = mean / standard deviation`` of the unshifted logits over each batch that it draws, for
training, test and truth, so that each is of a slightly different problem. Here it is that of one sample for all.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from scipy.special import expit, softmax

__all__ = ["SparseLogistic"]

_DEGREE, _SHARE_OF_MONOMIALS = 4, 0.3
_CONTEXTS_OF_SHIFT, _CONTEXTS_AT_ONCE = 1 << 14, 1 << 13


@dataclass(frozen=True)
class SparseLogistic:
    """A bandit problem with known expected rewards and a known logging policy.

    Args:
        num_features: of a context.
        num_actions: ``A``.
        inverse_temperature: of the logging policy, ``softmax(inverse_temperature * expected reward)``; a negative one
            prefers what is worse.
        seed: of the coefficients; 0 are the published ones.

    Example:
        >>> problem = SparseLogistic()
        >>> contexts = problem.contexts(3, np.random.default_rng(1))
        >>> problem.expected_reward(contexts).shape
        (3, 10)
    """

    num_features: int = 10
    num_actions: int = 10
    inverse_temperature: float = -1.5
    seed: int = 0
    _monomials: np.ndarray = field(init=False, repr=False, compare=False)
    _slope: np.ndarray = field(init=False, repr=False, compare=False)
    _offset: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        random = np.random.RandomState(self.seed)  # the published stream of numbers
        of_context, of_action = _all_monomials(self.num_features), _all_monomials(self.num_actions)
        kept = [max(1, int(len(m) * _SHARE_OF_MONOMIALS)) for m in (of_context, of_action)]
        of_context = of_context[random.choice(len(of_context), kept[0], replace=False)]
        of_action = of_action[random.choice(len(of_action), kept[1], replace=False)]
        theta, eta = random.uniform(-1, 1, kept[0]), random.uniform(-1, 1, kept[1])
        interaction = random.uniform(-1, 1, kept)
        action = _evaluate(of_action, np.eye(self.num_actions))
        object.__setattr__(self, "_monomials", of_context)
        object.__setattr__(self, "_slope", theta[:, None] + interaction @ action.T)
        object.__setattr__(self, "_offset", action @ eta)
        logit = self._unshifted(self.contexts(_CONTEXTS_OF_SHIFT, np.random.default_rng(self.seed)))
        object.__setattr__(self, "_offset", self._offset - logit.mean() / logit.std())

    def contexts(self, size: int, random: np.random.Generator) -> np.ndarray:
        """Draw fresh contexts, ``size x num_features``."""
        return random.standard_normal((size, self.num_features))

    def expected_reward(self, contexts: np.ndarray) -> np.ndarray:
        """Return the probability of a reward for each action, ``N x A``."""
        result: np.ndarray = expit(_DEGREE * self._unshifted(contexts))
        return result

    def logging_probs(self, expected_reward: np.ndarray) -> np.ndarray:
        """Return the logging policy's probabilities, ``N x A``, where rewards are expected to be these."""
        result: np.ndarray = softmax(self.inverse_temperature * expected_reward, axis=-1)
        return result

    def _unshifted(self, contexts: np.ndarray) -> np.ndarray:
        starts = range(0, len(contexts), _CONTEXTS_AT_ONCE)
        parts = (_evaluate(self._monomials, contexts[start : start + _CONTEXTS_AT_ONCE]) for start in starts)
        return np.concatenate([part @ self._slope + self._offset for part in parts])


def _all_monomials(size: int) -> np.ndarray:
    """Factors of each monomial up to the degree, ``monomials x degree``: 0 for none, ``i + 1`` for variable ``i``."""
    rows = (
        (0,) * (_DEGREE - degree) + tuple(i + 1 for i in variables)
        for degree in range(_DEGREE + 1)
        for variables in itertools.combinations_with_replacement(range(size), degree)
    )
    return np.array(list(rows))


def _evaluate(monomials: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Monomials of each row of ``values``, ``N x monomials``."""
    factors = np.concatenate([np.ones((len(values), 1)), values], -1)
    product = factors[:, monomials[:, 0]]
    for column in monomials[:, 1:].T:
        product *= factors[:, column]
    return product
