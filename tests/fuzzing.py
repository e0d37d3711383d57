"""Fuzzers are Hypothesis tests: 500 examples in the ordinary run, 5,000 of them in the slow one (``make test-slow``).

``@fuzz(case=strategy)`` stands in the place of ``@given(case=strategy)``. The ordinary run is derandomised, so that it
passes or fails the same way every time; the slow run looks elsewhere each time, and prints how to repeat what it finds.

    @fuzz(number=st.integers())
    def test_parse(number):
        assert parse(str(number)) == number
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

ORDINARY, SLOW = 500, 5_000


def require_named(error: Exception, names: Iterable[str]) -> None:
    """Fail unless an error's message begins with one of the arguments' names."""
    assert re.match(rf"({'|'.join(names)})(\b|$)", str(error)), f"names no argument: {error!r}"


def fuzz(
    *, ordinary: int = ORDINARY, slow: int = SLOW, **strategies: SearchStrategy
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a check on many examples drawn from ``strategies``, which have the names of its arguments.

    Args:
        ordinary: examples in ``make test``; fewer where one of them takes more than some 10 ms.
        slow: examples in ``make test-slow``.
        strategies: one for each argument of the check. Draw what a fixture would give inside the check.
    """

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        sizes = [pytest.param(ordinary, id="ordinary"), pytest.param(slow, id="slow", marks=pytest.mark.slow)]

        @pytest.mark.parametrize("examples", sizes)
        def test(examples: int) -> None:
            rules: dict[str, Any] = {"derandomize": True} if examples == ordinary else {"print_blob": True}
            quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
            settings(max_examples=examples, deadline=None, suppress_health_check=quiet, **rules)(
                given(**strategies)(check)
            )()

        for mark in getattr(check, "pytestmark", []):
            test = getattr(pytest.mark, mark.name)(*mark.args, **mark.kwargs)(test)
        test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
        return test

    return decorate
