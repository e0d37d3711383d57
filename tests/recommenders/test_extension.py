"""New items start from their prior, and what is known of the others stays as it is, to the bit."""

from dataclasses import dataclass

import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import blob_pyro
from blob_pyro import BLO, BLOB, BanditPriors, EventLog
from blob_pyro.guides import DrawsGuide
from blob_pyro.models import ItemCategories, ItemDeviations, ItemFeatures, KappaOnPopularity, OrganicPriors
from blob_pyro.models.operations import broadcast
from blob_pyro.policies import Greedy, Mixture, ThompsonSampling, Uniform

HISTORIES = [[0, 3], [], [5, 5, 7]]
GUIDES = [
    "normal", "arrowhead_normal", "matrix_normal", "matrix_normal_full", "low_rank", "full", "laplace", "delta", "nuts",
]  # fmt: skip


def few_draws(model):
    return DrawsGuide(model, 8, 2)


@pytest.fixture(scope="module")
def days(log):
    """The log, and one of other users who meet two more items: ids 40 and 12, in this order of the catalogue."""
    views, impressions = log.to_frames()
    views["item"] = views["item"].where(views["user"] % 3 > 0, 12).where(views["user"] % 7 > 0, 40)
    impressions["action"] = impressions["action"].where(impressions["user"] % 3 > 0, 12)
    later = [frame.assign(user=frame["user"] + 10**6) for frame in (views, impressions)]
    return log, EventLog.from_tables(*later, items=[40, *range(13)])


def quick(guide):
    return {"progress": False} if guide == "laplace" else {"num_epochs": 2, "batch_size": 1024, "progress": False}


def known(blo, log, guide="normal", terms=(), **priors):
    priors = {"kappa_scale": 0.3, **priors}
    blob = BLOB(blo, few_draws if guide == "nuts" else guide, BanditPriors(terms=terms, **priors))
    if guide == "nuts":
        blob.guide.fill({n: torch.randn(8, *shape) for n, shape in blob.guide.shapes.items()})
        blob.mark_fitted(log)
    else:
        blob.fit(log, device="cpu", **quick(guide))
    return blob


def moments(blob):
    """Of every site, and of all numbers together where they are correlated."""
    return {name: (d.mean.clone(), d.variance.clone()) for name, d in blob.posterior().items()}


@pytest.mark.parametrize("guide", GUIDES)
def test_what_is_known_stays_to_the_bit(blo, log, guide):
    blob = known(blo, log, guide)
    before, logits = moments(blob), blob.click_logits(HISTORIES)
    mean, variance = logits.mean, logits.variance
    interest, scores = blob.blo.embed(HISTORIES), blob.blo.scores(HISTORIES)
    blob.extend([12, 40])
    after, logits = moments(blob), blob.click_logits(HISTORIES)
    assert blob.items.ids == (*range(12), 12, 40)
    assert torch.equal(blob.blo.embed(HISTORIES), interest)
    assert torch.equal(blob.blo.scores(HISTORIES)[:, :12], scores)
    if guide != "nuts":  # whose draws of the new items come between those of the others
        assert torch.equal(logits.mean[:, :12], mean)
        assert torch.equal(logits.variance[:, :12], variance)
    for name, pair in before.items():
        for old, new in zip(pair, after[name]):
            assert torch.equal(new[:12] if name == "kappa" else new, old), name
    if guide not in ("delta", "nuts"):
        assert after["kappa"][0][12:].tolist() == [0, 0]
        assert torch.allclose(after["kappa"][1][12:], torch.tensor(0.09))
    if guide in ("low_rank", "full", "laplace"):
        kappa = blob.posterior()["kappa"]
        covariance = kappa.multivariate.covariance_matrix[kappa.start :, : kappa.start + 12]
        assert not covariance[-2:].any()


@pytest.mark.parametrize("guide", ["normal", "full", "laplace"])
def test_sites_of_items_and_of_categories_grow(blo, log, guide):
    terms = (KappaOnPopularity(), ItemCategories([0, 1, 2] * 4, 0.2, 0.4), ItemDeviations(0.5))
    blob = known(blo, log, guide, terms)
    before = moments(blob)
    blob.extend([40], item_values={"categories": {40: 3, 7: 99}})
    after = moments(blob)
    for name, pair in before.items():
        mean, variance = (new[tuple(slice(size) for size in old.shape)] for old, new in zip(pair, after[name]))
        assert torch.equal(mean, pair[0]), name
        assert torch.allclose(variance, pair[1], rtol=1e-6), name  # sums of squares with zeros between them
    for name, scale in (("kappa", 0.3), ("category_kappa", 0.2), ("category_beta", 0.4), ("beta_deviation", 0.5)):
        assert torch.allclose(after[name][1][-1].sqrt(), torch.tensor(scale)), name
        assert not after[name][0][-1].any()


