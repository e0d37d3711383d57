"""The direct method and what corrects it: NumPy by hand, exact expectations, identities, gradients, memory."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from blob_pyro.ope import (
    MissingSupportWarning,
    checks,
    direct_method,
    doubly_robust,
    dr_shrinkage,
    ips,
    self_normalized_dr,
    switch_dr,
)


def by_hand(name, s, parameter=None):
    w = s.target / s.logging
    base = (s.target_probs * s.predicted).sum(-1)
    residual = s.reward - s.of_action(s.predicted)
    if name == "self_normalized_dr":
        value = base.mean() + (w * residual).sum() / w.sum()
        share = w * (residual - (w * residual).sum() / w.sum()) / w.mean()
        return value, np.sqrt(((base - base.mean() + share) ** 2).sum()) / len(w), w
    if name == "switch_dr":
        w = w * (w <= parameter)
    if name == "dr_shrinkage":
        w = parameter * w / (w**2 + parameter)
    if name == "doubly_robust" and parameter:
        w = np.minimum(w, parameter)
    terms = base + w * residual
    return terms.mean(), terms.std(ddof=1) / len(w) ** 0.5, w


CASES = {
    "doubly_robust": (doubly_robust, {}, None),
    "doubly_robust clipped": (doubly_robust, {"clip": 1.5}, 1.5),
    "self_normalized_dr": (self_normalized_dr, {}, None),
    "switch_dr": (switch_dr, {"threshold": 1.3}, 1.3),
    "dr_shrinkage": (dr_shrinkage, {"shrinkage": 2.0}, 2.0),
}


def apply(estimator, s, **options):
    return estimator(s.reward, s.target_probs, s.logging, action=s.action, predicted_reward=s.predicted, **options)


@pytest.mark.parametrize(("name", "case"), CASES.items(), ids=CASES.keys())
def test_by_hand(name, case, sample):
    estimator, options, parameter = case
    value, error, w = by_hand(name.split()[0], sample, parameter)
    estimate = apply(estimator, sample, **options)
    assert estimate.value == pytest.approx(value, rel=1e-12)
    assert estimate.standard_error == pytest.approx(error, rel=1e-11)
    assert estimate.effective_sample_size == pytest.approx(w.sum() ** 2 / (w**2).sum(), rel=1e-12)
    assert estimate.max_weight == pytest.approx(w.max(), rel=1e-14)


def test_direct_method_by_hand(sample):
    estimate = direct_method(sample.predicted, sample.target_probs, groups=sample.user)
    terms = (sample.predicted * sample.target_probs).sum(-1)
    assert estimate.value == pytest.approx(terms.mean(), rel=1e-13)
    totals = np.bincount(sample.user, weights=terms - terms.mean())[np.unique(sample.user)]
    count = len(totals)
    assert estimate.standard_error == pytest.approx((count / (count - 1) * (totals**2).sum()) ** 0.5 / len(terms))
    assert estimate.effective_sample_size == len(terms)
    assert estimate.support is None
    assert "no weights" in repr(estimate)
    assert "model's own error is not in the standard error" in repr(estimate)


def test_what_is_done_to_weights_is_said(sample):
    w = sample.target / sample.logging
    assert f"left to the reward model: {(w > 1.3).mean():.2%} of rows" in repr(apply(switch_dr, sample, threshold=1.3))
    assert "weights shrunk by 2: " in repr(apply(dr_shrinkage, sample, shrinkage=2.0))
    assert f"clipped at 1.5: {(w > 1.5).mean():.2%}" in repr(apply(doubly_robust, sample, clip=1.5))


@pytest.mark.parametrize("planted", ["wrong predictions", "wrong propensities"])
def test_doubly_robust_is_unbiased_if_either_is_right(planted, finite):
    wrong = np.array([[0.1, 0.9, 0.3], [0.8, 0.2, 0.6]])
    predicted = wrong if planted == "wrong predictions" else finite.click
    logging = finite.logging if planted == "wrong predictions" else np.full((2, 3), 1 / 3)

    def estimate(x, a, r):
        arguments = {"action": a, "predicted_reward": predicted[x]}
        direct = direct_method(predicted[x], finite.target[x]).value
        robust = doubly_robust(r, finite.target[x], logging[x, a], **arguments)
        return np.array([robust.value, robust.standard_error**2, direct])

    mean, _ = finite.expectation(2, estimate)
    _, variance = finite.expectation(2, lambda x, a, r: estimate(x, a, r)[0])
    truth = finite.value(finite.target)
    assert mean[0] == pytest.approx(truth, rel=1e-12)
    assert mean[1] == pytest.approx(variance, rel=1e-12)
    if planted == "wrong predictions":
        assert abs(mean[2] - truth) > 0.05


def test_identities(sample):
    nothing = np.zeros_like(sample.predicted)
    arguments = sample.reward, sample.target_probs, sample.logging
    zero = doubly_robust(*arguments, action=sample.action, predicted_reward=nothing)
    plain = ips(sample.reward, sample.target, sample.logging)
    assert zero.value == pytest.approx(plain.value, rel=1e-13)
    assert zero.standard_error == pytest.approx(plain.standard_error, rel=1e-12)
    full, direct = apply(doubly_robust, sample).value, direct_method(sample.predicted, sample.target_probs).value
    assert apply(switch_dr, sample, threshold=1e9).value == pytest.approx(full, rel=1e-13)
    assert apply(switch_dr, sample, threshold=0).value == pytest.approx(direct, rel=1e-13)
    assert apply(dr_shrinkage, sample, shrinkage=np.inf).value == pytest.approx(full, rel=1e-13)
    assert apply(dr_shrinkage, sample, shrinkage=1e12).value == pytest.approx(full, rel=1e-9)
    assert apply(dr_shrinkage, sample, shrinkage=0).value == pytest.approx(direct, rel=1e-13)


def test_a_good_model_narrows_the_interval(sample):
    assert (
        apply(doubly_robust, sample).standard_error < ips(sample.reward, sample.target, sample.logging).standard_error
    )


@pytest.mark.parametrize(("name", "case"), CASES.items(), ids=CASES.keys())
def test_gradients_in_the_target(name, case, sample):
    estimator, options, _ = case
    some = slice(0, 12)
    scores = torch.from_numpy(np.log(sample.target_probs[some])).requires_grad_()

    def value(scores):
        return estimator(
            torch.from_numpy(sample.reward[some]),
            scores.softmax(-1),
            sample.logging[some],
            action=sample.action[some],
            predicted_reward=sample.predicted[some],
            **options,
        ).value

    assert torch.autograd.gradcheck(value, scores)


def test_gradient_of_the_direct_method(sample):
    scores = torch.from_numpy(np.log(sample.target_probs[:8])).requires_grad_()
    predicted = torch.from_numpy(sample.predicted[:8]).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, q: direct_method(q, s.softmax(-1)).value, (scores, predicted))


def test_chunks_change_nothing(sample, monkeypatch):
    whole = apply(doubly_robust, sample, logging_probs=sample.logging_probs)
    monkeypatch.setattr(checks, "_CHUNK_ELEMENTS", 30)
    parts = apply(doubly_robust, sample, logging_probs=sample.logging_probs)
    assert parts.value == whole.value
    broken = sample.target_probs.copy()
    broken[333] = [0.2, 0.2, 0.2, 0.2]
    with pytest.raises(ValueError, match=r"target_probs, row 333: .* sum to one, got 0\.8"):
        direct_method(sample.predicted, broken)


def test_single_precision_matrices_and_arrow(sample):
    single = sample.target_probs.astype(np.float32), sample.predicted.astype(np.float32)
    rounded = doubly_robust(
        sample.reward, single[0], sample.logging, action=sample.action, predicted_reward=single[1]
    ).value
    assert rounded == pytest.approx(apply(doubly_robust, sample).value, rel=1e-5)
    arrow = [
        pa.FixedSizeListArray.from_arrays(pa.array(m.ravel()), m.shape[1])
        for m in (sample.target_probs, sample.predicted)
    ]
    listed = doubly_robust(
        sample.reward, arrow[0], pa.array(sample.logging), action=pa.array(sample.action), predicted_reward=arrow[1]
    )
    assert listed.value == pytest.approx(apply(doubly_robust, sample).value, rel=1e-14)


def test_support(sample):
    logging = sample.logging_probs.copy()
    unseen = np.where(sample.action == 0, 1, 0)
    rows = np.arange(len(logging))
    logging[rows, unseen] = 0
    logging /= logging.sum(-1, keepdims=True)
    of_action = logging[rows, sample.action]
    missing = sample.target_probs[rows, unseen].mean()
    arguments = {"action": sample.action, "predicted_reward": sample.predicted, "logging_probs": logging}
    with pytest.warns(MissingSupportWarning, match="never shows"):
        estimate = doubly_robust(sample.reward, sample.target_probs, of_action, **arguments)
    assert estimate.support == pytest.approx(missing, rel=1e-12)
    assert apply(doubly_robust, sample).support is None
    with pytest.raises(ValueError, match=r"logging_propensity, row 0: differs from logging_probs of the logged action"):
        doubly_robust(sample.reward, sample.target_probs, 0.9 * of_action, **arguments)
    with pytest.raises(ValueError, match=r"action, row 0: the logging policy could not have played it"):
        doubly_robust(sample.reward, sample.target_probs, of_action, **{**arguments, "action": unseen})


@pytest.mark.parametrize("method", ["empirical_bernstein", "anytime"])
def test_finite_sample_intervals(method, sample):
    bound = 1 / sample.logging.min()
    estimate = apply(doubly_robust, sample)
    low, high = estimate.interval(method=method, weight_bound=bound)
    assert low < (sample.target_probs * sample.click).sum(-1).mean() < high
    with pytest.raises(ValueError, match="weight_bound: doubly robust terms are bounded only if the weights are"):
        estimate.interval(method=method)
    low, high = direct_method(sample.predicted, sample.target_probs).interval(method=method)
    assert 0 < low < high < 1
    too_large = doubly_robust(
        sample.reward, sample.target_probs, sample.logging, action=sample.action, predicted_reward=2 * sample.predicted
    )
    with pytest.raises(ValueError, match=r"predicted_reward: lies in \[.*outside reward_range"):
        too_large.interval(method=method, weight_bound=bound)


BAD = {
    "action outside": ({"action": [0, 4, 1]}, r"action, row 1: an action is one of the 2 columns, 0\.\.1, got 4"),
    "action fractional": ({"action": [0, 0.5, 1]}, "action, row 1: .*got 0.5"),
    "action missing": ({"action": [0, np.nan, 1]}, "action, row 1: .*got nan"),
    "sums": ({"target_probs": [[0.5, 0.5], [0.7, 0.7], [1, 0]]}, "target_probs, row 1: .*sum to one, got 1.4"),
    "negative": (
        {"target_probs": [[0.5, 0.5], [-0.5, 1.5], [1, 0]]},
        r"row 1, column 0: a probability lies in \[0, 1\]",
    ),
    "NaN prediction": ({"predicted_reward": [[0, 0], [0, np.nan], [1, 1]]}, "predicted_reward, row 1, column 1: .*nan"),
    "shapes": ({"predicted_reward": np.zeros((3, 5))}, "predicted_reward: has 5 actions where target_probs has 2"),
    "lengths": ({"predicted_reward": np.zeros((2, 2))}, "misaligned: .*predicted_reward has 2"),
    "propensity": ({"logging_propensity": [0.5, 0, 1]}, "logging_propensity, row 1"),
    "vector": ({"target_probs": [0.5, 0.5, 0.5]}, r"target_probs: expected rows x actions .*got shape \(3,\)"),
    "ragged": ({"target_probs": pa.array([[0.5, 0.5], [1.0], [0.5, 0.5]])}, "target_probs: rows have 1 to 2 entries"),
    "clip": ({"clip": -1}, "clip: the largest weight"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(change, message):
    good = {
        "reward": [1, 0, 1],
        "target_probs": np.full((3, 2), 0.5),
        "logging_propensity": [0.5, 0.6, 0.7],
        "action": [0, 1, 1],
        "predicted_reward": np.full((3, 2), 0.3),
    }
    with pytest.raises(ValueError, match=message):
        doubly_robust(**{**good, **change})


def test_bad_parameters(sample):
    with pytest.raises(ValueError, match="threshold: the largest weight to use is not negative, got -1"):
        apply(switch_dr, sample, threshold=-1)
    with pytest.raises(ValueError, match="shrinkage: must not be negative, got nan"):
        apply(dr_shrinkage, sample, shrinkage=float("nan"))
