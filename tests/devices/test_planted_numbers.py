"""NaN and infinity planted in a gradient at a random step, on the CPU and on a device that is read once an epoch.

The fit stops with the step and the parameter in its message. What was trained is what it was at the end of the last
good epoch, the model that was to be fitted is as it was, and the fit can be continued from its checkpoint to the floats
of one that nothing happened to.
"""

import math
import random
import re
from itertools import count

import pytest
import torch

from blob_pyro import BLO, BLOB
from blob_pyro.infer.training.run import Run

EPOCHS, STEPS = 5, 3


class Plant:
    """Spoils one number of a parameter's gradient; notes all parameters as they are at each step.

    Args:
        modules: whose parameters are noted.
        seed: of where and what: a parameter, one of its numbers, NaN or an infinity, a step after the first epoch.
        lasting: whether later steps are spoilt too, as those of a bad model are; or this one only.
    """

    def __init__(self, modules, seed, lasting):
        draw = random.Random(seed)
        self.modules = modules
        self.name, parameter = draw.choice([(n, p) for m in modules for n, p in m.named_parameters()])
        self.value = draw.choice([math.nan, math.inf, -math.inf])
        self.step = draw.randrange(STEPS, EPOCHS * STEPS)
        self.entry, self.lasting = draw.randrange(parameter.numel()), lasting
        self.states, self.steps = [], count()
        self.handle = parameter.register_hook(self)

    def __call__(self, gradient):
        step = next(self.steps)
        self.states.append(state(self.modules))
        if step < self.step or (step > self.step and not self.lasting):
            return gradient
        spoilt = gradient.clone()
        spoilt.view(-1)[self.entry] = self.value
        return spoilt


def state(modules):
    return [p.detach().cpu().clone() for m in modules for p in m.parameters()]


@pytest.fixture
def plant(monkeypatch):
    """Call it with a seed, and whether all later steps are spoilt: the next fit is, as the list it returns tells."""

    def plant(seed, lasting):
        planted, original = [], Run.__init__

        def start(run, *arguments):
            original(run, *arguments)
            planted.append(Plant(run.modules, seed, lasting))

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


MODELS = {"BLO": organic, "BLOB-normal": bandit("normal"), "BLOB-matrix_normal": bandit("matrix_normal")}
CASES = [(name, "cpu", seed) for name in MODELS for seed in range(4)]
CASES += [(name, "pretend", seed) for name in MODELS for seed in range(2)]


@pytest.mark.parametrize(("name", "device", "seed"), CASES, ids=lambda value: str(value))
def test_the_last_good_epoch_is_kept_and_the_fit_goes_on(reads, log, name, device, seed, tmp_path, plant, monkeypatch):
    owner, fit = MODELS[name](log, device)
    lasting, before = bool(seed % 2), state([owner.model, owner.guide])
    planted = plant(seed, lasting)
    with pytest.raises(FloatingPointError, match="is not finite at epoch") as error:
        fit(tmp_path / "checkpoint")
    (spoilt,) = planted
    epoch, step = divmod(spoilt.step, STEPS)
    where = f"in the gradient of .*{spoilt.name}" if lasting else "in the gradient, or for some draws only"
    message = rf"at epoch {epoch + 1}, step {step + 1} of {STEPS} \({where}.* is back at epoch {epoch}"
    assert re.search(message, str(error.value))
    kept = state(spoilt.modules)
    for found, expected in zip(kept, spoilt.states[epoch * STEPS]):  # before the first step of the epoch that failed
        assert torch.equal(found, expected)
    assert not owner.fitted
    assert all(torch.equal(*pair) for pair in zip(before, state([owner.model, owner.guide])))
    monkeypatch.undo()
    continued = fit(tmp_path / "checkpoint")
    assert len(continued) == EPOCHS
    after = state([owner.model, owner.guide])
    untouched = fit()
    assert continued["elbo"].tolist() == untouched["elbo"].tolist()
    for found, expected in zip(after, state([owner.model, owner.guide])):
        assert torch.equal(found, expected)
        assert torch.isfinite(found).all()
