"""Training settings, resumption to the same floats, early stopping, and the optimiser for sparse rows."""

import pytest
import torch
from torch import nn

from blob_pyro import BLO
from blob_pyro.data.splits import split_sessions
from blob_pyro.infer import Bouchard, Training
from blob_pyro.infer.training.settings import clip_gradients, make_optimizers, relative_rate


class Stop(Exception):
    pass


def values(blo):
    return torch.cat([p.detach().flatten() for p in (*blo.model.parameters(), *blo.guide.parameters())])


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
def test_goes_on_to_the_same_floats(schedule, sparse, log, tmp_path, monkeypatch):
    """Stopped in the middle of the fourth epoch, resumed in a fresh model: as if never stopped."""
    train, validation = split_sessions(log.sessions)
    options = {
        "num_epochs": 6, "batch_size": 64, "schedule": schedule, "validation": validation, "progress": False,
        "device": "cpu", "seed": 3,
    }  # fmt: skip

    def make():
        return BLO(12, embedding_dim=2, bound=Bouchard(num_negatives=4), sparse=sparse)

    whole = make()
    history = whole.fit(train, **options)
    path = tmp_path / "run" / "checkpoint.pt"
    stopped, steps = make(), 0
    original = torch.optim.Adam.step

    def step(self, *args, **kwargs):
        nonlocal steps
        steps += 1
        if steps == 3 * -(-len(train) // 64) + 2:
            raise Stop
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", step)
        with pytest.raises(Stop):
            stopped.fit(train, **options, checkpoint=path)
    torch.rand(5)  # the state of the generators outside does not matter
    resumed = make()
    again = resumed.fit(train, **options, checkpoint=path)
    assert torch.equal(values(resumed), values(whole))
    columns = ["epoch", "elbo", "validation_elbo", "learning_rate"]
    assert again[columns].equals(history[columns])
    assert again.seconds.is_monotonic_increasing
    finished = make()
    assert len(finished.fit(train, **options, checkpoint=path)) == 6  # nothing left to do
    assert torch.equal(values(finished), values(whole))
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.pt"]


def test_early_stopping_keeps_the_best_epoch(log):
    """A few sessions learned by heart: validation turns, training stops, and the best epoch is what is left."""
    train, validation = log.sessions[:40], log.sessions[100:]
    blo = BLO(12, embedding_dim=8)
    history = blo.fit(
        train, num_epochs=400, batch_size=40, learning_rate=0.1, schedule="constant", validation=validation,
        patience=15, progress=False, device="cpu",
    )  # fmt: skip
    best = int(history.validation_elbo.idxmax()) + 1
    assert len(history) == best + 15 < 400
    assert history.validation_elbo.iloc[-1] < history.validation_elbo.max() - 0.01  # and it had turned
    again = BLO(12, embedding_dim=8)
    shorter = again.fit(
        train, num_epochs=best, batch_size=40, learning_rate=0.1, schedule="constant", progress=False, device="cpu"
    )
    assert len(shorter) == best
    assert torch.allclose(values(again), values(blo), atol=1e-6)


def test_validation_does_not_change_the_fit(log):
    train, validation = split_sessions(log.sessions)
    fits = []
    for held_out in (None, validation):
        blo = BLO(12, embedding_dim=2)
        history = blo.fit(train, num_epochs=3, validation=held_out, progress=False, device="cpu")
        fits.append(history.elbo.tolist())
    assert fits[0] == fits[1]


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
def test_schedules(schedule, log):
    rates = BLO(12, embedding_dim=2).fit(
        log, num_epochs=10, batch_size=64, learning_rate=0.02, schedule=schedule, progress=False, device="cpu"
    ).learning_rate  # fmt: skip
    assert rates.max() <= 0.02 + 1e-9
    assert (rates.iloc[-1] < 1e-4) == (schedule != "constant")
    assert (rates.iloc[0] < rates.iloc[1]) == (schedule == "one_cycle")


def test_rmsprop_is_torch_s(log):
    """One step of one batch: the sign of the gradient times lr / sqrt(1 - 0.99)."""
    blo = BLO(12, embedding_dim=2)
    blo.fit(
        log, seed=5, num_epochs=1, batch_size=10_000, learning_rate=1e-4, schedule="constant", optimizer="rmsprop",
        progress=False, device="cpu",
    )  # fmt: skip
    moved = blo.model.item_intercept.detach().abs()
    assert torch.allclose(moved, torch.full((12,), 1e-3), rtol=1e-3)


def test_clipping_with_sparse_gradients():
    table, bias = nn.Parameter(torch.ones(5, 2)), nn.Parameter(torch.ones(3))
    rows = nn.functional.embedding(torch.tensor([1, 1, 4]), table, sparse=True)
    loss = 3 * rows.sum() + 4 * bias.sum()
    gradients = torch.autograd.grad(loss, [table, bias])
    expected = (2 * 6**2 + 2 * 3**2 + 3 * 4**2) ** 0.5
    norms, *same = clip_gradients([table, bias], gradients, 1e9)
    assert norms.norm().item() == pytest.approx(expected)
    assert torch.equal(same[0].to_dense(), gradients[0].to_dense())
    assert torch.equal(same[1], gradients[1])
    _, of_table, of_bias = clip_gradients([table, bias], gradients, 1.0)
    both = torch.cat([of_table.to_dense().flatten(), of_bias])
    assert both.norm().item() == pytest.approx(1.0, rel=1e-5)
    assert both[2].item() == pytest.approx(6 / expected, rel=1e-4)


def test_clipped_gradients_are_laid_out_as_their_parameters():
    """Fused optimisers read memory in order, whatever the strides say; one tensor may be two parameters' gradient."""
    first, second = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2, 3))
    shared = torch.arange(6.0).view(3, 2).mT
    norms, of_first, of_second, missing = clip_gradients([first, second, first], [shared, shared, None], 1.0)
    assert of_first.stride() == first.stride() == of_second.stride()
    assert torch.allclose(of_first, shared / norms.norm())
    assert torch.allclose(of_second, shared / norms.norm())
    assert missing is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "linear"}, "schedule: expected 'one_cycle', 'cosine' or 'constant', got 'linear'"),
        ({"optimizer": "sgd"}, "optimizer: expected 'adam' or 'rmsprop', got 'sgd'"),
        ({"patience": 0}, "patience: must be 1 or more, got 0"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        Training(1, 1, 0.1, **options)


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
def test_relative_rates_are_those_of_the_schedule(schedule):
    (optimizer,), (rates,) = make_optimizers(
        Training(10, 1, 0.3, schedule=schedule), [nn.Parameter(torch.zeros(()))], [], num_steps=1000
    )
    for step in range(1000):
        expected = optimizer.param_groups[0]["lr"] / 0.3
        assert relative_rate(schedule, step / 1000) == pytest.approx(expected, abs=0.01)
        optimizer.step()
        if step < 999:
            rates.step()
