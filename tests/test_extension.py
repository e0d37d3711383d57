"""One part of each kind, added from outside the package, is fitted, saved, loaded and updated like those that ship."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch

import blob_pyro
from blob_pyro import BLO, BLOB, BanditPriors
from blob_pyro.guides import GUIDES, NormalGuide, make_guide
from blob_pyro.infer import BOUNDS, LocalReparameterization, training_defaults
from blob_pyro.ope import evaluate
from blob_pyro.ope.registry import ESTIMATORS
from blob_pyro.ops.saved_classes import SAVED_CLASSES
from blob_pyro.policies import EpsilonGreedy
from blob_pyro.serialization import SavedModelError
from blob_pyro.testing import check_guide, check_operation

HISTORIES = [[0, 0, 1], [], [5, 3]]
QUICK = {"num_epochs": 2, "progress": False, "device": "cpu"}
FIXED = BanditPriors(kappa_scale=0.3)
FEW = BanditPriors(w_b=-6.0, kappa=0.0, zeta=0.0)
NAMES = {"mine": FIXED, "mine_made": FIXED, "mine_auto": FIXED, "mine_of_the_batch": FEW}


@pytest.fixture(scope="module", autouse=True)
def mine():
    """The parts from outside, which are known while these tests run."""
    before = [(registry, dict(registry)) for registry in (GUIDES, SAVED_CLASSES, BOUNDS, ESTIMATORS)]
    yield importlib.reload(importlib.import_module("tests.mine"))
    for registry, known in before:
        registry.clear()
        registry.update(known)


def in_a_fresh_process(code: str) -> subprocess.CompletedProcess:
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment, command = {**os.environ, "PYTHONPATH": paths}, [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", NAMES)
def test_a_guide_by_name(name, blo, log, tmp_path, short_starts):
    blob = BLOB(blo, name, NAMES[name])
    assert blob.guide_name == name
    trace = blob.fit(log, **QUICK)
    assert trace.attrs["start"] == ("prior" if name in ("mine_auto", "mine_of_the_batch") else "guide")
    blob.save(tmp_path / "model")
    back = BLOB.load(tmp_path / "model", device="cpu")
    assert back.guide_name == name
    assert torch.equal(back.scores(HISTORIES), blob.scores(HISTORIES))
    before = back.scores(HISTORIES)
    back.update(log, num_epochs=2, progress=False)
    assert set(back.model.priors.sites) == set(back.model.site_priors())
    assert not torch.equal(back.scores(HISTORIES), before)


@pytest.mark.parametrize("name", ["mine", "mine_made", "mine_auto"])
def test_it_keeps_the_contract(name):
    check_guide(name)


def test_a_class_that_is_registered_is_saved_by_its_name(blo, log, tmp_path, mine):
    blob = BLOB(blo, mine.MyGuide, FIXED)
    blob.fit(log, **QUICK)
    blob.save(tmp_path / "model")
    assert BLOB.load(tmp_path / "model", device="cpu").guide_name == "mine"


def test_it_has_the_defaults_that_it_was_registered_with(blob, mine):
    usual = training_defaults(make_guide("mine_auto", blob.model), blob.model)
    assert (usual.num_steps, usual.start) == (20, "prior")
    assert training_defaults(make_guide("mine", blob.model), blob.model) is mine.MyGuide.training_defaults


@pytest.fixture(scope="module")
def saved(blo, log, tmp_path_factory, mine):
    """A model, and where it is saved; change neither."""
    blob, path = (
        BLOB(blo, "mine_auto", BanditPriors(kappa_scale=0.3, terms=(mine.Waves(2),))),
        tmp_path_factory.mktemp("saved") / "model",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blob_pyro.infer.start._STEPS", 60)
        blob.fit(log, **QUICK)
    blob.save(path)
    return blob, path


LOAD = """
from blob_pyro import BLOB
from blob_pyro.serialization import SavedModelError

try:
    BLOB.load({path!r}, device="cpu")
except SavedModelError as error:
    print(str(error).replace(chr(10), " "))
import tests.mine

