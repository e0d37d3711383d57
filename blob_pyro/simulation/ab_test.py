"""A/B tests of policies on simulated users, paired by common random numbers.

Users are independent, their events are not: a user's clicks share the user's taste, and how many impressions a user
gets depends on the clicks. Intervals therefore come from per-user totals. With clicks ``C_u`` and impressions ``I_u``
of ``n`` users, the click-through rate is the ratio ``r = sum C_u / sum I_u``. Its standard error is the jackknife's
(Efron and Stein 1981, *The jackknife estimate of variance*), over the rates without one user::

    r_u = (sum C - C_u) / (sum I - I_u)          standard error of r = sd((n - 1) r_u) / sqrt(n)

and the interval reaches as many of them to either side as Student's t with ``n - 1`` degrees of freedom says. With
many users this is the delta method (Cochran 1977, *Sampling Techniques*, section 6.4); with few it is wider, as it has
to be: a user with many impressions drags the rate along and hides their own deviation from it. What the intervals
cover at 50, 200 and 2,000 users is measured by ``benchmarks/ab_test_coverage.py``.

Every policy meets the same users, with the same interests, first session and patience. The difference of two rates
has the standard error of the per-user differences of ``(n - 1) r_u``, which is smaller than that of independent
samples where both policies do well, or badly, with the same users.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import pandas as pd
import torch
from scipy.special import stdtrit
from torch import Tensor

from blob_pyro.ops.arguments import number_between, one_of, whole_number
from blob_pyro.ops.seeds import seeded
from blob_pyro.simulation.decisions import AnyPolicy, check_policy
from blob_pyro.simulation.memory import require_room_for_totals
from blob_pyro.simulation.process import HistoryMode
from blob_pyro.simulation.random import CounterRandom, torch_seed
from blob_pyro.simulation.recogym import RecoGym
from blob_pyro.simulation.sessions import Impressions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ABTest", "Estimate", "ab_test"]

# Distinguishes the users of A/B tests from those of logs of the same seed.
_AB_TEST = 2

_LEAST_CONFIDENT = 1e-9  # an interval that never covers, or always, says nothing


class Estimate(NamedTuple):
    """A rate or a difference of rates, as fractions, with its confidence interval."""

    value: float
    lower: float
    upper: float
    standard_error: float


@dataclass(frozen=True, eq=False)
class ABTest:
    """The outcome of an A/B test: per-user totals of each policy, and what follows from them.

    Attributes:
        impressions: for each policy, ``num_users`` float64: impressions of each user.
        clicks: for each policy, ``num_users`` float64: clicks of each user, or their expected number.
        plays: for each policy, ``num_items`` int64: how often each item was played.
        reference: the policy that the table compares with.
        confidence: coverage of the intervals.
    """

    impressions: Mapping[str, Tensor]
    clicks: Mapping[str, Tensor]
    plays: Mapping[str, Tensor]
    reference: str
    confidence: float = 0.95

    @property
    def policies(self) -> list[str]:
        """The names of the policies, in the order given."""
        return list(self.clicks)

    def click_rate(self, policy: str) -> Estimate:
        """Return the click-through rate of a policy; its interval lies within [0, 1]."""
        rate = self._estimate(*self._influence(policy))
        return rate._replace(lower=max(rate.lower, 0.0), upper=min(rate.upper, 1.0))

    def difference(self, policy: str, other: str) -> Estimate:
        """Estimate how much higher the click-through rate of ``policy`` is than ``other``'s, from paired users."""
        (value, influence), (other_value, other_influence) = self._influence(policy), self._influence(other)
        return self._estimate(value - other_value, influence - other_influence)

    def __repr__(self) -> str:
        table = 100 * self.table()[["click_rate", "lower", "upper"]]
        users = len(next(iter(self.impressions.values())))
        shown = table.to_string(float_format=lambda value: f"{value:.3f}")
        return f"A/B test of {len(self.policies)} policies on {users:,} users each, click rates in %\n{shown}"

    def _repr_html_(self) -> str:
        return self.table().to_html(float_format=lambda value: f"{value:.5f}")

    def table(self) -> pd.DataFrame:
        """Return a table of one row per policy, highest click-through rate first; rates are fractions.

        Columns: ``click_rate``, ``lower``, ``upper``; ``difference`` to the reference policy with
        ``difference_lower``, ``difference_upper``; ``impressions``, ``clicks``; ``top_item_share``, the share of
        impressions that the most played item got.
        """
        rows = []
        for name in self.policies:
            rate, difference, plays = self.click_rate(name), self.difference(name, self.reference), self.plays[name]
            rows.append(
                {
                    "policy": name,
                    "click_rate": rate.value,
                    "lower": rate.lower,
                    "upper": rate.upper,
                    "difference": difference.value,
                    "difference_lower": difference.lower,
                    "difference_upper": difference.upper,
                    "impressions": int(plays.sum()),
                    "clicks": float(self.clicks[name].sum()),
                    "top_item_share": float(plays.max() / plays.sum()),
                }
            )
        return pd.DataFrame(rows).set_index("policy").sort_values("click_rate", ascending=False, kind="stable")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot click-through rates in percent, best policy on top, with their intervals as error bars.

        Raises:
            ImportError: without matplotlib, which ``pip install 'blob-pyro[plot]'`` brings.
        """
        if ax is None:
            try:
                from matplotlib import pyplot
            except ImportError as error:
                raise ImportError("plot needs matplotlib: pip install 'blob-pyro[plot]'") from error
            _, ax = pyplot.subplots(figsize=(6, 0.8 + 0.35 * len(self.policies)), layout="constrained")
        table = 100 * self.table()[["click_rate", "lower", "upper"]].iloc[::-1]
        reach = [table["click_rate"] - table["lower"], table["upper"] - table["click_rate"]]
        ax.errorbar(table["click_rate"], table.index, xerr=reach, fmt="o", markersize=4, capsize=3)
        ax.set_xlabel(f"click-through rate, % ({self.confidence:.0%} interval)")
        ax.grid(axis="x", alpha=0.3)
        ax.margins(y=0.5 / len(table))
        return ax

    def _totals(self, policy: str) -> tuple[Tensor, Tensor]:
        if policy not in self.clicks:
            raise ValueError(f"policy must be one of {self.policies}, got {policy!r}")
        return self.clicks[policy], self.impressions[policy]

    def _influence(self, policy: str) -> tuple[float, Tensor]:
        """The ratio of totals, and what each user adds to it, by leaving them out; ``num_users``, mean almost 0."""
        clicks, impressions = self._totals(policy)
        others = impressions.sum() - impressions
        if bool((others <= 0).any()):
            raise ValueError(
                f"{policy!r}: fewer than two users saw a recommendation, which gives no interval; ask for more users"
            )
        ratio = clicks.sum() / impressions.sum()
        return float(ratio), (len(clicks) - 1) * (ratio - (clicks.sum() - clicks) / others)

    def _estimate(self, value: float, influence: Tensor) -> Estimate:
        standard_error = float(influence.std()) / len(influence) ** 0.5
        reach = float(stdtrit(len(influence) - 1, 0.5 + self.confidence / 2)) * standard_error
        return Estimate(value, value - reach, value + reach, standard_error)


def ab_test(
    environment: RecoGym,
    policies: Mapping[str, AnyPolicy],
    num_users: int = 4_000,
    *,
    history: HistoryMode = "all",
    clicks: Literal["expected", "sampled"] = "expected",
    reference: str | None = None,
    confidence: float = 0.95,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> ABTest:
    """Let each policy recommend to the same simulated users, and compare click-through rates.

    Args:
        environment: whose users they are. ``environment.oracle()`` is a policy too: the upper bound.
        policies: policies by name.
        num_users: users per policy, at least 2. They are not the users of ``environment.simulate``.
        history: what the policies see before a decision. ``"all"``: all the user's views. ``"since_last_action"``:
            those since the last recommendation, nine times in ten none at all, as the agents in the experiments of
            Sakhi et al. (2020) do: it reproduces their table, which compares nearly constant recommendations, and
            has no other use.
        clicks: what is counted. ``"expected"`` sums the environment's click probabilities of the items played, which
            have the same mean as clicks and less noise. Users live by the clicks that they make in either case.
        reference: the policy that the table compares with. Default: the first.
        confidence: coverage of the intervals.
        batch_size: sessions for which a policy decides in one call; by default fewer for larger catalogues.
        seed: of the users and of the policies' draws.
        progress: show a progress bar per policy.

    Raises:
        ValueError: for an argument outside its range, an unknown reference, no policy, a policy for another
            catalogue, or fewer than two users who saw a recommendation.
        TypeError: for something that is not a policy.
        MemoryError: for more users, sessions or events at once than fit, naming the argument and the number of bytes.

    Warns:
        UserWarning: of a policy of which no user clicked anything.

    >>> from blob_pyro.policies import SessionPopularity, Uniform
    >>> environment = RecoGym(num_items=20, seed=0)
    >>> policies = {"random": Uniform(20), "popular": SessionPopularity(20), "oracle": environment.oracle()}
    >>> result = ab_test(environment, policies, num_users=200)
    >>> (100 * result.table()["click_rate"]).round(2).to_dict()
    {'oracle': 2.49, 'popular': 2.03, 'random': 1.31}
    >>> gain = result.difference("popular", "random")
    >>> f"{gain.value:.2%} [{gain.lower:.2%}, {gain.upper:.2%}]"
    '0.72% [0.68%, 0.76%]'
    """
    if not isinstance(environment, RecoGym):
        raise TypeError(f"environment: expected a RecoGym, got {environment!r} (a {type(environment).__name__})")
    if not isinstance(policies, Mapping):
        raise TypeError(
            f'policies: expected policies by name, for example {{"random": Uniform(100)}}, got {policies!r} '
            f"(a {type(policies).__name__})"
        )
    whole_number(num_users, "num_users", at_least=2)  # of one there is no interval
    whole_number(seed, "seed", at_least=0, at_most=2**63 - 1)
    if not policies:
        raise ValueError('policies is empty; name at least one, for example {"random": Uniform(num_items)}')
    for name, policy in policies.items():
        check_policy(policy, environment, f"policies[{name!r}]")
    one_of(clicks, "clicks", ("expected", "sampled"))
    one_of(history, "history", get_args(HistoryMode))
    number_between(confidence, "confidence", _LEAST_CONFIDENT, 1 - _LEAST_CONFIDENT)
    if batch_size is not None:
        whole_number(batch_size, "batch_size", at_most=2**40)
    reference = next(iter(policies)) if reference is None else reference
    if not isinstance(reference, str) or reference not in policies:
        raise ValueError(f"reference must be one of the policies {list(policies)}, got {reference!r}")

    require_room_for_totals(num_users, len(policies))
    totals: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    options: dict[str, Any] = {
        "history": history,
        "batch_size": batch_size,
        "click_probabilities": clicks == "expected",
    }
    for name, policy in policies.items():
        random = CounterRandom(environment.seed, _AB_TEST, seed)
        with seeded(torch_seed(random.key), environment.gamma.device):
            events = environment.lives(
                policy, range(num_users), random, progress=name if progress else False, **options
            )
            shown, clicked = torch.zeros(2, num_users, dtype=torch.float64, device=environment.gamma.device)
            plays = torch.zeros(environment.num_items, dtype=torch.int64, device=environment.gamma.device)
            for event in events:
                if isinstance(event, Impressions):
                    expected = event.click_probability
                    reward = event.click.to(torch.float64) if expected is None else expected
                    shown.index_add_(0, event.user, torch.ones_like(reward))
                    clicked.index_add_(0, event.user, reward)
                    plays += torch.bincount(event.action, minlength=environment.num_items)
        if not plays.any():
            raise ValueError(f"num_users={num_users}: none of them saw a recommendation; ask for more users")
        if int((shown > 0).sum()) < 2:
            raise ValueError(
                f"num_users={num_users}: only one of them saw a recommendation, and of one there is no interval; ask "
                "for more users"
            )
        if not clicked.any():
            warnings.warn(
                f"policies[{name!r}]: none of {num_users} users clicked, so that there is no interval; ask for more "
                'users, or for clicks="expected"',
                stacklevel=2,
            )
        totals[name] = (shown.cpu(), clicked.cpu(), plays.cpu())
    return ABTest(
        impressions={name: shown for name, (shown, _, _) in totals.items()},
        clicks={name: clicked for name, (_, clicked, _) in totals.items()},
        plays={name: plays for name, (_, _, plays) in totals.items()},
        reference=reference,
        confidence=confidence,
    )
