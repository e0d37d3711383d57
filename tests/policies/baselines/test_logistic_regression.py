"""Logistic regression against scikit-learn's."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression as SklearnLogistic

from blob_pyro.policies.baselines import (
    LogisticRegression,
)


def crossed(log):
    counts = log.contexts.counts(torch.float64)[log.context].numpy()
    action = np.eye(4)[log.action.numpy()]
    return np.hstack([action, np.einsum("nv,na->nva", counts, action).reshape(len(action), -1)])


def test_logistic_regression_is_scikit_learn_s(clicks):
    model = LogisticRegression(4, l2=2.0)
    model.fit(clicks)
    reference = SklearnLogistic(C=0.5, tol=1e-8, max_iter=5000).fit(crossed(clicks), clicks.reward.numpy())
    for history in ([0, 0], [1], [], [2, 3]):
        counts = np.bincount(history, minlength=4)
        x = np.hstack([np.eye(4), np.einsum("v,ab->avb", counts, np.eye(4)).reshape(4, -1)])
        assert np.allclose(model.scores([history])[0], reference.decision_function(x), atol=5e-3)
