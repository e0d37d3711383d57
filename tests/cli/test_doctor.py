"""What is installed, said in a table."""

import torch

from tests.cli.commands import done


def test_doctor():
    told = dict(line.split(maxsplit=1) for line in done("doctor").splitlines())
    public = told["torch"].partition("+")[0]  # PyPI's CUDA build notes its "+cu130" in the module alone
    assert public == torch.__version__.partition("+")[0]
    assert told["device"].startswith("cuda" if torch.cuda.is_available() else "cpu")
    assert "RecoGym" in told
