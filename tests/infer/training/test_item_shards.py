"""Workers that each hold the rows of their own items end where one does that holds all, and hold as much less."""

import re
import signal
from contextlib import nullcontext

import pytest
import torch
from torch import nn

import blob_pyro.infer.training.loop as loop_module
from blob_pyro import BLO, EventLog
from blob_pyro.data import Histories
from blob_pyro.guides.encoders import PrecisionEncoder
from blob_pyro.infer import Bouchard, LogConcave, NotFiniteError, OneVsEach, RowwiseAdam
from blob_pyro.infer.training.item_shards import ItemShards
from blob_pyro.infer.training.run import Run
from blob_pyro.infer.training.workers import Workers
from blob_pyro.ops.item_tables import holder_of
from tests.workers import outcomes, results

NUM_ITEMS = 100_000
FIT = {"num_epochs": 2, "batch_size": 50, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def views():
    """Sessions of a few popular items and of any of very many, of unequal lengths."""
    draw = torch.Generator().manual_seed(3)
    user = torch.randint(60, (300,), generator=draw)
    item = torch.where(
        torch.rand(300, generator=draw) < 0.5,
        torch.randint(20, (300,), generator=draw),
        torch.randint(NUM_ITEMS, (300,), generator=draw),
    )
    none = dict.fromkeys(("user", "time", "action", "reward"), torch.zeros(0, dtype=torch.int64))
    return EventLog.from_arrays(NUM_ITEMS, view_user=user, view_time=torch.arange(300), view_item=item, **none)


def values(*modules: nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().double() for m in modules for value in m.state_dict().values()])


def fit(rank, world, log, kind, options):
    blo = BLO(NUM_ITEMS, embedding_dim=3, sparse=True, **kind)
    trace = blo.fit(log if rank is None else log.shard(rank, world), **{**FIT, **options})
    tables = (blo.model.item_embedding, blo.model.item_intercept)
    assert all(holder_of(table) is None and len(table) == NUM_ITEMS for table in tables)
    assert blo.recommend([[1, 2], []], k=3) is not None
    return values(blo.model, blo.guide), trace


def fit_in_double(*arguments):
    torch.set_default_dtype(torch.float64)
    return fit(*arguments)


def require_close(found, expected):
    for learned, trace in found:
        assert torch.equal(learned, found[0][0])
        scale = max(1.0, float(expected[0].abs().max()))
        assert (learned - expected[0]).abs().max() < 1e-6 * scale
        assert trace["elbo"].tolist() == pytest.approx(expected[1]["elbo"].tolist(), rel=1e-6)


@pytest.mark.parametrize(("world", "encoder"), [(2, "precision"), (3, "linear"), (2, "deep")])
def test_items_by_shares_are_learned_as_by_one_worker_with_all(views, world, encoder):
    """Negatives of one-vs-each are the same for all workers, so that the fit is that of one process."""
    kind = {"bound": OneVsEach(num_negatives=32), "encoder": encoder}
    options = {"clip_norm": 1.0}  # which all rows' gradients decide
    expected = fit(None, None, views, kind, options)
    start = BLO(NUM_ITEMS, embedding_dim=3, sparse=True, **kind)
    assert (expected[0] - values(start.model, start.guide)).abs().max() > 0.01
    require_close(results(fit, world, views, kind, {**options, "shard_items": True}), expected)


@pytest.mark.parametrize("bound", [Bouchard(num_negatives=16), LogConcave(num_negatives=16)])
def test_bounds_over_what_a_worker_has_viewed_are_those_of_whole_tables(views, bound):
    """What the others have viewed is no part of a worker's estimate, with whole tables either.

    In double precision: the first step of a row is as long whatever its gradient, a rounding unit of it too.
    """
    kind, options = {"bound": bound}, {"validation": views}
    expected = results(fit_in_double, 2, views, kind, options)
    require_close(results(fit_in_double, 2, views, kind, {**options, "shard_items": True}), expected[0])
    assert expected[0][1]["validation_elbo"].notna().all()


def held(rank, world, log, options):
    """Bytes of tables, of what the optimiser knows of their rows, and of the copies that a fit keeps."""
    found = []

    class Watched(Run):
        def epoch(self):
            super().epoch()
            states = [
                v for o in self.optimizers if isinstance(o, RowwiseAdam) for s in o.state.values() for v in s.values()
            ]
            tables = [p for p in self.parameters if p.dim() and len(p) > 1000]
            found.append([sum(t.nbytes for t in some) for some in (tables, states, self.last + self.before)])

    loop_module.Run = Watched
    fit(rank, world, log, {"bound": OneVsEach(num_negatives=32)}, options)
    return found[-1]


def test_a_worker_holds_its_share(views):
    whole = results(held, 2, views, {})
    parts = results(held, 2, views, {"shard_items": True})
    for one, other, all_rows in zip(*parts, whole[0]):
        assert one == pytest.approx(other, rel=1e-3)
        assert one == pytest.approx(all_rows / 2, rel=0.01)


