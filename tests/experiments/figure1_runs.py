"""Runs of the experiment."""

from blob_pyro.experiments.figure1 import Figure1

SMALL = Figure1(num_contexts=3000, most_rows=4000.0, num_sizes=3)
