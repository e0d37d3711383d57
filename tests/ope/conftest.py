"""Small finite problems whose every log can be written down, and larger ones to draw from."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest


@dataclass(frozen=True)
class Finite:
    """Two contexts, three actions, Bernoulli rewards; all probabilities unequal."""

    context: np.ndarray
    logging: np.ndarray
    target: np.ndarray
    baseline: np.ndarray
    click: np.ndarray

    def value(self, policy):
        return float((self.context[:, None] * policy * self.click).sum())

    def rows(self):
        """Every (context, action, reward) and its probability."""
        for x, a, r in itertools.product(range(2), range(3), range(2)):
            p = self.context[x] * self.logging[x, a] * (self.click[x, a] if r else 1 - self.click[x, a])
            yield (x, a, r), p

    def logs(self, size):
        """Every log of ``size`` independent rows: contexts, actions, rewards, probability."""
        for rows in itertools.product(list(self.rows()), repeat=size):
            x, a, r = (np.array(column) for column in zip(*(row for row, _ in rows)))
            yield x, a, r.astype(float), float(np.prod([p for _, p in rows]))

    def expectation(self, size, estimate):
        """Of ``estimate(x, a, r)`` over all logs, exactly; and its variance."""
        values, probs = zip(*((estimate(x, a, r), p) for x, a, r, p in self.logs(size)))
        values, probs = np.array(values), np.array(probs)
        assert abs(probs.sum() - 1) < 1e-12
        mean = probs @ values
        return mean, probs @ (values - mean) ** 2


@pytest.fixture(scope="session")
def finite():
    return Finite(
        context=np.array([0.3, 0.7]),
        logging=np.array([[0.5, 0.3, 0.2], [0.1, 0.25, 0.65]]),
        target=np.array([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]]),
        baseline=np.array([[0.4, 0.4, 0.2], [0.05, 0.8, 0.15]]),
        click=np.array([[0.9, 0.2, 0.4], [0.15, 0.6, 0.35]]),
    )


@dataclass(frozen=True)
class Sample:
    """A log of ``N`` rows over ``A`` actions with full probability matrices."""

    reward: np.ndarray
    action: np.ndarray
    logging_probs: np.ndarray
    target_probs: np.ndarray
    baseline_probs: np.ndarray
    predicted: np.ndarray
    user: np.ndarray
    click: np.ndarray

    def of_action(self, matrix):
        return matrix[np.arange(len(self.action)), self.action]

    @property
    def logging(self):
        return self.of_action(self.logging_probs)

    @property
    def target(self):
        return self.of_action(self.target_probs)

    @property
    def baseline(self):
        return self.of_action(self.baseline_probs)


def draw_sample(seed, rows, actions=4, sharpness=1.0, num_users=None, rate=0.3, users_differ=0.0, logging=0.5):
    """Users of unequal activity; ``users_differ`` shifts the click logit of each."""
    rng = np.random.default_rng(seed)

    def softmax(scores):
        weight = np.exp(scores - scores.max(-1, keepdims=True))
        return weight / weight.sum(-1, keepdims=True)

    features = rng.normal(size=(rows, 3))
    logging = softmax(logging * features @ rng.normal(size=(3, actions)))
    target = softmax(sharpness * features @ rng.normal(size=(3, actions)))
    baseline = softmax(0.7 * features @ rng.normal(size=(3, actions)))
    num_users = num_users or max(2, rows // 5)
    user = rng.choice(num_users, p=rng.dirichlet(np.full(num_users, 3.0)), size=rows)
    shift = users_differ * rng.normal(size=num_users)
    logit = np.log(rate / (1 - rate)) + 0.5 * features @ rng.normal(size=(3, actions)) + shift[user][:, None]
    click = 1 / (1 + np.exp(-logit))
    action = (rng.random(rows)[:, None] > logging.cumsum(-1)).sum(-1).clip(max=actions - 1)
    reward = (rng.random(rows) < click[np.arange(rows), action]).astype(float)
    predicted = np.clip(click + 0.1 * rng.normal(size=click.shape), 0.01, 0.99)
    return Sample(reward, action, logging, target, baseline, predicted, user, click)


@pytest.fixture(scope="session")
def sample():
    return draw_sample(seed=1, rows=400)


@pytest.fixture(scope="module")
def large():
    return draw_sample(seed=2, rows=6000, sharpness=0.3, num_users=700, users_differ=1.5, logging=0.15)
