"""Training defaults: how a guide likes to be trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["TrainingDefaults"]


@dataclass(frozen=True)
class TrainingDefaults:
    """Settings of `blob_pyro.BLOB.fit` where its caller says nothing: the attribute ``training_defaults`` of a guide.

    Events differ in how much they say of an item, and most items get few: steps over all events at once leave nothing
    of that to chance, and are affordable up to some hundred thousand. A guide whose sites are sampled, not projected,
    is noisy whatever the batch, and does better with many small steps.

    Args:
        num_steps: at least.
        batch_size: events per step, at most.
        learning_rate: peak of Adam's one-cycle schedule.
        capture: "auto" if all that a call of the guide does is the same tensor operations every time, so that a step
            may be recorded and replayed: see `blob_pyro.infer.training.capture`. False for one that counts its calls.
        start: "guide" if training begins where the guide was made; "prior" if it is first moved near the prior, where
            the library's own guides start, unless its own start is better: see `blob_pyro.infer.start`.
    """

    num_steps: int = 1000
    batch_size: int = 4096
    learning_rate: float = 0.03
    capture: Literal["auto", False] = False
    start: Literal["guide", "prior"] = "guide"

    def epochs(self, num_rows: int, batch_size: int) -> int:
        """Return the number of passes over the rows that make up the steps: 3 at least."""
        return max(3, -(-self.num_steps // -(-num_rows // max(batch_size, 1))))
