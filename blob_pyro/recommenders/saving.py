"""`BLO`, `BLOB` and `JointBLOB` as the contents of a saved model, and back."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

import blob_pyro.serialization.parts  # noqa: F401 - registers what models are made of
from blob_pyro.data import Histories, Vocabulary
from blob_pyro.guides import ENCODERS, GUIDES, DrawsGuide, LaplaceGuide
from blob_pyro.guides.registry import registered_name
from blob_pyro.infer import Bound
from blob_pyro.models import BanditPriors, OrganicPriors
from blob_pyro.ops.object_fingerprints import fingerprint
from blob_pyro.serialization import folder
from blob_pyro.serialization.codec import CannotEncode, encode, shorten
from blob_pyro.serialization.errors import SavedModelError
from blob_pyro.serialization.fields import Fields
from blob_pyro.serialization.folder import Saved
from blob_pyro.serialization.manifest import CONFIG, STATE

if TYPE_CHECKING:
    from blob_pyro.recommenders.blo import BLO
    from blob_pyro.recommenders.blob import BLOB

__all__ = ["fingerprint_blo", "fingerprint_blob", "load_blo", "load_blob", "savable_ids", "save_blo", "save_blob"]

Organic = TypeVar("Organic", bound="BLO")
_ORGANIC = ("num_items", "embedding_dim", "encoder", "covariance", "sparse", "bound", "priors", "fits", "items")
_BANDIT = ("guide", "num_draws", "num_chains", "omega", "interest", "jitter", "priors", "fits", "blo")
_SIZES = ("categories", "num_covariates", "num_draws")  # integers of these names are asked memory for
_ABSURD = 1e15  # for a click logit or an interest, or its standard deviation
_VIEWS = 32  # of a user of whom a loaded model is asked
_FEW = 1000  # they may be this large whatever the model's size


def save_blo(blo: BLO, path: str | Path) -> None:
    """Save a `BLO`; see `blob_pyro.BLO.save`."""
    tensors = _state({"model": blo.model, "guide": blo.guide})
    config = _organic_config(blo, tensors, "priors")
    folder.save(path, type(blo).__name__, config, tensors, {"organic": _data(blo.fits)})


def fingerprint_blo(blo: BLO) -> str:
    """Hash a `BLO`; see `blob_pyro.BLO.fingerprint`."""
    tensors = _state({"model": blo.model, "guide": blo.guide})
    config = _organic_settings(blo, tensors, "priors")
    encoder = type(blo.guide.encoder) if blo.encoder_name is None else None
    return fingerprint([type(blo).__name__, config, list(blo.items.ids), encoder, tensors], "BLO")


def fingerprint_blob(blob: BLOB) -> str:
    """Hash a `BLOB`; see `blob_pyro.BLOB.fingerprint`."""
    tensors = _state(_modules(blob))
    config = _bandit_settings(blob, tensors)
    # Of what JSON cannot hold, the object itself.
    own = {"priors": blob.model.priors} if config["priors"] is None else {}
    guide = type(blob.guide) if config["guide"] is None else None
    encoder = type(blob.blo.guide.encoder) if blob.blo.encoder_name is None else None
    organic = _organic_settings(blob.blo, tensors, "blo.priors")
    ids = list(blob.items.ids)
    return fingerprint([type(blob).__name__, config, organic, ids, own, guide, encoder, tensors], "BLOB")


def load_blo(cls: type[Organic], path: str | Path, encoder: nn.Module | None) -> Organic:
    """Load a `BLO`; see `blob_pyro.BLO.load`."""
    saved = folder.load(path)
    _require_class(saved, [cls])
    blo = _make_blo(cls, saved, Fields(saved.config, _ORGANIC, saved.path), encoder, "model")
    own = ("guide.encoder.",) if blo.encoder_name is None else ()
    folder.require_finite(saved, lambda name: name.startswith(own))
    folder.restore({"model": blo.model, "guide": blo.guide}, saved)
    if blo.fitted and blo.encoder_name is not None:
        _require_answers(saved, lambda: _interests(blo))
    return blo


def save_blob(blob: BLOB, path: str | Path) -> None:
    """Save a `BLOB`; see `blob_pyro.BLOB.save`."""
    tensors = _state(_modules(blob))
    config = {
        **_bandit_settings(blob, tensors),
        "fits": blob.fits,
        "blo": _organic_config(blob.blo, tensors, "blo.priors"),
    }
    data = {"organic": _data(blob.blo.fits), "bandit": _data(blob.fits)}
    folder.save(path, type(blob).__name__, config, tensors, data)


def load_blob(
    classes: list[type[BLOB]],
    organic_class: type[BLO],
    path: str | Path,
    guide: Callable[..., Any] | None,
    encoder: nn.Module | None,
    priors: BanditPriors | None,
) -> BLOB:
    """Load a `BLOB`; see `BLOB.load`; made by the one of the classes that was saved, with its ``_assemble``."""
    saved = folder.load(path)
    cls = _require_class(saved, classes)
    saved.config.setdefault("num_chains", None)  # models of draws that were saved before had one, and did not say so
    saved.config.setdefault("interest", "encoder")  # what all had
    fields = Fields(saved.config, _BANDIT, saved.path)
    name, num_draws = _read_guide_name(fields, guide is not None), fields.integer("num_draws", optional=True)
    if guide is None and name is None:
        raise _not_given(saved, "guide", "a guide of your own; pass its class, guide=...")
    if priors is None and fields.raw("priors") is None:
        raise _not_given(saved, "priors", "functions as priors or terms; pass them, priors=...")
    _require_small(saved, fields.raw("priors"), "priors")
    num_chains = fields.integer("num_chains", optional=True)
    _require_small(saved, num_draws, "num_draws")
    options = {
        "omega": fields.choice("omega", ("mean", "sample")),
        "interest": fields.choice("interest", ("encoder", "newton")),
        "jitter": fields.finite("jitter"),
    }
    priors = fields.part("priors", BanditPriors, saved.state) if priors is None else priors
    fits = fields.records("fits")
    blo = _make_blo(organic_class, saved, fields.object("blo", _ORGANIC), encoder, "organic_model")
    own = (*(() if guide is None else ("guide.",)), *(("organic_guide.encoder.",) if blo.encoder_name is None else ()))
    folder.require_finite(saved, lambda name: name.startswith(own))
    folder.restore({"organic_model": blo.model, "organic_guide": blo.guide}, saved)
    with _making(saved, "priors"):
        blob: BLOB = cls._assemble(blo, guide or name, priors, **options)
        if isinstance(blob.guide, DrawsGuide):
            blob.guide = DrawsGuide(blob.model, num_draws, num_chains or 1)
        if isinstance(blob.guide, LaplaceGuide):
            blob.guide.expect({k.removeprefix("guide."): v for k, v in saved.state.items() if k.startswith("guide.")})
    folder.restore(_modules(blob), saved)
    blob.fits = fits
    if blob.fitted and blob.blo.encoder_name is not None and guide is None and not blob.model.num_covariates:
        _require_answers(saved, lambda: [*_interests(blob.blo), *_logits(blob)])
    return blob


def _bandit_settings(blob: BLOB, tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "guide": registered_name(blob._recipe),
        "num_draws": blob.guide.num_draws if isinstance(blob.guide, DrawsGuide) else None,
        **({"num_chains": blob.guide.num_chains} if isinstance(blob.guide, DrawsGuide) else {}),
        "omega": blob.omega,
        **({} if blob.interest == "encoder" else {"interest": blob.interest}),
        "jitter": blob.model.jitter,
        "priors": _encoded(blob.model.priors, tensors, "priors"),
    }


def _organic_config(blo: BLO, tensors: dict[str, Tensor], where: str) -> dict[str, Any]:
    return {**_organic_settings(blo, tensors, where), "fits": blo.fits, "items": savable_ids(blo.items)}


def _organic_settings(blo: BLO, tensors: dict[str, Tensor], where: str) -> dict[str, Any]:
    return {
        "num_items": blo.num_items,
        "embedding_dim": blo.embedding_dim,
        "encoder": blo.encoder_name,
        "covariance": blo.covariance,
        "sparse": blo.model.sparse,
        "bound": None if blo.bound is None or blo.bound.module is not None else _encoded(blo.bound, tensors, "bound"),
        "priors": encode(blo.model.priors, tensors, where),
    }


def _make_blo(cls: type[Organic], saved: Saved, fields: Fields, encoder: nn.Module | None, module: str) -> Organic:
    num_items, embedding_dim = fields.integer("num_items"), fields.integer("embedding_dim")
    name = fields.choice("encoder", ENCODERS, optional=True)
    if encoder is None and name is None:
        raise _not_given(saved, "encoder", "an encoder of your own; pass a fresh one, encoder=...")
    found = saved.state.get(f"{module}.item_embedding")  # before anything of these sizes is made
    shape = None if found is None else tuple(found.shape)
    fits_state = shape == (num_items, embedding_dim)
    fields.require(
        fits_state, "num_items", f"num_items x embedding_dim of the state's {module}.item_embedding, {shape}"
    )
    _require_small(saved, fields.raw("priors"), "priors")
    with _making(saved, "priors"):
        blo = cls(
            num_items,
            embedding_dim,
            encoder or name,
            covariance=fields.choice("covariance", ("diagonal", "full")),
            priors=fields.part("priors", OrganicPriors, saved.state),
            sparse=fields.boolean("sparse"),
        )
    blo.bound = fields.part("bound", Bound, saved.state, optional=True)  # type: ignore[type-abstract]
    blo.fits = fields.records("fits")
    blo.items = _vocabulary(fields, num_items)
    return blo


def _modules(blob: BLOB) -> dict[str, nn.Module]:
    return {**blob._modules(), "organic_model": blob.blo.model, "organic_guide": blob.blo.guide}


def _state(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}


def _data(fits: list[dict[str, Any]]) -> list[Any]:
    """Fingerprints of what the fits were to."""
    return [fit.get("data") for fit in fits]


def _encoded(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    """As JSON; None for what JSON cannot hold, and is to be given again at loading."""
    aside: dict[str, Tensor] = {}
    try:
        written = encode(value, aside, where)
    except CannotEncode:
        return None
    tensors.update(aside)
    return written


def _read_guide_name(fields: Fields, is_given: bool) -> str | None:
    """The name that the guide was saved under; None if it had none. One that is not given has to be registered."""
    name: str | None = fields.raw("guide")
    known = ", ".join(sorted(GUIDES))
    remedy = "before you load, register the guide again, blob_pyro.register_guide(name, ...), or pass it, guide=..."
    fields.require(
        name is None or (isinstance(name, str) and (is_given or name in GUIDES)),
        "guide",
        f"one of {known} (if it is one of yours: {remedy})",
    )
    return name


def savable_ids(items: Vocabulary) -> int | list[Hashable]:
    """Return what a saved model says of its items: a count for numbered ids, else the list of ids.

    Args:
        items: the catalogue.

    Raises:
        ValueError: for an id that is neither a string nor an integer, which JSON could not give back.
    """
    if items.is_numbered:
        return len(items)
    odd = next((i for i in items.ids if type(i) not in (str, int)), None)
    if odd is not None:
        raise ValueError(f"items: id {odd!r} is a {type(odd).__name__}; only strings and integers can be saved")
    return list(items.ids)


def _vocabulary(fields: Fields, num_items: int) -> Vocabulary:
    items = fields.raw("items")
    if type(items) is int:
        fields.require(items == num_items, "items", f"{num_items}, or as many ids")
        return Vocabulary.numbered(num_items)
    is_list = isinstance(items, list) and len(items) == num_items and all(type(i) in (str, int) for i in items)
    fields.require(is_list, "items", f"{num_items} strings or integers")
    fields.require(len(set(items)) == num_items, "items", "distinct ids")
    return Vocabulary(items)


def _require_class(saved: Saved, classes: list[Any]) -> Any:
    known = {cls.__name__: cls for cls in classes}
    if saved.class_name not in known:
        name = shorten(saved.class_name).strip("'")
        raise SavedModelError(f"holds a {name}; load it with {name}.load", path=saved.path)
    return known[saved.class_name]


def _require_small(saved: Saved, value: Any, where: str) -> None:
    """Refuse a size that exceeds all numbers of the state: it would ask for memory that the model never had."""
    most = max(_FEW, sum(tensor.numel() for tensor in saved.state.values()))
    for field, number in _integers(value, where):
        if abs(number) > most:
            problem = f"expected an integer of at most {most} in a model of this size, got {shorten(number)}"
            raise SavedModelError(problem, path=saved.path, file=CONFIG, field=field)


def _integers(value: Any, where: str) -> Iterator[tuple[str, int]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _integers(item, f"{where}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _integers(item, f"{where}[{number}]")
    elif type(value) is int and any(name in where for name in _SIZES):
        yield where, value


def _require_answers(saved: Saved, ask: Callable[[], list[Tensor]]) -> None:
    """Refuse numbers, each of them finite, of which what the model answers is absurd, or nothing."""
    try:
        with torch.no_grad():
            usable = all(bool((answer.abs() < _ABSURD).all()) for answer in ask())
    except MemoryError:  # the model fits, and cannot be asked here: whoever asks it is told so
        return
    except (ValueError, RuntimeError, IndexError) as error:  # of distributions, factorisations, numbers of categories
        problem = f"does not answer from these numbers: {error}"
        raise SavedModelError(problem, path=saved.path, file=STATE) from error
    if not usable:
        problem = "holds numbers that are too large: of what the model answers some is not finite, or nearly so"
        raise SavedModelError(problem, path=saved.path, file=STATE)


def _interests(blo: BLO) -> list[Tensor]:
    posterior = blo.user_posterior(_some_histories(blo))
    return [posterior.mean, posterior.stddev]


def _logits(blob: BLOB) -> list[Tensor]:
    logits = blob.click_logits(_some_histories(blob.blo), num_draws=2)
    return [logits.mean, logits.variance.sqrt()]


def _some_histories(blo: BLO) -> Histories:
    """A user who has viewed nothing, and one who has viewed some of the items."""
    items = torch.arange(min(blo.num_items, _VIEWS))
    return Histories(items, torch.zeros(2, dtype=torch.int64), torch.tensor([0, len(items)]), blo.num_items)


def _not_given(saved: Saved, field: str, what: str) -> SavedModelError:
    return SavedModelError(f"this model was saved with {what}", path=saved.path, file=CONFIG, field=field)


@contextmanager
def _making(saved: Saved, field: str) -> Iterator[None]:
    try:
        yield
    except SavedModelError:
        raise
    except Exception as error:  # whatever constructors, a user's own too, say of values that they do not take
        raise SavedModelError(f"makes no model: {error}", path=saved.path, file=CONFIG, field=field) from error
