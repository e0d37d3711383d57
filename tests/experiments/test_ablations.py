"""Ablations in small: every variant runs, differs in one choice, and is paired with the default by environment."""

from dataclasses import asdict, replace

import pandas as pd
import pytest
from scipy import stats

from blob_pyro.experiments.ablations import DEFAULT, VARIANTS, Ablations, Variant, plot, summarize
from blob_pyro.experiments.saved_runs import SavedRuns


def small(variant: Variant) -> Variant:
    """With a log of a fiftieth, and other sizes still other ones."""
    return replace(
        variant,
        num_users=variant.num_users // 25,
        num_organic_users=variant.num_organic_users // 100,
        embedding_dim=variant.embedding_dim // 5,
    )


SMALL = Ablations(
    num_items=10, flips=4, interests=5, test_users=60, num_epochs=3,
    variants=tuple((name, small(variant)) for name, variant in VARIANTS.items()),
)  # fmt: skip


def test_every_variant_differs_from_the_default_in_one_choice():
    default = asdict(VARIANTS[DEFAULT])
    for name, variant in VARIANTS.items():
        changed = [key for key, value in asdict(variant).items() if value != default[key]]
        assert len(changed) == (0 if name == DEFAULT else 1), name
    choices = {key for v in VARIANTS.values() for key, value in asdict(v).items() if value != default[key]}
    assert choices == set(default)


FEW = [
    DEFAULT, "play: Thompson sampling", "guide: laplace", "embeddings: centred", "omega: sampled", "training: joint",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:log. .* never shown", "ignore:.*point mass", "ignore:.*not converged")
@pytest.mark.parametrize("names", [FEW, pytest.param(list(VARIANTS), marks=pytest.mark.slow)], ids=["few", "all"])
def test_variants_run(tmp_path, names):
    runs = SavedRuns(SMALL, tmp_path, ("seed", "variant"))
    assert len(list(runs.complete([(3, name) for name in names], SMALL.run))) == len(names)
    rate = runs.frame.set_index("variant")["click_rate"]
    assert runs.frame["oracle"].nunique() == runs.frame["random"].nunique() == 1
    for name in names:
        variant = VARIANTS[name]
        if variant.play == "Thompson" or variant.embedding_dim != 20 or variant.num_organic_users == 2000:
            assert rate[name] != rate[DEFAULT], name
    table = summarize(runs.frame)
    assert table.loc[DEFAULT, "against default"] == 0
    assert len(plot(table).axes[0].get_yticklabels()) == len(names) - 1


def test_summary_by_hand():
    share = {DEFAULT: [0.5, 0.7, 0.6], "other": [0.6, 0.7, 0.9]}
    rows = pd.DataFrame(
        [
            {"seed": seed, "variant": name, "click_rate": 1 + value, "of_the_way": value}
            for name, values in share.items()
            for seed, value in enumerate(values)
        ]
    )
    row = summarize(rows).loc["other"]
    gains = [0.1, 0.0, 0.3]
    low, high = stats.t.interval(0.95, 2, loc=0.4 / 3, scale=stats.sem(gains))
    assert (row["of the way"], row["low"], row["high"]) == pytest.approx((2.2 / 3, low, high))
    without = rows[(rows["variant"] == DEFAULT) | (rows["seed"] < 2)]
    assert summarize(without).loc["other", "environments"] == 2
    assert summarize(without).loc["other", "against default"] == pytest.approx(0.05)
