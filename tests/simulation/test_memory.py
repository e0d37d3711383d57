"""What does not fit is refused by the name of the argument and in bytes, before it is allocated."""

import pytest
import torch

from blob_pyro.ops import memory
from blob_pyro.policies import Uniform
from blob_pyro.simulation import RecoGym, RecoGymReference, ab_test

BYTES = r".* would take [\d,]{13,} bytes \([\d,.]+ GiB\), and [\d,.]+ GiB are available on cpu; "
ENVIRONMENT = RecoGym(num_items=10, seed=0)
POLICY = {"random": Uniform(10)}
LONG = RecoGym(num_items=10, prob_leave_organic=1e-12, prob_organic_to_bandit=0.0)

ENORMOUS = {
    "items": (lambda: RecoGym(num_items=10**13), "num_items=10000000000000 x embedding_dim=5"),
    "dimensions": (lambda: RecoGym(num_items=10**6, embedding_dim=10**9), "num_items=1000000 x embedding_dim"),
    "pairs": (lambda: RecoGym(num_items=10**7, num_flips=1), "num_items=10000000 with num_flips=1"),
    "reference": (
        lambda: RecoGymReference(num_items=32_000, num_flips=1, embedding_dim=10**9).make(),
        "num_items=32000 x embedding_dim=1000000000",
    ),
    "users": (lambda: ENVIRONMENT.simulate(num_users=2**39), "num_users=549755813888: a log of some"),
    "organic users": (
        lambda: ENVIRONMENT.simulate(num_users=1, num_organic_users=2**39),
        "num_organic_users=549755813888: a log of some",
    ),
    "lives": (lambda: LONG.simulate(num_users=2), "num_users=2: a log of some 2e\\+12 events"),
    "views": (lambda: LONG.simulate(num_users=0, num_organic_users=1), "num_organic_users=1: a log of some 1e"),
    "subnormal": (
        lambda: RecoGym(num_items=10, prob_leave_organic=5e-324).simulate(num_users=1),
        "num_users=1: a log of some inf events",
    ),
    "tested users": (
        lambda: ab_test(ENVIRONMENT, POLICY, num_users=2**45), "num_users=35184372088832: clicks and impressions",
    ),
    "tested lives": (
        lambda: ab_test(LONG, POLICY, num_users=2),
        "prob_leave_organic=1e-12: sessions of 1e\\+12 events",
    ),
    "tested sessions": (
        lambda: ab_test(
            RecoGym(num_items=10, prob_leave_organic=1e-12, prob_bandit_to_organic=0.0), POLICY, num_users=2
        ),
        "prob_leave_organic=1e-12: sessions of 1e\\+12 events",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), ENORMOUS.values(), ids=ENORMOUS)
def test_what_is_enormous_is_refused(call, message):
    with pytest.raises(MemoryError, match=f"^{message}{BYTES}"):
        call()


def test_sessions_at_once(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device="cpu": 2 * 10**7)
    policy, environment = Uniform(10_000), RecoGym(num_items=10_000)
    with pytest.raises(
        MemoryError, match=r"^batch_size=2000: probabilities of 2,000 sessions x 10,000 items would take 80,0"
    ):
        ab_test(environment, {"random": policy}, num_users=5000, batch_size=2000)


def test_what_fits_is_not_refused(monkeypatch):
    """The floors are floors: with ten times as much as a log is in the end it is simulated."""
    log = ENVIRONMENT.simulate(num_users=300, num_organic_users=300)
    size = sum(v.numel() * v.element_size() for v in vars(log).values() if isinstance(v, torch.Tensor))
    monkeypatch.setattr(memory, "available_memory", lambda device="cpu": 10 * size)
    assert ENVIRONMENT.simulate(num_users=300, num_organic_users=300).num_impressions == log.num_impressions
