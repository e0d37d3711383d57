"""Checks that what you write yourself, a guide or a linear operation, keeps to its contract.

That of guides is in `blob_pyro.guides.bandit`, that of operations in `blob_pyro.models.operations`.
"""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from blob_pyro.guides import make_guide
from blob_pyro.infer import GuidedELBO, LocalReparameterization
from blob_pyro.models import BanditBatch, BanditModel, BanditPriors
from blob_pyro.models.operations import LinearOperation
from blob_pyro.ops.exclusive import own_parameter_store
from blob_pyro.ops.seeds import seeded
from blob_pyro.serialization import folder

__all__ = ["check_guide", "check_operation"]

_TRIES = 5  # draws among which every parameter must meet a gradient that is not zero


def check_guide(
    guide: str | Callable[..., Any], model: BanditModel | None = None, batch: BanditBatch | None = None
) -> None:
    """Raise unless a guide of the bandit model can be trained, saved, loaded and swapped for another.

    Args:
        guide: as `blob_pyro.BLOB` takes it: a name, a class, a module or a function of the batch. Cold loads and
            independence are checked for what can be made twice: names and classes.
        model: whose guide it is; default a small one.
        batch: of events; default drawn from the model.

    Raises:
        ValueError: saying which point of the contract is broken, and where.

    Example:
        >>> check_guide("matrix_normal")
        >>> import pyro
        >>> from blob_pyro.guides import NormalGuide
        >>> class Forgetful(NormalGuide):
        ...     def forward(self, batch=None):
        ...         return {n: pyro.sample(n, self.site_posterior(n)) for n in self._event_dims if n != "kappa"}
        >>> check_guide(Forgetful)
        Traceback (most recent call last):
        ...
        ValueError: guide: its sites are not the model's: missing ['kappa'], extra none. Sample each of ...
    """
    with seeded(0, "cpu"), own_parameter_store():
        model = _example_model() if model is None else model
        batch = _example_batch(model) if batch is None else batch
        _check_signature(guide)
        made = make_guide(guide, model)  # 2: sites and shapes
        _check_eager(made, batch)
        _check_calls(made, batch)
        _check_gradients(made, model, batch)
        if isinstance(guide, (str, type)):
            _check_cold_load(guide, made, model)
            _check_independence(guide, model)


def _example_model() -> BanditModel:
    psi = torch.randn(6, 2) * torch.tensor([0.5, 1.5])
    return BanditModel(psi, BanditPriors(kappa_scale=0.3))


def _example_batch(model: BanditModel, num_events: int = 60) -> BanditBatch:
    psi = model.item_embedding
    example = model.example_batch()
    covariates = None if example.covariates is None else torch.randn(num_events, model.num_covariates).to(psi)
    rows = torch.arange(num_events, device=psi.device)
    action, reward = rows % model.num_items, (torch.rand(num_events) < 0.3).to(psi)
    interest = torch.randn(num_events, model.embedding_dim).to(psi)
    return BanditBatch(interest, rows, action, reward, num_events, covariates)


def _check_signature(guide: str | Callable[..., Any]) -> None:
    called = guide.forward if isinstance(guide, nn.Module) else guide
    called = getattr(guide, "forward", called) if isinstance(guide, type) else called
    if not callable(called):
        return
    try:
        inspect.signature(called).bind(*([None, None] if isinstance(guide, type) else [None]))
    except TypeError as error:
        raise ValueError(f"guide: must be callable as guide(batch), like the model ({error})") from error


def _check_calls(guide: nn.Module, batch: BanditBatch) -> None:
    for argument in (batch, None):
        try:
            with torch.no_grad():
                trace = poutine.trace(guide).get_trace(argument)
        except Exception as error:
            raise ValueError(f"guide: fails when it is called with {type(argument).__name__}: {error!r}") from error
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and not torch.isfinite(site["value"]).all():
                raise ValueError(f"guide: site {name!r} draws a value that is not finite: {site['value']}")


def _check_eager(guide: nn.Module, batch: BanditBatch) -> None:
    before = set(guide.state_dict())
    with torch.no_grad(), poutine.trace(param_only=True) as capture, contextlib.suppress(Exception):
        guide(batch)  # what it raises is for _check_calls to say
    new = set(guide.state_dict()) - before
    loose = {name for name in capture.trace.nodes if capture.trace.nodes[name]["type"] == "param"}
    owned = {id(p) for p in guide.parameters()}
    loose = {n for n in loose if id(capture.trace.nodes[n]["value"].unconstrained()) not in owned}
    if new or loose:
        raise ValueError(
            f"guide: {_names(new | loose)} appears only when it is called; make every parameter in __init__, so that"
            "  a saved state finds its place in a fresh guide"
        )


def _check_gradients(guide: nn.Module, model: BanditModel, batch: BanditBatch) -> None:
    if not list(guide.parameters()):
        return
    elbo, seen, start = GuidedELBO(LocalReparameterization), set(), _copy(guide)
    with torch.no_grad():  # off the start, which may be a special point
        for parameter in guide.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    for _ in range(_TRIES):
        guide.zero_grad()
        elbo.differentiable_loss(model, guide, batch).backward()
        for name, parameter in guide.named_parameters():
            if parameter.grad is None:
                continue
            if not torch.isfinite(parameter.grad).all():
                raise ValueError(f"guide: the gradient of {_names([name])} is not finite; check its constraint")
            if (parameter.grad != 0).any():
                seen.add(name)
    guide.zero_grad()
    guide.load_state_dict(start)
    dead = [name for name, _ in guide.named_parameters() if name not in seen]
    if dead:
        raise ValueError(f"guide: {_names(dead)} never gets a gradient; use it in a sampled site, or remove it")


