"""The published problem of sparse logistic rewards."""

import numpy as np

from blob_pyro.experiments.sparse_logistic import SparseLogistic

# Logits before the shift, by `_base_reward_function` of the Open Bandit Pipeline 0.5.7 (degree 4, 30 % of the
# monomials, seed 0, one-hot actions): contexts, and the first three actions of each.
CONTEXTS = [
    [0.13, -0.13, 0.64, 0.1, -0.54, 0.36, 1.3, 0.95, -0.7, -1.27],
    [-0.62, 0.04, -2.33, -0.22, -1.25, -0.73, -0.54, -0.32, 0.41, 1.04],
    [-0.13, 1.37, -0.67, 0.35, 0.9, 0.09, -0.74, -0.92, -0.46, 0.22],
]


LOGITS = [
    [-26.616861123316323, -59.14614077206905, -66.05964340525395],
    [-5.020923952853096, -13.992365931531843, -48.997861637151445],
    [-2.5037181569029947, -9.201327579917578, -20.427939127579936],
]


def test_the_problem_is_the_published_one_but_for_a_constant():
    expected_reward = SparseLogistic().expected_reward(np.array(CONTEXTS))[:, :3]
    shift = np.array(LOGITS) - np.log(expected_reward / (1 - expected_reward))
    np.testing.assert_allclose(shift, shift[0, 0], atol=1e-7)
    assert abs(shift[0, 0]) < 1  # mean over standard deviation, times four: the logits themselves are of size 100


def test_the_logging_policy_prefers_what_is_worse():
    problem = SparseLogistic()
    expected = np.array([[0.0, 1.0, 0.5]])
    np.testing.assert_allclose(
        problem.logging_probs(expected)[0, 0] / problem.logging_probs(expected)[0, 1], np.exp(1.5)
    )
