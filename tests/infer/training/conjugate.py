"""A conjugate problem to train on."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch.distributions import constraints

from blob_pyro.infer import Training, seeded, train


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


TRAINING = Training(num_epochs=150, batch_size=16, learning_rate=0.1)


def fit(rows, training=TRAINING, guide=None, elbo=None):
    guide = Guide() if guide is None else guide
    with seeded(1, "cpu"):
        history = train(Model(), guide, elbo or Trace_ELBO(num_particles=4), rows, training, progress=False)
    return guide, history
