"""Everything that commands share: inputs and outputs, a configuration file, errors without a traceback, quiet pipes.

Exit codes: 0, done; 1, something is wrong with an input, and the message says what and where; 2, the command line
itself is wrong; 130, stopped by Ctrl-C, and the command can be run again.
"""

from __future__ import annotations

import functools
import sys
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import click
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet

from blob_pyro import BLOB, EventLog
from blob_pyro.data import ViewHistory
from blob_pyro.ops.files import staged

__all__ = [
    "Command",
    "log_options",
    "read_model",
    "read_table",
    "show_progress",
    "write_settings",
    "write_table",
]

F = TypeVar("F", bound=Callable[..., Any])

_EXISTING = click.Path(exists=True, path_type=Path)


class Command(click.Command):
    """A command that takes ``--config``, and whose library errors are messages.

    The configuration is a TOML file: what a flag ``--embedding-dim 20`` says is ``embedding-dim = 20`` at its top, or
    in a table named like the command, ``[fit]``. Flags that are given win.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params.append(
            click.Option(
                ["--config"],
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                callback=_configure,
                is_eager=True,
                expose_value=False,
                help="TOML file that holds what flags hold; flags that are given win.",
            )
        )

    def invoke(self, context: click.Context) -> Any:
        """Run the command; turn what the library refuses into a message, and its warnings into lines."""
        with warnings.catch_warnings():
            warnings.showwarning = _say
            warnings.simplefilter("default", UserWarning)
            try:
                return super().invoke(context)
            except (ValueError, TypeError, OSError, MemoryError, FloatingPointError) as error:
                raise click.ClickException(f"{error}") from error
            except KeyboardInterrupt:
                click.echo("Stopped. Run the same command again to go on.", err=True)
                context.exit(130)


@dataclass(frozen=True)
class LogSource:
    """The log that a command's options name.

    Attributes:
        views: a file, or None.
        impressions: a file or a folder of Parquet files.
        columns: ``key=name`` each.
        covariates: columns of the impressions.
        history: a file of `ViewHistory.save`, or None.
    """

    views: Path | None
    impressions: Path
    columns: tuple[str, ...]
    covariates: tuple[str, ...]
    history: Path | None

    def read(self, items: Any = None) -> EventLog:
        """Read the log.

        Args:
            items: the catalogue, where a model knows it.

        Raises:
            ValueError: naming the file, and as `EventLog.from_tables`.
        """
        names: dict[str, str] = {}
        for one in self.columns:
            key, sign, name = one.partition("=")
            if not (key and sign and name):
                raise click.BadParameter(f"expected KEY=NAME, got {one!r}", param_hint="--column")
            names[key] = name
        return EventLog.from_tables(
            views=None if self.views is None else read_table(self.views),
            impressions=read_table(self.impressions),
            columns=names or None,
            covariates=self.covariates,
            items=items,
            history=None if self.history is None else ViewHistory.load(self.history),
        )


def log_options(command: F) -> F:
    """Add the options that say where a log is; the command takes them as one argument, ``source``, a `LogSource`."""
    options = [
        click.option("--views", type=_EXISTING, help="Organic views, Parquet or CSV: user, time, item."),
        click.option(
            "--impressions",
            type=_EXISTING,
            required=True,
            help="Bandit events, Parquet or CSV: user, time, action, reward, and what Policy.decide logs.",
        ),
        click.option(
            "--column",
            "columns",
            multiple=True,
            metavar="KEY=NAME",
            help="Your name for a column: item=sku, impressions.time=shown_at. May be repeated.",
        ),
        click.option("--covariate", "covariates", multiple=True, help="Column of the impressions. May be repeated."),
        click.option("--history", type=_EXISTING, help="What users had viewed before: a file of ViewHistory.save."),
    ]

    @functools.wraps(command)
    def with_source(*args: Any, **told: Any) -> Any:
        source = LogSource(**{name: told.pop(name) for name in LogSource.__dataclass_fields__})
        return command(*args, source=source, **told)

    decorated: Any = with_source
    for option in reversed(options):
        decorated = option(decorated)
    return cast(F, decorated)


def read_table(path: Path) -> pa.Table:
    """Read a CSV file, a Parquet file or a folder of Parquet files.

    Raises:
        ValueError: naming the file, if it is neither.
    """
    try:
        if path.suffix.lower() == ".csv":
            return pyarrow.csv.read_csv(path)
        return pyarrow.parquet.read_table(path)
    except pa.ArrowException as error:
        raise ValueError(
            f"{path}: cannot be read as {'CSV' if path.suffix.lower() == '.csv' else 'Parquet'}: {error}"
        ) from None


def read_model(path: Path) -> BLOB:
    """Load a model that ``blob-pyro fit`` or `BLOB.save` wrote."""
    return BLOB.load(path)


def write_table(table: pa.Table, path: Path) -> None:
    """Write Parquet, or CSV where the name says so, in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged(path) as file:
        if path.suffix.lower() == ".csv":
            pyarrow.csv.write_csv(table, file)
        else:
            pyarrow.parquet.write_table(table, file)


def write_settings(path: Path, command: str, values: dict[str, Any]) -> None:
    """Write what a command was told, as the configuration file that tells it again."""
    lines = [f"# blob-pyro {command} --config {path.name}", f"[{command}]"]
    for name, value in sorted(values.items()):
        if value is not None and value != ():
            lines.append(f"{name.replace('_', '-')} = {_toml(value)}")
    with staged(path) as file:
        file.write(("\n".join(lines) + "\n").encode())


def show_progress() -> bool:
    """Say whether somebody is looking: progress bars are for terminals, not for pipes and logs."""
    return sys.stderr.isatty()


def _configure(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        told = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path} is no TOML: {error}") from None
    name = context.info_name or ""
    told = {**{key: value for key, value in told.items() if not isinstance(value, dict)}, **told.get(name, {})}
    spelled = {o.lstrip("-"): p for p in context.command.params for o in (*p.opts, p.name or "") if p.name != "config"}
    defaults = {}
    for key, value in told.items():
        option = spelled.get(key.replace("_", "-")) or spelled.get(key)
        if option is None or option.name is None:
            raise click.BadParameter(f"{path}: {key!r} is no option of {name!r}")
        defaults[option.name] = value
    context.default_map = {**(context.default_map or {}), **defaults}


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _say(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    click.echo(f"{category.__name__}: {message}", err=True)
