"""The objects that users hold: the organic model, the bandit model, and both fitted jointly."""
