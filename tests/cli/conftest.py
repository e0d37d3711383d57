"""A day's tables, their model, and the users of the next."""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.cli.commands import SMALL, done


@pytest.fixture(scope="package")
def monday(tmp_path_factory):
    """A day's tables, the model of them, and what users have viewed."""
    folder = tmp_path_factory.mktemp("monday")
    done("simulate", *SMALL, "--users", 40, "--organic-users", 100, "--output", folder)
    done(
        "fit", "--views", folder / "views.parquet", "--impressions", folder / "impressions.parquet",
        "--output", folder / "model", "--embedding-dim", 3, "--organic-epochs", 20, "--guide", "laplace",
        "--write-history", folder / "history", "--device", "cpu",
    )  # fmt: skip
    return folder


@pytest.fixture(scope="package")
def contexts(monday):
    users = pd.read_parquet(monday / "views.parquet")["user"].unique()
    path = monday / "users.parquet"
    pa.parquet.write_table(pa.table({"user": [*users[:50], -1]}), path, row_group_size=7)
    return path
