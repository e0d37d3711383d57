"""The command line: ``blob-pyro``."""

import click

from blob_pyro._version import __version__
from blob_pyro.cli.demo import demo
from blob_pyro.cli.reproduce import reproduce

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="blob-pyro")
def main() -> None:
    """Run Bayesian organic-and-bandit recommenders, and policies with exact propensities."""


main.add_command(demo)
main.add_command(reproduce)
