"""The command line as a module, ``python -m blob_pyro``, and what the script ``blob-pyro`` calls."""

from __future__ import annotations


def main() -> None:
    """Run the command line; say what to install where its extra is missing."""
    try:
        from blob_pyro.cli import main as command
    except ModuleNotFoundError as error:
        if error.name not in ("click", "matplotlib"):
            raise
        raise SystemExit(
            f"blob-pyro: the command line needs {error.name}, which is not installed: pip install 'blob-pyro[cli]'"
        ) from None
    command(prog_name="blob-pyro")


if __name__ == "__main__":
    main()
