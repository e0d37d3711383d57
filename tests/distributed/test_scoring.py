"""Contexts in, answers out, part by part: none lost, none doubled, whatever divides the files or stops a call."""

import errno
import json
import multiprocessing
import os
import signal
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blob_pyro import BLOB, distributed
from blob_pyro.data import ViewHistory
from blob_pyro.distributed import answering
from blob_pyro.policies import EpsilonGreedy, Mixture, Policy, Softmax, Uniform

NUM_USERS = 600


@pytest.fixture(scope="module")
def views():
    """Of 600 users, by user and time: 1 to 6 views each of 12 items."""
    random = np.random.default_rng(100)
    user = np.repeat(np.arange(NUM_USERS) * 3, random.integers(1, 7, NUM_USERS))
    return pd.DataFrame({"user": user, "time": np.arange(len(user)), "item": random.integers(0, 12, len(user))})


@pytest.fixture(scope="module")
def contexts(views):
    """The same as one row a user."""
    return pa.table(views.groupby("user")["item"].agg(list).rename("history").reset_index())


@pytest.fixture
def policy(blob):
    return Mixture([Softmax(blob), Uniform(blob.items)], weights=[0.9, 0.1])


def write(folder, table, files, rows_of_a_group):
    """Divide a table into files and row groups."""
    folder.mkdir()
    table = table if isinstance(table, pa.Table) else pa.Table.from_pandas(table, preserve_index=False)
    ends = np.linspace(0, table.num_rows, files + 1).astype(int)
    for number, (start, stop) in enumerate(pairwise(ends)):
        pq.write_table(table.slice(start, stop - start), folder / f"{number}.parquet", row_group_size=rows_of_a_group)
    return folder


def read(folder):
    return pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("part-*.parquet"))], ignore_index=True)


def test_a_users_views_are_answered_once_and_whole_however_files_divide_them(blob, views, contexts, tmp_path):
    source = write(tmp_path / "views", views, files=7, rows_of_a_group=50)
    done = distributed.recommend(blob, source, tmp_path / "out", k=3, rows=150)
    assert (done.num_contexts, done.num_parts, done.num_new) == (NUM_USERS, 4, 4)
    found = read(done.output)
    expected = blob.recommend(contexts.column("history"), 3)
    assert found["user"].tolist() == np.repeat(contexts.column("user").to_numpy(), 3).tolist()
    assert found[["rank", "item"]].to_numpy().tolist() == expected[["rank", "item"]].to_numpy().tolist()
    assert found["score"].to_numpy() == pytest.approx(expected["score"].to_numpy(), rel=1e-5)
    assert (done.output / "_SUCCESS").exists()


def test_decisions_depend_neither_on_parts_nor_on_files_nor_on_the_form_of_contexts(policy, views, contexts, tmp_path):
    one = write(tmp_path / "one", contexts, files=1, rows_of_a_group=1000)
    many = write(tmp_path / "many", contexts, files=9, rows_of_a_group=13)
    long = write(tmp_path / "long", views, files=5, rows_of_a_group=17)
    calls = {"a": (one, 1024), "b": (many, 256), "c": (long, 512)}
    found = [
        read(distributed.decide(policy, source, tmp_path / name, seed=7, slots=2, time=9, rows=rows).output)
        for name, (source, rows) in calls.items()
    ]
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])
    other = read(distributed.decide(policy, one, tmp_path / "d", seed=8, slots=2, time=9, rows=1024).output)
    assert (other["action"] != found[0]["action"]).mean() > 0.1


def test_decisions_are_drawn_by_the_probabilities_that_are_logged(blob, tmp_path):
    """1,024 users who are alike, in blocks of 256: blocks do not repeat one another."""
    pq.write_table(pa.table({"user": range(1024), "history": [[3, 7]] * 1024}), tmp_path / "users")
    policy = EpsilonGreedy(blob, epsilon=0.6)
    found = read(distributed.decide(policy, tmp_path / "users", tmp_path / "out", seed=0, rows=512).output)
    probs = policy.action_distribution([[3, 7]]).probs[0].numpy()
    shares = np.bincount(found["action"], minlength=12) / 1024
    assert np.abs(shares - probs).max() < 4.5 * np.sqrt(0.25 / 1024)
    assert found["propensity"].to_numpy() == pytest.approx(probs[found["action"]])
    blocks = found["action"].to_numpy().reshape(4, 256)
    assert all((blocks[0] != block).any() for block in blocks[1:])


def _die(policy, source, output):
    """Write two parts and be killed with the third half written."""
    write, calls = pq.ParquetWriter.write_table, []

    def dies(self, table):
        write(self, table)
        calls.append(table)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    pq.ParquetWriter.write_table = dies
    distributed.decide(policy, source, output, seed=7, rows=256)


