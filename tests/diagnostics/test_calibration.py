"""A good guide is calibrated; guides that are too narrow, too wide or off are found, and named for what they are."""

import matplotlib
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from matplotlib import pyplot
from scipy import stats

from blob_pyro import BLO, BLOB, BanditPriors
from blob_pyro.diagnostics import Calibration, calibrate
from blob_pyro.guides import LaplaceGuide
from blob_pyro.infer import fit_guide
from blob_pyro.infer.laplace.fit import fit_laplace
from tests.diagnostics.stopped import Stopped

matplotlib.use("Agg")


class Planted(LaplaceGuide):
    """Laplace's Gaussian, with standard deviations times ``width`` and a mean that is ``shift`` of them off."""

    width, shift = 1.0, 0.0


@fit_guide.register
def _(guide: Planted, request):
    trace = fit_laplace(guide, request.model, request.batch, progress=False)
    deviation = guide.multivariate().variance.sqrt()
    guide.loc += guide.shift * deviation
    for name in ("shared_scale_tril", "loading", "own_scale"):
        getattr(guide, name).mul_(guide.width)
    return trace


class Narrow(Planted):
    width = 0.4


class Wide(Planted):
    width = 2.5


class Shifted(Planted):
    shift = 1.0


@pytest.fixture(scope="module")
def blob():
    """Of a model whose posteriors are nearly Gaussian: a base rate and four items' kappas."""
    blo = BLO(4, embedding_dim=1)
    blo.fits = [{"call": "fit"}]
    priors = BanditPriors(w_a=-1.0, w_b=-6.0, zeta=0.0, w_c=dist.Normal(-1.0, 0.7), kappa_scale=0.5)
    return BLOB(blo, "laplace", priors)


@pytest.mark.parametrize(
    ("guide", "verdict"), [("laplace", None), (Narrow, "too sure"), (Wide, "too doubtful"), (Shifted, "reads high")]
)
def test_planted_guides_are_found(blob, guide, verdict):
    found = calibrate(blob, num_simulations=40, num_events=120, guide=guide, seed=1)
    assert found.num_simulations == 40
    assert set(found.ranks) == {"w_c", "kappa", "logit"}
    assert found.ranks["logit"].shape == (40, 12)
    if verdict is None:
        assert found.failed == ()
        assert "every site is calibrated" in repr(found)
        assert found.table.outside_90.between(0.02, 0.2).all()
        assert found.table.spread.between(0.8, 1.25).all()
    else:
        assert {"w_c", "logit"} <= set(found.failed)
        assert any(v.startswith("w_c") and (verdict in v or verdict == "reads high") for v in found.verdicts)
    if guide is Narrow:
        assert found.table.loc["w_c", "spread"] == pytest.approx(1 / 0.4, rel=0.3)
    if guide is Shifted:
        assert found.table.loc["w_c", "bias"] == pytest.approx(-1, abs=0.5)


def test_a_run_that_was_stopped_goes_on(blob, tmp_path):
    whole = calibrate(blob, num_simulations=12, num_events=60, seed=3, num_draws=19)
    path = tmp_path / "ranks.jsonl"
    calibrate(blob, num_simulations=10, num_events=60, seed=3, num_draws=19, checkpoint=path)
    again = calibrate(blob, num_simulations=12, num_events=60, seed=3, num_draws=19, checkpoint=path)
    for site in whole.ranks:
        assert (whole.ranks[site] == again.ranks[site]).all()
    with pytest.raises(ValueError, match=r"checkpoint: .* is of another calibration.*give another file, or delete it"):
        calibrate(blob, num_simulations=12, num_events=60, seed=4, num_draws=19, checkpoint=path)


def test_an_interrupt_ends_it_and_leaves_no_row_of_half_a_fit(blob, tmp_path):
    path = tmp_path / "ranks.jsonl"
    with pytest.raises(KeyboardInterrupt):
        calibrate(blob, num_simulations=10, num_events=60, guide=Stopped, checkpoint=path)
    assert len(path.read_text().splitlines()) == 1  # what it is about


def test_what_bands_do_not_fit_is_refused(blob):
    with pytest.raises(ValueError, match="num_draws: plus one must be a multiple of 20, as 199 is, got 200"):
        calibrate(blob, num_draws=200)
    with pytest.raises(ValueError, match="num_simulations: must be 10 or more, got 9"):
        calibrate(blob, num_simulations=9)


