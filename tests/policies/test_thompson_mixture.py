"""Thompson sampling as a finite mixture: exact for what it plays, close to what it stands for."""

import pyro.distributions as dist
import pytest
import torch

from blob_pyro import BLOB
from blob_pyro.guides.draws import DrawsGuide
from blob_pyro.models import BanditPriors, ItemCategories, ItemDeviations, KappaOnPopularity, UserCovariates
from blob_pyro.models.sites import KAPPA, W_A, W_B, W_C, ZETA
from blob_pyro.policies import ThompsonSampling
from blob_pyro.policies import thompson as thompson_module
from blob_pyro.policies.chunked import ChunkedActions
from blob_pyro.policies.repeated import log_prob_each, log_prob_in_a_rectangle
from blob_pyro.policies.thompson import DrawnThompsonActions, MixtureThompsonActions, ThompsonActions
from blob_pyro.posteriors.click_logits import ClickLogits
from blob_pyro.propensity import ArgmaxNormal

HISTORIES = [[0, 2, 2], [], [0, 1, 2, 3, 11], [5], [11, 10], [3, 3, 3], [7]]


def posterior(dtype=torch.float64, doubt=(0.1, 1.0)):
    """Where the shared part matters, with unequal scales; ``doubt`` about the items' own logits, from and to."""
    generator = torch.Generator().manual_seed(5)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    psi = randn(6, 3) * torch.tensor([1.0, 0.3, 2.0], dtype=dtype)
    q = {
        W_A: dist.Normal(torch.tensor(0.5, dtype=dtype), 1.5),
        W_B: dist.Normal(torch.tensor(0.8, dtype=dtype), 0.4),
        W_C: dist.Normal(torch.tensor(-4.0, dtype=dtype), 2.0),
        KAPPA: dist.Normal(randn(6), torch.linspace(*doubt, 6, dtype=dtype)).to_event(1),
        ZETA: dist.Normal(randn(3, 3), randn(3, 3).abs() + 0.1).to_event(2),
    }
    return ClickLogits(q, psi, torch.linalg.cholesky(psi.mT @ psi / 6), randn(4, 3))


@pytest.fixture
def logits():
    return posterior()


