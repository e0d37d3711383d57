"""A guide whose worker is killed once, in the middle of a fit: importable, so that Ray's workers find it."""

import os
import signal
from pathlib import Path

from torch import distributed

from blob_pyro.guides.bandit import NormalGuide


class FallsOnce(NormalGuide):
    """Of worker 1, the first time that it has taken some steps; where a file says that it is to."""

    FLAG = "BLOB_PYRO_TEST_FALLS"

    def __init__(self, model):
        super().__init__(model)
        self.calls = 0

    def forward(self, batch=None):
        self.calls += 1
        flag = Path(os.environ.get(self.FLAG, "/nowhere"))
        if self.calls > 40 and flag.exists() and distributed.is_initialized() and distributed.get_rank() == 1:
            flag.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(batch)
