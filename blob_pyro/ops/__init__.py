"""Tensor algebra that knows no model: chunks, factorisations, log-normalisers, devices, seeds, ranking metrics."""
