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

_OF_A_LIST, _ITERATIONS = 64, 8  # items of each list that k-means sees, and how often
_TOP = 100  # what recall is of
_RIDGE = 1e-3
_FORMAT = "item index 2"
_BITS, _TRAINED_ON = 4, 1 << 16  # of a number that is compared first, and items that these are chosen by
_MULTIPLES = (2, 3, 4, 6, 8, 12, 16, 24, 32)
_QUERIES = 1024  # at once: what is kept of each is some hundred candidates


class ProbedRecall(NamedTuple):
    """The number of cells that are looked at, and what part of the exact best items that finds.

    Attributes:
        num_probes: cells that are looked at for each context.
        multiple: candidates whose scores are computed exactly, as a multiple of the items asked for.
        recall: share of the exact top 100 (or fewer, of smaller catalogues) found, in contexts that the number was not
            chosen by; NaN where there were none.
    """

    num_probes: int
    multiple: int
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

    In the cells looked at, items are first compared by numbers of four bits, what each differs from its cell's middle
    by, which are added up many at a time (André, Kermarrec & Le Scouarnec 2017, *Accelerated nearest neighbor search
    with Quick ADC*). Of the candidates that this finds, a multiple of the items asked for, the exact products decide.

    How many cells are looked at, and what multiple, is chosen on sample queries, as the fewest that find the share
    ``recall`` of the exact top 100, by more than the standard error of the share; it is then measured on other queries:
    ``probed``. A catalogue without structure needs them all, and is found no faster than by an exact search.

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
        size = centroids.shape[1]
        quantizer = faiss.IndexFlatIP(size)
        quantizer.add(centroids.numpy())
        lists = faiss.IndexIVFPQ(quantizer, size, len(centroids), size, _BITS, faiss.METRIC_INNER_PRODUCT)
        lists.by_residual = lists.is_trained = True
        lists.pq.cp.min_points_per_centroid = 1
        lists.pq.train(self._differences(_some(len(table))).numpy())
        for rows in torch.arange(len(table)).split(1 << 16):
            items, number = (table[rows] @ axes).numpy(), cell[rows].contiguous().numpy()
            lists.add_core(len(items), faiss.swig_ptr(items), None, faiss.swig_ptr(number))
        self._lists = faiss.IndexIVFPQFastScan(lists)
        self._quantizer = quantizer  # which the lists do not own

    def _differences(self, rows: Tensor) -> Tensor:
        """What some items differ from their cell's middle by."""
        return (self.table[rows] @ self.axes - self.centroids[self.cell[rows]]).contiguous()

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
            num_lists: cells; default twice the root of ``P``.
            fingerprint: of the model.
            seed: of k-means.
        """
        faiss = nearest_neighbours()
        recall = number_between(recall, "recall", 0, 1)
        lists = max(1, round(2 * len(table) ** 0.5)) if num_lists is None else num_lists
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
        index = cls(table, axes, centroids, torch.cat(nearest), ProbedRecall(lists, 1, 1.0), fingerprint)
        index._choose(queries, recall)
        return index

    def _choose(self, queries: Tensor, recall: float) -> None:
        """Find the fewest cells that do, with half of what may be missed, and then the fewest candidates."""
        choosing, measuring = queries[::2], queries[1::2]
        top = min(_TOP, len(self.table))
        exact = largest_inner_products(choosing, self.table, top)[1]
        order = (self._turned(choosing) @ self.centroids.mT).argsort(-1, descending=True)
        at = order.argsort(-1).gather(-1, self.cell[exact])  # how manyth each query's best items' cells are
        probes = 1
        while probes < len(self.centroids) and not _reaches(at < probes, (1 + recall) / 2):
            probes = min(len(self.centroids), max(probes + 1, probes * 9 // 8))
        for multiple in _MULTIPLES:
            self.probed = ProbedRecall(probes, multiple, float("nan"))
            if _reaches(self._found(choosing, exact), recall):
                break
        if len(measuring):
            exact = largest_inner_products(measuring, self.table, top)[1]
            self.probed = self.probed._replace(recall=float(self._found(measuring, exact).double().mean()))

    def _found(self, queries: Tensor, exact: Tensor) -> Tensor:
        """Which of the exact best items a search finds, of the shape of ``exact``."""
        found = self.search(queries, exact.shape[1])[1]
        return (exact.unsqueeze(-1) == found.unsqueeze(-2)).any(-1)

    def _turned(self, queries: Tensor) -> Tensor:
        """Queries in the axes that items' cells are made in."""
        turned: Tensor = torch.linalg.solve_triangular(self.axes, queries.mT, upper=False)
        return turned.mT.contiguous()

    def search(
        self, queries: Tensor, k: int, num_probes: int | None = None, multiple: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Find items with large scores: these, in falling order, and their numbers, ``N x k`` each.

        Args:
            queries: ``N x F``.
            k: 1 to ``P``; where the cells looked at hold fewer items, more cells are.
            num_probes: cells; default `probed`.
            multiple: of ``k``, how many candidates are scored exactly; default `probed`.
        """
        queries = queries.detach().float().cpu().contiguous()
        probes = self.probed.num_probes if num_probes is None else num_probes
        multiple = self.probed.multiple if multiple is None else multiple
        wanted = min(len(self.table), multiple * k)
        found = [self._search(part, k, wanted, probes) for part in queries.split(_QUERIES)]
        score, item = (torch.cat(parts) for parts in zip(*found))
        return score, item

    def _search(self, queries: Tensor, k: int, wanted: int, probes: int) -> tuple[Tensor, Tensor]:
        faiss, turned = nearest_neighbours(), self._turned(queries).numpy()
        while True:
            self._lists.nprobe = probes
            item = np.sort(self._lists.search(turned, wanted)[1], -1)  # neighbours in memory after each other
            if probes >= len(self.centroids) or not len(item) or item[:, -k].min() >= 0:
                break
            probes = min(len(self.centroids), 2 * probes)
        score = np.empty(item.shape, dtype=np.float32)  # minus infinity where there is no candidate
        pointers = [faiss.swig_ptr(a) for a in (score, queries.numpy(), self.table.numpy(), item)]
        faiss.fvec_inner_products_by_idx(*pointers, self.table.shape[1], *item.shape)
        best, at = torch.from_numpy(score).topk(k, -1)
        order = best.argsort(dim=-1, descending=True, stable=True)
        return best.gather(1, order), torch.from_numpy(item).gather(1, at).gather(1, order)

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


def _some(num_items: int) -> Tensor:
    """Items that small numbers are chosen by: some of many, and few of them many times."""
    return torch.arange(_TRAINED_ON) * num_items // _TRAINED_ON


def _reaches(found: Tensor, share: float) -> bool:
    """Whether queries find a share of what they are to find, by more than the standard error of its mean."""
    if not len(found) or bool(found.all()):
        return True
    each = found.double().mean(-1)
    return float(each.mean() - each.std(correction=0) / len(each) ** 0.5) >= share
