"""The uniform policy's value from the Open Bandit Dataset's Thompson log: against sums by hand, and the command."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from blob_pyro.cli.reproduce import reproduce
from blob_pyro.experiments.open_bandit import Campaign, campaigns

WOMEN = Path(__file__).parents[1] / "data" / "open_bandit" / "women_bts.parquet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The Thompson log of the data set, and a uniform log made up for it."""
    root = tmp_path_factory.mktemp("obd")
    rng = np.random.default_rng(0)
    thompson = pd.read_parquet(WOMEN)
    uniform = thompson.assign(
        item_id=rng.integers(46, size=10_000), propensity_score=1 / 46, click=(rng.random(10_000) < 0.0046).astype(int)
    )
    for policy, frame in {"bts": thompson, "random": uniform}.items():
        where = root / policy / "women"
        where.mkdir(parents=True)
        frame.to_csv(where / "women.csv", index=False)
        pd.DataFrame({"item_id": range(46)}).to_csv(where / "item_context.csv", index=False)
    (root / "bts" / "men").mkdir()
    (root / "bts" / "men" / "men.csv").write_text("no uniform log beside it\n")
    return root


def test_estimates_by_hand(folder):
    assert campaigns(folder) == ["women"]
    campaign = Campaign.read(folder, "women")
    table = campaign.table().set_index(["log", "estimator"])
    raw, uniform = (pd.read_csv(folder / policy / "women" / "women.csv") for policy in ("bts", "random"))
    assert table.loc[("uniform log", "mean"), "value"] == pytest.approx(uniform.click.mean())
    error = uniform.click.std() / 100
    assert table.loc[("uniform log", "mean"), "standard_error"] == pytest.approx(error)
    heavy = raw.propensity_score.idxmin()
    assert campaign.heavy_row == heavy
    parts = {"Thompson log": raw, f"Thompson log without row {heavy}": raw.drop(index=heavy)}
    for log, rows in parts.items():
        weight = 1 / 46 / rows.propensity_score
        ips, snips = table.loc[(log, "IPS")], table.loc[(log, "SNIPS")]
        assert ips.value == pytest.approx((weight * rows.click).mean())
        assert snips.value == pytest.approx((weight * rows.click).sum() / weight.sum())
        assert ips.effective_sample_size == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
        assert ips.standard_error == pytest.approx((weight * rows.click).std() / len(rows) ** 0.5)
        difference = ips.value - uniform.click.mean()
        assert ips.errors == pytest.approx(difference / np.hypot(ips.standard_error, error))
        assert "effective sample size" in ips.warnings
    assert table.loc[("uniform log", "mean"), "warnings"] == ""


def test_command(folder, tmp_path):
    result = CliRunner().invoke(reproduce, ["open-bandit", str(folder), "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "counted from 200,000 draws" in result.output
    assert "has 69.36% of the uniform policy's weight" in result.output
    assert len(pd.read_csv(tmp_path / "open_bandit.csv")) == 7
    assert (tmp_path / "open_bandit.txt").read_text() in result.output


@pytest.mark.parametrize("name", ["", "bts"], ids=["nothing there", "one folder too deep"])
def test_a_folder_that_is_not_the_data_set(folder, tmp_path, name):
    result = CliRunner().invoke(reproduce, ["open-bandit", str(folder / name if name else tmp_path)])
    assert result.exit_code == 1
    assert "no campaign with both logs" in result.output
