"""Kill fits and saves at seeded places, and look at what they leave; run by `test_killed.py` in a process of its own.

    python killing.py '[["save", "line", 50, 0], ["normal", "interrupt", 20, 1]]'   # scenario, how, trials, seed

Every trial runs in a fork of this process, which has imported torch and done nothing with it. The fork is killed by
itself at the n-th line that it runs of the files that write (``line``), from outside after a while (``time``), or
interrupted at such a line as by Ctrl-C (``interrupt``). A second fork then does the same from where the first has left
it. The results are printed as JSON: how many trials were killed, and what was wrong.
"""

import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # an optimiser's first step imports it: once here, rather than in every fork

from blob_pyro import BLO, BLOB, BanditPriors
from blob_pyro.infer.training import checkpoints, loop
from blob_pyro.infer.training import run as training_run
from blob_pyro.ops import files
from blob_pyro.ops.fingerprints import content_hash
from blob_pyro.serialization import folder
from tests.serialization.make_fixtures import HISTORIES, make_log

WATCHED = {module.__file__ for module in (checkpoints, loop, training_run, files, folder)}
QUICK = {"progress": False, "device": "cpu"}
EPOCHS = 4
LOG = make_log()


class Stopper:
    """Counts lines of the watched files; sends this process a signal at one of them."""

    def __init__(self, at: int | None, what: int) -> None:
        self.at, self.what, self.lines = at, what, 0

    def __call__(self, frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                if self.what == signal.SIGKILL:
                    os.kill(os.getpid(), signal.SIGKILL)
                signal.raise_signal(self.what)
        return self


def in_fork(
    work: Callable[[], Any], at: int | None = None, what: int = signal.SIGKILL, after: float | None = None
) -> tuple[int, Any]:
    """Run something in a fork: the signal that ended it (0 for none), what it returned and how many lines it ran."""
    with tempfile.TemporaryDirectory() as place:
        result = Path(place) / "result"
        child = os.fork()
        if not child:
            try:
                stopper = Stopper(at, what)
                sys.settrace(stopper)
                try:
                    value = work()
                except KeyboardInterrupt:
                    value = "interrupted"
                sys.settrace(None)
                result.write_text(json.dumps({"value": value, "lines": stopper.lines}))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        if after is not None:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return os.WTERMSIG(status), None
        return 0, json.loads(result.read_text()) if result.exists() else {"value": f"died with {status}", "lines": 0}


def digest(*modules: torch.nn.Module) -> str:
    return content_hash([dict(m.state_dict()) for m in modules])


def watch_epochs() -> dict[int, str]:
    """What model and guide are after each epoch of the fits to come."""
    seen = {}
    original = training_run.Run.epoch

    def epoch(run: Any) -> None:
        original(run)
        seen[len(run.rows)] = digest(run.model, run.guide)

    training_run.Run.epoch = epoch
    return seen


def fit_organic(place: Path) -> dict[str, Any]:
    model = BLO(5, embedding_dim=2)
    return fit(model, place, batch_size=2)


def fit_bandit(guide: str) -> Callable[[Path], dict[str, Any]]:
    def run(place: Path) -> dict[str, Any]:
        torch.manual_seed(3)  # of what is constructed outside a fit
        blo = BLO.load(place.parent / "organic", device="cpu")
        priors = BanditPriors(w_b=-3.0, kappa_scale=0.3)  # nothing to search: where "low_rank" starts is no matter here
        return fit(BLOB(blo, guide, priors), place, batch_size=8)

    return run


def fit(model: BLO | BLOB, place: Path, **options: Any) -> dict[str, Any]:
    seen = watch_epochs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            history = model.fit(LOG, num_epochs=EPOCHS, checkpoint=place / "run", **options, **QUICK)
        except KeyboardInterrupt:
            if model.fitted:
                return {"epochs": -1}
            return {"epochs": 0}
    return {"epochs": len(history), "digest": digest(model.model, model.guide), "seen": seen}


FITS = {
    "organic": fit_organic, "normal": fit_bandit("normal"), "matrix_normal": fit_bandit("matrix_normal"),
    "low_rank": fit_bandit("low_rank"),
}  # fmt: skip


def trials_of_fits(name: str, how: str, trials: int, rng: random.Random, place: Path) -> dict[str, Any]:
    """Killed or interrupted, then gone on with: the same floats as without."""
    in_fork(lambda: BLO.save(fitted_organic(0), place / "organic"))
    run = FITS[name]
    (place / "whole").mkdir()
    start = time.perf_counter()
    _, whole = in_fork(lambda: run(place / "whole"))
    seconds = time.perf_counter() - start
    wrong, stopped = [], 0
    for trial in range(trials):
        here = place / f"trial-{trial}"
        here.mkdir()
        at, after = rng.randint(1, whole["lines"]), rng.uniform(0, seconds)
        what = signal.SIGINT if how == "interrupt" else signal.SIGKILL
        ended, first = in_fork(
            partial(run, here), None if how == "time" else at, what, after if how == "time" else None
        )
        stopped += ended == signal.SIGKILL or how == "interrupt"
        where = f"trial {trial}, line {at}"
        if first is not None and how == "interrupt":
            value = first["value"]
            epochs = value["epochs"] if isinstance(value, dict) else 0
            if epochs > 0 and value["digest"] != whole["value"]["seen"][str(epochs)]:
                wrong.append(f"{where}: not the model of epoch {epochs}")
            if epochs < 0:
                wrong.append(f"{where}: fitted, and yet stopped before its end")
        if (here / "run").exists():
            checkpoints.load_checkpoint(here / "run")
        _, again = in_fork(partial(run, here))
        if again["value"].get("digest") != whole["value"]["digest"]:
            wrong.append(f"{where}: other floats")
        if left := sorted(p.name for p in here.iterdir() if p.name != "run"):
            wrong.append(f"{where}: left {left}")
    return {"stopped": stopped, "wrong": wrong}


def fitted_organic(seed: int) -> BLO:
    blo = BLO(5, embedding_dim=2)
    blo.fit(LOG, num_epochs=2, seed=seed, **QUICK)
    return blo


def scores(path: Path) -> str:
    return hashlib.sha256(BLO.load(path, device="cpu").scores(HISTORIES).numpy().tobytes()).hexdigest()


def trials_of_saves(how: str, trials: int, rng: random.Random, place: Path) -> dict[str, Any]:
    """Killed or interrupted while it replaces a model, or writes a first one: the old model or the new one."""
    for seed in (0, 1):
        in_fork(lambda seed=seed: fitted_organic(seed).save(place / f"model-{seed}"))
    old, new = (BLO.load(place / f"model-{seed}", device="cpu") for seed in (0, 1))
    known = {scores(place / f"model-{seed}"): seed for seed in (0, 1)}
    wrong, stopped, found = [], 0, [0, 0]
    for trial in range(trials):
        here = place / f"trial-{trial}" / "model"
        first = trial % 3 == 0
        if not first:
            old.save(here)
        here.parent.mkdir(exist_ok=True)
        count = place / f"count-{trial}" / "model"
        count.parent.mkdir()
        if not first:
            old.save(count)
        start = time.perf_counter()
        lines = in_fork(partial(new.save, count))[1]["lines"]
        seconds = time.perf_counter() - start
        at, after = rng.randint(1, lines), rng.uniform(0, seconds)
        what = signal.SIGINT if how == "interrupt" else signal.SIGKILL
        ended, _ = in_fork(
            partial(new.save, here), None if how == "time" else at, what, after if how == "time" else None
        )
        stopped += ended == signal.SIGKILL or how == "interrupt"
        where = f"trial {trial}, line {at} of {lines}"
        if here.exists():
            seed = known.get(scores(here))
            if seed is None or (first and seed == 0):
                wrong.append(f"{where}: another model")
            else:
                found[seed] += 1
            names = [p.name for p in here.iterdir() if not p.name.startswith(".")]
            if sorted(names) != [folder.CONFIG, folder.MANIFEST, folder.STATE]:
                wrong.append(f"{where}: {names}")
        elif not first:
            wrong.append(f"{where}: no model")
        in_fork(partial(new.save, here))
        if known[scores(here)] != 1:
            wrong.append(f"{where}: not saved afterwards")
        if sorted(p.name for p in here.iterdir()) != [folder.CONFIG, folder.MANIFEST, folder.STATE]:
            wrong.append(f"{where}: left {[p.name for p in here.iterdir()]}")
        if [p.name for p in here.parent.iterdir()] != ["model"]:
            wrong.append(f"{where}: left {[p.name for p in here.parent.iterdir()]}")
    return {"stopped": stopped, "wrong": wrong, "old": found[0], "new": found[1]}


def race(trials: int, place: Path) -> dict[str, Any]:
    """Two processes save to one place, this one loads meanwhile: one of the two models, every time."""
    for seed in (0, 1):
        in_fork(lambda seed=seed: fitted_organic(seed).save(place / f"model-{seed}"))
    models = [BLO.load(place / f"model-{seed}", device="cpu") for seed in (0, 1)]
    known = {scores(place / f"model-{seed}"): seed for seed in (0, 1)}
    shared = place / "shared" / "model"
    writers = []
    for model in models:
        writer = os.fork()
        if not writer:
            try:
                for _ in range(trials):
                    model.save(shared)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        writers.append(writer)
    wrong, found, running = [], [0, 0], set(writers)
    while running:
        for writer in list(running):
            ended, status = os.waitpid(writer, os.WNOHANG)
            if ended:
                running.discard(writer)
                if status:
                    wrong.append(f"a writer died with {status}")
        if shared.exists():
            seed = known.get(scores(shared))
            if seed is None:
                wrong.append("another model")
            else:
                found[seed] += 1
    if sorted(p.name for p in shared.iterdir()) != [folder.CONFIG, folder.MANIFEST, folder.STATE]:
        wrong.append(f"left {[p.name for p in shared.iterdir()]}")
    if [p.name for p in shared.parent.iterdir()] != ["model"]:
        wrong.append(f"left {[p.name for p in shared.parent.iterdir()]}")
    return {"stopped": trials, "wrong": wrong, "old": found[0], "new": found[1]}


def run(scenario: str, how: str, trials: int, seed: int) -> dict[str, Any]:
    """One scenario in a folder of its own."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        if scenario == "save":
            return trials_of_saves(how, trials, rng, Path(place))
        if scenario == "race":
            return race(trials, Path(place))
        return trials_of_fits(scenario, how, trials, rng, Path(place))


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps([run(*request) for request in json.loads(sys.argv[1])]))  # noqa: T201
