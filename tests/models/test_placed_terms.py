"""Terms of one class side by side: each has its sites, its buffers and its labels, and whatever collides is refused."""

from dataclasses import dataclass

import pyro.distributions as dist
import pytest
import torch

from blob_pyro import BLOB, BanditPriors, Learned
from blob_pyro.infer.laplace.linearization import Linearization
from blob_pyro.models import (
    BanditBatch,
    BanditModel,
    HorseshoeKappa,
    ItemCategories,
    ItemFeatures,
    KappaOnPopularity,
    UserCovariates,
)
from blob_pyro.models.operations import LINEAR, gather
from blob_pyro.policies import ThompsonSampling
from blob_pyro.testing import check_guide

P, K, C, N = 6, 2, 5, 40
BRANDS, TYPES = (0, 1, 1, 0, 2, 2), (1, 0, 1, 1, 0, 0)
TWO = {"brand": ItemCategories(BRANDS, 0.4, Learned(0.2)), "type": ItemCategories(TYPES, Learned(0.7), 0.3)}
HISTORIES = [[0, 0, 1], [], [5, 3]]


def model_of(priors):
    psi = torch.randn(P, K, dtype=torch.float64) * torch.tensor([0.5, 2.0])
    return BanditModel(psi, priors, torch.randn(P, dtype=torch.float64))


@pytest.fixture
def batch():
    interest, context = torch.randn(C, K, dtype=torch.float64), torch.randint(C, (N,))
    return BanditBatch(interest, context, torch.arange(N) % P, (torch.rand(N) < 0.3).double(), N)


def test_two_of_one_class_add_up(batch):
    model = model_of(BanditPriors(terms=TWO))
    values = {name: prior.sample() for name, prior in model.site_priors().items()}
    assert {"brand_category_kappa", "brand_category_beta", "type_category_kappa", "type_category_beta"} < set(values)
    bare = BanditModel(model.item_embedding, BanditPriors(), model.item_intercept)
    added = model.logit(values, batch) - bare.logit(values, batch)
    expected = []
    for action, context in zip(batch.action.tolist(), batch.context.tolist()):
        brand, kind, omega = BRANDS[action], TYPES[action], batch.interest[context]
        expected.append(
            values["brand_category_kappa"][brand] + values["brand_category_beta"][brand] @ omega
            + values["type_category_kappa"][kind] + values["type_category_beta"][kind] @ omega
        )  # fmt: skip
    assert torch.allclose(added, torch.stack(expected))


def test_each_has_its_own_scales():
    model = model_of(BanditPriors(terms=TWO))
    assert model.learned == {
        "kappa_scale": "kappa",
        "brand_category_beta_scale": "brand_category_beta",
        "type_category_kappa_scale": "type_category_kappa",
    }
    scale = {name: float(prior.stddev.detach().flatten()[0]) for name, prior in model.site_priors().items()}
    found = [scale[f"{term}_category_{what}"] for term in TWO for what in ("kappa", "beta")]
    assert found == pytest.approx([0.4, 0.2, 0.7, 0.3])


def test_operations_name_the_model_s_sites(batch):
    """What a handler looks a posterior up by, and Laplace's approximation finds a derivative by."""
    from pyro.poutine.messenger import Messenger

    class Names(Messenger):
        def __init__(self):
            super().__init__()
            self.seen = []

        def _pyro_linear(self, msg):
            assert msg["type"] == LINEAR
            self.seen.append(msg["name"])

    model = model_of(BanditPriors(terms=TWO))
    values = {name: prior.sample() for name, prior in model.site_priors().items()}
    with Names() as names:
        model.logit(values, batch)
    assert sorted(names.seen) == sorted(values)
    Linearization(model, values)


@pytest.mark.parametrize("guide", ["normal", "matrix_normal", "low_rank"])
def test_guides_take_them(guide):
    model = model_of(BanditPriors(terms=TWO))
    check_guide(guide, model.float())


@pytest.fixture(scope="module")
def two():
    twelve = {"brand": BRANDS * 2, "type": TYPES * 2}
    return BanditPriors(kappa_scale=0.3, terms={name: ItemCategories(numbers) for name, numbers in twelve.items()})


