"""What Pyro asks of a distribution: shapes, expand, plates, enumeration, to_event, caching."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, TraceEnum_ELBO, config_enumerate

from blob_pyro.propensity import (
    Argmax,
    ArgmaxBeta,
    ArgmaxConditionallyNormal,
    ArgmaxLogNormal,
    ArgmaxLowRankNormal,
    ArgmaxMultivariateNormal,
    ArgmaxNormal,
    ArgmaxNormalMixture,
)
from tests.propensity.propensity_oracles import double

LOC, SCALE = torch.tensor([[0.0, 0.5, 1.0], [2.0, 1.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.1], [1.0, 0.5, 2.0]])
BUILD = {
    "normal": lambda: ArgmaxNormal(LOC, SCALE),
    "lognormal": lambda: ArgmaxLogNormal(LOC, SCALE),
    "beta": lambda: ArgmaxBeta(SCALE, SCALE.flip(-1)),
    "low rank": lambda: ArgmaxLowRankNormal(LOC, torch.ones(3, 2) * SCALE[0, :, None], SCALE),
    "multivariate": lambda: ArgmaxMultivariateNormal(LOC, torch.eye(3) + 0.5),
    "conditional": lambda: ArgmaxConditionallyNormal(
        lambda z: LOC[:, None] + z.sum(-1, keepdim=True) * SCALE[0], SCALE, num_shared=2
    ),
    "mixture": lambda: ArgmaxNormalMixture(
        lambda z: LOC[:, None] + z.sum(-1, keepdim=True) * SCALE[0], SCALE, torch.tensor([[-1.0, 0.3], [0.2, 0.9]])
    ),
    "generic": lambda: Argmax(dist.Gamma(SCALE + 0.5, torch.ones(2, 3))),
}
ALL = pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)


@ALL
def test_shapes_and_normalisation(build):
    d = build()
    assert (d.batch_shape, d.event_shape) == ((2,), ())
    assert d.probs.shape == d.log_probs.shape == d.logits.shape == (2, 3)
    assert d.probs.dtype == torch.float32
    torch.testing.assert_close(d.probs.sum(-1), torch.ones(2), rtol=0, atol=2e-3)
    assert d.sample((5,)).shape == (5, 2)
    assert d.entropy().shape == (2,)
    torch.testing.assert_close(d.entropy(), -(d.probs * d.log_probs).sum(-1))
    assert d.mode.tolist() == d.probs.argmax(-1).tolist()


@ALL
def test_log_prob_reads_the_table(build):
    d = build()
    for action in range(3):
        torch.testing.assert_close(d.log_prob(torch.tensor(action)), d.log_probs[:, action])
    assert d.log_prob(torch.zeros(4, 1, dtype=torch.long)).shape == (4, 2)
    with pytest.raises(ValueError, match="within the support"):
        d.log_prob(torch.tensor([0, 3]))


@ALL
def test_enumerate_support(build):
    d = build()
    assert d.has_enumerate_support
    assert d.enumerate_support().tolist() == [[0, 0], [1, 1], [2, 2]]
    assert d.enumerate_support(expand=False).tolist() == [[0], [1], [2]]


@ALL
def test_expand_keeps_the_type_and_shares_the_work(build, monkeypatch):
    d = build()
    expanded = d.expand((4, 2)).expand((3, 4, 2))
    assert type(expanded) is type(d)
    calls = []
    compute = type(d)._compute_log_probs
    monkeypatch.setattr(type(d), "_compute_log_probs", lambda self: calls.append(self) or compute(self))
    torch.testing.assert_close(expanded.probs[1, 2], d.probs)
    assert len(calls) == 1
    assert expanded.sample().shape == (3, 4, 2)
    assert expanded.log_prob(torch.zeros(2, dtype=torch.long)).shape == (3, 4, 2)
    if hasattr(d, "error_estimate"):
        assert expanded.error_estimate.shape == (3, 4, 2, 3)


@ALL
def test_to_event_and_plates(build):
    d = build()
    assert d.to_event(1).log_prob(torch.tensor([0, 1])).shape == ()

    def model():
        with pyro.plate("repeats", 4, dim=-2), pyro.plate("contexts", 2, dim=-1):
            return pyro.sample("action", d)

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["action"]["log_prob"].shape == (4, 2)
    assert type(trace.nodes["action"]["fn"]) is type(d)


@ALL
def test_predictive(build):
    draws = Predictive(lambda: pyro.sample("action", build().to_event(1)), num_samples=6)()["action"]
    assert draws.shape == (6, 2)


@pytest.mark.parametrize("expand", [False, True])
def test_enumeration_sums_the_action_out(expand):
    """The enumerated ELBO of a model with a hidden action is the exact log-evidence, with its exact gradient."""
    reward_rate = double(0.2, 0.5, 0.9)
    loc = double(0.0, 0.5, 1.0).requires_grad_()

    def model(loc, reward):
        with pyro.plate("events", len(reward)):
            action = pyro.sample("action", ArgmaxNormal(loc, double(1.0, 2.0, 0.5)))
            pyro.sample("reward", dist.Bernoulli(reward_rate[action]), obs=reward)

    reward = double(1.0, 0.0, 1.0, 1.0)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    enumerated = config_enumerate(model, default="parallel", expand=expand)
    loss = elbo.differentiable_loss(enumerated, lambda *_: None, loc, reward)
    click = (ArgmaxNormal(loc, double(1.0, 2.0, 0.5)).probs * reward_rate).sum()
    expected = -(reward * click.log() + (1 - reward) * (1 - click).log()).sum()
    torch.testing.assert_close(loss, expected)
    gradients = (torch.autograd.grad(value, loc, retain_graph=True)[0] for value in (loss, expected))
    torch.testing.assert_close(*gradients)


def test_locations_are_learned_from_logged_actions():
    """Maximum likelihood of the scores from the actions of a Thompson sampler, by SVI."""
    truth = ArgmaxNormal(torch.tensor([0.0, 1.0, -0.5]), torch.ones(3))
    actions = truth.sample((4000,))

    def model(actions):
        shift = pyro.param("shift", torch.zeros(2))
        loc = torch.cat([torch.zeros(1), shift])
        with pyro.plate("events", len(actions)):
            pyro.sample("action", ArgmaxNormal(loc, torch.ones(3)), obs=actions)

    svi = SVI(model, lambda actions: None, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
    for _ in range(120):
        svi.step(actions)
    assert (pyro.param("shift").detach() - torch.tensor([1.0, -0.5])).abs().max() < 0.15


def test_what_was_cached_without_gradients_is_computed_again():
    loc = double(0.0, 1.0).requires_grad_()
    d = ArgmaxNormal(loc, double(1.0, 2.0))
    with torch.no_grad():
        before = d.probs
    (gradient,) = torch.autograd.grad(d.log_prob(torch.tensor(0)), loc)
    assert gradient.abs().sum() > 0
    torch.testing.assert_close(d.probs, before)


def test_entropy_of_impossible_actions_is_finite_with_its_gradient():
    loc = double(0.0, 1e6).requires_grad_()
    entropy = ArgmaxNormal(loc, double(1.0, 1.0)).entropy()
    assert abs(entropy.item()) < 1e-14
    (gradient,) = torch.autograd.grad(entropy, loc)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("validate", [True, False])
def test_expand_keeps_what_was_said_of_validation(validate):
    """Whatever the default is when it is expanded."""
    d = ArgmaxNormal(LOC[0], SCALE[0], validate_args=validate)
    with pyro.validation_enabled(not validate):
        wide = d.expand((4, 2))
    assert wide._validate_args is validate
    if validate:
        with pytest.raises(ValueError, match="3"):
            wide.log_prob(torch.tensor(3))
