"""Checkpoints: of this very fit or refused, never half written, found unwritable before anything is undone."""

import errno
import functools
import os
import stat
import tempfile
from dataclasses import replace
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st

from blob_pyro import BLO, BLOB, BanditPriors, EventLog, Histories, Learned
from blob_pyro.infer.training import checkpoints
from blob_pyro.infer.training.checkpoints import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from blob_pyro.models import OrganicPriors
from tests.fuzzing import fuzz

OPTIONS = {"num_epochs": 2, "progress": False, "device": "cpu"}
HISTORIES = [[0, 1], [5], []]


def other_rewards(log: EventLog) -> EventLog:
    return replace(log, reward=log.reward.roll(1))


def other_sessions(log: EventLog) -> EventLog:
    return replace(log, sessions=log.sessions[torch.arange(len(log.sessions)).roll(1)])


def organic(**options):
    return lambda: BLO(12, embedding_dim=2, **options)


BLO_CHANGES = {
    "seed": (organic(), {"seed": 1}, "seed: 0 in the checkpoint, 1 now"),
    "epochs": (organic(), {"num_epochs": 3}, "and is finished: training.num_epochs: 2 in the checkpoint, 3 now"),
    "rate": (organic(), {"learning_rate": 0.01}, "training.learning_rate: 0.03 in the checkpoint, 0.01 now"),
    "dimension": (organic(), {}, r"model.item_embedding: '\(12, 2\)' in the checkpoint, '\(12, 3\)' now"),
    "bound": (organic(bound="bouchard"), {}, r"bound: \[.*Reparameterized\] in the checkpoint, \[.*Bouchard\] now"),
    "priors": (
        organic(priors=OrganicPriors(dist.Normal(0.0, 1.0))),
        {},
        "priors.item_embedding: None in the checkpoint, pyro.distributions.torch.Normal now",
    ),
    "encoder": (organic(encoder="linear"), {}, "encoder: 'precision' in the checkpoint, 'linear' now"),
    "data": (organic(), {"log": other_sessions}, "data: [0-9a-f]{12} in the checkpoint, [0-9a-f]{12} now"),
    "validation": (organic(), {"validation": "log"}, "validation: None in the checkpoint, [0-9a-f]{12} now"),
}
BLO_CHANGES["dimension"] = (lambda: BLO(12, embedding_dim=3), *BLO_CHANGES["dimension"][1:])


@pytest.mark.parametrize(("make", "change", "message"), BLO_CHANGES.values(), ids=BLO_CHANGES)
def test_a_checkpoint_of_another_organic_fit_names_what_differs(make, change, message, log, tmp_path):
    organic()().fit(log, **OPTIONS, checkpoint=tmp_path / "c")
    options = {**OPTIONS, **change, "checkpoint": tmp_path / "c"}
    data = options.pop("log", lambda log: log)(log)
    if "validation" in change:
        options["validation"] = log
    with pytest.raises(CheckpointError, match=rf"checkpoint: .* is of another fit.*{message}"):
        make().fit(data, **options)


def wide_priors():
    return BanditPriors(w_c=dist.Normal(-4.5, 9.0))


BLOB_CHANGES = {
    "seed": (lambda blo: BLOB(blo), {"seed": 7}, "seed: 0 in the checkpoint, 7 now"),
    "guide": (
        lambda blo: BLOB(blo, "matrix_normal"),
        {},
        "guide_given: 'arrowhead_normal' in the checkpoint, 'matrix_normal' now",
    ),
    "priors": (lambda blo: BLOB(blo, priors=wide_priors()), {}, "priors.w_c.scale: 10.0 in the checkpoint, 9.0 now"),
    "learned": (
        lambda blo: BLOB(blo, priors=BanditPriors(kappa_scale=Learned(0.2))),
        {},
        "priors.kappa_scale.start: 0.1 in the checkpoint, 0.2 now",
    ),
    "omega": (lambda blo: BLOB(blo, omega="sample"), {}, "omega: 'mean' in the checkpoint, 'sample' now"),
    "jitter": (lambda blo: BLOB(blo, jitter=1e-6), {}, "jitter: 0.0 in the checkpoint, 1e-06 now"),
    "log": (lambda blo: BLOB(blo), {"log": other_rewards}, "data: [0-9a-f]{12} in the checkpoint"),
    "batch size": (lambda blo: BLOB(blo), {"batch_size": 100}, "training.batch_size: 3825 in the checkpoint, 100 now"),
}


@pytest.mark.parametrize(("make", "change", "message"), BLOB_CHANGES.values(), ids=BLOB_CHANGES)
def test_a_checkpoint_of_another_bandit_fit_names_what_differs(make, change, message, blo, log, tmp_path):
    BLOB(blo).fit(log, **OPTIONS, checkpoint=tmp_path / "c")
    options = {**OPTIONS, **change, "checkpoint": tmp_path / "c"}
    data = options.pop("log", lambda log: log)(log)
    with pytest.raises(CheckpointError, match=rf"checkpoint: .* is of another fit.*{message}"):
        make(blo).fit(data, **options)


