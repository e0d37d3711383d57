"""Items are drawn where the posterior has them; of many, few, and the title says which."""

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

from blob_pyro import EventLog
from blob_pyro.diagnostics import plots


def segments(ax):
    return np.array(ax.collections[0].get_segments())[:, :, 0]


def test_click_rates_are_the_posteriors(fitted):
    blob = fitted["laplace"][0]
    ax = plots.plot_click_rates(blob, [3, 3], items=[7, 2, 5], level=0.8)
    low, high = (ends[0, [7, 2, 5]].numpy() for ends in blob.click_intervals([[3, 3]], 0.8))
    np.testing.assert_allclose(segments(ax), 100 * np.stack([low, high], 1), rtol=1e-6)
    mean = blob.click_probabilities([[3, 3]])[0, [7, 2, 5]].numpy()
    np.testing.assert_allclose(ax.get_lines()[0].get_xdata(), 100 * mean, rtol=1e-6)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["7", "2", "5"]
    assert ax.get_xlabel() == "click probability after 2 views, % (mean, central 80 % interval)"


def test_of_10_000_items_the_best_are_drawn(large):
    ax = plots.plot_click_rates(large)
    probability = 100 * large.click_probabilities([[]])[0].numpy()
    shown = [int(label.get_text()) for label in ax.get_yticklabels()]
    np.testing.assert_allclose(ax.get_lines()[0].get_xdata(), np.sort(probability)[::-1][:30], rtol=1e-6)
    np.testing.assert_allclose(probability[shown], ax.get_lines()[0].get_xdata(), rtol=1e-6)
    assert ax.get_title() == "click rates: the highest means, 30 of 10,000 items"


def test_items_never_shown_are_hollow(fitted, log):
    rows = log.action != 4
    columns = [column[rows] for column in (log.user, log.time, log.action, log.reward)]
    without = EventLog.from_arrays(log.num_items, log.view_user, log.view_time, log.view_item, *columns)
    ax = plots.plot_click_rates(fitted["laplace"][0], log=without)
    shown, never = ax.get_lines()
    assert (shown.get_label(), never.get_label()) == ("shown before", "never shown")
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert [names[int(at)] for at in never.get_ydata()] == ["4"]
    assert never.get_markerfacecolor() == "white" != shown.get_markerfacecolor()


def test_a_log_of_another_catalogue_is_refused(large, log):
    with pytest.raises(ValueError, match="log: is not over the model's catalogue"):
        plots.plot_click_rates(large, log=log)


def test_embeddings_before_and_after(fitted):
    """In three dimensions two directions lose a part, and what is left are projections of both."""
    blob = fitted["laplace"][0]
    ax = plots.plot_embeddings(blob, most=5)
    start, end = (line.get_xydata() for line in ax.get_lines())
    before = softplus(blob.posterior()["w_a"].mean).double() * blob.model.item_factors.embedding.double()
    both = torch.cat([before, blob.beta_hat.double()]).numpy()
    values, vectors = np.linalg.eigh(np.cov(both.T))
    expected = (both - both.mean(0)) @ vectors[:, ::-1][:, :2]
    drawn = np.concatenate([start, end])
    np.testing.assert_allclose(drawn @ drawn.T, expected @ expected.T, atol=1e-8)  # up to the directions' signs
    assert f"{values[-1] / values.sum():.0%} of the variance" in ax.get_xlabel()
    moved = np.linalg.norm(both[:12] - both[12:], axis=1)
    np.testing.assert_allclose(np.array(ax.collections[0].get_segments())[:, 1], end[np.argsort(-moved)[:5]])
    named = {text.get_text() for text in ax.texts}
    assert named == {str(i) for i in np.argsort(-moved)[:5]}


def test_embeddings_of_10_000_items(large):
    ax = plots.plot_embeddings(large)
    start, end = ax.get_lines()
    assert len(start.get_xdata()) == len(end.get_xdata())
    assert 300 <= len(end.get_xdata()) <= 310
    of_lines = np.array(ax.collections[0].get_segments())[:, 1]
    assert {tuple(point) for point in of_lines} <= {tuple(point) for point in end.get_xydata()}
    assert len([text for text in ax.texts if text.get_text()]) == 10
    assert ax.get_title().startswith("red: the 10 longest moves of 10,000 items, ")
    said = " logits\nthe lines are too short to be seen; dots: these, and 300 evenly spaced"
    assert ax.get_title().endswith(said)  # nobody has trained this model


def test_moves_that_are_seen_are_not_said_to_be_hidden(large, monkeypatch):
    psi = large.model.item_factors.embedding.double()
    moved = psi + 0.1 * torch.arange(10_000.0, dtype=torch.float64)[:, None] / 10_000
    monkeypatch.setattr(type(large), "beta_hat", property(lambda _: moved))
    assert "too short" not in plots.plot_embeddings(large).get_title()
