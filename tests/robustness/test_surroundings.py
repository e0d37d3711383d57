"""What is around a fit: the default dtype, strides, threads, a forked process. None of it may change the answer."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from blob_pyro import BLO, BLOB, EventLog, Histories
from blob_pyro.policies import Greedy, ThompsonSampling
from blob_pyro.propensity import (
    ArgmaxBeta,
    ArgmaxLowRankNormal,
    ArgmaxMultivariateNormal,
    ArgmaxNormal,
    RankBeta,
    RankNormal,
)

HISTORIES = [[0, 1, 1], [], [5]]


@pytest.fixture
def double():
    """float64 as torch's default, for one test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def threads():
    """Sets the number of torch's threads, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def fit(log, guide="normal", bound="reparameterized", encoder="precision", num_epochs=6):
    torch.manual_seed(0)
    blo = BLO(log.num_items, 3, encoder=encoder, bound=bound)
    organic = blo.fit(log, num_epochs=num_epochs, batch_size=128, learning_rate=0.01, progress=False, device="cpu")
    blob = BLOB(blo, guide)
    bandit = blob.fit(log, num_epochs=num_epochs, batch_size=1024, learning_rate=0.01, progress=False, device="cpu")
    return blob, [*organic["elbo"], *bandit.iloc[:, 1]]


# --- float64 as the default -------------------------------------------------------------------------------------------


BOUNDS = ["reparameterized", "bouchard", "log_concave", "one_vs_each"]


@pytest.mark.parametrize(
    ("encoder", "bound"),
    [
        *(("precision", bound) for bound in BOUNDS),
        ("linear", "reparameterized"),
        ("deep", "bouchard"),
        *(pytest.param("linear", bound, marks=pytest.mark.slow) for bound in BOUNDS[1:]),
        *(pytest.param("deep", bound, marks=pytest.mark.slow) for bound in BOUNDS if bound != "bouchard"),
    ],
)
def test_organic_models_are_double_throughout(double, log, encoder, bound, tmp_path):
    blo = BLO(log.num_items, 3, encoder=encoder, bound=bound, covariance="full")
    history = blo.fit(log, num_epochs=2, batch_size=128, progress=False, device="cpu")
    assert np.isfinite(history["elbo"]).all()
    assert {p.dtype for p in [*blo.model.parameters(), *blo.guide.parameters()]} == {torch.float64}
    for method in ("encoder", "em"):
        assert blo.user_posterior(HISTORIES, method).mean.dtype == torch.float64
    probability = blo.predict_next(HISTORIES)
    assert torch.allclose(probability.sum(-1), torch.ones(3), rtol=0, atol=1e-12)  # to double precision
    blo.save(tmp_path / "model")
    assert torch.equal(BLO.load(tmp_path / "model", device="cpu").predict_next(HISTORIES), probability)


@pytest.mark.parametrize("guide", ["normal", "matrix_normal", "matrix_normal_full", "low_rank", "full", "laplace"])
def test_bandit_models_are_double_throughout(double, log, guide, tmp_path):
    blob, elbo = fit(log, guide)
    assert np.isfinite(elbo).all()
    assert {v.dtype for v in [*blob.guide.state_dict().values()] if v.is_floating_point()} == {torch.float64}
    logits = blob.click_logits(HISTORIES)
    assert logits.mean.dtype == logits.variance.dtype == logits.sample().dtype == torch.float64
    for policy in (Greedy(blob), ThompsonSampling(blob)):
        actions = policy.action_distribution(HISTORIES)
        assert torch.allclose(actions.probs.sum(-1), torch.ones(3), rtol=0, atol=1e-7)  # Thompson's are to 1e-8
        assert actions.log_prob(actions.sample()).dtype == torch.float64
    blob.save(tmp_path / "model")
    again = BLOB.load(tmp_path / "model", device="cpu")
    assert torch.equal(again.scores(HISTORIES), blob.scores(HISTORIES))


def test_a_deterministic_fit_is_the_same_in_both_dtypes(log):
    """Laplace's: no noise whose numbers depend on the dtype."""
    torch.manual_seed(0)
    blo = BLO(log.num_items, 3)
    blo.fit(log, num_epochs=6, progress=False, device="cpu")
    single = BLOB(blo, "laplace")
    single.fit(log, progress=False, device="cpu")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        wide = BLO(log.num_items, 3)
        wide.model.load_state_dict(blo.model.state_dict())
        wide.guide.load_state_dict(blo.guide.state_dict())
        wide.items, wide.fits = blo.items, blo.fits
        double = BLOB(wide, "laplace")
        double.fit(log, progress=False, device="cpu")
        scores = double.scores(HISTORIES)
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close(single.scores(HISTORIES).double(), scores, rtol=1e-3, atol=1e-3)


# --- strides ----------------------------------------------------------------------------------------------------------


def strided(tensor):
    """The same numbers, every second of a larger tensor's last dimension."""
    spread = torch.stack([tensor, torch.full_like(tensor, 1)], -1).flatten(-2)[..., ::2]
    assert not spread.is_contiguous()
    return spread


def transposed(tensor):
    """The same numbers, columns first in memory."""
    return tensor.mT.contiguous().mT


LAYOUTS = {"strided": strided, "transposed": transposed}


