"""Each baseline against an independent oracle, and on a toy where it must win."""

import pytest
import torch

from blob_pyro.data import Histories
from blob_pyro.policies.baselines import (
    EASE,
    ContextualBandit,
    FactorizationMachine,
    LinTS,
    LinUCB,
    LogisticRegression,
    MultiVAE,
    ViewFactors,
    register_baseline,
)
from tests.policies.baselines.baseline_data import constant_and_last


@pytest.mark.parametrize("make", [LogisticRegression, ContextualBandit, FactorizationMachine], ids=lambda c: c.__name__)
def test_who_learns_from_clicks_turns_views_round(clicks, make):
    """Organic models recommend what was viewed, and popularity one item: here both are wrong."""
    model = make(4)
    model.fit(clicks)
    assert model.scores([[0, 0], [1, 1], [2, 2], [3, 3]]).argmax(-1).tolist() == [3, 2, 1, 0]


UNFITTED = {
    "logistic": (lambda: LogisticRegression(4), "not fitted"),
    "contextual bandit": (lambda: ContextualBandit(4), "not fitted"),
    "factorisation machine": (lambda: FactorizationMachine(4), "not fitted"),
    "MultiVAE": (lambda: MultiVAE(4), "not fitted"),
    "LinUCB": (lambda: LinUCB(4, constant_and_last, 2), "nothing has been learned yet"),
    "LinTS": (lambda: LinTS(4, constant_and_last, 2), "nothing has been learned yet"),
}


@pytest.mark.parametrize(("make", "message"), UNFITTED.values(), ids=UNFITTED.keys())
def test_unfitted_models_refuse(make, message):
    with pytest.raises(ValueError, match=f"scores: .*{message}"):
        make().scores([[1]])


BAD = {
    "no log": (lambda log: LogisticRegression(4).fit([[1]]), TypeError, "log: expected an EventLog with impressions"),
    "another catalogue": (lambda log: ContextualBandit(3).fit(log), ValueError, "log: has 4 items, .* num_items=3"),
    "no sessions": (lambda log: EASE(Histories.from_sequences([], 3)), ValueError, "sessions: there are none"),
    "no penalty": (lambda log: EASE(log, l2=0.0), ValueError, "l2: "),
    "no features": (lambda log: LinUCB(4, None, 2), TypeError, "features: expected a function"),
    "features of another shape": (
        lambda log: LinTS(log.items, constant_and_last, 3).update(log), ValueError, r"features: expected a tensor \(",
    ),
    "too many factors": (lambda log: ViewFactors(log, 4), ValueError, "num_factors: must be between 1 and 3, got 4"),
    "other items": (lambda log: LinTS(5, constant_and_last, 2).update(log), ValueError, "log: has 4 items that"),
    "another VAE": (lambda log: MultiVAE(7).fit(log), ValueError, "sessions: have 4 items, .* num_items=7"),
    "no seed": (lambda log: FactorizationMachine(4).fit(log, seed=-1), ValueError, "seed: "),
    "a name taken": (lambda log: register_baseline("EASE", lambda log, seed: None), ValueError, "'EASE' is taken"),
    "no baseline": (lambda log: register_baseline("mine", 3), TypeError, "expected a name and a function"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_refused(clicks, call, error, message):
    with pytest.raises(error, match=message):
        call(clicks)


def test_a_log_without_propensities_or_contrast(clicks):
    from dataclasses import replace

    with pytest.raises(ValueError, match="log: has no propensities"):
        ContextualBandit(4).fit(replace(clicks, propensity=None))
    with pytest.raises(ValueError, match="log: all 6,000 rewards are 0"):
        LogisticRegression(4).fit(replace(clicks, reward=torch.zeros_like(clicks.reward)))
