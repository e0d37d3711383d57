"""Histories to encode."""

P, K = 12, 3
