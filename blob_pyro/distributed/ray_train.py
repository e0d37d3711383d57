"""A fit through Ray Train: workers on any machines of a cluster, started again where one is lost."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from blob_pyro.data import EventLog
from blob_pyro.data.shards import check_shard
from blob_pyro.infer import NotFiniteError
from blob_pyro.ops.arguments import path_of, whole_number
from blob_pyro.ops.files import require_writable
from blob_pyro.recommenders.blo import BLO
from blob_pyro.recommenders.blob import BLOB
from blob_pyro.recommenders.saving import savable_ids
from blob_pyro.serialization.errors import SavedModelError

__all__ = ["fit", "require_ray"]

_REFUSALS = {kind.__name__: kind for kind in (ValueError, TypeError, NotFiniteError)}
_PATIENCE = 10.0  # seconds, for other workers to say that they have been refused, too


def require_ray() -> Any:
    """Return the module ``ray``, with Ray Train.

    Raises:
        ImportError: naming the extra that it comes with.
    """
    try:
        import ray
        import ray.train.torch
    except ImportError as error:
        raise ImportError(
            f"blob_pyro.distributed needs Ray Train ({error}): pip install 'blob-pyro[ray]'. Without it, start your "
            "program by torchrun and fit log.shard(rank, world)"
        ) from error
    return ray


def fit(
    blob: BLO | BLOB,
    dataset: EventLog | Mapping[str, Any],
    *,
    num_workers: int,
    storage: str | Path,
    max_failures: int = 3,
    use_gpu: bool | None = None,
    resources_per_worker: Mapping[str, float] | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Fit a model, in place, by several workers of a Ray cluster; the result is that of a fit of the whole log by one.

    Every worker fits the shard of the log that its rank has. After each epoch the first one writes a checkpoint; where
    a worker is lost, Ray starts all of them again and they go on from it, and so does a later call with the same
    arguments, with as many workers as you like. Gloo connects workers without a GPU, NCCL those with one.

    Args:
        blob: a `BLO` or a `BLOB`.
        dataset: the log, which Ray sends to the workers; or what they read it with, if it is large: arguments of
            `EventLog.read_parquet`, such as ``{"views": "/data/views", "impressions": "/data/impressions"}``, of files
            that all machines see.
        num_workers: one for each CPU or GPU that is to take part; at most as many as there are users.
        storage: a folder that all machines see, for the checkpoint and the result. What a fit has left there is gone on
            from; another fit's is refused.
        max_failures: how many times workers are started again.
        use_gpu: whether a worker has a GPU; default: if the cluster has one for each.
        resources_per_worker: see Ray's ``ScalingConfig``; default a CPU, or a GPU, each.
        **settings: of `BLO.fit` or `BLOB.fit`; ``checkpoint`` and ``device`` are this function's own.

    Returns:
        The training trace, as of ``blob.fit``; ``attrs["num_workers"]`` and ``attrs["traffic"]`` say who took part and
        what the first one sent.

    Raises:
        ImportError: if Ray is not installed, naming the extra.
        ValueError: as ``blob.fit``, naming the worker where it is one's; if nothing can be written to ``storage``; for
            item ids that are neither text nor integers, which cannot come back from a worker.
        TypeError: for another kind of model or log, or a setting that ``blob.fit`` does not take.
        NotFiniteError: as ``blob.fit``; the model is as it was.
        RuntimeError: if workers were lost more often than ``max_failures``; what they had done is in ``storage``.
    """
    ray = require_ray()
    if not isinstance(blob, (BLO, BLOB)):
        raise TypeError(f"blob: expected a BLO or a BLOB, got {blob!r} (a {type(blob).__name__})")
    if not isinstance(dataset, (EventLog, Mapping)):
        raise TypeError(
            f"dataset: expected an EventLog or the arguments of EventLog.read_parquet, got a {type(dataset).__name__}"
        )
    if mine := {"checkpoint", "device"} & set(settings):
        raise TypeError(f"settings: {', '.join(sorted(mine))} cannot be given here; see storage and use_gpu")
    num_workers = whole_number(num_workers, "num_workers")
    max_failures = whole_number(max_failures, "max_failures", at_least=0)
    folder = path_of(storage, "storage", "a folder").absolute()
    require_writable(folder / "checkpoint", "storage")
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(dataset, EventLog):
        check_shard(dataset, num_workers - 1, num_workers)
        _check_ids(blob, dataset)
    for left in (*folder.glob("refused-*.json"), *folder.glob("trace.json")):
        left.unlink()
    if not ray.is_initialized():
        ray.init(include_dashboard=False)
    if use_gpu is None:
        use_gpu = ray.cluster_resources().get("GPU", 0) >= num_workers
    request = {
        "blob": blob,
        "dataset": ray.put(dataset) if isinstance(dataset, EventLog) else dict(dataset),
        "folder": str(folder),
        "settings": {"progress": False, **settings, "device": "cuda" if use_gpu else "cpu"},
    }
    _train(ray, request, num_workers, max_failures, use_gpu, resources_per_worker)
    for path in sorted(folder.glob("refused-*.json")):
        said = json.loads(path.read_text())
        raise _REFUSALS[said["kind"]](said["message"])
    _take_over(blob, folder / "model")
    return _read_trace(folder / "trace.json")