def test_a_checkpoint_over_another_organic_model_is_refused(blo, log, tmp_path):
    BLOB(blo).fit(log, **OPTIONS, checkpoint=tmp_path / "c")
    other = BLO(12, embedding_dim=3)
    other.fit(log, seed=5, **OPTIONS)
    with pytest.raises(ValueError, match=r"organic_model: [0-9a-f]{12} in the checkpoint, [0-9a-f]{12} now"):
        BLOB(other).fit(log, **OPTIONS, checkpoint=tmp_path / "c")


def test_another_version_is_refused(log, tmp_path, monkeypatch):
    organic()().fit(log, **OPTIONS, checkpoint=tmp_path / "c")
    monkeypatch.setattr("blob_pyro.infer.training.run.__version__", "9.0")
    with pytest.raises(ValueError, match=r"versions.blob_pyro: .* in the checkpoint, '9.0' now"):
        organic()().fit(log, **OPTIONS, checkpoint=tmp_path / "c")


def test_functions_count_by_their_names(blo, log, tmp_path):
    def narrow(model):
        return dist.Normal(model.item_embedding.new_zeros(12), 0.1).to_event(1)

    def broad(model):
        return dist.Normal(model.item_embedding.new_zeros(12), 0.5).to_event(1)

    options = {**OPTIONS, "checkpoint": tmp_path / "c"}
    BLOB(blo, priors=BanditPriors(kappa=narrow, kappa_scale=0.1)).fit(log, **options)
    again = BLOB(blo, priors=BanditPriors(kappa=narrow, kappa_scale=0.1))
    assert again.fit(log, **options).attrs["resumed_from_epoch"] == 2
    with pytest.raises(ValueError, match=r"priors.kappa: '.*\.narrow' in the checkpoint, '.*\.broad' now"):
        BLOB(blo, priors=BanditPriors(kappa=broad, kappa_scale=0.1)).fit(log, **options)


def test_a_finished_checkpoint_is_restored_and_nothing_is_trained(blo, log, tmp_path, monkeypatch):
    options = {**OPTIONS, "checkpoint": tmp_path / "c"}
    first, again = BLOB(blo), BLOB(blo)
    history = first.fit(log, **options)
    assert history.attrs["resumed_from_epoch"] == 0
    written = (tmp_path / "c").read_bytes()
    monkeypatch.setattr("blob_pyro.infer.training.run.Run.epoch", lambda run: pytest.fail("trained"))
    restored = again.fit(log, **options)
    assert restored.attrs["resumed_from_epoch"] == 2
    assert restored.equals(history)
    assert again.fits == first.fits
    assert torch.equal(again.scores(HISTORIES), first.scores(HISTORIES))
    assert (tmp_path / "c").read_bytes() == written


def test_a_refused_checkpoint_leaves_the_model_as_it_was(blo, log, tmp_path):
    blob, organic_model = BLOB(blo), organic()()
    blob.fit(log, **OPTIONS, checkpoint=tmp_path / "bandit")
    organic_model.fit(log, **OPTIONS, checkpoint=tmp_path / "organic")
    scores, next_items = blob.scores(HISTORIES), organic_model.predict_next(HISTORIES)
    fits = blob.fits, organic_model.fits
    for model, name in ((blob, "bandit"), (organic_model, "organic")):
        with pytest.raises(ValueError, match="seed: 0 in the checkpoint, 1 now"):
            model.fit(log, **OPTIONS, seed=1, checkpoint=tmp_path / name)
    assert (blob.fits, organic_model.fits) == fits
    assert torch.equal(blob.scores(HISTORIES), scores)
    assert torch.equal(organic_model.predict_next(HISTORIES), next_items)


def test_guides_without_epochs_take_no_checkpoint(blo, log, tmp_path):
    blob = BLOB(blo, "laplace", BanditPriors(kappa_scale=0.3))
    blob.fit(log, **OPTIONS)
    for guide in (blob, BLOB(blo, "nuts", BanditPriors(kappa_scale=0.3))):
        with pytest.raises(ValueError, match=r"checkpoint: guide '.*' is not fitted in epochs.* leave checkpoint out"):
            guide.fit(log, checkpoint=tmp_path / "c", progress=False, device="cpu")
    assert blob.fitted
    assert not list(tmp_path.iterdir())