def _fit_and_fall(rank, world, log, kind, options):
    """Worker 1 falls in the third epoch."""

    class Falling(Run):
        def epoch(self):
            if len(self.rows) == 2 and rank == 1:
                raise KeyError("fallen")
            super().epoch()

    loop_module.Run = Falling
    return fit(rank, world, log, kind, options)


def test_a_checkpoint_of_two_goes_on_with_three_and_with_one(views, tmp_path):
    kind, options = {"bound": OneVsEach(num_negatives=32)}, {"num_epochs": 4, "shard_items": True}
    expected = results(fit, 2, views, kind, options)[0]
    options["checkpoint"] = tmp_path / "run"
    fell = outcomes(_fit_and_fall, 2, views, kind, options)
    assert [error[0] for error, _ in fell] == ["WorkerLost", "KeyError"]
    kept = (tmp_path / "run").read_bytes()
    for world in (3, 1):
        (tmp_path / "run").write_bytes(kept)
        found = results(fit, world, views, kind, options)
        assert found[0][1].attrs["resumed_from_epoch"] == 2
        require_close(found, expected)
    refused = outcomes(fit, 2, views, kind, {**options, "shard_items": False})
    assert all("is of another fit" in error[1] for error, _ in refused)


def what_is_kept(rank, world, log, kind, options):
    """The numbers that a worker puts together for a checkpoint, and that what it goes on from holds in memory."""
    kept, known = [], []

    class Watched(Run):
        def state(self):
            found = super().state()
            states = [s for o in found["optimizers"] for s in o["state"].values()]
            kept.append(sum(t.numel() for t in (*found["last"], *(v for s in states for v in s.values()))))
            return found

        def restore(self, *arguments):
            super().restore(*arguments)
            states = [s for o in self.optimizers if isinstance(o, RowwiseAdam) for s in o.state.values()]
            known.append(sum(v.untyped_storage().nbytes() // v.element_size() for s in states for v in s.values()))

    loop_module.Run = Watched
    fit(rank, world, log, kind, {**options, "shard_items": True})
    return kept, known


def test_a_checkpoint_is_whole_at_the_first_worker_only(views, tmp_path):
    """And of what it goes on from, each keeps its share."""
    kind, options = {"bound": OneVsEach(num_negatives=32)}, {"checkpoint": tmp_path / "run"}
    (first, _), (other, _) = results(what_is_kept, 2, views, kind, options)
    states = 2 * 4 * NUM_ITEMS
    assert first[-1] == pytest.approx(states + (3 * 3 + 1) * NUM_ITEMS, rel=1e-3)
    assert other[-1] < 100
    for _, known in results(what_is_kept, 2, views, kind, options):
        assert known == [states // 2]


def press_at_the_end(rank, world, log):
    """Ctrl-C comes to worker 1 as the tables are given back."""
    give_back = ItemShards.give_back

    def pressed(shards):
        if rank == 1:
            signal.raise_signal(signal.SIGINT)
        give_back(shards)

    ItemShards.give_back = pressed
    blo = BLO(NUM_ITEMS, embedding_dim=3, sparse=True, bound=OneVsEach(num_negatives=32))
    with pytest.raises(KeyboardInterrupt) if rank == 1 else nullcontext():
        blo.fit(log.shard(rank, world), **FIT, shard_items=True)
    assert holder_of(blo.model.item_embedding) is None
    return values(blo.model, blo.guide), len(blo.fits)


def test_ctrl_c_as_tables_are_given_back_waits_until_they_are(views):
    (one, fits), (other, same) = results(press_at_the_end, 2, views)
    assert torch.equal(one, other)
    assert fits == same == 1


DIFFERENT = {
    "shard_items: True there, False here": {"shard_items": False},
    r"item_embedding: '\(100000, 3\)' there, '\(100000, 5\)' here": {"embedding_dim": 5},
    "bound: .*OneVsEach there, .*Bouchard here": {"bound": Bouchard(num_negatives=32)},
    "sparse: True there, False here": {"sparse": False},
}


def fit_otherwise(rank, world, log, change):
    kind = {"embedding_dim": 3, "sparse": True, "bound": OneVsEach(num_negatives=32), "shard_items": True}
    kind.update(change if rank == 1 else {})
    shard_items = kind.pop("shard_items")
    BLO(NUM_ITEMS, **kind).fit(log.shard(rank, world), shard_items=shard_items, **FIT)


@pytest.mark.parametrize("message", DIFFERENT)
def test_workers_that_would_exchange_other_rows_are_told_before_they_do(views, message):
    for error, _ in outcomes(fit_otherwise, 2, views, DIFFERENT[message], seconds=60):
        assert error[0] == "WorkersDiffer"
        assert re.search(f"worker 1 of 2: is not at one with worker 0 \\(there\\): .*{message}", error[1])


def test_a_worker_without_a_view_held_out_takes_part_in_exchanges(views):
    """Sessions that are empty name no row, but the others wait for an answer."""
    held_out = Histories.from_sequences([[], [1, 2], [], [4]], NUM_ITEMS)
    kind, options = {"bound": OneVsEach(num_negatives=32)}, {"validation": held_out}
    expected = fit(None, None, views, kind, options)
    for _, trace in results(fit, 2, views, kind, {**options, "shard_items": True}, seconds=60):
        wanted = expected[1]["validation_elbo"].tolist()
        assert trace["validation_elbo"].tolist() == pytest.approx(wanted, rel=1e-5)


def fit_own_encoder(rank, world, log):
    blo = BLO(
        log.num_items, embedding_dim=3, sparse=True, bound=OneVsEach(num_negatives=8),
        encoder=PrecisionEncoder(log.num_items, 3),
    )  # fmt: skip
    options = {**FIT, "batch_size": 100, "num_epochs": 1}
    blo.fit(log if rank is None else log.shard(rank, world), **options, shard_items=rank is not None)
    return values(blo.model)


def test_a_dense_encoder_fetches_rows_though_a_step_has_more_views_than_there_are_items():
    draw = torch.Generator().manual_seed(5)
    few, num_views = 1100, 6000
    none = dict.fromkeys(("user", "time", "action", "reward"), torch.zeros(0, dtype=torch.int64))
    item = torch.randint(few, (num_views,), generator=draw)
    time = torch.arange(num_views)
    log = EventLog.from_arrays(few, view_user=time % 100, view_time=time, view_item=item, **none)
    assert num_views / 2 > few
    for found in results(fit_own_encoder, 2, log):
        assert found.isfinite().all()


def refusal(rank, world, log, kind, options):
    BLO(kind.pop("num_items", NUM_ITEMS), embedding_dim=3, **kind).fit(
        log.shard(rank, world), shard_items=True, **FIT, **options
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"bound": OneVsEach(num_negatives=32)}, "make it with sparse=True"),
        ({"sparse": True, "bound": "one_vs_each"}, "with num_negatives"),
        (
            {"sparse": True, "bound": "reparameterized"},
            "take one of Bouchard, LogConcave, OneVsEach with num_negatives",
        ),
    ],
)
def test_what_reads_every_row_is_refused(views, kind, words):
    for error, _ in outcomes(refusal, 2, views, kind, {}):
        assert error[0] == "ValueError"
        assert "shard_items: " in error[1]
        assert words in error[1]


