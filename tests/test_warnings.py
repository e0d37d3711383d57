"""Which warnings fail a test: those of our own code, and those that are no mere notice of change."""

import warnings

import pytest


def warn_from(module, category):
    exec(f"import warnings\nwarnings.warn('planted', {category.__name__})", {"__name__": module})


@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
@pytest.mark.parametrize("module", ["blob_pyro", "blob_pyro.data.event_log", "tests.test_blob", "tests.conftest"])
def test_notices_to_our_code_are_errors(module, category):
    with pytest.raises(category, match="planted"):
        warn_from(module, category)


@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_notices_inside_other_libraries_are_not(category):
    with warnings.catch_warnings(record=True) as seen:  # keeps the filters, and the notice out of the summary
        warn_from("pyparsing.core", category)
    assert [w.category for w in seen] == [category]


@pytest.mark.parametrize("category", [UserWarning, RuntimeWarning])
@pytest.mark.parametrize("module", ["blob_pyro.data.event_log", "tests.test_blob", "pyro.infer.svi"])
def test_other_warnings_are_errors_wherever_they_come_from(module, category):
    with pytest.raises(category, match="planted"):
        warn_from(module, category)
