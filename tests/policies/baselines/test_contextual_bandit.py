"""The contextual bandit against a weighted multinomial regression."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression as SklearnLogistic

from blob_pyro.policies import Softmax
from blob_pyro.policies.baselines import (
    ContextualBandit,
)


def test_contextual_bandit_is_a_weighted_multinomial_regression(clicks):
    model = ContextualBandit(4, l2=2.0)
    model.fit(clicks)
    clicked = clicks.reward.numpy() > 0
    weight = 1 / clicks.propensity.numpy()[clicked]
    x = clicks.contexts.counts(torch.float64)[clicks.context].numpy()[clicked]
    x = np.hstack([np.ones((len(x), 1)), x])  # intercepts are penalised, too
    reference = SklearnLogistic(C=0.5, tol=1e-8, max_iter=5000, fit_intercept=False)
    reference.fit(x, clicks.action.numpy()[clicked], sample_weight=weight / weight.mean())
    histories = [[0, 0], [1], [], [2, 3]]
    counts = np.stack([np.r_[1, np.bincount(h, minlength=4)] for h in histories])
    assert np.allclose(Softmax(model).action_distribution(histories).probs, reference.predict_proba(counts), atol=5e-3)
