"""Tables of any library, by the roles of their columns; what is missing, doubled or too short is named."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from blob_pyro.data.frames import read_frame

DATA = {"user": [1, 2], "sku": ["a", "b"]}
FRAMES = {"dict": dict, "pandas": pd.DataFrame, "polars": pl.DataFrame, "lazy": pl.LazyFrame, "Arrow": pa.table}


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
def test_columns_by_their_roles(make):
    columns = read_frame(make(DATA), "views", {"user": "user", "item": "sku"}, {"time": "when"})
    assert list(columns) == ["user", "item"]
    assert [columns["item"].value(n) for n in range(2)] == ["'a'", "'b'"]
    assert columns["item"].where == "views: column 'sku' (item)"


WRONG = {
    "missing": (DATA, {"user": "user", "item": "product"}, r"views: missing column 'product'; the table has 'user'"),
    "two roles": (DATA, {"user": "user", "item": "user"}, "column 'user' cannot be both 'user' and 'item'"),
    "doubled": (
        pd.DataFrame(np.zeros((2, 2)), columns=["user", "user"]), {"user": "user"}, "column 'user' occurs 2 times",
    ),
    "too short": ({"user": [1, 2], "sku": ["a"]}, {"user": "user", "item": "sku"}, "has 1 rows, but .* has 2"),
}  # fmt: skip


@pytest.mark.parametrize(("frame", "required", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(frame, required, message):
    with pytest.raises(ValueError, match=message):
        read_frame(frame, "views", required)


def test_what_is_no_table():
    with pytest.raises(TypeError, match="views"):
        read_frame(3, "views", {"user": "user"})
