"""Whether a policy plays what it says: Pearson's chi-squared of its own draws against its own propensities."""

import numpy as np
import torch
from scipy.stats import chi2

FEWEST = 5.0  # expected draws of a cell; rarer items of a context and slot are one cell


def p_value(policy, histories, draws, seed, slots=1, candidates=None):
    """The smallest p-value over contexts and slots, times their number (Bonferroni); 0 for what cannot have been drawn.

    ``candidates`` are ids for all contexts, or a list of ids for each.
    """
    size = len(histories)
    conditional = getattr(policy, "propensity", "marginal") == "conditional"  # logged, but not what is said
    probs = policy.slate_distribution(histories, slots, candidates=candidates).probs.numpy()
    each = candidates is not None and not isinstance(candidates[0], (int, str))
    context = np.repeat(np.arange(size), draws)
    frame = policy.decide(
        [histories[i] for i in context],
        candidates=[candidates[i] for i in context] if each else candidates,
        slots=slots, seed=seed, time=0,
    )  # fmt: skip
    frame["context"] = np.repeat(context, slots)
    frame["item"] = policy.items.encode(frame.action)
    logged = probs[frame.context, frame.item, frame.position - 1]
    off = np.abs(frame.propensity - logged)
    assert conditional or (off <= 1e-6 * frame.propensity + 1e-12).all(), "what is logged is not what is said"
    values = []
    for (where, position), rows in frame.groupby(["context", "position"]):
        expected = draws * probs[where, :, position - 1]
        assert abs(expected.sum() - draws) < 1e-6 * draws
        values.append(of_counts(np.bincount(rows.item, minlength=policy.num_items), expected))
    return min(values) * len(values)


def of_counts(counts, expected):
    """Of one context and slot."""
    if counts[expected == 0].any():
        return 0.0
    rare = expected < FEWEST
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    some = expected > 0
    if some.sum() < 2:
        return 1.0
    statistic = ((counts[some] - expected[some]) ** 2 / expected[some]).sum()
    return float(chi2.sf(statistic, some.sum() - 1))


def own_p_value(policy, histories, draws):
    """The same of `action_distribution` by itself: its ``sample`` against its ``probs``."""
    actions = policy.action_distribution(histories)
    probs = actions.probs.double().numpy()
    drawn = actions.sample((draws,)).numpy()
    values = [
        of_counts(np.bincount(drawn[:, n], minlength=policy.num_items), draws * probs[n] / probs[n].sum())
        for n in range(len(histories))
    ]
    return min(values) * len(values)


def planted(policy, wrong):
    """A policy whose slates are drawn by ``policy`` and whose propensities are those of ``wrong``."""

    class Planted(type(policy)):
        def _slates(self, contexts, num_slots):
            drawn, said = policy._slates(contexts, num_slots), wrong._slates(contexts, num_slots)
            said.draw = drawn.draw
            return said

    new = Planted.__new__(Planted)
    new.__dict__.update(policy.__dict__)
    return new


def all_ids(policy):
    return policy.items.decode(torch.arange(policy.num_items))
