"""NaN and infinity planted in a gradient at a random step, on the CPU and on a device that is read once an epoch.

The fit stops with epoch, step and parameter in its message. The model is what it was at the end of the last good epoch,
and as before the call if that was the first; the fit can be continued from its checkpoint to the floats of one that
nothing happened to.
"""

import math
import random
import re

import pytest
import torch

from blob_pyro import BLO, BLOB, JointBLOB
from blob_pyro.infer import NotFiniteError, from_laplace, train
from blob_pyro.infer.training import run as training_run
from blob_pyro.infer.training.run import Run

EPOCHS, STEPS = 5, 3
UNSPOILT = Run.__init__


class Plant:
    """Spoils one number of a parameter's gradient; notes all parameters as they are before each step.

    Args:
        run: the training to spoil.
        seed: of where and what: a parameter, one of its numbers, NaN or an infinity, a step.
        lasting: whether later steps are spoilt too, as those of a bad model are; or this one only.
        first: whether to plant it in the first epoch; in a later one otherwise.
    """

    def __init__(self, run, seed, lasting, first):
        draw = random.Random(seed)
        self.modules, self.lasting, self.run = run.modules, lasting, run
        self.name, parameter = draw.choice([(n, p) for m in run.modules for n, p in m.named_parameters()])
        self.value = draw.choice([math.nan, math.inf, -math.inf])
        self.step = draw.randrange(STEPS) if first else draw.randrange(STEPS, EPOCHS * STEPS)
        self.entry, self.fault = draw.randrange(parameter.numel()), torch.zeros_like(parameter, requires_grad=False)
        self.states, self._take_step = [], run._step
        parameter.register_hook(lambda gradient: gradient + self.fault)  # recorded steps read it anew, too
        run._step = self

    def __call__(self, index):
        step = len(self.states)
        self.states.append(state(self.modules))
        bad = step == self.step or (step > self.step and self.lasting)
        self.fault.view(-1)[self.entry] = self.value if bad else 0.0
        return self._take_step(index)


@pytest.fixture(autouse=True)
def quick_starts(monkeypatch):
    """Guides that start from Laplace's approximation start at the prior: what they do with a bad step is the same."""
    monkeypatch.setattr(from_laplace, "MOST_NUMBERS", 0)


def state(modules):
    return [p.detach().cpu().clone() for m in modules for p in m.parameters()]


@pytest.fixture
def plant(monkeypatch):
    """Call it as a `Plant`, without the run: the next fit is spoilt, as the list it returns tells."""

    def plant(seed, lasting=True, first=False):
        planted, original = [], Run.__init__

        def start(run, *arguments):
            original(run, *arguments)
            planted.append(Plant(run, seed, lasting, first))

        monkeypatch.setattr(Run, "__init__", start)
        return planted

    return plant