def no_permission(monkeypatch, folder):
    """What a folder without write permission does to a process that is not root's."""
    original = os.open

    def refuse(path, flags, *args, **kwargs):
        if flags & os.O_CREAT and os.fspath(path).startswith(str(folder)):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return original(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    return folder / "c"


def read_only_file(monkeypatch, folder):
    (folder / "c").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    return folder / "c"


def file_as_folder(monkeypatch, folder):
    (folder / "file").touch()
    return folder / "file" / "c"


UNWRITABLE = {
    "folder": (lambda patch, folder: folder, "is a folder; give the path of a file"),
    "no permission": (no_permission, r"cannot be written \(Permission denied\)"),
    "read-only": (read_only_file, "is read-only; choose another path"),
    "below a file": (file_as_folder, "cannot be written"),
}


@pytest.mark.parametrize(("place", "message"), UNWRITABLE.values(), ids=UNWRITABLE)
@pytest.mark.parametrize("kind", ["organic", "bandit"])
def test_a_path_that_cannot_be_written_is_found_first(kind, place, message, blo, log, tmp_path, monkeypatch):
    model = BLOB(blo) if kind == "bandit" else organic()()
    model.fit(log, **OPTIONS)
    before = model.scores(HISTORIES)
    monkeypatch.setattr("blob_pyro.infer.training.run.Run.__init__", lambda *_: pytest.fail("began"))
    with pytest.raises(ValueError, match=f"checkpoint: .*{message}"):
        model.fit(log, **OPTIONS, checkpoint=place(monkeypatch, tmp_path))
    assert model.fitted
    assert torch.equal(model.scores(HISTORIES), before)
    with pytest.raises(TypeError, match="checkpoint: expected the path of a file, got 3"):
        model.fit(log, **OPTIONS, checkpoint=3)


def test_a_checkpoint_is_never_half_written(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"a": torch.tensor([1.0])})

    def disk_full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", disk_full)
        with pytest.raises(OSError, match="No space"):
            save_checkpoint(path, {"a": torch.tensor([2.0])})
    assert load_checkpoint(path)["a"].item() == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_it_holds_what_training_has():
    state = {0: {"step": torch.tensor(3.0)}, "betas": (0.9, 0.999), "rows": [{"elbo": -0.1, "epoch": 1}], "none": None}
    tensors: dict[str, torch.Tensor] = {}
    back = checkpoints._nest(checkpoints._plain(state, tensors), tensors)
    assert back == state
    with pytest.raises(TypeError, match="cannot hold a set"):
        checkpoints._plain({1}, {})


def test_permissions_are_those_of_other_new_files(tmp_path):
    save_checkpoint(tmp_path / "c", {})
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_temporaries_of_killed_processes_are_removed_and_living_ones_stay(tmp_path):
    from blob_pyro.ops.files import staged

    (tmp_path / ".c.0123abcd.tmp").write_bytes(b"half")
    (tmp_path / ".d.0123abcd.tmp").write_bytes(b"of another file")
    with staged(tmp_path / "c") as file:
        file.write(b"new")
        Checkpoint(tmp_path / "c")
        assert len(list(tmp_path.iterdir())) == 2  # the living one and the other file's
    assert sorted(p.name for p in tmp_path.iterdir()) == [".d.0123abcd.tmp", "c"]


def test_a_link_is_written_through(log, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "c")
    organic()().fit(log, **OPTIONS, checkpoint=tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["c"]
    assert organic()().fit(log, **OPTIONS, checkpoint=tmp_path / "link").attrs["resumed_from_epoch"] == 2


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04", b"blob-pyro checkpoint 9\n"])
def test_what_is_no_checkpoint(content, log, tmp_path):
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint: .* (is not a checkpoint|was written by another version)"):
        organic()().fit(log, **OPTIONS, checkpoint=tmp_path / "c")


SMALL = {"num_epochs": 2, "batch_size": 2, "progress": False, "device": "cpu"}


def small_fit(path) -> BLO:
    sessions = Histories.from_sequences([[0, 1], [2], [1, 2, 3]], num_items=4)
    blo = BLO(4, embedding_dim=2)
    blo.fit(sessions, **SMALL, checkpoint=path)
    return blo


@functools.cache
def small_checkpoint() -> tuple[bytes, torch.Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        blo = small_fit(Path(folder) / "c")
        return (Path(folder) / "c").read_bytes(), blo.scores([[0]])


def load_bytes(content: bytes) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "c").write_bytes(content)
        return load_checkpoint(Path(folder) / "c")


@fuzz(place=st.integers(0, 2**20), bit=st.integers(0, 7), cut=st.booleans())
def test_a_flipped_bit_or_a_lost_end_is_seen(place, bit, cut):
    content = bytearray(small_checkpoint()[0])
    place %= len(content)
    if cut:
        del content[place:]
    else:
        content[place] ^= 1 << bit
    with pytest.raises(ValueError, match=r"checkpoint: .* (delete it to start afresh|choose another file)"):
        load_bytes(bytes(content))


TEXT = st.text(st.characters(codec="ascii"), max_size=12)


@fuzz(place=st.integers(0, 2**20), length=st.integers(0, 30), new=TEXT)
def test_replaced_values_are_seen(place, length, new):
    """Values in the JSON that holds epochs, settings and the fingerprint."""
    content = small_checkpoint()[0]
    start, end = content.index(b'"state"'), content.rindex(b"]]")
    at = start + place % (end - start)
    changed = content[:at] + new.encode() + content[at + length :]
    assume(changed != content)
    with pytest.raises(CheckpointError, match=r"is not a checkpoint or is damaged"):
        load_bytes(changed)