print(BLOB.load({path!r}, device="cpu").scores({histories}).tolist())
"""


def test_a_fresh_process_loads_it_after_registering_again(saved):
    blob, path = saved
    found = in_a_fresh_process(LOAD.format(path=str(path), histories=HISTORIES))
    assert found.returncode == 0, found.stderr
    without, scores = found.stdout.splitlines()
    assert "blob_pyro.register_guide(name, ...)" in without
    assert "got 'mine_auto'" in without
    assert torch.equal(torch.tensor(eval(scores)), blob.scores(HISTORIES))


def test_what_is_missing_is_named_with_the_remedy(saved, monkeypatch, mine):
    _, path = saved
    with monkeypatch.context() as patch:
        patch.delitem(GUIDES, "mine_auto")
        with pytest.raises(
            SavedModelError, match=r"guide: .*register the guide again, blob_pyro.register_guide.*'mine_auto'"
        ):
            BLOB.load(path, device="cpu")
        BLOB.load(path, guide=mine.make_auto, device="cpu")
    with monkeypatch.context() as patch:
        patch.delitem(SAVED_CLASSES, "Waves")
        with pytest.raises(SavedModelError, match=r"terms\[0\].*'Waves' is not known here.*blob_pyro.register_term"):
            BLOB.load(path, device="cpu")


def test_unknown_names_say_how_one_gets_known(blo):
    with pytest.raises(ValueError, match=r"unknown name 'yours'; known: .*mine.*register_guide\('yours', ...\)"):
        BLOB(blo, "yours")


add_guide, add_term = blob_pyro.register_guide, blob_pyro.register_term
BAD = {
    "taken": (lambda mine: add_guide("normal", mine.MyGuide), ValueError, "'normal' is known already"),
    "twice": (lambda mine: add_guide("mine", lambda model: None), ValueError, "'mine' is known already"),
    "instance": (
        lambda mine: add_guide("x", torch.nn.Linear(1, 1)),
        TypeError,
        "an instance belongs to one",
    ),
    "number": (
        lambda mine: add_guide("x", 3),
        TypeError,
        "guide: expected a class, or a function.*got 3",
    ),
    "no name": (
        lambda mine: add_guide(mine.MyGuide),
        TypeError,
        r"name: expected a string.*@register_guide",
    ),
    "path": (lambda mine: add_guide("../x", mine.MyGuide), ValueError, "name: expected letters"),
    "defaults": (
        lambda mine: add_guide("x", mine.MyGuide, training_defaults={"num_steps": 3}),
        TypeError,
        "training_defaults: expected a TrainingDefaults",
    ),
    "term": (
        lambda mine: add_term(mine.MyGuide),
        TypeError,
        "got .*MyGuide.*no build, site_priors, logit",
    ),
    "term's instance": (
        lambda mine: add_term(mine.Waves(2)),
        TypeError,
        "cls: expected a class of terms",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_registrations_are_named(mine, call, error, message):
    before = dict(GUIDES)
    with pytest.raises(error, match=message):
        call(mine)
    assert before == GUIDES


def test_the_same_line_may_run_again(mine):
    blob_pyro.register_guide("mine_made", mine.make_mine)
    blob_pyro.register_guide("normal", NormalGuide)
    blob_pyro.register_term(mine.Waves)
    assert GUIDES["normal"].recipe is NormalGuide


def test_a_term_by_itself(blo, log, tmp_path, mine):
    blob = BLOB(blo, priors=BanditPriors(kappa_scale=0.3, terms=(mine.Waves(3, 0.5),)))
    blob.fit(log, **QUICK)
    blob.save(tmp_path / "model")
    back = BLOB.load(tmp_path / "model", device="cpu")
    assert back.model.priors.terms == (mine.Waves(3, 0.5),)
    assert torch.equal(back.scores(HISTORIES), blob.scores(HISTORIES))
    back.update(log, num_epochs=2, progress=False)
    assert "wave_weight" in back.model.priors.vector.shapes


def test_messages_name_it(blo, log):
    blob = BLOB(blo, "mine", FIXED)
    with pytest.warns(UserWarning, match="guide 'mine' has not found the posterior"):
        blob.fit(log, num_epochs=1, learning_rate=1e-6, progress=False, device="cpu")


@pytest.mark.parametrize("by_name", [True, False], ids=["name", "instance"])
def test_a_bound(by_name, mine, log, tmp_path):
    bound = mine.AtTheMean() if by_name else mine.AtTheMean(0.4)
    blo = BLO(log.num_items, embedding_dim=2, bound="mine" if by_name else bound)
    blo.fit(log, **QUICK)
    blo.save(tmp_path / "model")
    back = BLO.load(tmp_path / "model", device="cpu")
    assert back.bound == bound
    back.fit(log, **QUICK)
    assert torch.equal(back.scores(HISTORIES), blo.scores(HISTORIES))


@pytest.mark.parametrize("guide", ["normal", "laplace", "low_rank"])
def test_an_operation(guide, mine, blo, log, tmp_path):
    """In a term of one's own: projected under SVI, differentiated for Laplace's approximation."""
    check_operation(mine.contrast, (3,), torch.tensor([2, 0, 1]), torch.tensor([1, 1, 1]))
    blob = BLOB(blo, guide, BanditPriors(kappa=0.0, terms=(mine.Neighbours(),)))
    blob.fit(log, **QUICK)
    blob.save(tmp_path / "model")
    back = BLOB.load(tmp_path / "model", device="cpu")
    assert torch.equal(back.scores(HISTORIES), blob.scores(HISTORIES))
    back.update(log, num_epochs=2, progress=False)
    assert "level" in back.model.site_priors()


def test_an_operation_is_projected(mine):
    loc, scale = torch.tensor([1.0, 3.0, 7.0]), torch.tensor([0.1, 0.5, 2.0])
    first, second = (torch.tensor([i]).expand(50_000) for i in (2, 0))
    with LocalReparameterization({"level": dist.Normal(loc, scale).to_event(1)}):
        found = mine.contrast("level", loc, first, second)
    assert found.mean() == pytest.approx(6.0, abs=0.05)
    assert found.std() == pytest.approx(4.01**0.5, abs=0.05)


def test_a_baseline_and_an_estimator(mine, blo, log):
    mine.add_estimator()
    policy = EpsilonGreedy(mine.FewestViews(log.items), 0.5)
    assert policy.action_distribution(HISTORIES).probs[0].argmax() not in (0, 1)
    estimates = evaluate(log, policy, estimators=("mine", "ips")).estimates
    assert estimates["mine"].value != estimates["ips"].value
