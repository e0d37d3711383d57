"""The training loop: every row once an epoch, the same floats for a seed, nothing lost when it stops."""

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch.distributions import constraints

from blob_pyro.infer import Training, seeded, train
from blob_pyro.infer.svi import _in_a_row


class Rows:
    """Numbers with a common mean."""

    def __init__(self, values, size=None):
        self.values, self.size = values, size or len(values)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return Rows(self.values[index], self.size)


class Model(PyroModule):
    def __init__(self):
        super().__init__("svi_test_model")

    def forward(self, rows):
        mean = pyro.sample("mean", dist.Normal(torch.tensor(0.0).double(), 3.0))
        with pyro.plate("rows", rows.size, subsample=torch.arange(len(rows))):
            pyro.sample("x", dist.Normal(mean, 2.0), obs=rows.values)


class Guide(PyroModule):
    def __init__(self):
        super().__init__("svi_test_guide")
        self.loc = PyroParam(torch.tensor(0.0).double())
        self.scale = PyroParam(torch.tensor(0.5).double(), constraints.positive)

    def forward(self, rows):
        pyro.sample("mean", dist.Normal(self.loc, self.scale))


@pytest.fixture
def rows():
    return Rows(torch.randn(40).double() * 2 + 5)


TRAINING = Training(num_epochs=150, batch_size=16, learning_rate=0.1)


def fit(rows, training=TRAINING, guide=None, elbo=None):
    guide = Guide() if guide is None else guide
    with seeded(1, "cpu"):
        history = train(Model(), guide, elbo or Trace_ELBO(num_particles=4), rows, training, progress=False)
    return guide, history


def test_finds_the_conjugate_posterior(rows):
    guide, history = fit(rows)
    precision = 1 / 9 + 40 / 4
    assert guide.loc.item() == pytest.approx(rows.values.sum().item() / 4 / precision, abs=0.1)
    assert guide.scale.item() == pytest.approx(precision**-0.5, rel=0.15)
    covariance = 4 * torch.eye(40).double() + 9
    evidence = dist.MultivariateNormal(torch.zeros(40).double(), covariance).log_prob(rows.values) / 40
    assert history.elbo.iloc[-10:].mean() == pytest.approx(evidence.item(), abs=0.02)


def test_history_is_a_table(rows):
    _, history = fit(rows, Training(3, 16, 0.1))
    assert history.columns.tolist() == ["epoch", "elbo", "seconds", "learning_rate"]
    assert history.epoch.tolist() == [1, 2, 3]
    assert history.attrs["interrupted"] is False


def test_every_row_once_an_epoch(rows):
    seen = []

    class Spy(Rows):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    train(Model(), Guide(), Trace_ELBO(), Spy(rows.values), Training(2, 16, 0.1), progress=False)
    epochs = torch.cat(seen[1:]).view(2, 40)  # the first call finds the parameters
    assert epochs.sort(-1).values.tolist() == [list(range(40))] * 2
    assert not torch.equal(epochs[0], epochs[1])


def test_same_seed_same_floats_and_caller_s_generator_untouched(rows):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, history = fit(rows, Training(5, 16, 0.1))
    assert torch.equal(torch.rand(3), expected)
    second, again = fit(rows, Training(5, 16, 0.1))
    assert first.loc.item() == second.loc.item()
    assert history.elbo.tolist() == again.elbo.tolist()


def test_parameter_store_is_left_alone(rows):
    pyro.param("svi_test_guide.loc", torch.tensor(99.0))
    guide, _ = fit(rows)
    assert abs(guide.loc.item()) < 20
    assert list(pyro.get_param_store()) == ["svi_test_guide.loc"]


class StopAt:
    """An ELBO that does something odd at one call."""

    def __init__(self, call, action):
        self.calls, self.call, self.action = 0, call, action
        self.elbo = Trace_ELBO()

    def differentiable_loss(self, *args):
        self.calls += 1
        loss = self.elbo.differentiable_loss(*args)
        return self.action(loss) if self.calls == self.call else loss


def interrupt(loss):
    raise KeyboardInterrupt


@pytest.mark.parametrize("call", [1 + 3 * 4 + 1, 1 + 3 * 4 + 2, 1 + 3 * 5], ids=["first", "middle", "last step"])
def test_ctrl_c_leaves_the_last_finished_epoch(rows, call):
    """Three steps an epoch; interrupted in the fifth."""
    whole = Training(10, 16, 0.1)
    guide = Guide()
    with pytest.warns(UserWarning, match="interrupted; the model is as it was after epoch 4 of 10"):
        _, history = fit(rows, whole, guide, StopAt(call, interrupt))
    assert history.attrs["interrupted"] is True
    assert len(history) == 4
    reference = Guide()
    with pytest.warns(UserWarning, match="after epoch 4"):
        fit(rows, whole, reference, StopAt(1 + 3 * 4 + 1, interrupt))
    assert guide.loc.item() == reference.loc.item() != 0.0


@pytest.mark.filterwarnings("ignore:Encountered NaN")  # Pyro says so too
def test_nan_names_the_step_and_keeps_the_last_good_state(rows):
    guide = Guide()
    with pytest.raises(
        FloatingPointError, match=r"not finite at epoch 3 of 10, step 2 of 3 .* after epoch 2, and can be"
    ):
        fit(rows, Training(10, 16, 0.1), guide, StopAt(1 + 3 * 2 + 2, lambda loss: loss * float("nan")))
    assert torch.isfinite(guide.loc)
    assert guide.loc.item() != 0.0


@pytest.mark.parametrize("name", ["num_epochs", "batch_size", "learning_rate"])
def test_bad_settings_are_named(name):
    with pytest.raises(ValueError, match=f"{name}: must be (1 or more|positive and finite), got 0"):
        Training(**{"num_epochs": 1, "batch_size": 1, "learning_rate": 0.1, name: 0})


def rounds_of(num_epochs, elbo=-1.0):
    rows = [{"epoch": n + 1, "elbo": elbo, "seconds": 1.0, "learning_rate": 0.1} for n in range(num_epochs)]
    trace = pd.DataFrame(rows, columns=["epoch", "elbo", "seconds", "learning_rate"]).astype({"epoch": int})
    trace.attrs["rounds"] = num_epochs
    return trace


@pytest.mark.parametrize("lengths", [(3, 0), (0, 2), (0, 0), (3, 0, 2), (3, 2)], ids=str)
def test_rounds_without_an_epoch_or_a_number_are_put_in_a_row(lengths, monkeypatch):
    """Pandas is about to change what types come of columns without rows, or without a number: it is not asked."""
    monkeypatch.setattr(pd, "concat", None)
    rounds = [rounds_of(n, float("nan") if at else -1.0) for at, n in enumerate(lengths)]
    whole = _in_a_row(rounds)
    assert len(whole) == sum(lengths)
    assert whole.epoch.tolist() == list(range(1, sum(lengths) + 1))
    assert whole.elbo.isna().sum() == sum(lengths[1:])
    assert whole.attrs == {"rounds": lengths[-1]}
    if sum(lengths):
        assert [str(kind) for kind in whole.dtypes] == ["int64", "float64", "float64", "float64"]
    assert rounds[-1].attrs == {"rounds": lengths[-1]}