def ranks_of(standard_deviation, size=200, seed=0, bias=0.0):
    """Ranks and scores of truths N(bias, 1) among draws of N(0, standard_deviation^2)."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((size, 3)) + bias
    uniform = stats.norm.cdf(truth / standard_deviation)
    ranks = np.floor(uniform * 200).clip(max=199).astype(int)
    return Calibration({"x": ranks}, {"x": truth / standard_deviation}, 199, "mine", 1.0)


def test_shares_are_those_of_the_normal_distribution():
    for width in (0.5, 1.0, 2.0):
        row = ranks_of(width).table.loc["x"]
        expected = 2 * stats.norm.sf(1.6449 * width)
        assert row.outside_90 == pytest.approx(expected, abs=5 * (expected / 600) ** 0.5 + 0.005)
        assert row.spread == pytest.approx(1 / width, rel=0.1)
        assert row.calibrated == (width == 1.0)
    assert ranks_of(1.0, bias=0.5).verdicts[0].startswith("x: ")


def test_few_simulations_call_nothing_calibrated():
    found = ranks_of(1.0, size=10)
    assert found.failed == ()
    assert found.table.loc["x", "calibrated"] is None
    assert found.verdicts[0].startswith("x: 10 simulations are too few to tell: half the standard deviation would have")
    assert "every site" not in repr(found)
    assert ranks_of(1.0, size=60).table.loc["x", "calibrated"]


def test_many_numbers_that_are_wrong_together_fail_even_so():
    """62 % of a hundred numbers outside in each of ten simulations: bands for a hundred numbers are too wide for it."""
    rng = np.random.default_rng(0)
    ranks = np.where(rng.random((10, 100)) < 0.62, rng.choice([2, 197], (10, 100)), rng.integers(10, 190, (10, 100)))
    found = Calibration({"x": ranks}, {"x": ranks.astype(float)}, 199, "mine", 1.0)
    assert found.failed == ("x",)
    assert found.table.loc["x", "calibrated"] == False  # noqa: E712
    assert found.verdicts[0].startswith("x: too sure; 6")


@pytest.mark.parametrize("size", [15, 40])
def test_power_is_what_simulation_says(size):
    """Of one number, where both tests are there; with three numbers that are independent more are seen."""
    asked = ranks_of(0.5, size=size).power("x")
    rng = np.random.default_rng(size)
    truths = rng.standard_normal((300, size, 1))
    ranks = np.floor(stats.norm.cdf(2 * truths) * 200).clip(max=199).astype(int)
    seen = np.mean([not Calibration({"x": r}, {"x": r * 1.0}, 199, "mine", 1.0).passes("x") for r in ranks])
    assert asked - 0.08 < seen < asked + 0.25


def test_calibrated_reports_rarely_fail():
    """Even if a site's numbers are one number five times: the share outside is then as rough as it can be."""
    rng = np.random.default_rng(5)
    ranks = np.repeat(rng.integers(0, 200, (400, 25, 1)), 5, axis=2)
    failed = np.mean([not Calibration({"x": r}, {"x": r * 1.0}, 199, "mine", 1.0).passes("x") for r in ranks])
    assert failed < 0.07


def test_pictures_show_the_counts(blob):
    found = ranks_of(0.5)
    ax = found.plot("x")
    lines = [line.get_ydata() for line in ax.get_lines() if len(line.get_ydata())]
    at = np.arange(21) / 20
    for path, line in zip(found.counts("x").T, lines):
        assert np.allclose(line[1:], path / 200 - at[1:])
    assert "3 outside" in [text.get_text() for text in ax.get_legend().get_texts()]
    with pytest.raises(ValueError, match="site: 'y' was not ranked; there are x"):
        found.plot("y")
    pyplot.close("all")


def test_the_model_is_left_as_it_was(blob):
    before = [p.clone() for p in blob.guide.buffers()]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    calibrate(blob, num_simulations=10, num_events=40, num_draws=19)
    assert all(torch.equal(*pair) for pair in zip(before, blob.guide.buffers()))
    assert torch.equal(state, torch.get_rng_state())
    assert not blob.fitted


def test_of_many_numbers_some_lines_are_drawn():
    ranks = np.random.default_rng(0).integers(0, 100, (40, 10_000))
    ranks[:, :3000] = 99
    ax = Calibration({"kappa": ranks}, {"kappa": ranks / 99.0}, 99, "normal", 1.0).plot("kappa")
    told = [text.get_text() for text in ax.get_legend().get_texts()][1:]
    inside = int(told[0].split()[0].replace(",", ""))
    assert told == [f"{inside:,} inside, 100 drawn", f"{10_000 - inside:,} outside, 100 drawn"]
    assert 10_000 - inside >= 3000
    lines = [line for line in ax.get_lines() if len(line.get_xdata())]
    assert [sum(line.get_color() == color for line in lines) for color in ("C0", "C3")] == [100, 100]
    ends = np.array([line.get_ydata()[-2] for line in lines if line.get_color() == "C3"])
    assert (ends < -0.3).all()
    pyplot.close("all")