@pytest.mark.parametrize("guide", ["normal", "full", "laplace"])
def test_update_with_new_items(blo, days, guide, tmp_path):
    """Learned scales go on from all events, of new items too; nothing that fails on the way changes the model."""
    monday, tuesday = days
    blob = known(blo, monday, guide, kappa_scale=blob_pyro.models.Learned(0.3))
    print_before = blob.fingerprint()
    with pytest.raises(ValueError, match=r'2 of its 14 items are not among the 12.*update\(log, new_items="prior"\)'):
        blob.update(tuesday, **quick(guide))
    assert blob.fingerprint() == print_before
    blob.update(monday, **quick(guide))
    basis = blob.model.basis
    blob.update(tuesday, new_items="prior", **quick(guide))
    assert blob.items.ids == (*range(12), 40, 12)
    assert all(torch.equal(new, old) for new, old in zip(blob.model.basis, basis))
    assert blob.model.priors.scales
    kappa = blob.posterior()["kappa"].variance.sqrt()
    assert kappa[13] < kappa[12] * 1.001  # 12 was shown, 40 was not
    blob.update(tuesday, **quick(guide))  # they are known by now
    blob.save(tmp_path / "model")
    loaded = BLOB.load(tmp_path / "model", device="cpu")
    assert loaded.fingerprint() == blob.fingerprint()
    assert torch.equal(loaded.scores(HISTORIES), blob.scores(HISTORIES))
    assert torch.equal(loaded.model.whitening, basis.whitening)
    loaded.extend([99])
    assert loaded.num_items == 15


def test_a_new_item_of_an_update_has_the_prior_at_the_present_scale(blo, log):
    """The prior of the old ones is the last posterior; that of a new one moves with the scale that is learned."""
    blob = known(blo, log, "laplace", kappa_scale=blob_pyro.models.Learned(0.3))
    blob.update(log, progress=False)
    blob.extend([12])
    model = blob.model
    with torch.no_grad():
        model.kappa_scale = torch.tensor(0.7)
        assert float(model.site_priors()["kappa"].variance[12].sqrt()) == pytest.approx(0.7, rel=1e-3)
        assert float(model.earlier_evidence()) == pytest.approx(float(evidence_of_others(blob, 0.7)), abs=1e-2)


def evidence_of_others(blob, scale):
    """What earlier events say of a scale, in dense matrices without the new item, which was in none of them."""
    distribution = blob.model.priors.vector.distribution
    mean, covariance = distribution.mean[:-1].double(), distribution.covariance_matrix[:-1, :-1].double()
    before, precision = blob.model.priors.scales["kappa_scale"], torch.linalg.inv(covariance)
    change = torch.zeros(len(mean)).double()
    change[-12:] = scale**-2 - before**-2
    total = precision + change.diag()
    loc = torch.linalg.solve(total, precision @ mean)
    quadratic = loc @ total @ loc - mean @ precision @ mean
    logs = torch.logdet(precision) - torch.logdet(total)
    return 0.5 * (logs + quadratic) - 12 * torch.tensor(scale / before).log()


def test_embeddings_from_features(blo, log):
    """Features that are a linear map of Psi say what a new item's Psi is."""
    psi = blo.model.item_embedding.detach()
    mix = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0], [0.5, 0.0, -1.0]])
    blob = known(blo, log, "normal", (ItemFeatures(psi @ mix),))
    wanted = torch.tensor([0.4, -0.2, 0.3])
    blob.extend([77], item_values={"features": [(wanted @ mix).tolist()]})
    found = blob.blo.model.item_embedding[12].detach()
    assert torch.allclose(found, wanted, atol=0.02)


