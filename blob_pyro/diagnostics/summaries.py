"""A table of parameters, with statistics of chains where there are chains, and never where there are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from blob_pyro.diagnostics.inference_data import import_arviz

__all__ = ["summary"]


def summary(data: Any, var_names: Sequence[str] | None = None, **options: Any) -> pd.DataFrame:
    """Summarise a posterior: ArviZ's table, with r_hat and effective sample sizes for NUTS only.

    Draws of a guide are independent, so they have neither. ArviZ cannot know that, and its own ``summary`` fills those
    columns for every chain: this one asks it for ``kind="stats"``.

    Args:
        data: what ``blob.to_inference_data`` returned.
        var_names: of the parameters; default all.
        options: as ``arviz.summary`` takes them.

    Returns:
        A row for each number: mean, standard deviation and interval; for NUTS also Monte Carlo errors, ``ess_bulk``,
        ``ess_tail`` and ``r_hat``.
    """
    chains = data["posterior"].attrs.get("draws") == "NUTS"
    options = {"kind": "all" if chains else "stats", **options}
    table: pd.DataFrame = import_arviz().summary(data, var_names=var_names, **options)
    return table
