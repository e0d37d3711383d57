"""What is installed, said in a table."""

import torch

from tests.cli.commands import done


def test_doctor():
    told = dict(line.split(maxsplit=1) for line in done("doctor").splitlines())
    assert told["torch"] == torch.__version__
    assert told["device"].startswith("cuda" if torch.cuda.is_available() else "cpu")
    assert "RecoGym" in told
