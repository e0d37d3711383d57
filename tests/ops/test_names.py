"""Names are given out once."""

from blob_pyro.ops.names import unique_name


def test_no_name_twice():
    names = [unique_name("guide") for _ in range(5)]
    assert len(set(names)) == 5
    assert all(name.startswith("guide_") for name in names)
