"""Recipes that make a guide, which keeps the contract, of a name, a class, an instance or a plain function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoGuide, AutoLaplaceApproximation
from pyro.nn import PyroModule, PyroParam
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from blob_pyro.guides.bandit import refuse_learned_scales
from blob_pyro.guides.multivariate import MultivariateGuide
from blob_pyro.guides.registry import registered_guide, registered_name
from blob_pyro.models import BanditModel
from blob_pyro.models.sites import MULTIVARIATE
from blob_pyro.ops.exclusive import own_parameter_store
from blob_pyro.ops.modules import own_copy
from blob_pyro.ops.names import unique_name
from blob_pyro.ops.seeds import seeded

__all__ = ["FunctionGuide", "check_sites", "make_guide"]


def make_guide(guide: str | Callable[..., Any], model: BanditModel, *, seed: int = 0) -> nn.Module:
    """Make a guide of ``model`` with all its parameters there.

    Args:
        guide: a registered name, see `blob_pyro.register_guide`; a class, which is constructed from the model (Pyro's
            ``AutoGuide`` classes are), or a function whose first argument is called ``model`` and that returns a guide
            of it; a module, of which a copy is made and which is not changed; or a function of the batch that samples
            the model's sites.
        model: whose sites it covers.
        seed: of whatever is random in its construction; torch's default generator is left as it was.

    Raises:
        ValueError: for an unknown name, and for sites other than the model's: see `check_sites`; for Pyro's
            ``AutoLaplaceApproximation``, which stays a point mass until it is asked for another guide; for
            ``AutoDelta`` where the model learns a scale, as for "delta".
        TypeError: for something that cannot be called, and a module that cannot be copied.
    """
    if not isinstance(guide, str) and not callable(guide):
        raise TypeError(f"guide: expected a name, a class, a module or a function of the batch, got {guide!r}")
    name = registered_name(guide)
    known = None if name is None else registered_guide(name)
    recipe: Any = guide if known is None else known.recipe
    with seeded(seed, model.item_embedding.device):
        _refuse_unfit(recipe, model)
        made: Any = recipe(model) if isinstance(recipe, type) or _makes_a_guide(recipe) else recipe
        if made is recipe and isinstance(made, nn.Module):
            made = own_copy(made, "guide")
            if isinstance(made, MultivariateGuide):  # it may have been made for a model with another prior
                made.is_auxiliary = model.vector_prior is None
        if isinstance(made, AutoGuide):
            _set_up(made, model)
        elif not isinstance(made, nn.Module):
            made = FunctionGuide(made, model)
        check_sites(model, made)
    if known is not None:
        made.registered_name = name
        if known.training_defaults is not None:
            made.training_defaults = known.training_defaults
    return cast(nn.Module, made)


def _makes_a_guide(guide: Any) -> bool:
    """Whether a function is one of the model: its first argument says so."""
    if isinstance(guide, nn.Module):
        return False
    try:
        parameters = list(inspect.signature(guide).parameters)
    except (TypeError, ValueError):  # built in, without a signature
        return False
    return parameters[:1] == ["model"]


def _refuse_unfit(guide: Any, model: BanditModel) -> None:
    """Refuse Pyro's guides that are not what they seem."""

    def is_a(cls: type) -> bool:
        return issubclass(guide, cls) if isinstance(guide, type) else isinstance(guide, cls)

    if is_a(AutoLaplaceApproximation):
        raise ValueError(
            "guide: AutoLaplaceApproximation is a point mass at the mode until its laplace_approximation() is called, "
            "and a posterior without doubt would answer; use guide='laplace', which has the curvature"
        )
    if is_a(AutoDelta):
        refuse_learned_scales(model, "AutoDelta")


def check_sites(model: BanditModel, guide: Callable[..., Any]) -> None:
    """Compare a guide's sites with the model's.

    Raises:
        ValueError: naming the sites that are missing, those that are extra, and those whose draws have another shape.
    """
    expected = {name: tuple(prior.event_shape) for name, prior in model.site_priors().items()}
    with torch.no_grad(), own_parameter_store():
        trace = poutine.trace(guide).get_trace(model.example_batch())
    sites = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
    found = {n: tuple(site["value"].shape) for n, site in sites.items() if not site["infer"].get("is_auxiliary")}
    vector = model.vector_prior
    if vector is not None:
        expected[MULTIVARIATE] = tuple(vector.distribution.event_shape)
        if MULTIVARIATE not in found:
            raise ValueError(
                f"guide: the prior is one Gaussian over {list(vector.shapes)} together, and this guide does not sample "
                f"that vector, site {MULTIVARIATE!r}; use one that does, such as 'low_rank' "
                "or 'laplace', or give priors of independent sites"
            )
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        raise ValueError(
            f"guide: its sites are not the model's: missing {missing or 'none'}, extra {extra or 'none'}. Sample each "
            f"of {list(expected)} once; mark what is only a means with infer={{'is_auxiliary': True}}"
            + ("; BanditPriors(positions=None) leaves the effects of positions out" * ("position_effect" in missing))
        )
    for name, shape in found.items():
        if shape != expected[name]:
            raise ValueError(
                f"guide: site {name!r} has draws of shape {shape}, the model's prior {expected[name]}; check the "
                "shapes of its parameters and .to_event"
            )


def _set_up(guide: AutoGuide, model: BanditModel) -> None:
    """Let an AutoGuide see the model once, under a name of its own: its parameters appear now, not at a first step."""
    if getattr(guide, "prototype_trace", None) is None:
        guide._pyro_name = unique_name("bandit_guide_auto")
        with own_parameter_store():
            guide(model.example_batch())


class FunctionGuide(PyroModule):
    """A function with ``pyro.param`` statements as a module: its parameters are found by running it once.

    Args:
        function: of the batch; samples the model's sites.
        model: whose sites it covers.

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> from blob_pyro.models import BanditPriors
        >>> model = BanditModel(torch.eye(2), BanditPriors(w_a=0.5, w_b=-6.0, kappa=0.0, zeta=0.0))
        >>> def guide(batch):
        ...     loc = pyro.param("loc", torch.tensor(-4.0))
        ...     pyro.sample("w_c", dist.Normal(loc, 0.1))
        >>> [name for name, _ in FunctionGuide(guide, model).named_parameters()]
        ['parameter_0_unconstrained']
    """

    def __init__(self, function: Callable[..., Any], model: BanditModel) -> None:
        super().__init__(unique_name("bandit_guide_function"))
        hint = "if it makes a guide of the model, call its argument 'model'"
        self._function = (function,)  # in a tuple: not a part of this module
        self._names: dict[str, str] = {}
        with own_parameter_store(), poutine.trace(param_only=True) as capture:
            try:
                returned = function(model.example_batch())
            except Exception as error:
                raise ValueError(
                    f"guide: the function fails when it is called with a batch: {error!r}; {hint}"
                ) from error
        if isinstance(returned, nn.Module):
            raise ValueError(f"guide: the function of the batch returned a {type(returned).__name__}; {hint}")
        for name, site in capture.trace.nodes.items():
            self._names[name] = attribute = f"parameter_{len(self._names)}"
            constraint = site["kwargs"].get("constraint", torch.distributions.constraints.real)
            setattr(self, attribute, PyroParam(site["value"].detach().clone(), constraint))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function with this module's parameters."""
        values = {name: getattr(self, attribute) for name, attribute in self._names.items()}
        with _AnswerParameters(values):
            return self._function[0](*args, **kwargs)


class _AnswerParameters(Messenger):
    """Answers ``pyro.param`` statements by name."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_param(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = msg["stop"] = True  # the module's own statement has been seen