@pytest.mark.filterwarnings("ignore")  # of fork beside threads, in newer releases of Python
def test_a_killed_call_goes_on_and_ends_where_one_call_does(policy, views, tmp_path):
    source = write(tmp_path / "views", views, files=3, rows_of_a_group=100)
    worker = multiprocessing.get_context("fork").Process(target=_die, args=(policy, source, tmp_path / "cut"))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    left = sorted(path.name for path in (tmp_path / "cut").iterdir())
    assert [name for name in left if name.startswith("part-")] == ["part-00000000.parquet", "part-00000001.parquet"]
    assert any(name.endswith(".tmp") for name in left)
    done = distributed.decide(policy, source, tmp_path / "cut", seed=7, rows=256)
    assert (done.num_parts, done.num_new) == (3, 1)
    assert not list(done.output.glob(".*.tmp"))
    whole = read(distributed.decide(policy, source, tmp_path / "whole", seed=7, rows=256).output)
    found = read(done.output)
    assert found.drop(columns="time").equals(whole.drop(columns="time"))
    assert found["time"].nunique() == 1, "decided when the first call was made"
    assert found["user"].is_unique
    again = distributed.decide(policy, source, tmp_path / "cut", seed=7, rows=256)
    assert again.num_new == 0


def test_another_run_is_refused_and_said(blob, policy, contexts, tmp_path):
    source, out = tmp_path / "users.parquet", tmp_path / "out"
    pq.write_table(contexts, source)
    call = {"seed": 7, "rows": 512, "slots": 2, "time": 3}
    distributed.decide(policy, source, out, **call)
    for name, value, said in (
        ("seed", 8, r"seed is 7 there, 8 here"),
        ("rows", 256, r"rows is 512 there, 256 here"),
        ("slots", 1, r"slots is 2 there, 1 here"),
        ("time", 4, r"time is '3' there, '4' here"),
        ("candidates", [1, 2, 3], r"candidates is None there"),
    ):
        with pytest.raises(
            ValueError, match=rf"output: .*out holds another run: {name} differ \({said}.*choose another"
        ):
            distributed.decide(policy, source, out, **{**call, name: value})
    with pytest.raises(ValueError, match=r"another run: policy differ \(policy is 'Mixture .*' there, 'Softmax "):
        distributed.decide(Softmax(blob), source, out, **call)
    with pytest.raises(ValueError, match=r"another run: call, model, k, rows differ"):
        distributed.recommend(blob, source, out, k=2)
    pq.write_table(contexts.slice(1), source)
    with pytest.raises(ValueError, match=r"another run: contexts, rows_in_contexts differ"):
        distributed.decide(policy, source, out, **call)
    (out / "_settings.json").unlink()
    with pytest.raises(ValueError, match=r"holds parts, and no _settings.json"):
        distributed.decide(policy, source, out, **call)


def test_another_model_or_version_of_the_package_is_refused(blob, blo, log, contexts, tmp_path, monkeypatch):
    pq.write_table(contexts, tmp_path / "users")
    distributed.recommend(blob, tmp_path / "users", tmp_path / "out", k=2)
    other = BLOB(blo)
    other.fit(log, num_epochs=2, progress=False, device="cpu")
    with pytest.raises(ValueError, match=r"another run: model differ"):
        distributed.recommend(other, tmp_path / "users", tmp_path / "out", k=2)
    monkeypatch.setattr("blob_pyro.distributed.scoring.__version__", "99")
    with pytest.raises(ValueError, match=r"blob_pyro is '.*' there, '99' here"):
        distributed.recommend(blob, tmp_path / "users", tmp_path / "out", k=2)


def test_a_part_of_another_run_or_that_is_no_file_of_parquet_is_named(blob, contexts, tmp_path):
    pq.write_table(contexts, tmp_path / "users")
    one, two = (
        distributed.recommend(blob, tmp_path / "users", tmp_path / f"k{k}", k=k, rows=250).output for k in (1, 2)
    )
    (two / "part-00000001.parquet").write_bytes((one / "part-00000001.parquet").read_bytes())
    with pytest.raises(ValueError, match=r"part-00000001.parquet is of another run than this folder; delete it"):
        distributed.recommend(blob, tmp_path / "users", two, k=2, rows=250)
    (two / "part-00000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"part-00000001.parquet cannot be read as Parquet \(.*\); delete it"):
        distributed.recommend(blob, tmp_path / "users", two, k=2, rows=250)
    (two / "part-00000001.parquet").unlink()
    assert distributed.recommend(blob, tmp_path / "users", two, k=2, rows=250).num_new == 1


def test_a_full_disk_leaves_whole_parts_and_says_what_to_do(blob, contexts, tmp_path, monkeypatch):
    pq.write_table(contexts, tmp_path / "users")
    write, calls = pq.ParquetWriter.write_table, []

    def full(self, table):
        calls.append(table)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, table)

    with monkeypatch.context() as patch:
        patch.setattr(answering.pyarrow.parquet.ParquetWriter, "write_table", full)
        with pytest.raises(
            OSError,
            match=r"contexts 250 to .*part-00000001.parquet cannot be written \(No space left .* room in .* are whole",
        ) as e:
            distributed.recommend(blob, tmp_path / "users", tmp_path / "out", k=2, rows=250)
    assert e.value.errno == errno.ENOSPC
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "_parts.json", "_settings.json", "part-00000000.parquet"
    ]  # fmt: skip
    assert distributed.recommend(blob, tmp_path / "users", tmp_path / "out", k=2, rows=250).num_new == 2


