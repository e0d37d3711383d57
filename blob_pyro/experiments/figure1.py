"""Figure 1 of Jeunen (2025): off-policy estimates of a Thompson-sampling policy against the number of logged rows.

The problem is `blob_pyro.experiments.sparse_logistic.SparseLogistic`. A Bayesian logistic regression (Chapelle and Li
2011, with a prior precision of 1e-3) is trained on 2,048 rounds of the logging policy, and its Thompson sampling is the
policy to be valued, from fresh logs of the logging policy. Two sets of propensities are used:

* ``"exact"``: `blob_pyro.propensity.ArgmaxNormal`, the paper's equation 5, which are those of the policy;
* ``"published"``: the published code's, which fills the covariance matrix of equation 6 with standard deviations. They
  sum to one, because they are those of another policy: of normal scores whose *variances* are these standard
  deviations. Estimates from them arrive at that policy's value.

Contexts of the logs are drawn with replacement from one population of standard normal contexts, whose propensities are
computed once: so the true value is an average that is known, and every log is an independent sample. Its distance from
the value over all standard normal contexts has a standard error of its own. Of one log, all sizes are nested, as
published; different logs share nothing. The published figure has one log, and measures its truth by 1,000 draws.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from blob_pyro.experiments.sparse_logistic import SparseLogistic
from blob_pyro.ope import Estimate, UnreliableIntervalWarning, beta_ips, doubly_robust, ips, snips
from blob_pyro.policies import BayesianLogisticRegression
from blob_pyro.propensity import ArgmaxNormal

__all__ = ["ESTIMATORS", "Figure1", "Speed"]

_TRAINING, _POPULATION, _LOG = 1, 2, 3  # name streams of random numbers
_CONTEXTS_AT_ONCE = 1 << 14


class _Rows(NamedTuple):
    """What estimators need of a log: the action that was played, and all others together."""

    reward: Tensor
    logging: Tensor
    target: Tensor
    prediction: Tensor
    expected: Tensor

    @property
    def probs(self) -> Tensor:
        return torch.stack([self.target, 1 - self.target], -1)

    @property
    def predicted(self) -> Tensor:
        rest = (1 - self.target).clamp(min=1e-300)
        return torch.stack([self.prediction, (self.expected - self.target * self.prediction) / rest], -1)


ESTIMATORS: dict[str, Callable[[_Rows], Estimate]] = {
    "IPS": lambda rows: ips(rows.reward, rows.target, rows.logging),
    "SNIPS": lambda rows: snips(rows.reward, rows.target, rows.logging),
    "beta-IPS": lambda rows: beta_ips(rows.reward, rows.target, rows.logging),
    "DR": lambda rows: doubly_robust(
        rows.reward,
        rows.probs,
        rows.logging,
        action=torch.zeros(len(rows.reward), dtype=torch.int64),
        predicted_reward=rows.predicted,
    ),
}


class _Population(NamedTuple):
    """Contexts to draw logs from, ``M``; each matrix is ``M x A``."""

    expected_reward: Tensor
    logging: Tensor
    predicted: Tensor
    target: dict[str, Tensor]
    seconds_per_context: float

    def value(self, propensities: str) -> float:
        """Of the policy that has these propensities."""
        return float((self.target[propensities] * self.expected_reward).sum(-1).mean())

    def value_error(self) -> float:
        """Standard error of the value as that over all standard normal contexts."""
        values = (self.target["exact"] * self.expected_reward).sum(-1)
        result: float = float(values.std()) / len(values) ** 0.5
        return result


class Speed(NamedTuple):
    """Seconds per context for the propensities of all actions, and how far the two ways lie apart."""

    scipy_seconds: float
    seconds: float
    largest_difference: float
    contexts: int


@dataclass(frozen=True)
class Figure1:
    """The experiment of Figure 1.

    Args:
        num_training: rounds that the policy is trained on.
        prior_precision: of its weights (the paper's lambda).
        covariance: of its posterior.
        num_contexts: size ``M`` of the population that logs are drawn from.
        least_rows, most_rows, num_sizes: of logs, spaced evenly on a logarithmic scale and cut to whole numbers; the
            published output has these 26 from 199 to 316,227.
        seed: of the problem's coefficients, the training rounds and the population.
    """

    num_training: int = 2048
    prior_precision: float = 1e-3
    covariance: str = "diagonal"
    num_contexts: int = 1 << 18
    least_rows: float = 10**2.3
    most_rows: float = 10**5.5
    num_sizes: int = 26
    seed: int = 0

    @property
    def sizes(self) -> list[int]:
        """The numbers of rows of the nested logs, fewest first."""
        exponents = np.linspace(np.log10(self.least_rows), np.log10(self.most_rows), self.num_sizes)
        return [int(size) for size in np.unique((10**exponents).astype(int))]

    @cached_property
    def problem(self) -> SparseLogistic:
        """The problem that contexts, rewards and the logging policy come from."""
        return SparseLogistic(seed=self.seed)

    @cached_property
    def regression(self) -> BayesianLogisticRegression:
        """The policy to be valued, trained on rounds of the logging policy."""
        random = self._random(_TRAINING)
        contexts = self.problem.contexts(self.num_training, random)
        expected = self.problem.expected_reward(contexts)
        action = _play(self.problem.logging_probs(expected), random)
        reward = random.random(self.num_training) < np.take_along_axis(expected, action[:, None], -1)[:, 0]
        regression = BayesianLogisticRegression(
            self.problem.num_features,
            self.problem.num_actions,
            covariance=self.covariance,
            prior_precision=self.prior_precision,
        )
        regression.update(contexts, reward, action)
        return regression

    @cached_property
    def population(self) -> _Population:
        """All that is known of the contexts that logs are drawn from: computed once."""
        parts, seconds = [], 0.0
        for x in self._contexts():
            loc, scale = self.regression.logits(x)
            start = time.perf_counter()
            exact = ArgmaxNormal(loc, scale).probs
            seconds += time.perf_counter() - start
            expected = self.problem.expected_reward(x)
            logging = self.problem.logging_probs(expected)
            published = published_propensities(loc, scale)
            predicted = self.regression.click_probabilities(x)
            parts.append((torch.from_numpy(expected), torch.from_numpy(logging), predicted, exact, published))
        expected_reward, logging_probs, predicted, exact, published = (torch.cat(part) for part in zip(*parts))
        target = {"exact": exact, "published": published}
        return _Population(expected_reward, logging_probs, predicted, target, seconds / self.num_contexts)

    def run(self, log: int) -> pd.DataFrame:
        """Run the experiment on one fresh log: a row per size, propensities and estimator.

        Args:
            log: its number, which seeds it.
        """
        population, random = self.population, self._random(_LOG, log)
        context = torch.from_numpy(random.integers(self.num_contexts, size=self.sizes[-1]))
        action = torch.from_numpy(_play(population.logging[context].numpy(), random))
        expected = population.expected_reward[context, action]
        reward = (torch.from_numpy(random.random(len(action))) < expected).to(torch.float64)
        rows = []
        for propensities, probs in population.target.items():
            average = (probs * population.predicted).sum(-1)
            whole = _Rows(
                reward=reward,
                logging=population.logging[context, action],
                target=probs[context, action],
                prediction=population.predicted[context, action],
                expected=average[context],
            )
            for size in self.sizes:
                part = _Rows(*(column[:size] for column in whole))
                for name, estimator in ESTIMATORS.items():
                    found = _judge(estimator(part))
                    rows.append({"log": log, "rows": size, "propensities": propensities, "estimator": name, **found})
        return pd.DataFrame(rows)

    def speed(self, num_contexts: int = 50) -> Speed:
        """Time the published route, SciPy's multivariate normal CDF once per action, against ours on the same contexts.

        SciPy is given the right covariance here, so that the two can be compared; it takes as long with the wrong one.

        Args:
            num_contexts: that SciPy computes; ours are timed on the whole population.
        """
        ours = self.population  # ours are timed there
        loc, scale = (part.numpy() for part in self.regression.logits(next(self._contexts())[:num_contexts]))
        start = time.perf_counter()
        theirs = np.array([[_orthant(m, s, a) for a in range(len(m))] for m, s in zip(loc, scale)])
        seconds = (time.perf_counter() - start) / len(loc)
        difference = np.abs(theirs - ours.target["exact"][: len(loc)].numpy()).max()
        return Speed(seconds, ours.seconds_per_context, float(difference), len(loc))

    def _contexts(self) -> Iterator[np.ndarray]:
        """The population's contexts, a part at a time; the same ones each time."""
        random = self._random(_POPULATION)
        for start in range(0, self.num_contexts, _CONTEXTS_AT_ONCE):
            yield self.problem.contexts(min(_CONTEXTS_AT_ONCE, self.num_contexts - start), random)

    def _random(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *stream])