def _check_cold_load(guide: str | type, made: nn.Module, model: BanditModel) -> None:
    state = {
        key: value + 0.05 * torch.rand_like(value) if value.is_floating_point() else value
        for key, value in made.state_dict().items()
    }
    cold = make_guide(guide, model)
    try:
        made.load_state_dict(state)
        with tempfile.TemporaryDirectory() as place:  # by the way that a model takes
            folder.save(f"{place}/guide", "guide", {}, {f"guide.{k}": v for k, v in made.state_dict().items()})
            folder.restore({"guide": cold}, folder.load(f"{place}/guide"))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"guide: a saved state does not load into a fresh one: {error}") from error
    for name, (old, new) in {n: (a, b) for n, a, b in _draws(made, cold)}.items():
        if not torch.equal(old, new):
            raise ValueError(
                f"guide: loaded from a saved state it draws another {name!r}; keep all that it needs in parameters and "
                "buffers"
            )


def _check_independence(guide: str | type, model: BanditModel) -> None:
    first, second = make_guide(guide, model), make_guide(guide, model)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(0.3)
    if any(True for _ in first.parameters()):
        before = {n: v for n, v, _ in _draws(first, first)}
        _draws(second, second)
        if any(not torch.equal(before[n], v) for n, v, _ in _draws(first, first)):
            raise ValueError("guide: its draws depend on another guide's parameters")
        if all(torch.equal(a, b) for _, a, b in _draws(first, second)):
            raise ValueError(
                "guide: two of one class read one another's parameters in Pyro's global store; give each a name of its "
                "own, super().__init__(unique_name)"
            )


def _draws(first: nn.Module, second: nn.Module) -> list[tuple[str, Tensor, Tensor]]:
    """What two guides draw from the same noise, site by site."""
    found = []
    for guide in (first, second):
        with seeded(1, "cpu"), torch.no_grad():
            trace = poutine.trace(guide).get_trace(None)
        sites = {n: s for n, s in trace.nodes.items() if s["type"] == "sample"}
        found.append({n: s["value"] for n, s in sites.items() if not s["infer"].get("is_auxiliary")})
    return [(name, value, found[1][name]) for name, value in found[0].items()]


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def _names(parameters: Iterable[str]) -> str:
    """Parameters as their author calls them."""
    return ", ".join(sorted(name.removesuffix("_unconstrained") for name in parameters))


def check_operation(operation: LinearOperation, shape: Iterable[int], *coefficients: Tensor) -> None:
    """Raise unless an operation is linear, and its value, its square and its Jacobian belong together.

    Args:
        operation: to be checked.
        shape: of the value of a site, small.
        coefficients: its arguments, for a few events; floating-point ones as float64. Let some events repeat an index,
            if it takes several: that is where squares go wrong.

    Raises:
        ValueError: saying what is wrong, and by how much.

    Example:
        >>> from blob_pyro.models.operations import inner
        >>> check_operation(inner, (3,), torch.tensor([[1.0, -2.0, 0.0], [0.5, 0.5, 3.0]]).double())
    """
    size = torch.Size(shape)
    if len(size) != operation.event_dim:
        raise ValueError(f"operation: its event_dim is {operation.event_dim}, and the shape {tuple(size)}")
    with seeded(0, "cpu"), torch.no_grad():
        x, y, variance = (torch.randn(size, dtype=torch.float64) for _ in range(3))
        variance = variance.square() + 0.1

        def value(x: Tensor, leading: int = 0) -> Tensor:
            return operation.each(operation.value(x, *coefficients), leading, *coefficients)

        jacobian = operation.jacobian(size, *coefficients).double()
        found = {
            "is not linear: value(2 x - 3 y)": (value(2 * x - 3 * y), 2 * value(x) - 3 * value(y)),
            "value, with a leading dimension,": (value(torch.stack([x, y]), 1), torch.stack([value(x), value(y)])),
            "jacobian": (jacobian @ x.flatten(), value(x)),
            "square": (
                operation.each(operation.square(variance, *coefficients), 0, *coefficients),
                jacobian.square() @ variance.flatten(),
            ),
        }
        factors = operation.outer_factors(*coefficients)
        if factors is not None:
            left, right = factors
            found["outer_factors"] = ((left.unsqueeze(-1) * right.unsqueeze(-2)).flatten(1), jacobian)
    for what, (mine, expected) in found.items():
        if mine.shape != expected.shape:
            raise ValueError(f"operation: {what} has shape {tuple(mine.shape)}, expected {tuple(expected.shape)}")
        error = float((mine - expected).abs().max())
        if not error <= 1e-9 * (1 + float(expected.abs().max())):
            raise ValueError(f"operation: {what} is off by {error:.3g}; see LinearOperation")
