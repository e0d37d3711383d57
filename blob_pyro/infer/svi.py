"""The training loop: minibatch SVI over tensors that stay on the device."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import pandas as pd
import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor, nn
from tqdm.auto import tqdm

__all__ = ["Training", "seeded", "train"]


class Batch(Protocol):
    """What can be learned from: rows that can be counted and picked. See `blob_pyro.models.BanditBatch`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Batch: ...


@dataclass(frozen=True)
class Training:
    """How long and how fast to train.

    Attributes:
        num_epochs: passes over the data.
        batch_size: rows per step.
        learning_rate: the peak of a one-cycle schedule for Adam.
        clip_norm: gradients are scaled down to this norm; rows are weighted so that the loss is per row.
    """

    num_epochs: int
    batch_size: int
    learning_rate: float
    clip_norm: float = field(default=10.0)

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_size", "learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be positive, got {getattr(self, name)}")


def train(
    model: nn.Module,
    guide: Callable[..., Any],
    elbo: ELBO,
    batch: Batch,
    training: Training,
    *,
    progress: bool = True,
    description: str = "fit",
) -> pd.DataFrame:
    """Maximise an ELBO over the parameters of a model and a guide, in place.

    Every epoch visits every row once, in a fresh order. Ctrl-C stops at the last finished epoch, with a warning;
    model and guide are then what they were at its end.

    Args:
        model: a Pyro model; called with a part of ``batch``.
        guide: its guide, called alike.
        elbo: the loss.
        batch: all rows, on the device they are to be trained on.
        training: see `Training`.
        progress: whether to show a progress bar.
        description: its title.

    Returns:
        One row per finished epoch: ``epoch``, ``elbo`` (nats per row, mean over the epoch's steps), ``seconds``
        since the start, ``learning_rate``. ``attrs["interrupted"]`` says whether Ctrl-C ended it.

    Raises:
        FloatingPointError: if the loss is not finite, naming the step; model and guide keep their state at the end
            of the last finished epoch.
    """
    device = _device_of(model)
    modules = [m for m in (model, guide) if isinstance(m, nn.Module)]
    num_rows = len(batch)
    batch_size = min(training.batch_size, num_rows)
    steps_per_epoch = -(-num_rows // batch_size)
    rows: list[dict[str, float]] = []
    interrupted = False
    with _own_parameters():
        parameters = _parameters(model, guide, elbo, batch[torch.arange(min(2, num_rows), device=device)])
        optimizer = torch.optim.Adam(parameters, lr=training.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, training.learning_rate, total_steps=training.num_epochs * steps_per_epoch, cycle_momentum=False
        )
        good = _state(modules)
        start = time.perf_counter()
        bar = tqdm(total=training.num_epochs, desc=description, unit="epoch", disable=not progress)
        try:
            for epoch in range(training.num_epochs):
                total = torch.zeros((), device=device)
                for step, index in enumerate(torch.randperm(num_rows, device=device).split(batch_size)):
                    part = batch[index]
                    optimizer.zero_grad(set_to_none=True)
                    loss = elbo.differentiable_loss(model, guide, part) / num_rows
                    loss.backward()
                    norm = nn.utils.clip_grad_norm_(parameters, training.clip_norm)
                    if not bool(torch.isfinite(loss.detach() + norm)):
                        raise FloatingPointError(
                            f"the loss or its gradient is not finite at epoch {epoch + 1}, step {step + 1} of "
                            f"{steps_per_epoch}; model and guide are back at epoch {epoch}. Lower learning_rate "
                            f"({training.learning_rate}) or check the priors"
                        )
                    optimizer.step()
                    schedule.step()
                    total += loss.detach() * len(part)
                value = -float(total) / num_rows
                good = _state(modules)
                rows.append(
                    {
                        "epoch": epoch + 1,
                        "elbo": value,
                        "seconds": time.perf_counter() - start,
                        "learning_rate": optimizer.param_groups[0]["lr"],
                    }
                )
                bar.update()
                bar.set_postfix_str(f"ELBO {value:.4f}")
        except KeyboardInterrupt:
            interrupted = True
            _restore(modules, good)
            warnings.warn(
                f"{description}: interrupted; the model is as it was after epoch {len(rows)} of {training.num_epochs}, "
                "and can be used and saved",
                stacklevel=2,
            )
        except FloatingPointError:
            _restore(modules, good)
            raise
        finally:
            bar.close()
    history = pd.DataFrame(rows, columns=["epoch", "elbo", "seconds", "learning_rate"])
    history.attrs["interrupted"] = interrupted
    return history


@contextmanager
def seeded(seed: int, device: torch.device | str) -> Iterator[None]:
    """Reproducible draws inside; the caller's own generators are untouched."""
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def _own_parameters() -> Iterator[None]:
    """An empty parameter store inside, so that training neither reads nor leaves anything in the global one."""
    with pyro.get_param_store().scope():
        yield


def _parameters(model: nn.Module, guide: Callable, elbo: ELBO, batch: Batch) -> list[nn.Parameter]:
    """Every parameter that a step touches, of modules and of ``pyro.param`` statements alike."""
    with poutine.trace(param_only=True) as capture:
        elbo.differentiable_loss(model, guide, batch)
    found = {id(p): p for p in (site["value"].unconstrained() for site in capture.trace.nodes.values())}
    return [p for p in found.values() if p.requires_grad]


def _device_of(model: nn.Module) -> torch.device:
    return next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def _state(modules: list[nn.Module]) -> list[dict[str, Tensor]]:
    return [{k: v.detach().clone() for k, v in m.state_dict().items()} for m in modules]


def _restore(modules: list[nn.Module], state: list[dict[str, Tensor]]) -> None:
    for module, values in zip(modules, state):
        module.load_state_dict(values)
