"""Bounds on the organic model's expected log-likelihood, and the log-normalisers that they are made of."""
