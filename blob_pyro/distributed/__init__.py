"""Several machines, or processes, that fit one model: through Ray Train; by hand it is `EventLog.shard` and torchrun.

What they do is the ordinary training step, summed over workers: see `blob_pyro.infer.training.workers`. Ray starts the
workers, restarts them where one was lost, and is an optional extra.
"""

from blob_pyro.distributed.ray_train import fit, require_ray

__all__ = ["fit", "require_ray"]
