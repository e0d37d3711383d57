"""Priors: of the bandit model and its terms, and of the organic model's items."""
