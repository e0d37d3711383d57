"""Objects as JSON and back; classes that are not registered are refused."""

import json
from dataclasses import dataclass

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import blob_pyro.serialization.parts  # noqa: F401 - what models are made of
from blob_pyro import BanditPriors
from blob_pyro.infer import Bouchard, OneVsEach
from blob_pyro.models.priors.items import ItemFeatures
from blob_pyro.ops.saved_classes import SAVED_CLASSES
from blob_pyro.serialization import SavedModelError
from blob_pyro.serialization.codec import CannotEncode, decode, encode, register

ONE, TWO = torch.tensor(1.3), torch.tensor(2.1)
DISTRIBUTIONS = [
    dist.Normal(ONE, TWO), dist.StudentT(TWO, ONE, TWO), dist.Laplace(ONE, TWO), dist.SoftLaplace(ONE, TWO),
    dist.AsymmetricLaplace(ONE, TWO, ONE), dist.SoftAsymmetricLaplace(ONE, TWO, ONE, TWO), dist.Logistic(ONE, TWO),
    dist.SkewLogistic(ONE, TWO, ONE), dist.Cauchy(ONE, TWO), dist.Gumbel(ONE, TWO), dist.HalfNormal(TWO),
    dist.HalfCauchy(TWO), dist.LogNormal(ONE, TWO), dist.Gamma(ONE, TWO), dist.InverseGamma(TWO, ONE),
    dist.Exponential(TWO), dist.Weibull(ONE, TWO), dist.Chi2(TWO), dist.Uniform(ONE, TWO), dist.Pareto(ONE, TWO),
    dist.Beta(ONE, TWO), dist.MultivariateNormal(torch.ones(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]])),
    dist.LowRankMultivariateNormal(torch.ones(3), torch.ones(3, 1), 2 * torch.ones(3)),
    dist.MultivariateStudentT(TWO, torch.ones(2), torch.eye(2)),
    dist.Normal(torch.arange(30.0, dtype=torch.float64), TWO.double()).to_event(1),
]  # fmt: skip


@pytest.mark.parametrize("beside", [False, True], ids=["inline", "beside"])
@pytest.mark.parametrize("d", DISTRIBUTIONS, ids=lambda d: type(d).__name__)
def test_distributions(d, beside):
    tensors = {} if beside else None
    back = decode(json.loads(json.dumps(encode(d, tensors))), tensors)
    value = d.sample()
    assert type(back) is type(d)
    assert torch.equal(back.log_prob(value), d.log_prob(value))
    assert back.log_prob(value).dtype == d.log_prob(value).dtype


PARTS = {
    "bound": Bouchard(num_negatives=7),
    "another bound": OneVsEach(num_samples=3),
    "features": ItemFeatures(((1.0, 2.0), (0.5, -1.0)), 0.3),
    "nest": {"a": ((1, 2.5), None, "x", True)},
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_parts(part):
    assert decode(json.loads(json.dumps(encode(part)))) == part


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 4), (0,), ()])
def test_tensors_keep_their_shape(shape):
    tensors = {}
    written = json.loads(json.dumps(encode({"x": torch.ones(shape)}, tensors)))
    assert decode(written, tensors)["x"].shape == shape


def test_arrays_are_written_as_their_numbers():
    written = encode(ItemFeatures(np.array([[1.0], [np.float64(2.0)]])))
    assert decode(written).features == ((1.0,), (2.0,))
    assert encode(np.int64(3)) == 3


@dataclass(frozen=True)
class Anniversary:
    """A part of somebody else's."""

    size: float
    weight: torch.Tensor


class Skewed(torch.distributions.Normal):
    """A distribution of somebody else's."""


class Stateless:
    """A part that has nothing to remember."""


@pytest.fixture
def no_classes(monkeypatch):
    for name in list(SAVED_CLASSES):
        monkeypatch.delitem(SAVED_CLASSES, name)
    yield
    SAVED_CLASSES.clear()


def test_a_class_from_outside_is_one_line(no_classes):
    part = Anniversary(2.0, torch.arange(40.0))
    with pytest.raises(CannotEncode, match=r"priors: .* cannot be saved; register its class with"):
        encode(part, {}, "priors")
    register(Anniversary)
    register(Skewed, name="skewed")
    register(Stateless)
    tensors: dict[str, torch.Tensor] = {}
    written = encode({"a": part, "b": Skewed(ONE, TWO), "c": Stateless()}, tensors, "priors")
    assert list(tensors) == ["priors.a.weight"]
    back = decode(written, tensors)
    assert torch.equal(back["a"].weight, part.weight)
    assert type(back["b"]) is Skewed
    assert type(back["c"]) is Stateless


def test_names_are_taken_once(no_classes):
    register(Anniversary)
    register(Anniversary)  # a module that is imported again
    with pytest.raises(ValueError, match=r"register: the name 'Anniversary' is that of .*Anniversary"):
        register(Skewed, name="Anniversary")
    with pytest.raises(ValueError, match=r"register: list is no dataclass and no distribution; name its fields"):
        register(list)


UNWRITABLE = {
    "function": (len, "cannot be saved"),
    "infinity": (float("inf"), "inf is not finite"),
    "set": ({1, 2}, "cannot be saved"),
    "keys": ({1: 2}, "keys must be strings"),
    "module": (torch.nn.Sequential(torch.nn.Linear(1, 1)), "cannot be saved"),
    "deep": (BanditPriors(kappa=lambda model: None), r"priors\.kappa: .* cannot be saved"),
}


@pytest.mark.parametrize(("value", "message"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_what_cannot_be_written_is_named(value, message):
    with pytest.raises(CannotEncode, match=message):
        encode(value, {}, "priors")


UNREADABLE = {
    "class": ({"class": "Popen", "fields": {"args": "true"}}, "class 'Popen' is not known here"),
    "class of another type": ({"class": ["Normal"], "fields": {}}, "is not known here"),
    "field": (
        {"class": "Learned", "fields": {"begin": 1.0}},
        r"Learned has the fields \['start', 'rate'\].* begin, rate, start",
    ),
    "refused": ({"class": "Learned", "fields": {"start": -1.0}}, "makes no Learned: .*must be positive and finite"),
    "type": ({"class": "Learned", "fields": {"start": "x"}}, "makes no Learned"),
    "neither": ({"a": 1}, "expected an object with a class, a mapping or a tensor"),
    "reference": ({"tensor": "loc"}, "the state has no tensor 'loc'"),
    "dtype": ({"tensor": [1.0], "dtype": "object"}, "expected a tensor with a dtype of float32"),
    "ragged": ({"tensor": [[1.0], 2.0], "dtype": "float32"}, "expected the numbers of a tensor"),
}


@pytest.mark.parametrize(("value", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_named(value, message):
    with pytest.raises(SavedModelError, match=rf"priors\.terms\[0\].*{message}"):
        decode([value], {}, "priors.terms")