def test_logs_of_strided_tensors():
    columns = {
        "view_user": [3, 1, 1, 2, 3, 3],
        "view_time": [0, 5, 1, 2, 3, 9],
        "view_item": [2, 0, 1, 1, 0, 2],
        "user": [1, 3, 1, 2],
        "time": [6, 4, 2, 8],
        "action": [0, 2, 1, 1],
        "reward": [0, 1, 0, 1],
        "propensity": [0.2, 0.5, 0.25, 0.1],
    }
    columns = {name: torch.tensor(values) for name, values in columns.items()}
    plain = EventLog.from_arrays(3, **columns)
    odd = EventLog.from_arrays(3, **{name: strided(values) for name, values in columns.items()})
    for name in ("user", "time", "action", "reward", "propensity", "context"):
        assert torch.equal(getattr(odd, name), getattr(plain, name)), name
    for name in ("contexts", "sessions"):
        assert getattr(odd, name).to_sequences() == getattr(plain, name).to_sequences()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_histories_of_strided_tensors(blo, layout):
    counts = torch.randint(3, (5, blo.num_items))
    odd = LAYOUTS[layout](counts)
    assert Histories.from_counts(odd).to_sequences() == Histories.from_counts(counts).to_sequences()
    torch.testing.assert_close(blo.predict_next(odd), blo.predict_next(counts), rtol=0, atol=0)
    array = np.asfortranarray(counts.numpy()) if layout == "transposed" else odd.numpy()
    torch.testing.assert_close(blo.predict_next(array), blo.predict_next(counts), rtol=0, atol=0)


def test_histories_whose_own_tensors_are_strided(blo):
    plain = Histories.from_sequences([[0, 1, 1], [], [5]], blo.num_items)
    odd = Histories(strided(plain.views), strided(plain.starts), strided(plain.lengths), blo.num_items)
    weight = torch.randn(blo.num_items, 2)
    assert torch.equal(odd.padded(), plain.padded())
    assert torch.equal(odd.counts(), plain.counts())
    assert torch.equal(odd.sum_rows(transposed(weight)), plain.sum_rows(weight))
    assert torch.equal(odd[[2, 0]].padded(), plain[[2, 0]].padded())
    torch.testing.assert_close(blo.predict_next(odd), blo.predict_next(plain), rtol=0, atol=0)


def covariance(factor):
    return factor @ factor.mT + torch.eye(factor.shape[-2], dtype=factor.dtype)


PROPENSITIES = {
    "ArgmaxNormal": lambda a, b, f, lay: ArgmaxNormal(lay(a), lay(b)),
    "ArgmaxBeta": lambda a, b, f, lay: ArgmaxBeta(lay(a.exp()), lay(b)),
    "ArgmaxLowRankNormal": lambda a, b, f, lay: ArgmaxLowRankNormal(lay(a), lay(f), lay(b)),
    "ArgmaxMultivariateNormal": lambda a, b, f, lay: ArgmaxMultivariateNormal(lay(a), lay(covariance(f))),
    "RankNormal": lambda a, b, f, lay: RankNormal(lay(a), lay(b), 2),
    "RankBeta": lambda a, b, f, lay: RankBeta(lay(a.exp()), lay(b), 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", PROPENSITIES)
def test_propensities_of_strided_tensors(name, layout):
    numbers = torch.randn(3, 5).double(), 0.2 + torch.rand(3, 5).double(), torch.randn(3, 5, 2).double()
    plain = PROPENSITIES[name](*numbers, lambda t: t)
    odd = PROPENSITIES[name](*numbers, LAYOUTS[layout])
    torch.testing.assert_close(odd.probs, plain.probs, rtol=0, atol=1e-12)
    value = plain.sample((2,))
    torch.testing.assert_close(odd.log_prob(transposed(value)), plain.log_prob(value), rtol=0, atol=1e-11)


# --- threads and processes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guide", "bound", "encoder"),
    [
        ("normal", "reparameterized", "precision"),
        ("matrix_normal", "bouchard", "linear"),
        pytest.param("normal", "one_vs_each", "deep", marks=pytest.mark.slow),
        pytest.param("laplace", "log_concave", "precision", marks=pytest.mark.slow),
    ],
)
def test_one_and_two_threads_of_torch(log, threads, guide, bound, encoder):
    """Sums in another order: the same to 1e-4 of each ELBO, and 1e-3 of each score."""
    results = []
    for number in (1, 2):
        threads(number)
        blob, elbo = fit(log, guide, bound, encoder, num_epochs=2)
        probs = ThompsonSampling(blob).action_distribution(HISTORIES).probs
        results.append([torch.tensor(elbo), blob.scores(HISTORIES), probs.float()])
    for one, two, rtol in zip(*results, (1e-4, 1e-3, 1e-2)):
        torch.testing.assert_close(two, one, rtol=rtol, atol=1e-4)


FORK = """
import os, sys
import torch
torch.set_num_threads(1)
from blob_pyro import BLO, BLOB
from blob_pyro.policies import SessionPopularity
from blob_pyro.simulation import RecoGym

log = RecoGym(num_items=6, num_flips=2, seed=3).simulate(SessionPopularity(6), num_users=6, num_organic_users=60)

def fit(path):
    blo = BLO(log.num_items, 2)
    blo.fit(log, num_epochs=3, batch_size=32, progress=False, device="cpu")
    blob = BLOB(blo)
    blob.fit(log, num_epochs=3, batch_size=128, progress=False, device="cpu")
    torch.save({**blo.model.state_dict(), **blob.guide.state_dict()}, path)

warm, child, parent = sys.argv[1:]
fit(warm)  # the parent has used autograd and Pyro before it forks
number = os.fork()
if number == 0:
    fit(child)
    os._exit(0)
fit(parent)
assert os.waitpid(number, 0)[1] == 0
"""


def test_a_forked_process(tmp_path):
    """In a fresh interpreter: forking this one, with its helpers' threads, is nothing that anyone should do."""
    paths = [tmp_path / name for name in ("warm", "child", "parent")]
    command = [sys.executable, "-c", textwrap.dedent(FORK), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    warm, child, parent = (torch.load(path, weights_only=True) for path in paths)
    for name, value in parent.items():
        assert torch.equal(child[name], value), name
        assert torch.equal(warm[name], value), name
