"""Captured steps: the same numbers as the steps they were recorded from, and a refusal where that cannot be."""

import copy
import math

import pyro
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

from blob_pyro import BLOB, BanditPriors
from blob_pyro.guides import NormalGuide
from blob_pyro.infer import (
    CannotCapture,
    CapturedStep,
    GuidedELBO,
    LocalReparameterization,
    NotFiniteError,
    Training,
    seeded,
    train,
)
from blob_pyro.infer.training.run import Run
from blob_pyro.models import ItemDeviations, StudentTKappa

READS_THE_DEVICE = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten._unique", "aten.equal")


def fit(blob, batch, capture, device="cpu", batch_size=1000):
    with seeded(3, device):
        training = Training(4, batch_size, 0.03, capture=capture)
        elbo = GuidedELBO(LocalReparameterization)
        history = train(blob.model, blob.guide, elbo, batch, training, progress=False)
    return history, [p.detach().cpu() for p in (*blob.model.parameters(), *blob.guide.parameters())]


GUIDES = ["normal", "matrix_normal", "matrix_normal_full", "low_rank", "full"]


ALL_ROWS = [pytest.param(g, 10_000, marks=[] if g == "low_rank" else [pytest.mark.slow]) for g in GUIDES]


@pytest.mark.parametrize(("guide", "batch_size"), [*((guide, 1000) for guide in GUIDES), *ALL_ROWS])
def test_fit_is_the_same_to_the_float(blo, log, guide, batch_size):
    results = []
    for capture in (False, True):
        blob = BLOB(blo, guide)
        results.append(fit(blob, blob.batch(log), capture, batch_size=batch_size))
    (eager, expected), (captured, found) = results
    assert not eager.attrs["captured"]
    assert captured.attrs["captured"]
    assert captured.elbo.tolist() == pytest.approx(eager.elbo.tolist(), rel=1e-5)
    for one, other in zip(expected, found):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"priors": BanditPriors(terms=(ItemDeviations(),))},
        {"priors": BanditPriors(kappa=StudentTKappa())},
        {"priors": BanditPriors.paper()},
        {"omega": "sample"},
    ],
    ids=["item deviations", "Student-t", "paper", "sampled omega"],
)
def test_priors_and_terms_are_captured_alike(blo, log, options):
    results = []
    for capture in (False, True):
        blob = BLOB(blo, **options)
        results.append(fit(blob, blob.batch(log), capture)[1])
    for one, other in zip(*results):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("guide", ["normal", "matrix_normal"])
def test_no_operation_of_a_step_reads_the_device(blo, log, guide):
    """On a GPU each would wait for all work before it, and forbid a CUDA graph."""
    blob = BLOB(blo, guide)
    run = Run(
        blob.model, blob.guide, GuidedELBO(LocalReparameterization), blob.batch(log), Training(1, 64, 0.1), None, ()
    )
    step = CapturedStep(run.gradients.eager, torch.arange(64), run.parameters)
    operations = {str(node.target) for node in step.module.graph.nodes}
    assert len(operations) > 20
    assert not [name for name in operations if name.startswith(READS_THE_DEVICE)]


def test_draws_are_fresh_and_recording_draws_nothing():
    torch.manual_seed(4)
    expected = torch.randn(2, 5)
    torch.manual_seed(4)
    step = CapturedStep(lambda rows: [torch.randn(5) + 0 * rows.sum()], torch.arange(3), [])
    assert torch.equal(step(torch.arange(3))[0], expected[0])
    assert torch.equal(step(torch.arange(3))[0], expected[1])


def test_what_does_not_change_is_computed_once_and_what_is_written_to_is_not_kept():
    constant, parameter = torch.tensor([1.0, 2.0, 4.0]), nn.Parameter(torch.tensor(3.0))

    def function(rows):
        total = constant.new_zeros(3)  # a constant, if it were not written to
        total[1:] += constant.exp().log().sum()
        total.view(-1)[0].add_(parameter.square())
        return [total.sum() + constant[rows].sum()]

    step = CapturedStep(function, torch.tensor([0]), [parameter])
    operations = [str(node.target) for node in step.module.graph.nodes]
    assert "aten.exp.default" not in operations
    for value in (3.0, 5.0):
        with torch.no_grad():
            parameter.fill_(value)
        for row in (0, 2, 2):
            rows = torch.tensor([row])
            assert step(rows)[0].item() == pytest.approx(2 * 7 + value**2 + constant[row].item())


def test_rows_that_are_always_the_same_are_a_constant():
    data, parameter = torch.tensor([1.0, 2.0, 4.0]), nn.Parameter(torch.tensor(3.0))
    rows = torch.tensor([2, 1])
    step = CapturedStep(lambda rows: [data[rows].exp().sum() * parameter], rows, [parameter], same_rows=True)
    assert "aten.exp.default" not in [str(node.target) for node in step.module.graph.nodes]
    with torch.no_grad():
        parameter.fill_(2.0)
    assert step(rows)[0].item() == pytest.approx(2 * (math.exp(4) + math.exp(2)))