@pytest.mark.parametrize("guide", ["normal", "laplace"])
def test_both_are_saved_loaded_updated_and_labelled(guide, two, blo, log, tmp_path):
    blob = BLOB(blo, guide, two)
    blob.fit(log, num_epochs=3, progress=False, device="cpu")
    blob.save(tmp_path / "model")
    back = BLOB.load(tmp_path / "model", device="cpu")
    assert torch.equal(back.model.brand_category, torch.tensor(BRANDS * 2))
    assert torch.equal(back.model.type_category, torch.tensor(TYPES * 2))
    assert torch.equal(back.scores(HISTORIES), blob.scores(HISTORIES))
    again = back.fit(log, num_epochs=3, progress=False, device="cpu")
    assert torch.equal(back.scores(HISTORIES), blob.scores(HISTORIES))
    assert len(again)
    back.update(log, num_epochs=2, progress=False)
    assert back.model.priors.replaced == set(back.model.site_priors())
    posterior = blob.to_inference_data(num_draws=10)["posterior"]
    assert posterior["brand_category_kappa"].shape == (1, 10, 3)
    assert posterior["type_category_kappa"].shape == (1, 10, 2)


@pytest.mark.parametrize("guide", ["normal", "arrowhead_normal"])
def test_a_name_changes_no_number(blo, log, guide):
    """Of a term that has a closed form, under a guide that is projected."""
    terms = ((KappaOnPopularity(),), {"views": KappaOnPopularity()})
    blobs = [BLOB(blo, guide, BanditPriors(terms=t)) for t in terms]
    for blob in blobs:
        blob.fit(log, num_epochs=3, progress=False, device="cpu")
    plain, named = (blob.click_logits(HISTORIES) for blob in blobs)
    assert type(plain) is type(named)
    assert torch.equal(plain.mean, named.mean)
    assert torch.equal(plain.variance, named.variance)


def test_a_name_hides_what_the_model_calls_the_same(batch):
    """The horseshoe's scale, beside that of a kappa whose scale has a prior."""
    few = {"few": HorseshoeKappa(dist.HalfCauchy(0.2))}
    model = model_of(BanditPriors(kappa_scale=dist.HalfNormal(0.5), terms=few))
    values = {name: prior.sample() for name, prior in model.site_priors().items()}
    others = {name: value for name, value in values.items() if not name.startswith("few_")}
    bare = BanditModel(model.item_embedding, BanditPriors(kappa_scale=dist.HalfNormal(0.5)), model.item_intercept)
    added = model.logit(values, batch) - bare.logit(others, batch)
    scale = (values["few_log_kappa_scale"] + values["few_log_kappa_local_scale"]).exp()
    assert torch.allclose(added, (scale * values["few_whitened_kappa"])[batch.action])


def test_users_covariates_by_the_names_of_their_terms(blo, log):
    terms = {"age": UserCovariates(1), "country": UserCovariates(3)}
    blob = BLOB(blo, priors=BanditPriors(kappa_scale=0.3, terms=terms))
    age, country = torch.randn(log.num_users, 1), torch.randn(log.num_users, 3)
    by_name = {"country": country, "age": age}
    rows = blob.batch(log, by_name).covariates
    user = torch.zeros(len(rows), dtype=torch.int64)
    user[blob.batch(log, by_name).context] = log.user
    assert torch.equal(rows, torch.cat([age, country], -1)[user])
    assert torch.equal(blob.batch(log, torch.cat([age, country], -1)).covariates, rows)
    with pytest.raises(ValueError, match=r"covariates\['country'\]: expected .* x 3 .*got None"):
        blob.batch(log, {"age": age})
    blob.fit(log, num_epochs=2, covariates=by_name, progress=False, device="cpu")
    few = {"age": age[:3], "country": country[:3]}
    both = torch.cat([age, country], -1)[:3]
    assert torch.equal(blob.click_logits(HISTORIES, few).mean, blob.click_logits(HISTORIES, both).mean)
    probs = [ThompsonSampling(blob).action_distribution(HISTORIES, c).probs for c in (few, both)]
    assert torch.equal(*probs)


