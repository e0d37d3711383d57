"""Threads of one process: fits wait for each other and are what they are alone; scoring does not wait and is right."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pyro
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from blob_pyro import BLO, BLOB, BanditPriors
from blob_pyro.models.priors.heavy_tails import HorseshoeKappa
from blob_pyro.ops.exclusive import exclusive
from blob_pyro.policies import ThompsonSampling

HISTORIES = [[0, 0, 1], [], [5, 3]]
QUICK = {"progress": False, "device": "cpu"}
FIXED = BanditPriors(w_b=-3.0, kappa_scale=0.3)  # nothing for Laplace to search
THREADS = 8


def at_once(calls):
    """Results of functions that start together, each in a thread of its own."""
    barrier = threading.Barrier(len(calls))

    def start(call):
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(start, calls))


def numbers(model):
    return [v.clone() for module in (model.model, model.guide) for v in module.state_dict().values()]


def same(first, second):
    return all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_fits_are_what_they_are_alone(blo, log, short_starts):
    def organic(seed):
        model = BLO(12, embedding_dim=2)
        model.fit(log, seed=seed, num_epochs=2, **QUICK)
        return numbers(model)

    def bandit(guide):
        model = BLOB(blo, guide, FIXED)
        model.fit(log, num_epochs=3, batch_size=512, **QUICK)
        return numbers(model)

    made = [(organic, 1), (organic, 2), *((bandit, g) for g in ("normal", "matrix_normal", "low_rank", "laplace"))]
    calls = [lambda f=f, x=x: f(x) for f, x in [*made, (bandit, AutoNormal), (bandit, "full")]]
    assert len(calls) == THREADS
    alone = [call() for call in calls]
    before = torch.get_rng_state()
    together = at_once(calls)
    assert [same(*pair) for pair in zip(alone, together, strict=True)] == THREADS * [True]
    assert torch.equal(torch.get_rng_state(), before)
    assert list(pyro.get_param_store()) == []


@pytest.fixture(scope="module")
def drawn(blo, log):
    blob = BLOB(blo, priors=BanditPriors(terms=(HorseshoeKappa(),)))
    blob.fit(log, num_epochs=2, **QUICK)
    return blob


def ask(blo, *blobs):
    answers = [blo.scores(HISTORIES), blo.predict_next(HISTORIES), blo.predict_next(HISTORIES, "monte_carlo", 20)]
    for blob in blobs:
        answers += [blob.click_logits(HISTORIES).mean, blob.scores(HISTORIES)]
        answers.append(ThompsonSampling(blob).action_distribution(HISTORIES).probs)
    return answers


def test_many_threads_may_ask(blo, blob, drawn):
    expected = ask(blo, blob, drawn)
    for found in at_once(THREADS * [lambda: [ask(blo, blob, drawn) for _ in range(3)]]):
        assert all(same(one, expected) for one in found)


def test_asking_does_not_wait_for_pyro(blo, blob, drawn):
    expected = ask(blo, blob, drawn)
    with exclusive(), ThreadPoolExecutor(1) as pool:
        assert same(pool.submit(ask, blo, blob, drawn).result(timeout=60), expected)


@pytest.mark.parametrize("epochs", [5, 60], ids=["eager", "captured"])
def test_asking_while_another_thread_fits_disturbs_neither(blo, blob, drawn, log, epochs, monkeypatch):
    """Also the very model that is being fitted: it answers as before until it is done."""
    monkeypatch.setattr("blob_pyro.infer.training.gradients.WORTH_CAPTURING", 50)

    def fit(model):
        model.fit(log, seed=4, num_epochs=epochs, batch_size=4096, **QUICK)
        return numbers(model)

    alone = fit(BLOB(blo, priors=FIXED))
    moving = BLOB(blo, priors=FIXED)
    moving.fit(log, num_epochs=2, **QUICK)
    old, expected = moving.scores(HISTORIES), ask(blo, blob, drawn)
    found, in_between = [], []
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(fit, moving)
        while not training.done():
            in_between.append(moving.scores(HISTORIES))
            found.append(same(ask(blo, blob, drawn), expected))
        assert same(training.result(), alone)
    new = moving.scores(HISTORIES)
    assert found
    assert all(found)
    assert not torch.equal(new, old)
    assert all(torch.equal(scores, old) or torch.equal(scores, new) for scores in in_between)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_the_lock_is_free_in_a_forked_child():
    release, held = threading.Event(), threading.Event()

    def hold():
        with exclusive():
            held.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    threading.Timer(0.2, release.set).start()
    child = os.fork()  # waits for the other thread
    if child == 0:
        ok = False
        try:
            with exclusive():
                ok = release.is_set()
        finally:
            os._exit(0 if ok else 1)
    _, status = os.waitpid(child, 0)
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
