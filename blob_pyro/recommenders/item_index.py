"""An index of items by what their scores are linear in: the best few of a million, without looking at all of them."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from blob_pyro.ops.arguments import number_between, whole_number
from blob_pyro.ops.files import staged
from blob_pyro.ops.inner_products import largest_inner_products

__all__ = ["ItemIndex", "ProbedRecall", "nearest_neighbours"]

_LISTS_OF_ROOT = 1.0  # lists of an index, as a multiple of the root of the number of items
_OF_A_LIST, _ITERATIONS = 64, 8  # items of each list that k-means sees, and how often
_TOP = 100  # what recall is of
_RIDGE = 1e-3
_FORMAT = "item index 1"


class ProbedRecall(NamedTuple):
    """The number of cells that are looked at, and what part of the exact best items that finds.

    Attributes:
        num_probes: cells that are looked at for each context.
        recall: share of the exact top 100 (or fewer, of smaller catalogues) found, in contexts that the number was not
            chosen by; NaN where there were none.
    """

    num_probes: int
    recall: float


def nearest_neighbours() -> ModuleType:
    """Return the module of faiss, which is optional.

    Raises:
        ImportError: without it, naming the extra that brings it.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "method: 'approximate' needs faiss, a library of nearest neighbours: pip install 'blob-pyro[retrieval]'; "
            "'exact' needs none"
        ) from error
    module: ModuleType = faiss
    return module


