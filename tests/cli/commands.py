"""Commands as somebody types them."""

from click.testing import CliRunner

from blob_pyro.cli import main

SMALL = ["--items", 8, "--flips", 2, "--seed", 3]


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def done(*arguments):
    told = run(*arguments)
    assert told.exit_code == 0, told.output
    return told.output