def _train(
    ray: Any,
    request: dict[str, Any],
    num_workers: int,
    max_failures: int,
    use_gpu: bool,
    resources: Mapping[str, float] | None,
) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    own = None if resources is None else dict(resources)
    trainer = TorchTrainer(
        work,
        train_loop_config=request,
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu, resources_per_worker=own),
        run_config=RunConfig(
            name=f"fit-{uuid.uuid4().hex[:8]}",  # a name that recurs would be taken for a run to be gone on with
            storage_path=str(Path(request["folder"]) / "ray"),
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray has several kinds, which change from version to version
        raise RuntimeError(
            f"workers were lost more often than max_failures={max_failures} allows, the last time because of: "
            f"{_cause(error)}. What they had done is in {request['folder']}: call fit again to go on from there"
        ) from error


def _cause(error: BaseException) -> str:
    """What a worker said, in a line."""
    failures = getattr(error, "worker_failures", None) or {}
    said = [f"worker {rank}: {str(e).strip().splitlines()[-1]}" for rank, e in failures.items() if str(e).strip()]
    return "; ".join(said) or str(error).strip().splitlines()[-1]


def work(request: dict[str, Any]) -> None:
    """Run one worker's part, a fit of its shard; the first one leaves the model and its trace in the folder.

    Args:
        request: what `fit` asks for.
    """
    import ray
    from ray import train

    context, folder = train.get_context(), Path(request["folder"])
    rank, world = context.get_world_rank(), context.get_world_size()
    blob, dataset = request["blob"], request["dataset"]
    try:
        if isinstance(dataset, dict):
            log = EventLog.read_parquet(**dataset)
            _check_ids(blob, log)
        else:
            log = ray.get(dataset)
        trace = blob.fit(log.shard(rank, world), checkpoint=folder / "checkpoint", **request["settings"])
        if rank == 0:
            blob.save(folder / "model")
            _write_trace(trace, folder / "trace.json")
    except tuple(_REFUSALS.values()) as error:
        if not _all_refuse(error, folder, rank, world):
            raise  # as whatever else ends a worker: Ray starts all of them again
    train.report({"rank": rank})


def _check_ids(blob: BLO | BLOB, log: EventLog) -> None:
    """Refuse, before anything is trained, item ids that the model could not be saved with."""
    savable_ids(log.items if isinstance(blob, BLO) else blob.items)


def _all_refuse(error: Exception, folder: Path, rank: int, world: int) -> bool:
    """Say whether every worker has been refused: starting them again would be of no use."""
    kind = next(name for name, kind in _REFUSALS.items() if isinstance(error, kind))
    (folder / f"refused-{rank}.json").write_text(json.dumps({"kind": kind, "message": str(error)}))
    for _ in range(int(_PATIENCE / 0.1)):
        if len(list(folder.glob("refused-*.json"))) >= world:
            return True
        time.sleep(0.1)
    (folder / f"refused-{rank}.json").unlink()
    return False


def _write_trace(trace: pd.DataFrame, path: Path) -> None:
    path.write_text(json.dumps({"columns": trace.to_dict("list"), "attrs": trace.attrs}, default=float))


def _read_trace(path: Path) -> pd.DataFrame:
    content = json.loads(path.read_text())
    trace = pd.DataFrame(content["columns"])
    trace.attrs.update(content["attrs"])
    return trace


def _take_over(blob: BLO | BLOB, path: Path) -> None:
    """Let a model answer from what the workers have learned."""
    device = blob.device
    try:
        fitted: Any = type(blob).load(path, device=device)
    except SavedModelError:  # it has parts of the user's own, which are not written
        fitted = _load_with_own_parts(blob, path, device)
    blob._parts, blob.fits = fitted._parts, fitted.fits


def _load_with_own_parts(blob: BLO | BLOB, path: Path, device: torch.device) -> Any:
    from copy import deepcopy

    blo = blob if isinstance(blob, BLO) else blob.blo
    own: dict[str, Any] = {} if blo.encoder_name else {"encoder": deepcopy(blo.guide.encoder)}
    if isinstance(blob, BLOB):
        own["priors"] = blob.model.priors
        if blob.guide_name is None:
            own["guide"] = deepcopy(blob._recipe)
    load: Callable[..., Any] = type(blob).load
    return load(path, device=device, **own)
