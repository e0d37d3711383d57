"""A guide that is a set of draws: what MCMC leaves."""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor

from blob_pyro.guides.registry import register_guide
from blob_pyro.models import BanditBatch, BanditModel
from blob_pyro.ops.names import unique_name

__all__ = ["DrawsGuide"]


@register_guide("nuts")
class DrawsGuide(PyroModule):
    """Plays one of its stored draws at random; filled by `blob_pyro.infer.nuts`.

    Args:
        model: whose sites it covers.
        num_draws: how many it holds, of all chains together. Before they are there, all are zero.
        num_chains: independent chains that they come from, one after the other, equally many of each: what convergence
            is judged by.

    Raises:
        ValueError: if the draws cannot be dealt out equally to the chains.
    """

    takes_checkpoint = False

    def __init__(self, model: BanditModel, num_draws: int = 1000, num_chains: int = 2) -> None:
        super().__init__(unique_name("bandit_guide"))
        if num_chains < 1 or num_draws % num_chains:
            raise ValueError(
                f"num_draws: must be a multiple of num_chains, so that every chain has as many; got {num_draws} draws "
                f"of {num_chains} chains"
            )
        self.num_draws, self.num_chains = num_draws, num_chains
        self.shapes = {name: prior.event_shape for name, prior in model.site_priors().items()}
        for name, shape in self.shapes.items():
            self.register_buffer(f"{name}_draws", model.item_embedding.new_zeros(num_draws, *shape))

    @property
    def draws(self) -> dict[str, Tensor]:
        """The draws, each ``num_draws x shape``, chain after chain."""
        return {name: getattr(self, f"{name}_draws") for name in self.shapes}

    def fill(self, draws: dict[str, Tensor]) -> None:
        """Take draws, each ``num_draws x shape``."""
        for name, values in draws.items():
            getattr(self, f"{name}_draws").copy_(values.reshape(self.num_draws, *self.shapes[name]))

    def take_over(self, old: DrawsGuide, priors: Mapping[str, TorchDistribution]) -> None:
        """Hold the draws of a guide of fewer items, beside draws of what is new from its prior."""
        for name, prior in priors.items():
            if name in self.shapes:
                values, known = prior.sample((self.num_draws,)), old.draws.get(name)
                if known is not None:
                    values[(slice(None), *(slice(size) for size in known.shape[1:]))] = known
                getattr(self, f"{name}_draws").copy_(values)

    def forward(self, batch: BanditBatch | None = None) -> dict[str, Tensor]:
        """Draw one of the draws, of all sites together."""
        values = self.draws
        weights = next(iter(values.values())).new_ones(self.num_draws)
        index = pyro.sample("draw", dist.Categorical(weights), infer={"is_auxiliary": True})
        return {
            name: pyro.sample(name, dist.Delta(value[index], event_dim=len(self.shapes[name])))
            for name, value in values.items()
        }