def test_the_average_over_points_of_independent_normals(logits):
    actions = MixtureThompsonActions(logits, 16, seed=3)
    expected = torch.zeros(4, 6).double()
    for point in actions.points:
        loc = logits.given_shared(point)  # N x P
        expected += ArgmaxNormal(loc, logits.own_scale).probs / 16
    torch.testing.assert_close(actions.probs, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(actions.probs.sum(-1), torch.ones(4).double(), rtol=0, atol=1e-12)


def test_frequencies_of_its_own_draws(logits):
    actions = MixtureThompsonActions(logits, 4)
    played = actions.sample((100_000,))
    frequencies = torch.nn.functional.one_hot(played, 6).double().mean(0)
    error = (actions.probs * (1 - actions.probs) / 100_000).sqrt()
    assert ((frequencies - actions.probs).abs() < 4.5 * error + 1e-9).all()
    whole = ThompsonActions(logits, num_points=128, num_replicates=16)
    assert ((whole.probs - actions.probs).abs() > 10 * error).any()  # the test can tell the two policies apart


def test_many_points_tend_to_thompson_sampling(logits):
    whole = ThompsonActions(logits, num_points=512, num_replicates=16)
    few, many = (MixtureThompsonActions(logits, m, seed=1) for m in (8, 2048))
    assert ((many.probs - whole.probs).abs() < 6 * whole.error_estimate + 2e-3).all()
    assert (many.probs - whole.probs).abs().sum() < 0.2 * (few.probs - whole.probs).abs().sum()


def test_single_precision_is_lifted_before_anything_is_added_up():
    single = posterior(torch.float32)
    actions = MixtureThompsonActions(single, 8)
    assert actions.probs.dtype == torch.float64
    expected = MixtureThompsonActions(single.double(), 8)
    assert torch.equal(actions.probs, expected.probs)


@pytest.mark.parametrize("guide", ["normal", "matrix_normal", "matrix_normal_full", "laplace", "low_rank", "full"])
def test_every_guide_of_the_package(blo, log, guide):
    blob = BLOB(blo, guide, BanditPriors(kappa_scale=0.3))
    blob.fit(log, num_epochs=3, progress=False, device="cpu") if guide != "laplace" else blob.fit(log, device="cpu")
    policy = ThompsonSampling(blob, shared_draws=8)
    actions = policy.action_distribution(HISTORIES)
    assert isinstance(actions, MixtureThompsonActions)
    frequencies = torch.nn.functional.one_hot(actions.sample((10_000,)), 12).double().mean(0)
    error = (actions.probs * (1 - actions.probs) / 10_000).sqrt()
    assert ((frequencies - actions.probs).abs() < 5 * error + 1e-9).all()
    assert torch.equal(ThompsonSampling(blob, shared_draws=8).action_distribution(HISTORIES).probs, actions.probs)
    assert not torch.equal(
        ThompsonSampling(blob, shared_draws=8, seed=1).action_distribution(HISTORIES).probs, actions.probs
    )


def require_own_frequencies(actions, draws=10_000):
    played = torch.nn.functional.one_hot(actions.sample((draws,)), 12).double().mean(0)
    error = (actions.probs * (1 - actions.probs) / draws).clamp_min(0).sqrt()
    assert ((played - actions.probs).abs() < 5 * error + 1 / draws).all()
    torch.testing.assert_close(actions.probs.sum(-1), torch.ones(len(HISTORIES)).double(), rtol=0, atol=1e-12)


TERMS = {
    "categories": ItemCategories((0, 1, 1, 0, 2, 2, 0, 1, 2, 0, 1, 2), 0.3, 0.2),
    "deviations": ItemDeviations(0.2),
    "popularity": KappaOnPopularity(),
}


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
def test_every_term(blo, log, term):
    blob = BLOB(blo, "laplace", BanditPriors(kappa_scale=0.3, terms=(term,)))
    blob.fit(log, progress=False, device="cpu")
    actions = ThompsonSampling(blob, shared_draws=8).action_distribution(HISTORIES)
    assert type(actions) in (MixtureThompsonActions, DrawnThompsonActions)
    require_own_frequencies(actions)


def test_covariates(blo, log):
    """What moves all items alike is left out, or is in every draw: the policy is known, and nearly the same."""
    blob = BLOB(blo, priors=BanditPriors(kappa_scale=0.3, terms=(UserCovariates(2),)))
    covariates = torch.randn(log.num_users, 2, generator=torch.Generator().manual_seed(0))
    blob.fit(log, covariates=covariates, num_epochs=3, progress=False, device="cpu")
    policy = ThompsonSampling(blob, shared_draws=1024)
    without, with_ = policy.action_distribution(HISTORIES), policy.action_distribution(HISTORIES, covariates[:7])
    assert isinstance(without, MixtureThompsonActions)
    assert isinstance(with_, DrawnThompsonActions)
    assert with_.num_draws == 1024
    for actions in (without, with_):
        require_own_frequencies(actions)
    error = (without.probs * (1 - without.probs) / 1024).sqrt()
    assert ((without.probs - with_.probs).abs() < 5 * error + 0.01).all()
    played = policy.sample_with_propensity(HISTORIES, covariates[:7], seed=3)
    expected = with_.probs.gather(1, played.action[:, None]).squeeze(1)
    torch.testing.assert_close(played.propensity, expected, rtol=1e-12, atol=0)


def test_draws_of_a_sampler(blo):
    """NUTS leaves draws: the policy is the mixture over as many of them, and counts them."""
    blob = BLOB(blo, "nuts", BanditPriors(kappa_scale=0.3))
    blob.guide = DrawsGuide(blob.model, 20)
    generator = torch.Generator().manual_seed(1)
    sites = blob.model.site_priors().items()
    blob.guide.fill({n: torch.randn(20, *d.event_shape, generator=generator) for n, d in sites})
    blob.fits = [{"call": "fit"}]
    actions = ThompsonSampling(blob, shared_draws=50).action_distribution(HISTORIES)
    assert isinstance(actions, DrawnThompsonActions)
    assert actions.num_draws == 50
    torch.testing.assert_close(50 * actions.probs, (50 * actions.probs).round(), rtol=0, atol=1e-9)
    require_own_frequencies(actions)
    with pytest.raises(ValueError, match="this one is known by draws"):
        ThompsonSampling(blob, propensity="conditional").sample_with_propensity(HISTORIES, seed=0)


@pytest.mark.parametrize("many", [2, 16], ids=["one by one", "together"])
def test_without_doubt_of_their_own_items_are_counted(blo, log, many, monkeypatch):
    """With kappa at 0 each point plays one item: propensities are multiples of 1 / M, by either way."""
    monkeypatch.setattr("blob_pyro.propensity._index._MANY_ACTIONS", many)
    blob = BLOB(blo, priors=BanditPriors(kappa=0.0))
    blob.fit(log, num_epochs=3, progress=False, device="cpu")
    actions = ThompsonSampling(blob, shared_draws=8).action_distribution(HISTORIES)
    every = torch.arange(12).unsqueeze(-1).expand(12, 7)
    probs = torch.stack([actions.log_prob(item).exp() for item in every], -1)
    torch.testing.assert_close(8 * probs, (8 * probs).round(), rtol=0, atol=1e-12)
    torch.testing.assert_close(probs, actions.probs, rtol=0, atol=1e-12)
    require_own_frequencies(actions)


def test_versions_tell_policies_apart(blob):
    arguments = [
        {}, {"seed": 1}, {"shared_draws": 8}, {"shared_draws": 16}, {"propensity": "conditional"}, {"tolerance": 0.1},
    ]  # fmt: skip
    versions = [ThompsonSampling(blob, **some).version for some in arguments]
    assert len(set(versions)) == len(arguments)
    assert versions == [ThompsonSampling(blob, **some).version for some in arguments]


def test_one_draw_is_no_point_mass(blo, log):
    blob = BLOB(blo, omega="sample", priors=BanditPriors(kappa_scale=0.3))
    blob.fit(log, num_epochs=2, progress=False, device="cpu")
    actions = ThompsonSampling(blob, shared_draws=1).action_distribution(HISTORIES)  # warnings are errors
    assert (actions.probs.amax(-1) == 1).all()


def test_chunks_answer_as_the_whole(blob, monkeypatch):
    policy = ThompsonSampling(blob, shared_draws=4)
    whole = policy.action_distribution(HISTORIES)
    monkeypatch.setattr(thompson_module, "MAX_ELEMENTS", 30)
    parts = policy.action_distribution(HISTORIES)
    assert isinstance(parts, ChunkedActions)
    assert torch.allclose(parts.probs, whole.probs, rtol=1e-5, atol=0)  # the encoder is in single precision
    action = torch.tensor([[0, 1, 2, 3, 4, 5, 6]])
    assert torch.allclose(parts.log_prob(action), whole.log_prob(action), rtol=1e-5)
    mask = torch.zeros(7, 12, dtype=torch.bool)
    mask[:, 3], mask[torch.arange(7), torch.arange(7)] = True, True
    assert torch.allclose(parts.restrict(mask).probs, whole.restrict(mask).probs, rtol=1e-5)
    assert mask[torch.arange(7), parts.restrict(mask).sample((50,))].all()


@pytest.mark.parametrize("shared_draws", [None, 8])
def test_no_histories(blob, shared_draws):
    actions = ThompsonSampling(blob, shared_draws=shared_draws).action_distribution([])
    assert actions.probs.shape == (0, 12)
    assert actions.sample().shape == (0,)
    assert actions.log_prob(torch.empty(0, dtype=torch.int64)).shape == (0,)


def test_draws_of_interests_do_not_depend_on_who_else_is_asked_about(blo, log):
    """Propensities are functions of the history alone: alone, in a batch, or in a chunk."""
    blob = BLOB(blo, omega="sample", priors=BanditPriors(kappa_scale=0.3))
    blob.fit(log, num_epochs=3, progress=False, device="cpu")
    policy = ThompsonSampling(blob, shared_draws=200)
    together = policy.action_distribution(HISTORIES)
    assert isinstance(together, DrawnThompsonActions)
    alone = torch.cat([policy.action_distribution([history]).probs for history in HISTORIES])
    assert torch.allclose(together.probs, alone, atol=1e-9)
    assert together.num_draws == 200


def test_restriction_of_every_kind(logits):
    mask = torch.tensor([True, False, True, True, False, True])
    for actions in (ThompsonActions(logits, num_points=64), MixtureThompsonActions(logits, 4)):
        some = actions.restrict(mask)
        played = torch.nn.functional.one_hot(some.sample((20_000,)), 6).double().mean(0)
        error = 5 * (some.probs / 20_000).sqrt() + 5 * getattr(some, "error_estimate", 0) + 3 / 20_000
        assert ((played - some.probs).abs() < error).all()
        assert (played[:, ~mask] == 0).all()
        assert (some.log_probs[:, ~mask] == -torch.inf).all()


def test_draws_are_counted_among_what_is_allowed():
    from blob_pyro.posteriors.drawn_click_logits import DrawnClickLogits

    torch.manual_seed(2)
    drawn = DrawnClickLogits(torch.randn(100, 4, 4), torch.randn(5, 4))
    mask = torch.tensor([True, False, True, True])
    some = DrawnThompsonActions(drawn).restrict(mask)
    best = drawn.logits[..., mask].argmax(-1)
    expected = torch.stack([(best == item).double().mean(0) for item in range(3)], -1)
    torch.testing.assert_close(some.probs[:, mask], expected, rtol=0, atol=1e-15)
    assert (some.log_prob(torch.tensor(1)) == -torch.inf).all()
    assert not (some.sample((1000,)) == 1).any()
    with pytest.raises(ValueError, match="restrict it before it is expanded"):
        some.expand((2, 5)).restrict(mask)


def test_what_was_expanded_is_drawn_in_its_shape(logits):
    assert ThompsonActions(logits, num_points=4).expand((3, 4)).sample((2,)).shape == (2, 3, 4)
    assert MixtureThompsonActions(logits, 4).expand((3, 4)).sample((2,)).shape == (2, 3, 4)
    assert ThompsonActions(logits[:1], num_points=4).expand((5,)).sample((2,)).shape == (2, 5)


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (2.5, TypeError), (True, TypeError)])
def test_bad_shared_draws(blob, value, error):
    with pytest.raises(error, match="shared_draws: "):
        ThompsonSampling(blob, shared_draws=value)