def published_propensities(loc: Tensor, scale: Tensor) -> Tensor:
    """Compute what the published code does: equation 6 with standard deviations where variances belong, ``N x A``.

    Args:
        loc: ``N x A``.
        scale: ``N x A`` standard deviations.
    """
    return ArgmaxNormal(loc, scale.sqrt()).probs


def _orthant(loc: np.ndarray, scale: np.ndarray, action: int) -> float:
    """Equation 6 by SciPy: the probability that one action's score is the largest."""
    others = np.arange(len(loc)) != action
    covariance = scale[action] ** 2 + np.diag(scale[others] ** 2)
    return float(multivariate_normal(loc[others], covariance).cdf(np.full(others.sum(), loc[action])))


def _play(probs: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """One action per row of ``N x A`` probabilities."""
    above = random.random((len(probs), 1)) >= probs.cumsum(-1)
    result: np.ndarray = above.sum(-1).clip(max=probs.shape[-1] - 1)
    return result


def _judge(estimate: Estimate) -> dict[str, Any]:
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        low, high = estimate.interval()
    return {
        "value": estimate.value.item(),
        "standard_error": estimate.standard_error,
        "low": float(low),
        "high": float(high),
        "effective_sample_size": estimate.effective_sample_size,
        "warned": any(issubclass(w.category, UnreliableIntervalWarning) for w in raised),
    }
