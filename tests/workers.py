"""Workers for tests: processes forked from this one, so that nothing is imported again, in a group of their own."""

import multiprocessing
import os
import pickle
import signal
import tempfile
import traceback
from contextlib import contextmanager

import torch


def _work(act, rank, world, folder, pipe, arguments):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests in the background ignores it
    try:
        if world > 1:
            store = f"file://{folder}/store"
            torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
        result = (None, act(rank, world, *arguments))
    except BaseException as error:
        result = ((type(error).__name__, str(error), traceback.format_exc()), None)
    pipe.send_bytes(pickle.dumps(result))
    pipe.close()
    os._exit(0)  # nothing of pytest's is to end twice


@contextmanager
def started(act, world, *arguments):
    """Workers that run ``act(rank, world, *arguments)``: their processes, and the ends of their pipes."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        ends = [context.Pipe(duplex=False) for _ in range(world)]
        workers = [
            context.Process(target=_work, args=(act, rank, world, folder, ends[rank][1], arguments), daemon=True)
            for rank in range(world)
        ]
        for worker in workers:
            worker.start()
        try:
            yield workers, [end for end, _ in ends]
        finally:
            for worker in workers:
                worker.join(0.1)
                if worker.is_alive():
                    worker.kill()
                worker.join()


def outcomes(act, world, *arguments, seconds=180):
    """What each worker returned, or ``(kind, message, traceback)`` of what it raised."""
    with started(act, world, *arguments) as (_, ends):
        return [received(end, seconds) for end in ends]


def received(end, seconds=180):
    """What came through the end of a worker's pipe."""
    assert end.poll(seconds), "a worker hangs"
    return pickle.loads(end.recv_bytes())


def results(act, world, *arguments, seconds=180):
    """What each worker returned."""
    found = outcomes(act, world, *arguments, seconds=seconds)
    failed = [f"worker {rank}: {error[2]}" for rank, (error, _) in enumerate(found) if error is not None]
    assert not failed, "\n".join(failed)
    return [result for _, result in found]
