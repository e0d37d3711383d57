"""Memory that a simulation is going to take: refused by the name of the argument, before anything is allocated.

The figures are floors. What is kept is counted to the byte; what depends on chance, how long users live, is taken at
its expectation, and each event at what it takes at least, from the simulation to the finished log.
"""

from __future__ import annotations

from blob_pyro.ops import memory
from blob_pyro.simulation.parameters import Settings

__all__ = [
    "require_room_for_catalogue",
    "require_room_for_decisions",
    "require_room_for_lives",
    "require_room_for_log",
    "require_room_for_totals",
]

_FLOAT = 8  # bytes
_MOST = 1e30  # and anything above it
_OF_EVENT = 64  # user, time, item, random numbers, positions: what an event takes while its session is simulated
_OF_LOGGED_EVENT = 150  # measured: 157 of an organic log, 191 to 198 with impressions


def require_room_for_catalogue(settings: Settings) -> None:
    """Refuse a catalogue that does not fit.

    Embeddings for views and for clicks are each ``num_items x embedding_dim``; with flips every item's similarity to
    every other is computed, twice.

    Raises:
        MemoryError: naming ``num_items``, ``embedding_dim`` or ``num_flips``, and the number of bytes.
    """
    size, dim = int(settings.num_items), int(settings.embedding_dim)
    what = f"num_items={size} x embedding_dim={dim}: the catalogue's embeddings"
    _require(_FLOAT * (2 + settings.normalize_beta) * size * (dim + 1), what, "ask for fewer of one of the two")
    if settings.num_flips:
        what = f"num_items={size} with num_flips={settings.num_flips}: the similarities of all pairs of items"
        _require(2 * _FLOAT * size**2, what, "ask for fewer items, or for num_flips=0")


def require_room_for_lives(settings: Settings, num_users: int, *, browse_only: bool = False) -> None:
    """Refuse users who do not fit side by side.

    Args:
        settings: of the environment.
        num_users: whose sessions are simulated at once.
        browse_only: whether nobody recommends.

    Raises:
        MemoryError: naming ``prob_leave_organic`` and the number of bytes.
    """
    longest, leave = _first_session(settings), settings.prob_leave_organic
    if not browse_only:
        shown = settings.prob_organic_to_bandit * longest  # the share of users who come to see recommendations
        longest = max(longest, shown / (leave + settings.prob_bandit_to_organic))
    what = (
        f"prob_leave_organic={leave:g}: sessions of {longest:,.4g} events on average, of {num_users:,} users at once,"
    )
    remedy = "let users leave or change over earlier, or ask for fewer of them"
    _require(num_users * longest * (_OF_EVENT + 2 * _FLOAT * settings.embedding_dim), what, remedy, settings)


def require_room_for_log(settings: Settings, num_users: int, num_organic_users: int) -> None:
    """Refuse a log that does not fit.

    Raises:
        MemoryError: naming ``num_users`` or ``num_organic_users``, whichever has more events, and the number of bytes.
    """
    of_users = num_users / settings.prob_leave_organic
    of_browsers = num_organic_users * _first_session(settings)
    name, number = ("num_users", num_users) if of_users >= of_browsers else ("num_organic_users", num_organic_users)
    what = f"{name}={number}: a log of some {of_users + of_browsers:,.4g} events"
    remedy = "ask for fewer, in several logs: first_user= goes on from one to the next"
    _require((of_users + of_browsers) * _OF_LOGGED_EVENT, what, remedy)


def require_room_for_totals(num_users: int, num_policies: int) -> None:
    """Refuse an A/B test whose totals, clicks and impressions of each user under each policy, do not fit.

    Raises:
        MemoryError: naming ``num_users`` and the number of bytes.
    """
    what = f"num_users={num_users}: clicks and impressions of each, under {num_policies} policies,"
    _require(2 * _FLOAT * num_users * num_policies, what, "ask for fewer; 4,000 tell most policies apart")


def require_room_for_decisions(settings: Settings, batch_size: int) -> None:
    """Refuse to have a policy decide for so many sessions at once.

    Raises:
        MemoryError: naming ``batch_size`` and the number of bytes.
    """
    what = f"batch_size={batch_size}: probabilities of {batch_size:,} sessions x {settings.num_items:,} items"
    remedy = "leave batch_size out, and it is chosen"
    _require(_FLOAT // 2 * batch_size * int(settings.num_items), what, remedy, settings)


def _first_session(settings: Settings) -> float:
    """Views of a user's first session, on average."""
    return 1 / (settings.prob_leave_organic + settings.prob_organic_to_bandit)


def _require(num_bytes: float, what: str, remedy: str, settings: Settings | None = None) -> None:
    device = getattr(settings, "device", None) or "cpu"
    memory.require_memory(int(min(num_bytes, _MOST)), what, remedy, device)
