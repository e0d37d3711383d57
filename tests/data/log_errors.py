"""What an error about a log must name, and how a log is built where one may be raised."""

import re
import warnings

from blob_pyro.data import LogWarning

NAMED = re.compile(
    r"(views|impressions|frame): (missing column|column '[a-z_]+'( \([a-z]+\))?(,| has| cannot| holds|: expected))"
    r"|ids have different types: .* in (views|impressions): column"
    r"|(items|num_items|columns)(\[|:)|log: (the tables have no rows|there are no events)"
    r"|(view_)?(user|time|item)|action|reward|propensity"
)


def named(error):
    """Whether an error says what is wrong where; the row, if it names one."""
    message = str(error)
    assert NAMED.match(message), message
    row = re.search(r"(?:, row |^[a-z_]+\[)(\d+)", message)
    return int(row[1]) if row else None


def build(make):
    """A log and None, or None and the error; nothing but ValueError and TypeError gets through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LogWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="pandas|numpy|pyarrow")
        try:
            return make(), None
        except (ValueError, TypeError) as error:
            return None, error