def organic(log, device):
    blo = BLO(log.num_items, embedding_dim=3, encoder="linear", covariance="full").to(device)
    batch_size = -(-len(log.sessions) // STEPS)
    return blo, lambda path=None: blo.fit(
        log, num_epochs=EPOCHS, batch_size=batch_size, checkpoint=path, device=device, progress=False
    )


def bandit(guide):
    def make(log, device):
        blo = BLO(log.num_items, embedding_dim=3)
        blo.fit(log, num_epochs=2, progress=False, device="cpu")
        blob = BLOB(blo, guide).to(device)
        batch_size = -(-len(log.action) // STEPS)
        return blob, lambda path=None: blob.fit(
            log, num_epochs=EPOCHS, batch_size=batch_size, checkpoint=path, device=device, progress=False
        )

    return make


def jointly(log, device):
    blob, fit = bandit("normal")(log, "cpu")
    fit()
    joint = JointBLOB(blob).to(device)
    batch_size = -(-len(log.action) // STEPS)
    return joint, lambda: joint.fit_jointly(
        log, num_epochs=EPOCHS, batch_size=batch_size, device=device, progress=False
    )


MODELS = {
    "BLO": organic,
    "BLOB-normal": bandit("normal"),
    "BLOB-matrix_normal": bandit("matrix_normal"),
    "BLOB-low_rank": bandit("low_rank"),
}
CASES = [(name, "cpu", seed) for name in MODELS for seed in range(4)]
CASES += [(name, "pretend", seed) for name in list(MODELS)[:3] for seed in range(2)]
CASES = [pytest.param(*case, marks=[pytest.mark.slow] if case[2] else []) for case in CASES]


def told(spoilt, kept):
    epoch, step = divmod(spoilt.step, STEPS)
    where = rf"in the gradient of [\w.]*{re.escape(spoilt.name)}\)"
    return rf"at epoch {epoch + 1} of {EPOCHS}, step {step + 1} of {STEPS} \({where}; the model is as it was {kept}"


def same(found, expected):
    return all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize(("name", "device", "seed"), CASES, ids=lambda value: str(value))
def test_the_last_good_epoch_is_kept_and_the_fit_goes_on(
    request, log, name, device, seed, tmp_path, plant, monkeypatch
):
    if device == "pretend":
        request.getfixturevalue("reads")
    owner, fit = MODELS[name](log, device)
    planted = plant(seed, lasting=bool(seed % 2))
    with pytest.raises(NotFiniteError, match="is not finite at epoch") as error:
        fit(tmp_path / "checkpoint")
    (spoilt,) = planted
    epoch = spoilt.step // STEPS
    assert re.search(told(spoilt, f"after epoch {epoch}, and can be used and saved"), str(error.value))
    good = spoilt.states[epoch * STEPS]  # before the first step of the epoch that failed
    assert same(state(spoilt.modules), good)
    assert owner.fitted
    assert {id(p) for m in spoilt.modules for p in m.parameters()} <= {id(p) for p in parts(owner)}
    trace = error.value.trace
    assert trace["epoch"].tolist() == list(range(1, epoch + 1))
    assert (trace.attrs["converged"], trace.attrs["interrupted"]) == (False, False)
    assert trace.attrs["convergence"] == f"not finite after epoch {epoch} of {EPOCHS}"
    assert torch.isfinite(owner.scores([[], [0, 1]])).all()
    owner.save(tmp_path / "model")
    monkeypatch.setattr(Run, "__init__", UNSPOILT)
    continued = fit(tmp_path / "checkpoint")
    assert len(continued) == EPOCHS
    after = state([owner.model, owner.guide])
    untouched = fit()
    assert continued["elbo"].tolist() == untouched["elbo"].tolist()
    assert same(after, state([owner.model, owner.guide]))
    assert all(torch.isfinite(value).all() for value in after)


def parts(owner):
    organic = owner.blo if isinstance(owner, BLOB) else owner
    trained = [owner.model, owner.guide, organic.model, organic.guide, organic.bound]
    return [p for m in trained if isinstance(m, torch.nn.Module) for p in m.parameters()]


@pytest.mark.parametrize("name", [*MODELS, "JointBLOB"])
def test_in_the_first_epoch_the_model_stays_as_it_was(log, name, plant):
    owner, fit = {**MODELS, "JointBLOB": jointly}[name](log, "cpu")
    before, fitted, fits = state([owner.model, owner.guide]), owner.fitted, list(owner.fits)
    planted = plant(5, first=True)
    with pytest.raises(NotFiniteError, match="is not finite at epoch 1 of") as error:
        fit()
    assert re.search(told(planted[0], r"before\."), str(error.value))
    assert len(error.value.trace) == 0
    assert same(before, state([owner.model, owner.guide]))
    assert (owner.fitted, owner.fits) == (fitted, fits)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_joint_fit_keeps_its_last_good_epoch(log, plant, seed):
    joint, fit = jointly(log, "cpu")
    planted = plant(seed)
    with pytest.raises(NotFiniteError) as error:
        fit()
    epoch = planted[0].step // STEPS
    assert re.search(told(planted[0], f"after epoch {epoch}, "), str(error.value))
    assert [f["call"] for f in joint.fits] == ["fit", "fit_jointly"]
    assert torch.equal(joint.model.item_embedding, joint.blo.model.item_embedding)  # settled
    assert torch.isfinite(joint.scores([[], [0, 1]])).all()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("name", ["BLOB-normal", "BLOB-matrix_normal", "BLOB-low_rank"])
def test_captured_steps_keep_it_too(log, name, seed, plant, monkeypatch):
    owner, fit = MODELS[name](log, "cpu")
    monkeypatch.setattr("blob_pyro.infer.training.gradients.WORTH_CAPTURING", 0)
    planted = plant(seed, lasting=bool(seed % 2))
    with pytest.raises(NotFiniteError) as error:
        fit()
    (spoilt,) = planted
    epoch = spoilt.step // STEPS
    assert error.value.trace.attrs["captured"]
    assert re.search(told(spoilt, f"after epoch {epoch}, "), str(error.value))
    assert same(state(spoilt.modules), spoilt.states[epoch * STEPS])
    assert owner.fitted


@pytest.mark.parametrize("round_number", [2])
def test_a_later_round_leaves_the_rounds_before_it(log, round_number, monkeypatch):
    """The default length: rounds of training follow each other until the test of convergence is passed."""
    blo = BLO(log.num_items, embedding_dim=3)
    blo.fit(log, num_epochs=2, progress=False, device="cpu")
    blob, rounds, original = BLOB(blo), [], Run.__init__

    def start(run, *arguments):
        original(run, *arguments)
        monkeypatch.setattr(run, "_convergence", lambda stopped: training_run.Convergence(False, stopped or "go on"))
        rounds.append(state(run.modules))
        if len(rounds) == round_number:
            Plant(run, 0, True, True)

    monkeypatch.setattr(Run, "__init__", start)
    with pytest.raises(NotFiniteError, match=f"BLOB, round {round_number}: the loss or its gradient .* as it was be"):
        blob.fit(log, device="cpu", progress=False)
    assert blob.fitted
    assert same(state([blob.model, blob.guide]), rounds[-1])


@pytest.mark.parametrize("epochs", [1, 4])
def test_an_epoch_that_ends_where_no_loss_is_finite_is_not_a_good_one(epochs):
    """One step an epoch: the loss of where a step has led to is seen in the next epoch."""

    class Walk(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.place = torch.nn.Parameter(torch.tensor(0.0))

    class Cliff:
        def differentiable_loss(self, model, guide, batch):
            return (rate * (epochs - 0.5) - model.place).log()

    rate, walk = 0.25, Walk()
    training = training_run.Training(10, 1, rate, schedule="constant")
    with pytest.raises(NotFiniteError, match=f"at epoch {epochs + 1} of 10, step 1 of 1 .* as it was") as error:
        train(walk, lambda batch: None, Cliff(), torch.zeros(1), training, modules=[walk], progress=False)
    assert len(error.value.trace) == epochs - 1
    assert walk.place.item() == pytest.approx(rate * (epochs - 1), abs=0.1 * rate)
    kept = "as it was before" if epochs == 1 else f"after epoch {epochs - 1}"
    assert kept in str(error.value)
