"""Several machines, or processes, that fit one model or answer many contexts; and contexts that no memory holds.

A fit goes through Ray Train; by hand it is `EventLog.shard` and torchrun. What workers do is the ordinary step, summed
over them: see `blob_pyro.infer.training.workers`. `recommend` and `decide` write Parquet from Parquet, part by part, in
this process or through Ray Data. Ray starts the workers, restarts them where one was lost, and is an optional extra.
"""

from blob_pyro.distributed.ray_train import fit, require_ray
from blob_pyro.distributed.scoring import Scored, decide, recommend

__all__ = ["Scored", "decide", "fit", "recommend", "require_ray"]