def test_what_is_wrong_with_a_context_is_said_with_its_part_and_nothing_is_half_written(blob, tmp_path):
    pq.write_table(pa.table({"user": [1, 2, 3], "history": [[1], [2], [99]]}), tmp_path / "users")
    with pytest.raises(ValueError, match=r"contexts: contexts 2 to 2, rows 2 to 2 of .*users: histories\[0\]\[0\]"):
        distributed.recommend(blob, tmp_path / "users", tmp_path / "out", k=2, rows=2)
    assert [p.name for p in (tmp_path / "out").glob("*.parquet")] == ["part-00000000.parquet"]
    assert not list((tmp_path / "out").glob(".*.tmp"))


def test_candidates_times_and_stored_histories(blob, log, policy, tmp_path):
    users, history = [*log.users.ids[:20], -5], ViewHistory(log)
    stock = [[n % 12, (n + 5) % 12] for n in range(21)]
    pq.write_table(pa.table({"user": users, "candidates": stock, "time": range(21)}), tmp_path / "users")
    found = read(distributed.decide(policy, tmp_path / "users", tmp_path / "out", seed=1, history=history).output)
    assert all(action in own for action, own in zip(found["action"], stock))
    assert found["time"].tolist() == list(range(21))
    best = read(distributed.recommend(blob, tmp_path / "users", tmp_path / "best", k=1, history=history).output)
    expected = blob.recommend(history.histories(users, blob.items), 1, stock)
    assert best["item"].tolist() == expected["item"].tolist()
    pq.write_table(pa.table({"user": users}), tmp_path / "plain")
    some = distributed.recommend(blob, tmp_path / "plain", tmp_path / "some", k=1, history=history, candidates=[4, 8])
    assert set(read(some.output)["item"]) <= {4, 8}
    with pytest.raises(ValueError, match=r"time: the contexts have a column 'time' of their own"):
        distributed.decide(policy, tmp_path / "users", tmp_path / "x", seed=1, history=history, time=3)


def test_contexts_without_a_row(blob, tmp_path):
    pq.write_table(
        pa.table({"user": pa.array([], pa.int64()), "history": pa.array([], pa.list_(pa.int64()))}), tmp_path / "u"
    )
    done = distributed.recommend(blob, tmp_path / "u", tmp_path / "out")
    assert (done.num_contexts, done.num_parts) == (0, 0)


class Loud(Policy):
    def action_distribution(self, histories):
        raise AssertionError("it is not asked")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"policy": 3}, TypeError, r"policy: expected a Policy of blob_pyro.policies, got 3"),
        ({"rows": 100}, ValueError, r"rows: .* a multiple of 256, got 100"),
        ({"seed": -1}, ValueError, r"seed"),
        ({"slots": 0}, ValueError, r"slots"),
        ({"num_workers": 0}, ValueError, r"num_workers"),
        ({"history": {}}, TypeError, r"history: expected a ViewHistory"),
        ({"covariates": "hour"}, TypeError, r"covariates: expected names of columns.*pass \['hour'\]"),
        ({"output": 3}, TypeError, r"output"),
        ({"contexts": "nowhere"}, FileNotFoundError, r"contexts: nowhere is not there"),
    ],
)
def test_arguments_that_are_wrong(change, kind, message, contexts, tmp_path):
    pq.write_table(contexts, tmp_path / "users")
    given = {"policy": Loud(12), "contexts": tmp_path / "users", "output": tmp_path / "out", "seed": 0, **change}
    with pytest.raises(kind, match=message):
        distributed.decide(given.pop("policy"), given.pop("contexts"), given.pop("output"), **given)
    assert not (tmp_path / "out").exists()
    with pytest.raises(TypeError, match="model: expected a BLO or a BLOB, got 3"):
        distributed.recommend(3, tmp_path / "users", tmp_path / "out")


def test_settings_say_what_was_asked(blob, contexts, tmp_path):
    pq.write_table(contexts, tmp_path / "users")
    done = distributed.recommend(blob, tmp_path / "users", tmp_path / "out", k=2)
    told = json.loads((done.output / "_settings.json").read_text())
    assert (told["call"], told["k"], told["rows_in_contexts"]) == ("recommend", 2, NUM_USERS)
    assert told["model"] == blob.fingerprint()
