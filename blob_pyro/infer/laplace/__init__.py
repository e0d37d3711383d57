"""Laplace's approximation of the bandit posterior: mode, curvature, and the arrowhead matrix that it is."""
