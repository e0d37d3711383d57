"""The command line: ``blob-pyro``."""

import click

from blob_pyro._version import __version__
from blob_pyro.cli.demo import demo
from blob_pyro.cli.diagnose import diagnose
from blob_pyro.cli.doctor import doctor
from blob_pyro.cli.evaluate import audit, evaluate
from blob_pyro.cli.fit import fit, update
from blob_pyro.cli.recommend import recommend
from blob_pyro.cli.reproduce import reproduce
from blob_pyro.cli.simulate import simulate

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="blob-pyro")
def main() -> None:
    """Run Bayesian organic-and-bandit recommenders, and policies with exact propensities.

    \b
    From yesterday's tables to today's decisions:
      blob-pyro fit --views views.parquet --impressions impressions.parquet --output model --write-history history
      blob-pyro recommend model --contexts users.parquet --history history --output today --policy thompson_mixture

    Exit codes: 0, done; 1, an input is wrong, or an audit flags a log; 2, the command line is wrong; 130, stopped.
    """


for command in (fit, update, recommend, evaluate, audit, diagnose, simulate, demo, reproduce, doctor):
    main.add_command(command)