@pytest.mark.parametrize("doubt", [(0.1, 1.0), (0.5, 1.0), (1e-4, 1.0)])
@pytest.mark.parametrize("make", [lambda q: MixtureThompsonActions(q, 16, seed=3), ThompsonActions])
def test_propensities_of_what_each_context_played(make, doubt):
    """As of all items together; contexts that come back, items that come back, and a context that plays nothing."""
    logits = posterior(doubt=doubt)[torch.tensor([0, 1, 2, 0, 3])]
    counts = torch.tensor([3, 0, 40, 5, 1])
    actions = torch.randint(6, (int(counts.sum()),), generator=torch.Generator().manual_seed(0))
    context = torch.arange(5).repeat_interleave(counts)
    expected = make(logits).probs[context, actions]
    found = log_prob_each(make(logits), counts, actions).exp()
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(
        log_prob_in_a_rectangle(make(logits), counts, actions).exp().double(), expected, rtol=1e-7, atol=1e-9
    )


def test_propensities_among_candidates_of_what_each_context_played():
    logits, counts = posterior(), torch.tensor([2, 1, 1, 2])
    actions = torch.tensor([0, 2, 2, 0, 4, 4])
    allowed = torch.tensor([True, False, True, False, True, False])
    for make in (lambda: MixtureThompsonActions(logits, 16, seed=3), lambda: ThompsonActions(logits)):
        expected = make().restrict(allowed).probs[torch.arange(4).repeat_interleave(counts), actions]
        found = log_prob_each(make().restrict(allowed), counts, actions).exp()
        torch.testing.assert_close(found, expected.double(), rtol=1e-7, atol=1e-9)


def test_propensities_by_chunks_and_of_candidates(blob):
    policy = ThompsonSampling(blob, shared_draws=8)
    whole = policy.action_distribution(HISTORIES)
    counts = torch.tensor([2, 0, 1, 3, 1, 1, 2])
    actions = torch.randint(12, (10,), generator=torch.Generator().manual_seed(1))
    chunked = ChunkedActions(
        lambda part, _: policy.action_distribution(part), policy.histories(HISTORIES), policy.num_items, rows=2
    )
    found = log_prob_each(chunked, counts, actions)
    torch.testing.assert_close(found, log_prob_each(whole, counts, actions), rtol=0, atol=1e-9)
    among = policy.action_distribution(HISTORIES[:2], candidates=[0, 1, 2])
    with pytest.raises(ValueError, match="item number 7 is not among the candidates of context 0"):
        log_prob_each(among, torch.tensor([1, 1]), torch.tensor([7, 0]))