@dataclass(frozen=True)
class Mine:
    """A term that calls its site and its buffer as it is told."""

    site: str = "mine"
    buffer: str = "rows"
    attribute: str = "count"

    def build(self, model):
        model.register_buffer(self.buffer, torch.arange(model.num_items))
        setattr(model, self.attribute, 3)

    def site_priors(self, model):
        return {self.site: dist.Normal(model.item_embedding.new_zeros(model.num_items), 1.0).to_event(1)}

    def logit(self, model, values, events):
        assert getattr(model, self.attribute) == 3
        return gather(self.site, values[self.site], getattr(model, self.buffer)[events.action])


FEATURES = ((1.0,),) * P
COLLISIONS = {
    "one class": (
        (ItemCategories(BRANDS), ItemCategories(TYPES)),
        "puts 'category' into the model, and term ItemCategories",
    ),
    "sites": (
        (Mine(), Mine(buffer="b", attribute="c")),
        r"Mine and term Mine both have a site 'mine'.*terms=\{",
    ),
    "the model's site": ((Mine("kappa"),), "Mine and the model itself both have a site 'kappa'"),
    "the model's vector": ((Mine("multivariate"),), "both have a site 'multivariate'"),
    "a plate": ((Mine("events"),), "both have a site 'events'"),
    "buffers": ((Mine(), Mine("b", attribute="c")), "Mine puts 'rows' into the model, and term Mine has that already"),
    "attributes": ((Mine(), Mine("b", "b")), "Mine puts 'count' into the model"),
    "the model's buffer": ((Mine(buffer="whitening"),), "puts 'whitening' into the model, and the model itself has"),
    "the model's method": ((Mine(attribute="forward"),), "puts 'forward' into the model, and the model itself has"),
    "two classes": ((ItemFeatures(FEATURES), Mine(buffer="features")), "term ItemFeatures has that already"),
    "names that meet": ({"a": Mine("b_c"), "a_b": Mine("c", "b", "c")}, "'a_b' .* and term 'a' .* a site 'a_b_c'"),
}


@pytest.mark.parametrize(("terms", "message"), COLLISIONS.values(), ids=COLLISIONS.keys())
def test_what_collides_is_named(terms, message):
    with pytest.raises(ValueError, match=message):
        model_of(BanditPriors(terms=terms))


def test_a_horseshoe_and_a_random_scale_collide():
    with pytest.raises(ValueError, match="HorseshoeKappa and term RandomScaleKappa both have a site 'log_kappa_scale'"):
        model_of(BanditPriors(kappa_scale=dist.HalfNormal(0.5), terms=(HorseshoeKappa(),)))


def test_sites_that_the_model_has_not():
    with pytest.raises(ValueError, match=r"sites: the model has no site 'kapa'; it has \['w_a'"):
        model_of(BanditPriors(sites={"kapa": dist.Normal(torch.zeros(P), 1.0).to_event(1)}))


BAD = {
    "one term": (KappaOnPopularity(), r"terms: expected a tuple of terms.*one term is terms=\(term,\)"),
    "text": ("popularity", "terms: expected a tuple of terms"),
    "a name": ({"a b": KappaOnPopularity()}, "terms: a name is letters, digits and underscores, got 'a b'"),
    "a number": ({1: KappaOnPopularity()}, "terms: a name is .* got 1"),
}


@pytest.mark.parametrize(("terms", "message"), BAD.values(), ids=BAD.keys())
def test_what_are_no_terms_is_named(terms, message):
    with pytest.raises(ValueError, match=message):
        BanditPriors(terms=terms)


def test_labels_that_meet_are_refused(blo, log):
    @dataclass(frozen=True)
    class Labelled(Mine):
        labels: str = "abcdefghijkl"

        def coordinates(self):
            return {self.site: {"place": list(self.labels)}}

    terms = (Labelled(), Labelled("b", "c", "d", "mnopqrstuvwx"))
    blob = BLOB(blo, priors=BanditPriors(kappa_scale=0.3, terms=terms))
    blob.fit(log, num_epochs=1, progress=False, device="cpu")
    with pytest.raises(ValueError, match="coordinates: 'b' labels the dimension 'place' otherwise"):
        blob.to_inference_data(num_draws=5)
