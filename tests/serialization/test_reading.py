"""Reading what somebody else has written: damage and hostile contents are named."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from blob_pyro import BLO, BLOB
from blob_pyro.serialization import SavedModelError, folder
from blob_pyro.serialization.manifest import CONFIG, MANIFEST, STATE, Manifest
from tests.serialization.make_fixtures import HISTORIES, make_log
from tests.serialization.saved_models import SETTINGS


def signed(path: Path, change=lambda config: None, tensors=lambda state: None) -> None:
    """Change a saved model as somebody would who writes the manifest, too."""
    read = folder.load(path)
    change(read.config)
    tensors(read.state)
    config, state = json.dumps(read.config).encode(), folder.tensors_to_bytes(read.state)
    (path / CONFIG).write_bytes(config)
    (path / STATE).write_bytes(state)
    (path / MANIFEST).write_bytes(Manifest.of(read.class_name, {}, {CONFIG: config, STATE: state}).dump())


DAMAGE = {
    "no folder": (lambda p: [f.unlink() for f in p.iterdir()] and p.rmdir(), "there is no such folder"),
    "empty": (lambda p: [f.unlink() for f in p.iterdir()], f"is not a saved model; it needs {MANIFEST}, {CONFIG}"),
    "no manifest": (lambda p: (p / MANIFEST).unlink(), f"{MANIFEST}: is missing"),
    "no config": (lambda p: (p / CONFIG).unlink(), f"{CONFIG}: is not the file that {MANIFEST} says"),
    "no state": (lambda p: (p / STATE).unlink(), f"{STATE}: is not the file that {MANIFEST} says"),
    "manifest cut": (lambda p: (p / MANIFEST).write_bytes(b'{"form'), f"{MANIFEST}: is damaged: it is no JSON"),
    "manifest of others": (lambda p: (p / MANIFEST).write_text('{"name": "app"}'), f"{MANIFEST}, format: expected"),
    "not text": (lambda p: (p / MANIFEST).write_bytes(b"\xff\xfe"), f"{MANIFEST}: is damaged: it is no JSON"),
    "deep": (lambda p: (p / MANIFEST).write_text("[" * 100_000), f"{MANIFEST}: is damaged: it is no JSON"),
    "later schema": (
        lambda p: (p / MANIFEST).write_bytes(
            (p / MANIFEST).read_bytes().replace(b'"schema_version": 3', b'"schema_version": 4')
        ),
        f"{MANIFEST}, schema_version: is 4, written by blob-pyro '0.* which reads 3 and 2",
    ),
    "a value": (
        lambda p: (p / MANIFEST).write_bytes((p / MANIFEST).read_bytes().replace(b'"BLOB"', b'"BLO" ')),
        f"{MANIFEST}, sha256: its contents have another SHA-256 than it says",
    ),
    "swapped": (
        lambda p: (p / CONFIG).rename(p / "c") and (p / STATE).rename(p / CONFIG) and (p / "c").rename(p / STATE),
        f"{CONFIG}: is not the file that {MANIFEST} says",
    ),
    "a folder": (lambda p: ((p / STATE).unlink(), (p / STATE).mkdir()), f"{STATE}: is not a regular file"),
    "a pipe": (lambda p: ((p / STATE).unlink(), os.mkfifo(p / STATE)), f"{STATE}: is not a regular file"),
    "huge manifest": (lambda p: os.truncate(p / MANIFEST, 2**40), f"{MANIFEST}: has 1099511627776 bytes"),
    "huge state": (lambda p: os.truncate(p / STATE, 2**40), f"{STATE}: is not the file that {MANIFEST} says"),
}


@pytest.mark.parametrize(("spoil", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named(spoil, message, saved):
    spoil(saved)
    with pytest.raises(SavedModelError, match=f"path: {saved}.*{message}") as caught:
        BLOB.load(saved)
    assert caught.value.path == saved
    assert caught.value.file is None or caught.value.file in str(caught.value)


def test_another_models_state_is_refused(saved, organic, tmp_path):
    other = BLOB(organic)
    other.fit(make_log(), num_epochs=3, seed=1, **SETTINGS)
    other.save(tmp_path / "other")
    (saved / STATE).write_bytes((tmp_path / "other" / STATE).read_bytes())
    with pytest.raises(SavedModelError, match=STATE):
        BLOB.load(saved)


def at(*keys, value):
    def change(config):
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return change


TERMS = ("priors", "fields", "terms")


HOSTILE = {
    "class": (at("priors", "fields", "w_a", "class", value="Popen"), "priors.w_a: its class 'Popen' is not known"),
    "catalogue": (at("blo", "num_items", value=10**12), r"blo.num_items: expected num_items x .*\(5, 2\)"),
    "dimension": (at("blo", "embedding_dim", value=10**12), "blo.num_items: expected num_items x embedding_dim"),
    "text": (at("blo", "num_items", value="5"), "blo.num_items: expected an integer of at least 1, got '5'"),
    "boolean": (at("blo", "embedding_dim", value=True), "blo.embedding_dim: expected an integer .* got True"),
    "encoder": (at("blo", "encoder", value="gru"), "blo.encoder: expected one of .*linear"),
    "guide": (at("guide", value="../evil"), "guide: expected one of arrowhead_normal, delta, full, laplace"),
    "guide's type": (at("guide", value=["normal"]), "guide: expected one of"),
    "draws": (at("num_draws", value=10**15), "num_draws: expected an integer of at most 1000"),
    "omega": (at("omega", value="median"), "omega: expected one of mean, sample"),
    "interest": (at("interest", value="em"), "interest: expected one of encoder, newton"),
    "jitter": (at("jitter", value=-1.0), "jitter: expected a number that is not negative"),
    "ids": (at("blo", "items", value=[1, 2, 3]), "blo.items: expected 5 strings or integers"),
    "same ids": (at("blo", "items", value=[1] * 5), "blo.items: expected distinct ids"),
    "fits": (at("fits", value=[{"call": {"deep": 1}}]), "fits: expected a list of flat objects"),
    "unknown": (at("extra", value=1), "extra: is not known to this version"),
    "missing": (lambda config: config.pop("omega"), "omega: is missing"),
    "covariance": (at("blo", "covariance", value="banded"), "blo.covariance: expected one of diagonal, full"),
    "sparse": (at("blo", "sparse", value=1), "blo.sparse: expected true or false"),
    "bound": (at("blo", "bound", value={"class": "Learned", "fields": {"start": 1.0}}), "blo.bound: expected a Bound"),
    "no priors": (at("priors", value=7), "priors: expected a BanditPriors"),
    "categories": (
        at(
            "priors", "fields", "terms",
            value=[{"class": "ItemCategories", "fields": {
                "categories": [10**12] * 5, "kappa_scale": 0.1, "beta_scale": 0.1,
            }}],
        ),
        r"priors.fields.terms\[0\].fields.categories\[0\]: expected an integer of at most 1000",
    ),
    "term": (
        at("priors", "fields", "terms", value=[{"class": "KappaOnPopularity", "fields": {"scale": "wide"}}]),
        "priors: makes no model",
    ),
    "wide": (
        at(*TERMS, value=[{"class": "UserCovariates", "fields": {"num_covariates": 3, "scale": 1}}]),
        f"{STATE}, guide.covariate_weight.*does not fit this guide",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_manifest_that_agrees_does_not_help(change, message, saved):
    signed(saved, change)
    with pytest.raises(SavedModelError, match=message) as caught:
        BLOB.load(saved)
    assert caught.value.path == saved
    assert caught.value.file in (CONFIG, STATE)


TENSORS = {
    "NaN": (lambda s: s["guide.w_c_loc_unconstrained"].fill_(torch.nan), "guide.w_c_loc_unconstrained: holds numbers"),
    "infinity": (lambda s: s["organic_model.item_embedding"].fill_(torch.inf), "are not finite"),
    "kind": (
        lambda s: s.update({"guide.w_c_loc_unconstrained": torch.tensor(3)}),
        "guide.w_c_loc_unconstrained: expected torch.float32, got torch.int64",
    ),
    "missing": (
        lambda s: s.pop("guide.w_c_loc_unconstrained"),
        "does not fit this guide: w_c_loc_unconstrained missing",
    ),
    "shape": (lambda s: s.update({"guide.w_c_loc_unconstrained": torch.zeros(2)}), "does not fit this guide"),
    "dependent": (lambda s: s["organic_model.item_embedding"].fill_(1.0), "priors: makes no model: .*dependent"),
}


@pytest.mark.parametrize(("change", "message"), TENSORS.values(), ids=TENSORS)
def test_tensors_are_checked(change, message, saved):
    signed(saved, tensors=change)
    with pytest.raises(SavedModelError, match=message):
        BLOB.load(saved)


def test_a_reader_takes_the_new_model_when_the_old_goes_meanwhile(saved, organic, monkeypatch):
    """Replaced between the manifest and the other files."""
    original = folder._find
    calls = iter(range(100))

    def slow(path, name, manifest):
        if next(calls) == 0:
            organic.save(path)
        return original(path, name, manifest)

    monkeypatch.setattr(folder, "_find", slow)
    assert torch.equal(BLO.load(saved, device="cpu").scores(HISTORIES), organic.scores(HISTORIES))


def test_a_file_that_nobody_may_read_is_named(saved, monkeypatch):
    def refuse(path, flags, *args, **kwargs):
        if Path(path).name == STATE:
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return os_open(path, flags, *args, **kwargs)

    os_open = os.open
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SavedModelError, match=f"{STATE}: cannot be read: Permission denied"):
        BLOB.load(saved)
