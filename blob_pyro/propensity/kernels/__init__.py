"""The numerical methods behind the distributions over argmax; private."""