class _Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(NUM_ITEMS, 3))
        self.item_tables = ("table",)

    def forward(self, histories):
        loc = histories.sum_rows(self.table)
        return loc, torch.ones_like(loc)


def test_encoders_of_others_and_small_catalogues_are_refused(views):
    bound = OneVsEach(num_negatives=32)
    blo = BLO(NUM_ITEMS, embedding_dim=3, sparse=True, bound=bound, encoder=_Own())
    with pytest.raises(ValueError, match="the encoder is a _Own, which may read rows that are elsewhere"):
        blo.fit(views.shard(0, 1), shard_items=True, **FIT)
    blo = BLO(NUM_ITEMS, embedding_dim=3, sparse=True, bound=bound)
    with pytest.raises(ValueError, match=r"fit log.shard\(rank, world\), or leave it out"):
        blo.fit(views, shard_items=True, **FIT)
    few = EventLog.from_tables(
        views={"user": [1, 1], "time": [0, 1], "item": [0, 1]},
        impressions={"user": [1], "time": [2], "action": [1], "reward": [0]},
        items=list(range(50)),
    )
    with pytest.raises(ValueError, match="for catalogues of more than 1024 items, got 50"):
        BLO(50, embedding_dim=3, sparse=True, bound=bound).fit(few.shard(0, 1), shard_items=True, **FIT)
    bound = LogConcave(num_negatives=NUM_ITEMS)
    with pytest.raises(ValueError, match="its offsets from all 100000 items; take num_negatives below that"):
        BLO(NUM_ITEMS, embedding_dim=3, sparse=True, bound=bound).fit(views.shard(0, 1), shard_items=True, **FIT)


def fit_to_ruin(rank, world, log, options):
    """One worker's rows are no numbers from the second epoch on."""

    class Ruined(Run):
        def epoch(self):
            if len(self.rows) == 1 and rank == 1:
                max(self.parameters, key=torch.numel).data.fill_(float("nan"))
            super().epoch()

    said, give_back, leave = [], ItemShards.give_back, Workers.leave_together
    ItemShards.give_back = lambda shards: (said.append("give back"), give_back(shards))
    Workers.leave_together = lambda workers: (said.append("leave together"), leave(workers))
    loop_module.Run = Ruined
    blo = BLO(NUM_ITEMS, embedding_dim=3, sparse=True, bound=OneVsEach(num_negatives=32))
    with pytest.raises(NotFiniteError) as caught:
        blo.fit(log.shard(rank, world), **{**FIT, **options})
    finite = bool(values(blo.model, blo.guide).isfinite().all())
    return str(caught.value), len(blo.model.item_embedding), finite, said[-2:]


def test_a_fit_that_diverges_ends_everywhere_with_a_whole_model(views):
    found = results(fit_to_ruin, 2, views, {"shard_items": True})
    assert found[0] == found[1]
    assert "not finite at epoch 2" in found[0][0]
    assert "as it was after epoch 1" in found[0][0]
    assert found[0][1:] == (NUM_ITEMS, True, ["give back", "leave together"])