def test_embeddings_from_views(blo, log):
    """An item that is viewed whenever another one is comes to lie where that one does, and its views count alike."""
    psi = blo.model.item_embedding.detach()
    first = int((psi - psi.mean(0)).norm(dim=-1).argmax())
    views, impressions = log.to_frames()
    twin = views[views["item"] == first].assign(item=12)
    later = EventLog.from_tables(pd.concat([views, twin]), impressions, num_items=13)
    seeing, blind = (known(blo, log) for _ in range(2))
    seeing.extend([12], log=later)
    blind.extend([12])
    away = {}
    for name, blob in (("seeing", seeing), ("blind", blind)):
        psi = blob.blo.model.item_embedding.detach()
        interest = blob.blo.embed([[12] * 3, [first] * 3])
        away[name] = (float((psi[12] - psi[first]).norm()), float((interest[0] - interest[1]).norm()))
    assert away["seeing"][0] < 0.4 * away["blind"][0]
    assert away["seeing"][1] < 0.4 * away["blind"][1]


@pytest.mark.parametrize("encoder", ["linear", "deep"])
@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_organic_models_of_all_kinds(log, encoder, covariance, tmp_path):
    priors = OrganicPriors(item_embedding=dist.Normal(0.0, 0.5), inference="posterior") if encoder == "deep" else None
    blo = BLO(12, 3, encoder, covariance=covariance, priors=priors)
    blo.fit(log, num_epochs=2, progress=False, device="cpu")
    before = blo.user_posterior(HISTORIES)
    blo.extend([12, 13, 14])
    after = blo.user_posterior(HISTORIES)
    assert torch.equal(after.mean, before.mean)
    assert torch.equal(after.variance, before.variance)
    assert blo.predict_next(HISTORIES).shape == (3, 15)
    if priors is not None:
        assert not blo.model.item_embedding[12:].any()
        assert torch.allclose(blo.guide.items.item_embedding_scale[12:], torch.tensor(0.5))
    blo.save(tmp_path / "blo")
    assert BLO.load(tmp_path / "blo", device="cpu").fingerprint() == blo.fingerprint()


def test_policies_follow(blo, log):
    blob = known(blo, log)
    one, two = ThompsonSampling(blob, shared_draws=4), Greedy(blob)
    mixed = Mixture([one, two], [0.5, 0.5])
    stale = Mixture([one, Uniform(blob.items)], [0.5, 0.5])
    version = one.version
    blob.extend([12, 13])
    for policy in (one, two, mixed):
        assert policy.action_distribution(HISTORIES).probs.shape == (3, 14)
        assert policy.decide([[12]], candidates=[12, 13], slots=2, seed=0)["action"].isin([12, 13]).all()
    assert one.version != version
    with pytest.raises(ValueError, match=r"policies\[1\]: is over .* by now, and policies\[0\]"):
        stale.action_distribution(HISTORIES)


WRONG = {
    "known": ([12, 3], "items: 3 is known already"),
    "twice": ([12, 13, 12], "items: 12 occurs more than once"),
    "of another type": (["a"], "items: known ids are .*, and 'a' is a str; cast it"),
    "none": ([], "items: there are none"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_ids(blob, case):
    items, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        blob.extend(items)
    assert blob.num_items == 12


def test_what_cannot_be_extended(blo, log):
    blob = known(blo, log)
    with pytest.raises(ValueError, match="extend: the model is not fitted"):
        BLOB(blo).extend([12])
    with pytest.raises(ValueError, match="extend the BLOB"):
        blob.blo.extend([12])
    with pytest.raises(ValueError, match="item_values: the log has no new items"):
        blob.update(log, item_values={"categories": [1]})
    with pytest.raises(ValueError, match="new_items: expected"):
        blob.update(log, new_items="ignore")
    blob = known(blo, log, terms=(ItemFeatures(torch.eye(12)),))
    with pytest.raises(ValueError, match="item_values: ItemFeatures needs 'features' of 1 new items"):
        blob.extend([12])
    blob = known(blo, log, terms=(Last(),))
    with pytest.raises(ValueError, match="says something else of those it knew; give your terms a method extended"):
        blob.extend([12])
    assert blob.num_items == 12


@dataclass(frozen=True)
class Last:
    """A click rate of its own for the last item of the catalogue."""

    def build(self, model):
        pass

    def site_priors(self, model):
        return {"last": dist.Normal(model.item_embedding.new_zeros(()), 0.5)}

    def logit(self, model, values, events):
        is_last = (events.action == model.num_items - 1).to(events.interest.dtype)
        return broadcast("last", values["last"], is_last) * is_last


def test_a_guide_of_ones_own_is_named(blo, log):
    blob = BLOB(blo, blob_pyro.guides.NormalGuide(BLOB(blo).model))
    blob.fit(log, device="cpu", **quick("normal"))
    with pytest.raises(ValueError, match="this NormalGuide was given as an instance, which belongs to 12 items"):
        blob.extend([12])
