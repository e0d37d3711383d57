"""One run: every row once an epoch, the same floats from the same seed, and what stops it."""

import pytest
import torch
from pyro.infer import Trace_ELBO

from blob_pyro.infer import Training, train
from tests.infer.training.conjugate import Guide, Model, Rows, fit


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