class ItemIndex:
    r"""An inverted file of items for maximum inner products: k-means cells, of which a query looks at the best few.

    A score is :math:`\langle (\omega, 1), (\beta_p, \kappa_p) \rangle`: linear in the interest, with what items add
    by themselves as one more coordinate. Queries are brought to second moments of one, and items to the inverse scale,
    which leaves every product as it is: two items are near each other then if their scores are, on average over
    contexts, which is what cells are made by. Products within the cells looked at are exact.

    How many cells are looked at is chosen on sample queries, as the fewest that find the share ``recall`` of the exact
    top 100; the share is then measured on other queries: ``probed``. A catalogue without structure needs them all, and
    is found no faster than by an exact search.

    Args:
        table: coefficients of the scores, ``P x F``.
        axes: ``F x F``, what items are multiplied by from the right.
        centroids: ``C x F``, of the multiplied items.
        cell: of each item, ``P``, int64.
        probed: how many cells to look at.
        fingerprint: of the model that the table is of, and of how the index was made.

    Raises:
        ImportError: without faiss.
    """

    def __init__(
        self, table: Tensor, axes: Tensor, centroids: Tensor, cell: Tensor, probed: ProbedRecall, fingerprint: str
    ) -> None:
        faiss = nearest_neighbours()
        self.table, self.axes, self.centroids, self.cell = table, axes, centroids, cell
        self.probed, self.fingerprint = probed, fingerprint
        quantizer = faiss.IndexFlatIP(centroids.shape[1])
        quantizer.add(centroids.numpy())
        self._lists = faiss.IndexIVFFlat(quantizer, centroids.shape[1], len(centroids), faiss.METRIC_INNER_PRODUCT)
        self._quantizer = quantizer  # which the lists do not own
        self._lists.is_trained = True
        for rows, cells in zip(torch.arange(len(table)).split(1 << 16), cell.split(1 << 16)):
            items = (table[rows] @ axes).numpy()
            number = cells.contiguous().numpy()
            self._lists.add_core(len(items), faiss.swig_ptr(items), None, faiss.swig_ptr(number))

    @classmethod
    def build(
        cls,
        table: Tensor,
        queries: Tensor,
        *,
        recall: float = 0.99,
        num_lists: int | None = None,
        fingerprint: str = "",
        seed: int = 0,
    ) -> ItemIndex:
        """Make cells of the items, and choose how many of them are looked at.

        Args:
            table: coefficients of the scores, ``P x F``.
            queries: a sample of what they will be multiplied by, ``N x F``; half of them choose, the others measure.
            recall: share of the exact top 100 that is to be found.
            num_lists: cells; default the root of ``P``.
            fingerprint: of the model.
            seed: of k-means.
        """
        faiss = nearest_neighbours()
        recall = number_between(recall, "recall", 0, 1)
        lists = max(1, round(_LISTS_OF_ROOT * len(table) ** 0.5)) if num_lists is None else num_lists
        lists = min(whole_number(lists, "num_lists"), len(table))
        table, queries = table.detach().float().cpu().contiguous(), queries.detach().float().cpu()
        second = (queries.mT.double() @ queries.double()) / max(1, len(queries))
        second = second + _RIDGE * second.diagonal().mean().clamp_min(1e-12) * torch.eye(len(second)).double()
        axes = torch.linalg.cholesky(second).float().contiguous()
        kmeans = faiss.Kmeans(
            table.shape[1], lists, niter=_ITERATIONS, seed=seed, max_points_per_centroid=_OF_A_LIST,
            min_points_per_centroid=1,
        )  # fmt: skip
        source = torch.Generator().manual_seed(seed)
        sample = torch.randperm(len(table), generator=source)[: max(lists, _OF_A_LIST * lists)]
        kmeans.train((table[sample] @ axes).numpy())
        centroids = torch.from_numpy(np.array(kmeans.centroids))
        nearest = [_nearest(part @ axes, centroids) for part in table.split(1 << 14)]
        index = cls(table, axes, centroids, torch.cat(nearest), ProbedRecall(lists, 1.0), fingerprint)
        index._choose(queries, recall)
        return index

    def _choose(self, queries: Tensor, recall: float) -> None:
        """Find the fewest cells that do, in steps of a quarter."""
        choosing, measuring = queries[::2], queries[1::2]
        top = min(_TOP, len(self.table))
        exact = largest_inner_products(choosing, self.table, top)[1]
        probes = 1
        while probes < len(self.centroids) and self._recall(choosing, exact, probes) < recall:
            probes = min(len(self.centroids), max(probes + 1, probes * 5 // 4))
        measured = float("nan")
        if len(measuring):
            measured = self._recall(measuring, largest_inner_products(measuring, self.table, top)[1], probes)
        self.probed = ProbedRecall(probes, measured)

    def _recall(self, queries: Tensor, exact: Tensor, probes: int) -> float:
        found = self.search(queries, exact.shape[1], probes)[1]
        return float((found.unsqueeze(-1) == exact.unsqueeze(-2)).any(-2).double().mean()) if len(exact) else 1.0

    def search(self, queries: Tensor, k: int, num_probes: int | None = None) -> tuple[Tensor, Tensor]:
        """Find items with large scores: these, in falling order, and their numbers, ``N x k`` each.

        Args:
            queries: ``N x F``.
            k: 1 to ``P``; where the cells looked at hold fewer items, more cells are.
            num_probes: cells; default `probed`.
        """
        queries = queries.detach().float().cpu()
        probes = self.probed.num_probes if num_probes is None else num_probes
        turned = torch.linalg.solve_triangular(self.axes, queries.mT, upper=False).mT.contiguous()
        while True:
            self._lists.nprobe = probes
            score, item = map(torch.from_numpy, self._lists.search(turned.numpy(), k))
            if probes >= len(self.centroids) or not bool((item < 0).any()):
                break
            probes = min(len(self.centroids), 2 * probes)
        # Products anew, of what was found, with the numbers that an exact search multiplies.
        parts = [(self.table[i] @ q.unsqueeze(-1)).squeeze(-1) for i, q in zip(item.split(256), queries.split(256))]
        score = torch.cat(parts) if parts else score
        order = score.argsort(dim=-1, descending=True, stable=True)
        return score.gather(1, order), item.gather(1, order)

    def save(self, path: str | Path) -> None:
        """Write cells and settings, not the items themselves, in one move: a few bytes an item, no pickle."""
        tensors = {"axes": self.axes.contiguous(), "centroids": self.centroids, "cell": self.cell.to(torch.int32)}
        about = {"format": _FORMAT, "fingerprint": self.fingerprint, "probed": json.dumps(self.probed)}
        with staged(Path(path)) as file:
            file.write(safetensors.torch.save(tensors, metadata=about))

    @classmethod
    def load(cls, path: str | Path, table: Tensor, fingerprint: str) -> ItemIndex | None:
        """Read what `save` wrote; None where it is of another model, or made in another way.

        Args:
            path: the file.
            table: of the model's scores, now.
            fingerprint: as it would be now.

        Raises:
            ValueError: for a file that is no index, or not of a catalogue of this size.
        """
        try:
            with safetensors.safe_open(path, "pt") as file:
                about: dict[str, Any] = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(f"index: {path} cannot be read as an index of items: {error}; delete it") from None
        if about.get("format") != _FORMAT:
            raise ValueError(f"index: {path} is no index of items that this version writes; delete it")
        if about["fingerprint"] != fingerprint:
            return None
        if len(tensors["cell"]) != len(table):
            raise ValueError(f"index: {path} has {len(tensors['cell'])} items, expected {len(table)}; delete it")
        probed = ProbedRecall(*json.loads(about["probed"]))
        table = table.detach().float().cpu().contiguous()
        return cls(table, tensors["axes"], tensors["centroids"], tensors["cell"].long(), probed, fingerprint)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self.table):,} items in {len(self.centroids):,} cells, of which "
            f"{self.probed.num_probes:,} are looked at; recall {self.probed.recall:.4f})"
        )


def _nearest(items: Tensor, centroids: Tensor) -> Tensor:
    """The cell that each item is nearest to."""
    return (items @ centroids.mT - centroids.square().sum(-1) / 2).argmax(-1)
