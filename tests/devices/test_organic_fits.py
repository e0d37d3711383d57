"""The organic model on another device: every encoder and bound fits to the CPU's numbers, and no step waits.

The budget of reads: one per epoch, of its losses, whatever the number of steps. A checkpoint reads all that it writes.
"""

import pyro.distributions as dist
import pytest
import torch

from blob_pyro import BLO
from blob_pyro.data import Histories
from blob_pyro.guides import ENCODERS, OffsetNetwork
from blob_pyro.infer import BOUNDS, Bouchard, LogConcave, OneVsEach
from blob_pyro.models import OrganicPriors
from tests.devices.pretend_device import Reads

P, K, EPOCHS = 12, 3, 2
SESSIONS = [[0, 0, 1], [], [5], [2, 3, 2, 3, 11, 11, 4], [7, 8], [1], [9, 9, 9, 0], [10, 6, 0], [], [3, 1]]


def sessions():
    return Histories.from_sequences(SESSIONS, num_items=P)


def fit(device, seed=0, **arguments):
    fitting = {k: arguments.pop(k) for k in ("validation", "optimizer", "patience") if k in arguments}
    torch.manual_seed(5)  # of what is constructed outside a fit
    make = arguments.pop("make", dict)
    blo = BLO(P, K, **arguments, **make())
    settings = {"num_epochs": EPOCHS, "batch_size": 4, "learning_rate": 0.01, "progress": False, **fitting}
    return blo, blo.fit(sessions(), seed=seed, device=device, **settings)


def check_budget(reads, num_epochs=EPOCHS, per_step=0, num_steps=1):
    """One read per epoch, and some per step where that is said: from the end of the first epoch to that of the last."""
    looks = [number for number, read in enumerate(reads) if "*losses = found.tolist()" in read.where]
    assert len(looks) == num_epochs, str(reads)
    during = reads[looks[0] : looks[-1] + 1]
    assert len(during) == num_epochs + (num_epochs - 1) * num_steps * per_step, str(Reads(during))


def check_same_fit(reads, **arguments):
    _, expected = fit("cpu", **arguments)
    assert not reads
    blo, history = fit("pretend", **arguments)
    assert blo.device.type == "pretend"
    check_budget(reads)
    for column in set(expected) - {"seconds"}:
        torch.testing.assert_close(torch.tensor(history[column]), torch.tensor(expected[column]), rtol=1e-4, atol=1e-5)
    return blo


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_every_encoder(reads, encoder, covariance):
    check_same_fit(reads, encoder=encoder, covariance=covariance)


@pytest.mark.parametrize("covariance", ["diagonal", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "bound",
    [
        *sorted(BOUNDS),
        pytest.param(lambda: Bouchard(num_negatives=5), id="bouchard-negatives"),
        pytest.param(lambda: LogConcave(num_negatives=5), id="log_concave-negatives"),
        pytest.param(lambda: OneVsEach(num_negatives=5, num_samples=2), id="one_vs_each-negatives"),
        pytest.param(lambda: Bouchard(offsets=OffsetNetwork(P, K)), id="bouchard-network"),
    ],
)
def test_every_bound(reads, bound, covariance):
    make = dict if isinstance(bound, str) else lambda: {"bound": bound()}
    named = {"bound": bound} if isinstance(bound, str) else {}
    check_same_fit(reads, covariance=covariance, make=make, **named)


@pytest.mark.parametrize("inference", ["map", "posterior"])
def test_priors_of_items(reads, inference):
    priors = OrganicPriors(dist.Normal(0.0, 0.5), dist.Normal(0.0, 1.0), inference=inference)
    check_same_fit(reads, priors=priors)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_validation_and_optimizers(reads, optimizer):
    held_out = Histories.from_sequences([[0, 1, 5], [3], [4, 4, 2, 1, 8]], num_items=P)
    check_same_fit(reads, validation=held_out, patience=2, optimizer=optimizer)


@pytest.mark.parametrize(
    ("method", "options"),
    [("encoder", {}), ("em", {}), ("online_em", {"num_steps": 10}), ("newton", {})],
    ids=["encoder", "em", "online", "newton"],
)
def test_answers(reads, method, options, tmp_path):
    there, _ = fit("pretend")
    there.save(tmp_path / "model")
    here = BLO.load(tmp_path / "model", device="cpu")
    again = BLO.load(tmp_path / "model", device="pretend")
    for blo in (there, again):
        torch.manual_seed(3)
        posterior = blo.user_posterior(SESSIONS, method, **options)
        torch.manual_seed(3)
        expected = here.user_posterior(SESSIONS, method, **options)
        assert posterior.mean.device.type == "pretend"
        for found, wanted in ((posterior.mean, expected.mean), (posterior.stddev, expected.stddev)):
            torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"exclude_seen": True}, {"top_k": 4}, {"method": "monte_carlo"}], ids=str)
def test_predictions(reads, options, tmp_path):
    there, _ = fit("pretend")
    there.save(tmp_path / "model")
    here = BLO.load(tmp_path / "model", device="cpu")
    reads.clear()
    torch.manual_seed(3)
    found = there.predict_next(SESSIONS, **options)
    assert len(reads) <= 2, str(reads)  # loc and scale of the posterior are checked for NaN
    torch.manual_seed(3)
    expected = here.predict_next(SESSIONS, **options)
    for f, e in zip(*(([r] if torch.is_tensor(r) else r) for r in (found, expected))):
        torch.testing.assert_close(f.cpu(), e)
    torch.testing.assert_close(there.scores(SESSIONS).cpu(), here.scores(SESSIONS))
