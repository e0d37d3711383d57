"""What models, files and tables are given by mistake: each is refused by the name of its argument."""

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from blob_pyro import BLO, BLOB, BanditPriors, EventLog, JointBLOB
from blob_pyro.models import Learned, OrganicPriors

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def log():
    return EventLog.from_tables(
        views={"user": [1, 1, 2, 2], "time": [0, 1, 0, 1], "item": list("abbc")},
        impressions={"user": [1, 2, 2], "time": [2, 3, 4], "action": list("cab"), "reward": [1, 0, 0]},
    )


@pytest.fixture(scope="module")
def blo(log):
    blo = BLO(3, 2)
    blo.fit(log, num_epochs=2, progress=False)
    return blo


@pytest.fixture(scope="module")
def blob(blo, log):
    blob = BLOB(blo)
    blob.fit(log, num_epochs=2, progress=False)
    return blob


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame, pl.LazyFrame, pa.Table, dict])
def test_the_class_of_a_table_is_no_table(kind):
    with pytest.raises(TypeError, match=rf"^views: expected a table, got the class {kind.__name__}; pass one of its"):
        EventLog.from_tables(views=kind)
    with pytest.raises(TypeError, match=rf"^frame: expected a table, got the class {kind.__name__}"):
        EventLog.from_recogym(kind, num_items=3)


@pytest.mark.parametrize(
    ("priors", "got"),
    [
        (3, r"3 \(an int\)"),
        ("paper", r"'paper' \(a str\)"),
        ({"w_a": 1.0}, "a dict"),
        (BanditPriors, "the class BanditPriors; pass an instance"),
        (OrganicPriors(), "an OrganicPriors"),
    ],
)
def test_priors_that_are_none(priors, got, blo):
    with pytest.raises(TypeError, match=rf"^priors: expected BanditPriors, got .*{got}"):
        BLOB(blo, priors=priors)


@pytest.mark.parametrize("priors", [3, "map", OrganicPriors, BanditPriors()], ids=str)
def test_organic_priors_that_are_none(priors):
    with pytest.raises(TypeError, match=r"^priors: expected OrganicPriors, got "):
        BLO(3, 2, priors=priors)


@pytest.mark.parametrize("jitter", ["a", None, True, [0.1], 1j])
def test_a_jitter_that_is_no_number(jitter, blo):
    with pytest.raises(TypeError, match=r"^jitter: expected a number, got "):
        BLOB(blo, jitter=jitter)


@pytest.mark.parametrize("jitter", [NAN, INF, -1e-9, np.float64(-1), 10**400])
def test_a_jitter_out_of_range(jitter, blo):
    with pytest.raises(ValueError, match=r"^jitter: must be finite and 0 or more, got "):
        BLOB(blo, jitter=jitter)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: BanditPriors(kappa_scale="wide"), ValueError, "kappa_scale: must be positive, .* got 'wide'"),
        (lambda: BanditPriors(kappa_scale=NAN), ValueError, "kappa_scale: must be positive"),
        (lambda: BanditPriors(kappa_scale=INF), ValueError, "kappa_scale: must be positive"),
        (lambda: BanditPriors(kappa_scale=True), ValueError, "kappa_scale: must be positive"),
        (lambda: BanditPriors(w_a=NAN), ValueError, "w_a: must be finite, got nan"),
        (lambda: BanditPriors(w_c=True), ValueError, "w_c: expected a distribution, a number or a callable"),
        (lambda: BanditPriors(scales={"kappa_scale": "a"}), TypeError, r"scales\['kappa_scale'\]: expected a number"),
        (lambda: BanditPriors(normalize_embeddings="no"), TypeError, "normalize_embeddings: expected True or False"),
        (lambda: Learned("a"), TypeError, "Learned: start: expected a number, got 'a'"),
        (lambda: Learned(INF), ValueError, "Learned: start: must be positive and finite"),
    ],
)
def test_fields_of_priors(make, error, message):
    with pytest.raises(error, match=f"^{message}"):
        make()


NO_PATHS = [None, 3, True, b"model", [], object(), Path]
NO_NAMES = {"null": ("a\0b", "a null character"), "surrogate": ("\udc00\ud800", "a half"), "empty": ("", "is empty")}


@pytest.mark.parametrize("path", NO_PATHS, ids=lambda p: type(p).__name__)
def test_what_is_no_path(path, blo, blob, log):
    for model in (blo, blob):
        with pytest.raises(TypeError, match=r"^path: expected the path of a folder, got "):
            model.save(path)
    for kind in (BLO, BLOB, JointBLOB):
        with pytest.raises(TypeError, match=r"^path: expected the path of a saved model, got "):
            kind.load(path)
    with pytest.raises(TypeError, match=r"^folder: expected the path of a campaign's folder, got "):
        EventLog.read_open_bandit(path)
    if path is not None:
        for model in (blo, blob):
            with pytest.raises(TypeError, match=r"^checkpoint: expected the path of a file, got "):
                model.fit(log, num_epochs=2, progress=False, checkpoint=path)
        with pytest.raises(TypeError, match=r"^views: expected the path of a Parquet file or folder, got "):
            EventLog.read_parquet(views=path)


@pytest.mark.parametrize(("path", "problem"), NO_NAMES.values(), ids=NO_NAMES)
def test_what_no_file_can_be_called(path, problem, blo, blob, log, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for model in (blo, blob):
        with pytest.raises(ValueError, match=rf"^path: .*{problem}"):
            model.save(path)
        with pytest.raises(ValueError, match=rf"^checkpoint: .*{problem}"):
            model.fit(log, num_epochs=2, progress=False, checkpoint=path)
    for kind in (BLO, BLOB, JointBLOB):
        with pytest.raises(ValueError, match=rf"^path: .*{problem}"):
            kind.load(path)
    with pytest.raises(ValueError, match=r"^folder: "):
        EventLog.read_open_bandit(path)
    with pytest.raises((ValueError, FileNotFoundError), match=r"^views: "):
        EventLog.read_parquet(views=path)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_too_long_is_a_saved_models_error():
    with pytest.raises(ValueError, match=r"^path: x+: cannot be read: File name too long"):
        BLO.load("x" * 5000)


def test_parquet_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^impressions: .* is not there"):
        EventLog.read_parquet(impressions=str(tmp_path / "none.parquet"))


@pytest.mark.parametrize("given", [3, "log", [[1]]])
def test_what_is_no_log_is_not_exported(given, blob):
    with pytest.raises(TypeError, match=r"^log: "):
        blob.to_inference_data(given)


@pytest.mark.parametrize("given", [None, 3, "logs", EventLog], ids=str)
def test_what_is_no_list_of_logs(given):
    with pytest.raises(TypeError, match=r"^logs: expected a list of EventLogs, got a "):
        EventLog.concat(given)


@pytest.mark.parametrize("rate", [1.1e6, 1e30])
def test_a_learning_rate_beyond_all_measure(rate, blo, log):
    """One step of it went through, and the error was about a Normal's scale."""
    for model in (BLO(3, 2), BLOB(blo)):
        with pytest.raises(ValueError, match=r"^learning_rate: must be at most 1e\+06, got 1"):
            model.fit(log, num_epochs=1, learning_rate=rate, progress=False)
