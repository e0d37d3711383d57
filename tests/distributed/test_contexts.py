"""What contexts are made of, and which files are refused: a user answered by half a history would not be noticed."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blob_pyro.data import Vocabulary
from blob_pyro.distributed.contexts import ContextFiles

ITEMS = Vocabulary.numbered(10)


def write(folder, *files, rows_of_a_group=2):
    folder.mkdir(exist_ok=True)
    for number, columns in enumerate(files):
        pq.write_table(pa.table(columns), folder / f"{number}.parquet", row_group_size=rows_of_a_group)
    return folder


def sequences(files, part):
    contexts = files.read(part, ITEMS)
    return dict(zip(contexts.user.to_pylist(), contexts.histories.to_pylist()))


def test_a_user_across_row_groups_and_files_is_one_context(tmp_path):
    folder = write(
        tmp_path / "views",
        {"user": ["a", "a", "a", "b"], "item": [1, 2, 3, 4], "time": [0, 1, 2, 0]},
        {"user": ["b"], "item": [5], "time": [1]},
        {"user": ["b", "c"], "item": [6, 7], "time": [1, 0]},
    )
    files = ContextFiles(folder, None)
    parts = files.parts(2)
    assert [(p.first, p.size, p.start, p.stop) for p in parts] == [(0, 2, 0, 6), (2, 1, 6, 7)]
    assert sequences(files, parts[0]) == {"a": [1, 2, 3], "b": [4, 5, 6]}
    assert sequences(files, parts[1]) == {"c": [7]}


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_parts_hold_every_view_once(tmp_path, rows):
    random = np.random.default_rng(101)
    user = np.sort(random.integers(0, 40, 300))
    frame = pd.DataFrame({"user": user, "item": random.integers(0, 10, 300)})
    cuts = [0, 17, 18, 120, 300]
    columns = [frame.iloc[a:b].to_dict("list") for a, b in pairwise(cuts)]
    files = ContextFiles(write(tmp_path / "views", *columns, rows_of_a_group=11), None)
    found = {}
    for part in files.parts(rows):
        here = sequences(files, part)
        assert len(here) == part.size
        assert not set(here) & set(found)
        found.update(here)
    assert found == frame.groupby("user")["item"].agg(list).to_dict()


GOOD = {"user": [1, 1, 2], "item": [1, 2, 3], "time": [0, 1, 0]}
OUT_OF_ORDER = {
    "a user who comes again": ([{"user": [1, 2], "item": [1, 2]}, {"user": [1], "item": [3]}],
                               r"row 2 of .* has user 1 after user 2; .* sort the rows by user and time over all"),
    "text in another order": ([{"user": ["b", "a"], "item": [1, 2]}], r"has user 'a' after user 'b'"),
    "times of a user": ([GOOD, {"user": [2], "item": [3], "time": [-4]}],
                        r"row 3 of .* is earlier, -4, than the view of user 2 before it, 0; sort by user and time"),
    "a view of nobody": ([{"user": [1, None], "item": [1, 2]}], r"row 1 of .*, column 'user': a value is missing"),
    "users without an order": ([{"user": [0.5, 1.0], "item": [1, 2]}], r"has type double; users of views are whole"),
}  # fmt: skip


@pytest.mark.parametrize("name", OUT_OF_ORDER)
def test_views_out_of_order_are_refused_before_anything_is_answered(name, tmp_path):
    files, message = OUT_OF_ORDER[name]
    with pytest.raises(ValueError, match=message):
        ContextFiles(write(tmp_path / "views", *files), None).parts(2)


LACKING = {
    "no users": ([{"history": [[1]]}], {}, r"has no column 'user'; it has 'history'"),
    "no views": ([{"user": [1]}], {}, r"has no column 'history'; pass --history .* views, with a column 'item'"),
    "a name that is not there": ([GOOD], {"columns": {"item": "sku"}}, r"columns: .* has no column 'sku' \(item\)"),
    "an unknown role": ([GOOD], {"columns": {"action": "sku"}}, r"columns: unknown key 'action'"),
    "covariates of views": ([GOOD], {"covariates": ["time"]}, r"covariates: are of contexts"),
    "a file that lacks one": ([GOOD, {"user": [3], "item": [1]}], {}, r"1.parquet has no column 'time'"),
}


@pytest.mark.parametrize("name", LACKING)
def test_columns_that_are_lacking_are_named(name, tmp_path):
    files, options, message = LACKING[name]
    with pytest.raises(ValueError, match=message):
        ContextFiles(write(tmp_path / "files", *files), None, **options)


def test_columns_of_other_names(tmp_path):
    folder = write(tmp_path / "views", {"visitor": [1, 1], "sku": [4, 5]})
    files = ContextFiles(folder, None, {"user": "visitor", "item": "sku"})
    assert sequences(files, files.parts(9)[0]) == {1: [4, 5]}


def test_a_file_that_vanishes_or_changes_is_named(tmp_path):
    folder = write(tmp_path / "views", GOOD, {"user": [3], "item": [1], "time": [0]})
    files = ContextFiles(folder, None)
    parts = files.parts(2)
    write(folder, GOOD, {"user": [3, 3], "item": [1, 2], "time": [0, 1]})
    with pytest.raises(
        ValueError, match=r"1.parquet has changed since the contexts were counted .*; start again, with"
    ):
        files.read(parts[1], ITEMS)
    (folder / "1.parquet").unlink()
    with pytest.raises(ValueError, match=r"1.parquet has vanished since the contexts were counted; put it back, or"):
        files.read(parts[1], ITEMS)


def test_rows_with_covariates(tmp_path):
    folder = write(tmp_path / "rows", {"user": [1, 2, 3], "history": [[1], [], [2]], "hour": [5, 6, 7]})
    files = ContextFiles(folder, None, covariates=["hour"])
    contexts = files.read(files.parts(2)[1], ITEMS)
    assert contexts.covariates["hour"].to_pylist() == [7]
    assert contexts.histories.to_pylist() == [[2]]
