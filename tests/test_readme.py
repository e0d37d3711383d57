"""The README's code runs, in order, as a newcomer would run it; what it says of files, names and kept figures is so."""

import re
import tomllib

import matplotlib
import pandas as pd
import pytest
import torch

import blob_pyro
from blob_pyro.guides import ENCODERS, GUIDES
from blob_pyro.infer import BOUNDS
from tests.shop import ROOT, blocks, smaller, train_briefly, write_tables
from tests.test_house import ROOMS

README = ROOT / "README.md"
BLOCKS = blocks(README)
TEXT = README.read_text(encoding="utf-8")
PROSE = " ".join(re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL).split())
RESULTS = ROOT / "benchmarks" / "results"
SIZES = {
    "num_items=100, num_flips=50": "num_items=30, num_flips=10",
    "num_items=100)": "num_items=30)",
    "SessionPopularity(100": "SessionPopularity(30",
    "Uniform(100)": "Uniform(30)",
    "num_users=1000": "num_users=30",
    "num_organic_users=20_000": "num_organic_users=100",
    "4_000": "30",
    "200, 206": "200, 202",
    "num_rounds=3, users_per_round=1000": (
        "num_rounds=2, num_organic_users=50, users_per_round=20, test_users=20, embedding_dim=3"
    ),
    "num_items=100, embedding_dim=20": "num_items=30, embedding_dim=5",
    "num_draws=200, max_events=500": "num_draws=100, max_events=200",
    "num_draws=200)": "num_draws=100)",
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with the tables, where the README has been followed from top to bottom, and the names it has left."""
    folder = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        matplotlib.use("Agg")
        write_tables(folder)
        train_briefly(monkeypatch)
        names, left = {"__name__": __name__}, dict(SIZES)  # warnings of the block are ours
        after = []
        for code in BLOCKS:
            for large in [*SIZES]:
                if large in code:
                    left.pop(large, None)
                    code = smaller(code, {large: SIZES[large]})
            exec(compile(code, "README.md", "exec"), names)
            if "policy.decide(" in code:  # here, before the catalogue is extended
                law = names["policy"].slate_distribution(names["histories"], 3, candidates=names["stock"])
                names["sums of slates"] = law.probs.sum(1)
            after.append(dict(names))
        assert not left, f"nowhere in the README: {left}"
    return folder, after


def test_there_are_as_many_blocks_as_were_read():
    assert len(BLOCKS) == TEXT.count("```python") == 12


def test_on_your_own_data(shop):
    folder, after = shop
    names = after[0]
    assert names["logits"].mean.shape == (2, 30)
    picked = names["actions"].probs.gather(-1, names["a"][:, None]).squeeze(-1)
    assert torch.allclose(names["propensity"], picked)
    assert (folder / "model" / "config.json").is_file()


def test_decide_and_log(shop):
    names = shop[1][1]
    assert names["newer"].propensity.tolist() == names["shown"].propensity.tolist()
    assert set(names["shown"].action) | set(names["top"].item) <= set(names["stock"])
    assert (
        "user, time, action, position, score, propensity and its standard error, the policy's name and version" in PROSE
    )
    assert list(names["shown"].columns) == [
        "user", "time", "action", "position", "score", "propensity", "propensity_error", "policy", "policy_version",
        "reward",
    ]  # fmt: skip
    assert len(names["shown"]) == 2 * 3
    sums = names["sums of slates"]
    assert torch.allclose(sums, torch.ones(()).to(sums)), "the probability that this position holds this item"


def test_propensities_by_themselves(shop):
    names = shop[1][-1]
    assert names["slots"].shape == (3, 2)
    assert torch.allclose(names["slots"][:, 0], names["best"], atol=1e-6)


def test_simulation_and_rounds(shop):
    names = shop[1][-1]
    assert names["played"].agents == ["greedy", "Thompson", "LinTS"]
    assert set(names["result"].policies) == {"random", "BLO", "BLOB", "Thompson", "oracle"}


def test_groups_for_arviz(shop):
    said = re.search(r"With a log its groups are (.*?), under", PROSE)[1]
    data = shop[1][-1]["data"]
    groups = data.groups() if callable(data.groups) else data.groups
    assert {name.strip("/") for name in groups} - {""} == set(re.findall(r"`(\w+)`", said))


def test_quickstart_is_twenty_lines():
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 20


def test_no_link_is_broken_where_the_package_is_shown():
    """A package index shows the README alone: what it points to is there, or is named by its path."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]["hooks"]
    shown = TEXT
    for rule in build["fancy-pypi-readme"]["substitutions"]:
        shown = re.sub(rule["pattern"], rule["replacement"], shown)
    local = re.findall(r"\]\((?!https:)([^)\s]+)\)", TEXT)
    assert "benchmarks/results/figure1/figure1.png" in local
    assert not re.findall(r"\]\((?!https:)[^)\s]*\)", re.sub(r"```.*?```", "", shown, flags=re.DOTALL))
    assert all(f"`{path}`" in shown for path in local)
    assert re.findall(r"```.*?```", shown, flags=re.DOTALL) == re.findall(r"```.*?```", TEXT, flags=re.DOTALL)


def names_after(start, end):
    """Names in backticks between two phrases."""
    return re.findall(r"`(\w+)`", re.search(f"{re.escape(start)}(.*?){re.escape(end)}", PROSE)[1])


def test_names_of_parts_are_all_of_them():
    assert set(names_after("By name:", "Yours is a class")) == set(GUIDES)
    assert set(names_after("Bounds:", "the last three")) == set(BOUNDS)
    assert set(names_after("Encoders:", "of yours")) - {"nn"} == set(ENCODERS)


@pytest.mark.parametrize("kind", ["pandas", "polars", "Arrow", "dicts"])
def test_tables_may_be(kind, shop):
    assert "Tables may be pandas, polars, Arrow or dicts of arrays" in PROSE
    import polars
    import pyarrow

    make = {
        "pandas": lambda frame: frame,
        "polars": polars.from_pandas,
        "Arrow": pyarrow.Table.from_pandas,
        "dicts": lambda frame: {name: frame[name].to_numpy() for name in frame},
    }[kind]
    tables = {name: make(pd.read_parquet(shop[0] / f"{name}.parquet")) for name in ("views", "impressions")}
    log = blob_pyro.EventLog.from_tables(**tables)
    assert (log.num_items, log.num_impressions) == (30, len(pd.read_parquet(shop[0] / "impressions.parquet")))


def test_the_house_is_as_described():
    rows = re.findall(r"^\| `([^|]*)` \|", TEXT[TEXT.index("## Where things are") :], flags=re.MULTILINE)
    named = [path for row in rows for path in re.split(r"`, `", row)]
    folders = [path.removeprefix("blob_pyro/") for path in named if (ROOT / "blob_pyro" / path).is_dir() or "/" in path]
    rooms = [folder for folder in folders if (ROOT / "blob_pyro" / folder).is_dir()]
    assert sorted(rooms) == sorted(ROOMS)
    for path in named:
        assert (ROOT / path).exists() or (ROOT / "blob_pyro" / path).exists(), path


def test_files_commands_and_extras_exist():
    made = {"docs/_build", "notebooks/executed"}  # by make
    for path in set(re.findall(r"`(?:python )?((?:benchmarks|notebooks|docs|examples|tests)/[\w/.-]+)", TEXT)) - made:
        assert (ROOT / path).exists(), path
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([\w-]+)", TEXT, flags=re.MULTILINE)) <= targets
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(re.findall(r"(?:blob-pyro|\.)\[([\w,]+)\]", TEXT))
    assert extras <= set(project["optional-dependencies"])
    from blob_pyro.cli import main

    for name, inner in re.findall(r"`blob-pyro (\w+)(?: ([\w-]+))?", TEXT):
        command = main.commands[name]
        assert not inner or name != "reproduce" or inner in command.commands, f"{name} {inner}"


def test_names_in_prose_exist():
    rooms = ["", *(f".{room}" for room in ROOMS), ".policies.baselines", ".testing"]
    known = {"SVI", "Predictive", "NUTS", "InferenceData", "DataTree", "AutoGuide", "ValueError", "MemoryError"}
    for room in rooms:
        module = __import__(f"blob_pyro{room}", fromlist=["_"])
        known |= {name for name in dir(module) if not name.startswith("_")}
    named = set(re.findall(r"`([A-Z][a-z]\w+)(?:\(|`)", PROSE))
    assert len(named) > 15
    assert named <= known, named - known


def number(text):
    return float(text.replace(",", ""))


def test_figures_of_figure_1_are_those_that_were_kept():
    kept = (RESULTS / "figure1" / "figure1.txt").read_text()
    low, high = re.search(r"cover the true value ([\d.]+) to ([\d.]+) % of the time, in 52 of 52 cells", PROSE).groups()
    assert f"coverage where the effective sample size is 1,000 or more: {low}% to {high}%" in kept
    assert "between 93% and 97% in 52 of 52 cells" in kept
    assert "no bias exceeds three standard errors" in PROSE
    assert "within 3 standard errors in 52 of 52 cells (sizes x estimators); the largest is -1.7" in kept
    assert "intervals of less that were not warned of: 0" in kept
    less = re.search(r"those of another policy, ([\d.]+) less valuable", PROSE)[1]
    assert re.search(rf"published propensities, 316,227 rows: bias \(coverage\) IPS -{less}\d? ", kept) or (
        round(number(re.search(r"IPS -([\d.]+) \(0%\)", kept)[1]), 3) == number(less)
    )
    times = re.search(r"ours take one ([\d,]+)th of the time", PROSE)[1]
    assert f": {times} times as long" in kept


def test_figures_of_off_policy_coverage_are_those_that_were_kept():
    kept = (RESULTS / "off_policy_coverage" / "coverage.txt").read_text()
    low, high, cells, of = re.search(
        r"in ([\d.]+) to ([\d.]+) % of the logs, .*? in (\d+) of (\d+) cells", PROSE
    ).groups()
    coverage = [number(x) for pair in re.findall(r"coverage ([\d.]+)% to ([\d.]+)%", kept) for x in pair]
    assert (min(coverage), max(coverage)) == (number(low), number(high))
    counts = re.findall(r"97% in (\d+) of (\d+) cells", kept)
    assert (sum(int(a) for a, _ in counts), sum(int(b) for _, b in counts)) == (int(cells), int(of))
    sizes = [number(x) for pair in re.findall(r"mean effective sample size ([\d,]+) to ([\d,]+)", kept) for x in pair]
    said = re.search(r"mean effective sample sizes of ([\d,]+) to ([\d,]+)", PROSE).groups()
    assert [round(min(sizes), -2), round(max(sizes), -2)] == [number(x) for x in said]


def test_figures_of_open_bandit_are_those_that_were_kept():
    rows = pd.read_csv(RESULTS / "open_bandit" / "open_bandit.csv")
    said = re.search(
        r"for men ([\d.]+) ± ([\d.]+) %.*?shows ([\d.]+) ± ([\d.]+) %; for women ([\d.]+) ± ([\d.]+) %", PROSE
    )
    picked = []
    for campaign, log, estimator in (
        ("men", "Thompson log", "IPS"), ("men", "uniform log", "mean"), ("women", "Thompson log", "IPS"),
    ):  # fmt: skip
        row = rows[(rows.campaign == campaign) & (rows.log == log) & (rows.estimator == estimator)].iloc[0]
        picked += [row.value, row.standard_error]
    assert [f"{100 * value:.2f}" for value in picked] == list(said.groups())


def test_figures_of_off_policy_learning_are_those_that_were_kept():
    kept = (RESULTS / "off_policy_learning" / "doubly_robust.txt").read_text()
    pattern = r"click rate of ([\d.]+) to ([\d.]+) %, in ten of ten environments.*?has ([\d.]+), the oracle ([\d.]+)\)"
    start, end, greedy, oracle = re.search(pattern, PROSE).groups()
    rates = {(name.strip(), int(step)): (number(rate), improved) for name, step, rate, improved in
             re.findall(r"^ *(.*?) +(\d+) +([\d.]+) .*?(\d+)$", kept, flags=re.MULTILINE)}  # fmt: skip
    assert f"{rates['learned', 0][0]:.2f}" == start
    assert f"{rates['learned', 100][0]:.2f}" == end
    assert rates["learned", 100][1] == "10"
    assert f"{rates['greedy on a model of the whole log', 100][0]:.2f}" == greedy
    assert f"{rates['oracle', 100][0]:.2f}" == oracle