@pytest.mark.parametrize(
    "function",
    [
        lambda rows: [rows.sum() if rows.sum() > 2 else rows.sum() * 2],
        lambda rows: [torch.unique(rows).sum() + rows[rows > 1].shape[0]],
        lambda rows: [torch.tensor(float(rows.sum()))],
    ],
    ids=["a branch on a value", "a shape that depends on values", "a value read"],
)
def test_steps_that_look_at_values_are_refused(function):
    with pytest.raises(CannotCapture, match="the step cannot be recorded"):
        CapturedStep(function, torch.arange(4), [])


def test_a_step_that_depends_on_more_than_tensors_is_refused():
    state = {"calls": 0}

    def counting(rows):
        state["calls"] += 1
        return [rows.sum().double() * state["calls"]]

    with pytest.raises(CannotCapture, match=r"computes something else \(result 0\)"):
        CapturedStep(counting, torch.arange(4), [])


class Peeking(GuidedELBO):
    """An ELBO that cannot be recorded."""

    def differentiable_loss(self, *args, **kwargs):
        loss = super().differentiable_loss(*args, **kwargs)
        return loss if bool(torch.isfinite(loss)) else -loss


def test_what_cannot_be_captured_is_trained_as_it_is_or_refused(blo, log, monkeypatch):
    monkeypatch.setattr("blob_pyro.infer.training.gradients.WORTH_CAPTURING", 5)
    blob = BLOB(blo)
    elbo, batch = Peeking(LocalReparameterization), blob.batch(log)
    with seeded(0, "cpu"):
        steps_enough = Training(3, 1024, 0.01, capture="auto")
        history = train(blob.model, blob.guide, elbo, batch, steps_enough, progress=False)
    assert not history.attrs["captured"]
    with pytest.raises(CannotCapture, match="data-dependent"):
        train(blob.model, blob.guide, elbo, batch, Training(2, 1024, 0.01, capture=True), progress=False)


@pytest.mark.parametrize("guide", ["normal", "a class of ours", "an AutoGuide"])
def test_guides_that_say_so_are_captured(blo, log, guide, monkeypatch):
    monkeypatch.setattr("blob_pyro.infer.training.gradients.WORTH_CAPTURING", 5)
    monkeypatch.setattr("blob_pyro.infer.start._STEPS", 4)
    recipe = {"a class of ours": NormalGuide, "an AutoGuide": AutoNormal}.get(guide, guide)
    history = BLOB(blo, recipe).fit(log, num_epochs=5, batch_size=4096, progress=False, device="cpu")
    assert history.attrs["captured"] == (guide != "an AutoGuide")


@pytest.mark.parametrize("late", [False, True], ids=["every step", "every epoch"])
def test_a_loss_that_is_not_finite_is_traced_to_its_site_and_step(blo, log, late):
    """Whether the loss is read at once or at the epoch's end, no step after the bad one moves anything."""
    blob = BLOB(blo)
    batch = copy.copy(blob.batch(log)[torch.arange(300)])
    batch.interest[batch.context[17]] = torch.nan
    training = Training(3, 100, 0.01, schedule="constant")
    with seeded(1, "cpu"), pyro.validation_enabled(False):
        run = Run(blob.model, blob.guide, GuidedELBO(LocalReparameterization), batch, training, None, ())
        run.reads_late = late
        for optimizer in run.optimizers if late else []:
            optimizer.found_inf = run.failed
        generator = torch.get_rng_state()
        order = torch.randperm(300).split(100)
        bad = next(i for i, rows in enumerate(order) if (batch.context[rows] == batch.context[17]).any())
        torch.set_rng_state(generator)
        run._back_to_good_epoch = lambda batch: None  # done below, after a look at where the steps had come to
        with pytest.raises(NotFiniteError, match=rf"epoch 1 of 3, step {bad + 1} of 3 \(first at site 'click'\)"):
            run.epoch()
    assert all(torch.isfinite(p).all() for p in run.parameters)
    moved = any((p.detach() != last).any() for p, last in zip(run._values(), run.last))
    assert moved == (bad > 0)
    run.back_to_last_epoch()
    assert all(torch.equal(p, last) for p, last in zip(run._values(), run.last))


@pytest.mark.cuda
@pytest.mark.parametrize("guide", GUIDES)
def test_cuda_graph_trains_to_the_same_numbers(blo, log, guide):
    results = []
    for capture in (False, True):
        blob = BLOB(copy.deepcopy(blo).to("cuda"), guide).to("cuda")
        results.append(fit(blob, blob.batch(log), capture, "cuda"))
    assert results[1][0].attrs["captured"]
    for one, other in zip(results[0][1], results[1][1]):
        assert torch.allclose(one, other, rtol=1e-2, atol=1e-3)
